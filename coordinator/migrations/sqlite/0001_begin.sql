-- Tenant is the first column of every key. Records are Protocol Buffers (likeness.v1). Times are milliseconds since the
-- Unix epoch. States and kinds are the wire's numbers, except task states: see store/sqlite/courses.rs.

-- record: Subject.
CREATE TABLE subjects (
    tenant TEXT NOT NULL,
    name   TEXT NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

-- Objects that exist for the tenant's people: photos, embeddings, avatars, contact sheets.
CREATE TABLE objects (
    tenant  TEXT NOT NULL,
    key     TEXT NOT NULL,
    subject TEXT NOT NULL,
    sha256  BLOB NOT NULL,
    size    INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX objects_by_subject ON objects (tenant, subject);

-- Uploads that go on. One that is not here any more cannot be committed.
CREATE TABLE uploads (
    tenant   TEXT NOT NULL,
    subject  TEXT NOT NULL,
    id       TEXT NOT NULL,
    deadline INTEGER NOT NULL,
    PRIMARY KEY (tenant, subject, id)
) STRICT, WITHOUT ROWID;

-- Sweeps of a subject's prefix that are owed. While one is locked, the subject takes no photos.
CREATE TABLE erasures (
    tenant  TEXT NOT NULL,
    subject TEXT NOT NULL,
    id      TEXT NOT NULL,
    due     INTEGER NOT NULL,
    locked  INTEGER NOT NULL,
    PRIMARY KEY (tenant, subject, id)
) STRICT, WITHOUT ROWID;

-- record: Job without what the other columns and tables know.
CREATE TABLE jobs (
    tenant          TEXT NOT NULL,
    id              TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request_sha256  BLOB NOT NULL,
    state           INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    submitted_at    INTEGER NOT NULL,
    ended_at        INTEGER,
    record          BLOB NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, idempotency_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_newest ON jobs (tenant, submitted_at, id);

-- record: SubjectProgress without avatars.
CREATE TABLE job_subjects (
    tenant    TEXT NOT NULL,
    job       TEXT NOT NULL,
    subject   TEXT NOT NULL,
    position  INTEGER NOT NULL,
    state     INTEGER NOT NULL,
    forgotten INTEGER NOT NULL DEFAULT 0,
    record    BLOB NOT NULL,
    PRIMARY KEY (tenant, job, subject),
    FOREIGN KEY (tenant, job) REFERENCES jobs (tenant, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX job_subjects_by_subject ON job_subjects (tenant, subject);

-- work: Grant with what is known when the job is planned. checkpoint: Checkpoint. error: ErrorDetail.
CREATE TABLE tasks (
    tenant     TEXT NOT NULL,
    id         TEXT NOT NULL,
    job        TEXT NOT NULL,
    subject    TEXT NOT NULL,
    position   INTEGER NOT NULL,
    kind       INTEGER NOT NULL,
    base_model TEXT NOT NULL,
    queued_at  INTEGER NOT NULL,
    shots      INTEGER NOT NULL,
    work       BLOB NOT NULL,
    state      INTEGER NOT NULL,
    grants     INTEGER NOT NULL DEFAULT 0,
    strikes    INTEGER NOT NULL DEFAULT 0,
    holder     TEXT,
    lease_ends INTEGER,
    drawn      INTEGER NOT NULL DEFAULT 0,
    checkpoint BLOB,
    error      BLOB,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, job, subject) REFERENCES job_subjects (tenant, job, subject) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX tasks_by_course ON tasks (tenant, job, subject, position);
-- The fleet serves all tenants: it knows tasks by their id alone, takes whatever is ready, and loses leases.
CREATE UNIQUE INDEX tasks_by_id ON tasks (id);
CREATE INDEX tasks_ready ON tasks (kind, base_model, queued_at, job, position) WHERE state = 1;
CREATE INDEX tasks_leased ON tasks (lease_ends) WHERE state = 2;

-- record: Avatar.
CREATE TABLE avatars (
    tenant   TEXT NOT NULL,
    job      TEXT NOT NULL,
    subject  TEXT NOT NULL,
    position INTEGER NOT NULL,
    record   BLOB NOT NULL,
    PRIMARY KEY (tenant, job, subject, position),
    FOREIGN KEY (tenant, job, subject) REFERENCES job_subjects (tenant, job, subject) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Chunk n holds the losses of steps n * 256 + 1 and on, as little-endian floats, at most 256.
CREATE TABLE losses (
    tenant  TEXT NOT NULL,
    job     TEXT NOT NULL,
    subject TEXT NOT NULL,
    chunk   INTEGER NOT NULL,
    data    BLOB NOT NULL,
    PRIMARY KEY (tenant, job, subject, chunk),
    FOREIGN KEY (tenant, job, subject) REFERENCES job_subjects (tenant, job, subject) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE evaluations (
    tenant  TEXT NOT NULL,
    job     TEXT NOT NULL,
    subject TEXT NOT NULL,
    step    INTEGER NOT NULL,
    loss    REAL NOT NULL,
    PRIMARY KEY (tenant, job, subject, step),
    FOREIGN KEY (tenant, job, subject) REFERENCES job_subjects (tenant, job, subject) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- The fleet's own, of no tenant: the last incarnation of each worker. record: RegisterRequest.
CREATE TABLE workers (
    name        TEXT PRIMARY KEY,
    incarnation TEXT NOT NULL UNIQUE,
    record      BLOB NOT NULL
) STRICT, WITHOUT ROWID;
