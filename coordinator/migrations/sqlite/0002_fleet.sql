-- With the id, so that the first rows of the index are the tasks to lease next, however many are ready.
DROP INDEX tasks_ready;
CREATE INDEX tasks_ready ON tasks (kind, base_model, queued_at, job, position, id) WHERE state = 1;

-- Work that one coordinator does for all of them: whose turn it is, and until when.
CREATE TABLE turns (
    name   TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    ends   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
