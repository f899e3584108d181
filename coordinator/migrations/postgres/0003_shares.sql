-- As ../sqlite/0004_shares.sql.
ALTER TABLE tenants
    ADD COLUMN weight BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN running_tasks BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN queued_jobs BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN photos BIGINT NOT NULL DEFAULT 0;

ALTER TABLE tasks ADD COLUMN priority BIGINT NOT NULL DEFAULT 0, ADD COLUMN cost BIGINT NOT NULL DEFAULT 1;
DROP INDEX tasks_ready;
CREATE INDEX tasks_ready ON tasks (kind, base_model, tenant, priority DESC, queued_at, job, position, id) WHERE state = 1;
CREATE INDEX tasks_running ON tasks (tenant) WHERE state = 2;
CREATE INDEX jobs_open ON jobs (tenant) WHERE ended_at IS NULL;

-- Every claim moves a turn: room on the page and frequent vacuums, as for tasks.
CREATE TABLE queues (
    kind       INTEGER NOT NULL,
    base_model TEXT COLLATE "C" NOT NULL,
    tenant     TEXT COLLATE "C" NOT NULL,
    begun      BIGINT NOT NULL,
    turn       BIGINT NOT NULL,
    PRIMARY KEY (kind, base_model, tenant)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX queues_by_turn ON queues (kind, base_model, turn, tenant);
INSERT INTO queues (kind, base_model, tenant, begun, turn)
    SELECT DISTINCT kind, base_model, tenant, 0, 0 FROM tasks WHERE state = 1;
