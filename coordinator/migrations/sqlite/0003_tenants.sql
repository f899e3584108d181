CREATE TABLE tenants (
    id             TEXT PRIMARY KEY,
    created_at     INTEGER NOT NULL,
    retention_days INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- hash: HMAC-SHA-256 of the whole key, under a secret that is not in here. Without a tenant: workers' and administrators'.
CREATE TABLE api_keys (
    prefix     TEXT PRIMARY KEY,
    tenant     TEXT REFERENCES tenants (id),
    role       INTEGER NOT NULL,
    hash       BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;

-- Until when somebody is at the sweep, so that nobody else begins it.
ALTER TABLE erasures ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
