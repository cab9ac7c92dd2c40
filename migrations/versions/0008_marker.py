"""The marker, by which a restored or replaced database is found.

See service/marker/__init__.py.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = (
    # A dump that is restored gives `files` another oid or another system identifier, a restore to
    # a point in time and a failover another timeline. `pg_control_system` may be denied to the
    # role, and does not exist on some managed servers.
    """
    CREATE FUNCTION database_identity() RETURNS text LANGUAGE plpgsql STABLE AS $$
    DECLARE
        system text := '';
    BEGIN
        BEGIN
            SELECT system_identifier INTO system FROM pg_control_system();
        EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
            NULL;
        END;
        RETURN concat_ws('/', system, 'files'::regclass::oid,
                         ltrim(left(pg_walfile_name(pg_current_wal_lsn()), 8), '0'));
    END $$
    """,
    """
    CREATE TABLE vault_marker (
        only_row boolean PRIMARY KEY DEFAULT true,
        deployment uuid NOT NULL DEFAULT gen_random_uuid(),
        counter bigint NOT NULL DEFAULT 0,
        identity text NOT NULL,
        raised_at timestamptz,
        CONSTRAINT vault_marker_has_one_row CHECK (only_row)
    )
    """,
    "INSERT INTO vault_marker (identity) VALUES (database_identity())",
    # Whether this is the database that the vault's marker was last written for. `known` is the
    # counter that was last read from the vault.
    """
    CREATE FUNCTION agrees_with_vault(known bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
        SELECT counter >= known AND identity = database_identity() FROM vault_marker
    $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
