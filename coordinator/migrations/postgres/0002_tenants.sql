-- As ../sqlite/0003_tenants.sql.
CREATE TABLE tenants (
    id             TEXT COLLATE "C" PRIMARY KEY,
    created_at     BIGINT NOT NULL,
    retention_days BIGINT NOT NULL
);

-- hash: HMAC-SHA-256 of the whole key, under a secret that is not in here. Without a tenant: workers' and administrators'.
CREATE TABLE api_keys (
    prefix     TEXT COLLATE "C" PRIMARY KEY,
    tenant     TEXT COLLATE "C" REFERENCES tenants (id),
    role       INTEGER NOT NULL,
    hash       BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);

-- Until when somebody is at the sweep, so that nobody else begins it.
ALTER TABLE erasures ADD COLUMN held BIGINT NOT NULL DEFAULT 0;
