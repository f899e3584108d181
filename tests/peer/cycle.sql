-- What a coordinator asks Postgres while a training is leased, renewed and completed, and nothing else: no gRPC, no encoding, no state
-- machine. Run by coordinator.py over the database that the coordinator was measured on. -D kind, model, worker.

-- Lease: store/sql/fleet.rs, shares.rs, courses.rs.
BEGIN;
SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) AS now \gset
SELECT record FROM workers WHERE incarnation = :worker;
SELECT count(*) FROM (SELECT 1 FROM queues WHERE kind = :kind AND base_model = :model LIMIT 2) AS few;
SELECT count(*) AS found, coalesce(max(tenant), '') AS tenant, coalesce(max(turn), 0) AS turn FROM (
    SELECT q.tenant, q.begun, q.turn, coalesce(t.weight, 1) AS weight, coalesce(t.running_tasks, 0) AS running_tasks
    FROM queues q LEFT JOIN tenants t ON t.id = q.tenant
    WHERE q.kind = :kind AND q.base_model = :model
        AND (SELECT k.id FROM tasks k WHERE k.state = 1 AND k.kind = q.kind AND k.base_model = q.base_model
             AND k.tenant = q.tenant LIMIT 1) IS NOT NULL
        AND (coalesce(t.running_tasks, 0) = 0
             OR t.running_tasks > (SELECT count(*) FROM tasks k WHERE k.state = 2 AND k.tenant = q.tenant))
    ORDER BY q.turn, q.tenant LIMIT 1 FOR NO KEY UPDATE OF q SKIP LOCKED) AS free \gset
\if :found = 0
SELECT q.tenant AS tenant, q.turn AS turn FROM queues q WHERE q.kind = :kind AND q.base_model = :model
    ORDER BY q.turn, q.tenant LIMIT 1 FOR NO KEY UPDATE OF q \gset
\endif
SELECT id, job, subject, cost FROM tasks WHERE state = 1 AND kind = :kind AND base_model = :model AND tenant = :tenant
    ORDER BY priority DESC, queued_at, job, position, id LIMIT 1 FOR UPDATE SKIP LOCKED \gset
UPDATE queues SET begun = :turn, turn = CAST(:turn AS BIGINT) + CAST(:cost AS BIGINT) * 1024
    WHERE kind = :kind AND base_model = :model AND tenant = :tenant;
SELECT FROM job_subjects WHERE tenant = :tenant AND job = :job AND subject = :subject FOR UPDATE;
SELECT id, kind, state, grants, strikes, holder, lease_ends FROM tasks
    WHERE tenant = :tenant AND job = :job AND subject = :subject ORDER BY position;
SELECT record AS progress FROM job_subjects WHERE tenant = :tenant AND job = :job AND subject = :subject \gset
SELECT work, checkpoint FROM tasks WHERE tenant = :tenant AND id = :id;
UPDATE tasks SET state = 2, grants = grants + 1, strikes = 0, holder = :worker, lease_ends = CAST(:now AS BIGINT) + 60000,
    drawn = CASE WHEN TRUE THEN drawn ELSE 0 END WHERE tenant = :tenant AND id = :id;
UPDATE job_subjects SET state = 2, record = :progress WHERE tenant = :tenant AND job = :job AND subject = :subject;
SELECT FROM jobs WHERE tenant = :tenant AND id = :job FOR UPDATE;
SELECT state FROM job_subjects WHERE tenant = :tenant AND job = :job;
UPDATE jobs SET revision = revision + 1, state = CASE WHEN ended_at IS NULL THEN 2 ELSE state END,
    ended_at = coalesce(ended_at, CASE WHEN FALSE THEN CAST(:now AS BIGINT) END) WHERE tenant = :tenant AND id = :job;
COMMIT;

-- Renew: store/sql/reports.rs.
BEGIN;
SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) AS now \gset
SELECT tenant, job, subject FROM tasks WHERE id = :id;
SELECT FROM job_subjects WHERE tenant = :tenant AND job = :job AND subject = :subject FOR UPDATE;
SELECT id, kind, state, grants, strikes, holder, lease_ends FROM tasks
    WHERE tenant = :tenant AND job = :job AND subject = :subject ORDER BY position;
SELECT record FROM job_subjects WHERE tenant = :tenant AND job = :job AND subject = :subject;
UPDATE tasks SET lease_ends = CAST(:now AS BIGINT) + 60000 WHERE tenant = :tenant AND id = :id;
COMMIT;

-- Complete: where the lease writes, then reports.rs, results.rs and what follows.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT tenant, job, subject FROM tasks WHERE id = :id;
SELECT kind FROM tasks WHERE id = :id;
COMMIT;
BEGIN;
SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) AS now \gset
SELECT tenant, job, subject FROM tasks WHERE id = :id;
SELECT FROM job_subjects WHERE tenant = :tenant AND job = :job AND subject = :subject FOR UPDATE;
SELECT id, kind, state, grants, strikes, holder, lease_ends FROM tasks
    WHERE tenant = :tenant AND job = :job AND subject = :subject ORDER BY position;
SELECT record AS progress FROM job_subjects WHERE tenant = :tenant AND job = :job AND subject = :subject \gset
SELECT kind FROM tasks WHERE id = :id;
SELECT work FROM tasks WHERE tenant = :tenant AND id = :id;
INSERT INTO objects (tenant, key, subject, sha256, size) VALUES (:tenant, 'bench/' || :id, :subject, '\x00', 7) ON CONFLICT DO NOTHING;
SELECT FROM subjects WHERE tenant = :tenant AND name = :subject FOR UPDATE;
SELECT record AS known FROM subjects WHERE tenant = :tenant AND name = :subject \gset
INSERT INTO subjects (tenant, name, record) VALUES (:tenant, :subject, :known)
    ON CONFLICT (tenant, name) DO UPDATE SET record = excluded.record;
UPDATE tasks SET state = 3, holder = NULL, lease_ends = NULL, drawn = 0 WHERE tenant = :tenant AND id = :id;
UPDATE tasks SET state = 1 WHERE tenant = :tenant AND job = :job AND subject = :subject AND kind = 2;
UPDATE job_subjects SET state = 3, record = :progress WHERE tenant = :tenant AND job = :job AND subject = :subject;
SELECT FROM jobs WHERE tenant = :tenant AND id = :job FOR UPDATE;
SELECT state FROM job_subjects WHERE tenant = :tenant AND job = :job;
UPDATE jobs SET revision = revision + 1, state = CASE WHEN ended_at IS NULL THEN 2 ELSE state END,
    ended_at = coalesce(ended_at, CASE WHEN FALSE THEN CAST(:now AS BIGINT) END) WHERE tenant = :tenant AND id = :job;
SELECT count(*) FROM tenants WHERE id = :tenant AND running_tasks > 0;
SELECT FROM queues JOIN tasks USING (kind, base_model, tenant) WHERE tasks.tenant = :tenant AND tasks.id = :id FOR KEY SHARE OF queues;
COMMIT;
