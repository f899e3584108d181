-- Sessions of the status page that were signed out of, until their time is over and some to spare.
CREATE TABLE ended_sessions (
    id   BLOB NOT NULL PRIMARY KEY,
    ends INTEGER NOT NULL
) STRICT;
CREATE INDEX ended_sessions_by_end ON ended_sessions (ends);
