"""Reservations without a file: a process reserves keys before any request needs them."""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    # The new constraint is checked without a lock that stops other transactions. It permits more
    # than the old one, so that existing rows fulfil it.
    """
    ALTER TABLE reservations DROP CONSTRAINT reservations_of_file_or_probe,
        ADD CONSTRAINT reservations_of_file_or_probe
            CHECK (num_nonnulls(file_id, scratch_key) <= 1) NOT VALID
    """,
    "ALTER TABLE reservations VALIDATE CONSTRAINT reservations_of_file_or_probe",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
