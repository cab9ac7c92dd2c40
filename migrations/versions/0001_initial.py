"""The schema: API keys, files and their history, reservations, idempotency keys."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    """
    CREATE TABLE api_keys (
        id uuid PRIMARY KEY,
        owner text NOT NULL,
        name text NOT NULL,
        secret_sha256 bytea NOT NULL,
        scopes text[] NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz,
        revoked_at timestamptz,
        CONSTRAINT api_keys_secret_unique UNIQUE (secret_sha256),
        CONSTRAINT api_keys_secret_is_sha256 CHECK (octet_length(secret_sha256) = 32),
        CONSTRAINT api_keys_scopes_known
            CHECK (scopes <@ ARRAY['read', 'write', 'admin'] AND cardinality(scopes) > 0),
        CONSTRAINT api_keys_owner_not_empty CHECK (owner <> '')
    )
    """,
    "CREATE INDEX api_keys_owner ON api_keys (owner)",
    """
    CREATE TABLE files (
        id uuid PRIMARY KEY,
        owner text NOT NULL,
        -- These columns hold what the client declared.
        filename text NOT NULL,
        size bigint NOT NULL,
        content_type text,
        declared_sha256 bytea,
        metadata jsonb NOT NULL,
        incoming_key text COLLATE "C",  -- in the order of the store's listing
        part_size bigint,  -- NULL if the file is not sent in parts
        upload_id text,  -- the id of the store's multipart upload
        -- These columns hold the state, and what was proved.
        state text NOT NULL,
        hash bytea,
        minio_object_name uuid,
        vault_etag text,
        upload_date timestamptz,
        rejection_reason text,
        rejection_detail text,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        grace_until timestamptz NOT NULL,
        final_at timestamptz,
        -- These columns describe the work, because the row is the job.
        lease uuid,
        lease_until timestamptz,
        attempts integer NOT NULL DEFAULT 0,
        arrivals integer NOT NULL DEFAULT 0,
        verifying_since timestamptz,
        due_at timestamptz,
        last_error text,
        failed_reads integer NOT NULL DEFAULT 0,
        failed_reads_since timestamptz,
        mismatched_sha256 bytea,
        -- These columns describe leftovers: when to delete the object at the incoming key, how
        -- often that was done, and when to delete the vault object.
        sweep_at timestamptz,
        sweeps smallint NOT NULL DEFAULT 0,
        purge_at timestamptz,
        -- A statement that changes `state` sets the next two columns to the party that caused the
        -- change and to its reason. The trigger moves both to the history.
        changed_by text,
        changed_why text,
        history_xid xid8,
        CONSTRAINT files_incoming_key_unique UNIQUE (incoming_key),
        CONSTRAINT files_minio_object_name_unique UNIQUE (minio_object_name),
        CONSTRAINT files_filename_length CHECK (octet_length(filename) BETWEEN 1 AND 255),
        CONSTRAINT files_size_not_negative CHECK (size >= 0),
        CONSTRAINT files_parts_within_limits
            CHECK (part_size BETWEEN 5242880 AND 5368709120 AND size <= part_size * 10000),
        CONSTRAINT files_upload_has_parts
            CHECK (upload_id IS NULL OR part_size IS NOT NULL AND incoming_key IS NOT NULL),
        CONSTRAINT files_state_known
            CHECK (state IN ('pending', 'verifying', 'ready', 'rejected', 'expired', 'deleted',
                             'damaged')),
        CONSTRAINT files_digests_are_sha256
            CHECK (octet_length(declared_sha256) = 32 AND octet_length(hash) = 32),
        CONSTRAINT files_hash_iff_proved
            CHECK ((hash IS NOT NULL) = (minio_object_name IS NOT NULL)
               AND (hash IS NOT NULL) = (vault_etag IS NOT NULL)
               AND (hash IS NOT NULL) = (upload_date IS NOT NULL)
               AND CASE WHEN state IN ('ready', 'damaged') THEN hash IS NOT NULL
                        WHEN state = 'deleted' THEN true
                        ELSE hash IS NULL END),
        CONSTRAINT files_proved_as_declared
            CHECK (hash IS NULL OR declared_sha256 IS NULL OR hash = declared_sha256),
        CONSTRAINT files_rejected_with_reason
            CHECK ((rejection_reason IS NOT NULL) = (rejection_detail IS NOT NULL)
               AND CASE WHEN state = 'rejected' THEN rejection_reason IS NOT NULL
                        WHEN state = 'deleted' THEN true
                        ELSE rejection_reason IS NULL END),
        CONSTRAINT files_work_until_final
            CHECK (CASE WHEN state IN ('pending', 'verifying')
                        THEN due_at IS NOT NULL AND incoming_key IS NOT NULL AND final_at IS NULL
                        ELSE due_at IS NULL AND lease IS NULL AND final_at IS NOT NULL END),
        CONSTRAINT files_lease_has_end CHECK ((lease IS NULL) = (lease_until IS NULL)),
        CONSTRAINT files_failed_reads_have_start
            CHECK ((failed_reads = 0) = (failed_reads_since IS NULL)),
        CONSTRAINT files_purge_deleted_only
            CHECK (purge_at IS NULL OR state = 'deleted' AND minio_object_name IS NOT NULL)
    )
    """,
    # These indexes serve pages, and the filters that can be selective.
    "CREATE INDEX files_owner ON files (owner, id)",
    "CREATE INDEX files_owner_hash ON files (owner, hash, id) WHERE hash IS NOT NULL",
    "CREATE INDEX files_owner_filename ON files (owner, filename text_pattern_ops, id)",
    # These indexes serve claims, each for one kind of file. `lease_until` is in no index, so that
    # the extension of a lease is a heap-only-tuple update.
    """
    CREATE INDEX files_due_small ON files (due_at)
        WHERE state IN ('pending', 'verifying') AND failed_reads = 0 AND size <= 1073741824
    """,
    """
    CREATE INDEX files_due_large ON files (due_at)
        WHERE state IN ('pending', 'verifying') AND failed_reads = 0 AND size > 1073741824
    """,
    """
    CREATE INDEX files_due_unreadable ON files (due_at)
        WHERE state IN ('pending', 'verifying') AND failed_reads > 0
    """,
    # These indexes serve the sweeper.
    "CREATE INDEX files_sweep ON files (sweep_at) WHERE sweep_at IS NOT NULL",
    "CREATE INDEX files_purge ON files (purge_at) WHERE purge_at IS NOT NULL",
    "CREATE INDEX files_forget ON files (final_at) WHERE state IN ('deleted', 'expired')",
    """
    CREATE TABLE reservations (
        vault_key uuid PRIMARY KEY,
        -- This is not a foreign key, because a streamed upload has no row before its commit.
        file_id uuid,
        owner text,
        scratch_key text,  -- the key in incoming of a probe of the store, which has no file
        lease uuid NOT NULL,
        lease_until timestamptz NOT NULL,
        upload_id text,
        created_at timestamptz NOT NULL DEFAULT now(),
        doomed_at timestamptz,
        sweep_at timestamptz,
        swept_at timestamptz,  -- the time of the first deletion of the object
        CONSTRAINT reservations_of_file_or_probe CHECK (num_nonnulls(file_id, scratch_key) = 1),
        CONSTRAINT reservations_sweep_doomed_only CHECK ((doomed_at IS NULL) = (sweep_at IS NULL))
    )
    """,
    "CREATE INDEX reservations_live ON reservations (created_at) WHERE doomed_at IS NULL",
    "CREATE INDEX reservations_doomed ON reservations (sweep_at) WHERE doomed_at IS NOT NULL",
    """
    CREATE TABLE file_history (
        xid xid8 NOT NULL,  -- of the transaction, or of the file's previous row if that is higher
        sequence bigint GENERATED ALWAYS AS IDENTITY,
        -- A foreign key would lock the file's row once more at each transition.
        file_id uuid NOT NULL,
        owner text NOT NULL,
        state text NOT NULL,
        previous text,
        at timestamptz NOT NULL DEFAULT now(),
        by text NOT NULL,
        why text,
        CONSTRAINT file_history_pkey PRIMARY KEY (xid, sequence),
        CONSTRAINT file_history_state_known
            CHECK (state IN ('pending', 'verifying', 'ready', 'rejected', 'expired', 'deleted',
                             'damaged')),
        CONSTRAINT file_history_state_changes CHECK (previous IS DISTINCT FROM state),
        CONSTRAINT file_history_by_known CHECK (by IN ('client', 'store', 'worker'))
    )
    """,
    "CREATE INDEX file_history_owner ON file_history (owner, xid, sequence)",
    "CREATE INDEX file_history_file ON file_history (file_id, sequence)",
    # Each change of `state` inserts one row into the history, in the same transaction. A statement
    # that does not set `changed_by` fails, because `by` is NOT NULL.
    """
    CREATE FUNCTION record_transition() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' OR OLD.state IS DISTINCT FROM NEW.state THEN
            NEW.history_xid := greatest(NEW.history_xid, pg_current_xact_id());
            INSERT INTO file_history (xid, file_id, owner, state, previous, by, why)
            VALUES (NEW.history_xid, NEW.id, NEW.owner, NEW.state,
                    CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END, NEW.changed_by, NEW.changed_why);
        END IF;
        NEW.changed_by := NULL;
        NEW.changed_why := NULL;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER files_inserted BEFORE INSERT ON files FOR EACH ROW
        EXECUTE FUNCTION record_transition()
    """,
    """
    CREATE TRIGGER files_changed BEFORE UPDATE ON files FOR EACH ROW
        WHEN (OLD.state IS DISTINCT FROM NEW.state OR NEW.changed_by IS NOT NULL)
        EXECUTE FUNCTION record_transition()
    """,
    # The position of the last deleted row of the history. A reader at an earlier position cannot
    # receive every transition from then on.
    """
    CREATE TABLE history_horizon (
        single boolean PRIMARY KEY DEFAULT true,
        xid xid8 NOT NULL,
        sequence bigint NOT NULL,
        CONSTRAINT history_horizon_single CHECK (single)
    )
    """,
    "INSERT INTO history_horizon (xid, sequence) VALUES ('0', 0)",
    """
    CREATE TABLE idempotency_keys (
        owner text NOT NULL,
        key text NOT NULL,
        request_sha256 bytea NOT NULL,
        file_id uuid NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (owner, key)
    )
    """,
    "CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
