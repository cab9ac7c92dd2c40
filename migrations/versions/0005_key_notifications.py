"""A notification whenever API keys are changed, for the processes that remember their grants."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    # Keys are changed rarely, so that the lock of a NOTIFY at the commit does no harm.
    """
    CREATE FUNCTION notify_key_changes() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('assay', 'database keys');
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER api_keys_changed AFTER UPDATE OR DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION notify_key_changes()
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
