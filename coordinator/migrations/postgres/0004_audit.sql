-- As ../sqlite/0005_audit.sql.
CREATE TABLE audit (
    sequence BIGINT PRIMARY KEY,
    at       BIGINT NOT NULL,
    actor    TEXT COLLATE "C" NOT NULL,
    tenant   TEXT COLLATE "C" NOT NULL,
    action   INTEGER NOT NULL,
    target   BYTEA NOT NULL,
    previous BYTEA NOT NULL,
    hash     BYTEA NOT NULL
);

CREATE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit log takes entries and loses none'; END $$;
CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_kept();
CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_kept();

ALTER TABLE erasures ADD COLUMN entry BIGINT;
