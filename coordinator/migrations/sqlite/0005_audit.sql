-- Who did what and when: a chain of hashes (audit/mod.rs says over what). target: a keyed hash. Entries are added and never touched again.
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    actor    TEXT NOT NULL,
    tenant   TEXT NOT NULL,
    action   INTEGER NOT NULL,
    target   BLOB NOT NULL,
    previous BLOB NOT NULL,
    hash     BLOB NOT NULL
) STRICT;

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log takes entries and loses none'); END;
CREATE TRIGGER audit_is_not_cut BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log takes entries and loses none'); END;

-- The entry that tells of the forgetting which owes this sweep; without one, a tombstone is not due.
ALTER TABLE erasures ADD COLUMN entry INTEGER;
