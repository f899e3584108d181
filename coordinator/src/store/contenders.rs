//! Which tenants wait for workers, as a statement; engines differ in how they lock what it finds.

/// Tenants of the queue of kind `$1` and model `$2` that have a task which is ready and may have another running, the earliest turn
/// first, at most `$3`. A task is looked for as a value, not by EXISTS, since that might be planned as one scan of all tasks.
macro_rules! contenders {
    ($lock:literal) => {
        concat!(
            "SELECT q.tenant, q.begun, q.turn, coalesce(t.weight, 1) AS weight, coalesce(t.running_tasks, 0) AS running_tasks
             FROM queues q LEFT JOIN tenants t ON t.id = q.tenant
             WHERE q.kind = $1 AND q.base_model = $2
                 AND (SELECT k.id FROM tasks k WHERE k.state = 1 AND k.kind = q.kind AND k.base_model = q.base_model
                      AND k.tenant = q.tenant LIMIT 1) IS NOT NULL
                 AND (coalesce(t.running_tasks, 0) = 0
                      OR t.running_tasks > (SELECT count(*) FROM tasks k WHERE k.state = 2 AND k.tenant = q.tenant))
             ORDER BY q.turn, q.tenant LIMIT $3",
            $lock
        )
    };
}
pub(crate) use contenders;
