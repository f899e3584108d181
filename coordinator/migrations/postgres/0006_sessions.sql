-- As ../sqlite/0007_sessions.sql.
CREATE TABLE ended_sessions (
    id   BYTEA PRIMARY KEY,
    ends BIGINT NOT NULL
);
CREATE INDEX ended_sessions_by_end ON ended_sessions (ends);
