-- The tables of the embedded engine (../sqlite), in the types of Postgres. Texts sort by their bytes, as they do there.
-- Tenant is the first column of every key. Records are Protocol Buffers (likeness.v1). Times are milliseconds since the
-- Unix epoch. States and kinds are the wire's numbers, except task states: see store/sql/courses.rs.

-- record: Subject.
CREATE TABLE subjects (
    tenant TEXT COLLATE "C" NOT NULL,
    name   TEXT COLLATE "C" NOT NULL,
    record BYTEA NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- Objects that exist for the tenant's people: photos, embeddings, avatars, contact sheets.
CREATE TABLE objects (
    tenant  TEXT COLLATE "C" NOT NULL,
    key     TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    sha256  BYTEA NOT NULL,
    size    BIGINT NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX objects_by_subject ON objects (tenant, subject);

-- Uploads that go on. One that is not here any more cannot be committed.
CREATE TABLE uploads (
    tenant   TEXT COLLATE "C" NOT NULL,
    subject  TEXT COLLATE "C" NOT NULL,
    id       TEXT COLLATE "C" NOT NULL,
    deadline BIGINT NOT NULL,
    PRIMARY KEY (tenant, subject, id)
);

-- Sweeps of a subject's prefix that are owed. While one is locked, the subject takes no photos.
CREATE TABLE erasures (
    tenant  TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    id      TEXT COLLATE "C" NOT NULL,
    due     BIGINT NOT NULL,
    locked  BOOLEAN NOT NULL,
    PRIMARY KEY (tenant, subject, id)
);

-- record: Job without what the other columns and tables know.
CREATE TABLE jobs (
    tenant          TEXT COLLATE "C" NOT NULL,
    id              TEXT COLLATE "C" NOT NULL,
    idempotency_key TEXT COLLATE "C" NOT NULL,
    request_sha256  BYTEA NOT NULL,
    state           INTEGER NOT NULL,
    revision        BIGINT NOT NULL,
    submitted_at    BIGINT NOT NULL,
    ended_at        BIGINT,
    record          BYTEA NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, idempotency_key)
);
CREATE INDEX jobs_newest ON jobs (tenant, submitted_at, id);

-- record: SubjectProgress without avatars.
CREATE TABLE job_subjects (
    tenant    TEXT COLLATE "C" NOT NULL,
    job       TEXT COLLATE "C" NOT NULL,
    subject   TEXT COLLATE "C" NOT NULL,
    position  BIGINT NOT NULL,
    state     INTEGER NOT NULL,
    forgotten BOOLEAN NOT NULL DEFAULT FALSE,
    record    BYTEA NOT NULL,
    PRIMARY KEY (tenant, job, subject),
    FOREIGN KEY (tenant, job) REFERENCES jobs (tenant, id) ON DELETE CASCADE
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX job_subjects_by_subject ON job_subjects (tenant, subject);

-- work: Grant with what is known when the job is planned. checkpoint: Checkpoint. error: ErrorDetail.
CREATE TABLE tasks (
    tenant     TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    job        TEXT COLLATE "C" NOT NULL,
    subject    TEXT COLLATE "C" NOT NULL,
    position   BIGINT NOT NULL,
    kind       INTEGER NOT NULL,
    base_model TEXT COLLATE "C" NOT NULL,
    queued_at  BIGINT NOT NULL,
    shots      BIGINT NOT NULL,
    work       BYTEA NOT NULL,
    state      INTEGER NOT NULL,
    grants     BIGINT NOT NULL DEFAULT 0,
    strikes    BIGINT NOT NULL DEFAULT 0,
    holder     TEXT COLLATE "C",
    lease_ends BIGINT,
    drawn      BIGINT NOT NULL DEFAULT 0,
    checkpoint BYTEA,
    error      BYTEA,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, job, subject) REFERENCES job_subjects (tenant, job, subject) ON DELETE CASCADE
) WITH (
    -- A claim, every renewal and the end of a task each leave a dead row. Room on the page for the next version keeps updates
    -- there, and the vacuum comes by the number of rows rather than by their share: else the rate of claims falls a hundredfold.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000
);
CREATE INDEX tasks_by_course ON tasks (tenant, job, subject, position);
-- The fleet serves all tenants: it knows tasks by their id alone, takes whatever is ready, and loses leases.
CREATE UNIQUE INDEX tasks_by_id ON tasks (id);
CREATE INDEX tasks_ready ON tasks (kind, base_model, queued_at, job, position, id) WHERE state = 1;
CREATE INDEX tasks_leased ON tasks (lease_ends) WHERE state = 2;

-- record: Avatar.
CREATE TABLE avatars (
    tenant   TEXT COLLATE "C" NOT NULL,
    job      TEXT COLLATE "C" NOT NULL,
    subject  TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    record   BYTEA NOT NULL,
    PRIMARY KEY (tenant, job, subject, position),
    FOREIGN KEY (tenant, job, subject) REFERENCES job_subjects (tenant, job, subject) ON DELETE CASCADE
);

-- Chunk n holds the losses of steps n * 256 + 1 and on, as little-endian floats, at most 256.
CREATE TABLE losses (
    tenant  TEXT COLLATE "C" NOT NULL,
    job     TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    chunk   BIGINT NOT NULL,
    data    BYTEA NOT NULL,
    PRIMARY KEY (tenant, job, subject, chunk),
    FOREIGN KEY (tenant, job, subject) REFERENCES job_subjects (tenant, job, subject) ON DELETE CASCADE
);

CREATE TABLE evaluations (
    tenant  TEXT COLLATE "C" NOT NULL,
    job     TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    step    BIGINT NOT NULL,
    loss    DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (tenant, job, subject, step),
    FOREIGN KEY (tenant, job, subject) REFERENCES job_subjects (tenant, job, subject) ON DELETE CASCADE
);

-- The fleet's own, of no tenant: the last incarnation of each worker. record: RegisterRequest.
CREATE TABLE workers (
    name        TEXT COLLATE "C" PRIMARY KEY,
    incarnation TEXT COLLATE "C" NOT NULL UNIQUE,
    record      BYTEA NOT NULL
);

-- Work that one coordinator does for all of them: whose turn it is, and until when.
CREATE TABLE turns (
    name   TEXT COLLATE "C" PRIMARY KEY,
    holder TEXT COLLATE "C" NOT NULL,
    ends   BIGINT NOT NULL
);
