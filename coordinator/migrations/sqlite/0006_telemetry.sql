-- ready_at: when the task last became ready, where that is later than it was queued; in the index, so that what waits is counted
-- without looking at the tasks themselves, for which SQLite wants state in it, too.
ALTER TABLE tasks ADD COLUMN ready_at INTEGER NOT NULL DEFAULT 0;
DROP INDEX tasks_ready;
CREATE INDEX tasks_ready ON tasks (kind, base_model, tenant, priority DESC, queued_at, job, position, id, ready_at, state) WHERE state = 1;

-- When the worker last asked for work, to some seconds.
ALTER TABLE workers ADD COLUMN seen_at INTEGER NOT NULL DEFAULT 0;
