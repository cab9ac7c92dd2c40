"""The scrub: when each file was proved last, and what the scrub has found.

See service/worker/scrubber.py and service/operations/orphans/__init__.py.
"""

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENTS = (
    # `proved_at` is when the scrub last found the proved bytes, and `checked_at` when it last read
    # the object. Both are NULL until then: the file was proved at `final_at`.
    "ALTER TABLE files ADD COLUMN proved_at timestamptz, ADD COLUMN checked_at timestamptz",
    # These indexes serve the scrub: the oldest check first.
    """
    CREATE INDEX files_scrub ON files (coalesce(checked_at, final_at), id)
        WHERE state = 'ready'
    """,
    """
    CREATE INDEX files_damaged ON files (coalesce(checked_at, final_at), id)
        WHERE state = 'damaged'
    """,
    """
    CREATE TABLE scrub (
        only_row boolean PRIMARY KEY DEFAULT true,
        -- Why the last scrub stopped before its end, if it did.
        stopped_at timestamptz,
        stopped_why text,
        -- The bytes of all proved files when they were last added up.
        vault_bytes bigint,
        measured_at timestamptz,
        CONSTRAINT scrub_has_one_row CHECK (only_row),
        CONSTRAINT scrub_stopped_with_reason CHECK ((stopped_at IS NULL) = (stopped_why IS NULL))
    )
    """,
    "INSERT INTO scrub DEFAULT VALUES",
    # Objects in incoming that no row names. Their age counts from `seen_at`, because a client can
    # choose the date of an object.
    """
    CREATE TABLE incoming_orphans (
        key text COLLATE "C" PRIMARY KEY,
        seen_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # The scrub of orphans asks for each key in incoming whether a reservation names it, and two
    # runs at once doom a key only once.
    """
    CREATE UNIQUE INDEX reservations_scratch_key ON reservations (scratch_key)
        WHERE scratch_key IS NOT NULL
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
