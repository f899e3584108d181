-- As ../sqlite/0006_telemetry.sql.
ALTER TABLE tasks ADD COLUMN ready_at BIGINT NOT NULL DEFAULT 0;
DROP INDEX tasks_ready;
CREATE INDEX tasks_ready ON tasks (kind, base_model, tenant, priority DESC, queued_at, job, position, id, ready_at) WHERE state = 1;

ALTER TABLE workers ADD COLUMN seen_at BIGINT NOT NULL DEFAULT 0;
