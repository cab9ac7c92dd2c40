"""Event ids: the key that encrypts them, and a horizon of the history for each owner."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    """
    CREATE TABLE event_id_key (
        single boolean PRIMARY KEY DEFAULT true,
        secret bytea NOT NULL,
        CONSTRAINT event_id_key_single CHECK (single),
        CONSTRAINT event_id_key_length CHECK (octet_length(secret) = 64)
    )
    """,
    # Each UUID has 122 random bits.
    """
    INSERT INTO event_id_key (secret)
    SELECT sha512(string_agg(uuid_send(gen_random_uuid()), '')) FROM generate_series(1, 8)
    """,
    # The position of the last deleted row of an owner's history. A reader at an earlier position
    # cannot receive every transition from then on. The single horizon of all owners is not copied:
    # it precedes every position that an encrypted id can name. Its table stays, because processes
    # of the earlier version may run until they are replaced. A later migration can drop it.
    """
    CREATE TABLE history_horizons (
        owner text PRIMARY KEY,
        xid xid8 NOT NULL,
        sequence bigint NOT NULL
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
