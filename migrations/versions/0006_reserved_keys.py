"""Reservations without a file: a process reserves keys before any request needs them."""

from alembic import op

revision = "0006"
down_revision = "0005"

# The table has only the reservations of one day, so that this takes no time.
RELAX = """
    ALTER TABLE reservations DROP CONSTRAINT reservations_of_file_or_probe,
        ADD CONSTRAINT reservations_of_file_or_probe
            CHECK (num_nonnulls(file_id, scratch_key) <= 1)
"""


def upgrade() -> None:
    op.execute(RELAX)
