"""When a file was announced: an alert on the age of what waits for its proof needs it, the time of its declaration says nothing."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE files ADD COLUMN verifying_since timestamptz")
    op.execute("UPDATE files SET verifying_since = now() WHERE state = 'verifying'")
