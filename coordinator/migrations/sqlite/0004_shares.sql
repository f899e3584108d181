-- What a tenant is given: its share of the fleet, and what it may have at a time (0: no limit).
ALTER TABLE tenants ADD COLUMN weight INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tenants ADD COLUMN running_tasks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tenants ADD COLUMN queued_jobs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tenants ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tenants ADD COLUMN photos INTEGER NOT NULL DEFAULT 0;

-- cost: about how many samples go through the UNet.
ALTER TABLE tasks ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN cost INTEGER NOT NULL DEFAULT 1;
DROP INDEX tasks_ready;
CREATE INDEX tasks_ready ON tasks (kind, base_model, tenant, priority DESC, queued_at, job, position, id) WHERE state = 1;
CREATE INDEX tasks_running ON tasks (tenant) WHERE state = 2;
CREATE INDEX jobs_open ON jobs (tenant) WHERE ended_at IS NULL;

-- Tenants that have, or lately had, tasks that are ready; begun, turn: see lifecycle/share.rs.
CREATE TABLE queues (
    kind       INTEGER NOT NULL,
    base_model TEXT NOT NULL,
    tenant     TEXT NOT NULL,
    begun      INTEGER NOT NULL,
    turn       INTEGER NOT NULL,
    PRIMARY KEY (kind, base_model, tenant)
) STRICT, WITHOUT ROWID;
CREATE INDEX queues_by_turn ON queues (kind, base_model, turn, tenant);
INSERT INTO queues (kind, base_model, tenant, begun, turn)
    SELECT DISTINCT kind, base_model, tenant, 0, 0 FROM tasks WHERE state = 1;
