//! The contract on a real server. `tests/fleet.sh` starts one and names it in `LIKENESS_TEST_POSTGRES`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use likeness_proto::{Incarnation, JobId};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection};
use uuid::Uuid;

use super::PostgresStore;
use crate::audit::AuditLog;
use crate::clock::ManualClock;
use crate::store::contract::tampering::{self, Tampering};
use crate::store::contract::{self, Engine, contract};
use crate::store::{OpenError, Policy, Signal, Store, StoreAddress};

/// A database of its own on the server.
struct Database(PgConnectOptions);

impl Engine for Database {
    type Store = PostgresStore;

    async fn new() -> Self {
        let server = std::env::var("LIKENESS_TEST_POSTGRES").expect("LIKENESS_TEST_POSTGRES names a server");
        let Ok(StoreAddress::Postgres(server)) = server.parse() else {
            panic!("LIKENESS_TEST_POSTGRES is no Postgres address")
        };
        let name = format!("t{}", Uuid::new_v4().simple());
        let mut connection = sqlx::PgConnection::connect_with(&server).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
        Self(server.database(&name))
    }

    async fn open(&self, clock: Arc<ManualClock>, policy: Policy) -> PostgresStore {
        PostgresStore::open(&self.0, Some(clock), policy).await.unwrap()
    }
}

contract!(Database, ignore = "needs a Postgres server: tests/fleet.sh");

impl Tampering for Database {
    async fn log(&self) -> AuditLog {
        AuditLog::open(&StoreAddress::Postgres(Box::new(self.0.clone()))).await.unwrap()
    }

    async fn run(&self, statement: &'static str) -> Result<(), sqlx::Error> {
        let mut connection = sqlx::PgConnection::connect_with(&self.0).await?;
        sqlx::query(statement).execute(&mut connection).await.map(drop)
    }

    async fn unlock(&self) {
        self.run("DROP FUNCTION audit_is_kept CASCADE").await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn the_log_refuses_to_be_changed_or_cut() {
    tampering::the_log_refuses_to_be_changed_or_cut::<Database>(&[
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit WHERE sequence = 5",
        "DELETE FROM audit",
        "TRUNCATE audit",
    ])
    .await;
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn whoever_changes_the_log_all_the_same_is_found_out() {
    tampering::whoever_changes_the_log_all_the_same_is_found_out::<Database>().await;
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn a_tail_that_was_cut_off_is_missed_by_whoever_noted_the_head() {
    tampering::a_tail_that_was_cut_off_is_missed_by_whoever_noted_the_head::<Database>().await;
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn workers_of_an_earlier_release_are_known_by_their_models() {
    tampering::workers_of_an_earlier_release_are_known_by_their_models::<Database>().await;
}

impl Database {
    /// A coordinator's store, by the server's clock.
    async fn replica(&self) -> PostgresStore {
        PostgresStore::open(&self.0, None, contract::policy()).await.unwrap()
    }

    async fn query<T>(&self, query: &'static str) -> Vec<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let mut connection = sqlx::PgConnection::connect_with(&self.0).await.unwrap();
        sqlx::query_scalar(query).fetch_all(&mut connection).await.unwrap()
    }
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn coordinators_that_start_at_once_on_an_empty_database_all_serve() {
    let database = Database::new().await;
    let replicas = futures::future::join_all((0..4).map(|_| database.replica())).await;
    for replica in &replicas {
        assert!(replica.jobs(&"acme".parse().unwrap(), 10).await.unwrap().is_empty());
    }
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn coordinators_that_race_for_every_task_never_grant_one_twice() {
    const SUBJECTS: usize = 60;
    let database = Database::new().await;
    let (one, other) = (database.replica().await, database.replica().await);
    let worker = Incarnation::new();
    contract::fill(&one, worker, SUBJECTS).await;
    let race = (0..16).map(|number| {
        let store = if number % 2 == 0 { &one } else { &other };
        contract::claim_all(store, worker, 1 + number % 3)
    });
    let granted: Vec<_> = futures::future::join_all(race).await.concat();
    let tasks: BTreeSet<_> = granted.iter().map(|grant| &grant.task_id).collect();
    assert_eq!((granted.len(), tasks.len()), (SUBJECTS, SUBJECTS));
    assert!(granted.iter().all(|grant| grant.fence == 1));
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn coordinators_that_race_to_the_end_of_a_job_end_it_once() {
    let database = Database::new().await;
    let (one, other) = (database.replica().await, database.replica().await);
    let worker = Incarnation::new();
    let job = contract::fill(&one, worker, 20).await;
    let race = (0..8).map(|number| contract::work_all(if number % 2 == 0 { &one } else { &other }, worker));
    futures::future::join_all(race).await;
    contract::work_all(&one, worker).await; // what the last of the others made ready
    let job = one.job(&"acme".parse().unwrap(), job).await.unwrap();
    assert_eq!(job.state(), likeness_proto::v1::JobState::Succeeded, "{job:?}");
    let avatars: BTreeSet<_> = job
        .subjects
        .iter()
        .flat_map(|subject| &subject.avatars)
        .map(|avatar| &avatar.object.as_ref().unwrap().key)
        .collect();
    assert_eq!(avatars.len(), 20 * 6, "each once");
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn what_one_coordinator_changes_the_watchers_of_another_are_told() {
    let database = Database::new().await;
    let (one, other) = (database.replica().await, database.replica().await);
    let (job, tenant) = (JobId::new(), "acme".parse().unwrap());
    let (mut changes, mut ready) = (other.signals().job(&tenant, job), other.signals().ready());
    // Until the other listens, which it says by waking everybody.
    changes.changed().await;
    ready.forget();
    let asked = tokio::time::Instant::now();
    one.signals().send(Signal::Job(job));
    one.signals().send(Signal::Ready);
    changes.changed().await;
    ready.changed().await;
    let poll = other.signals().poll().unwrap();
    assert!(asked.elapsed() < poll / 2, "it was told, it did not look: {:?} of {poll:?}", asked.elapsed());
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn a_change_that_nobody_told_of_is_found_by_looking() {
    const JOB: &str = "0198c0de-0000-7000-8000-000000000001";
    let database = Database::new().await;
    let store = database.replica().await;
    let mut changes = store.signals().job(&"acme".parse().unwrap(), JOB.parse().unwrap());
    // Until it listens, which it says by waking everybody.
    changes.changed().await;
    let insert = "INSERT INTO jobs (tenant, id, idempotency_key, request_sha256, state, revision, submitted_at, record)
                  VALUES ('acme', '0198c0de-0000-7000-8000-000000000001', 'key', '', 1, 1, 0, '')";
    for untold in [insert, "UPDATE jobs SET revision = revision + 1"] {
        database.run(untold).await.unwrap();
        changes.changed().await;
    }
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn connections_that_the_server_ends_are_replaced_unnoticed() {
    let database = Database::new().await;
    let store = database.replica().await;
    let tenant = "acme".parse().unwrap();
    let busy = (0..8).map(|_| store.jobs(&tenant, 10));
    futures::future::join_all(busy).await;
    let ended: Vec<bool> = database
        .query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid != pg_backend_pid() AND application_name = 'likeness'",
        )
        .await;
    assert!(ended.len() >= 2, "there must have been connections to end");
    for _ in 0..10 {
        store.jobs(&tenant, 10).await.unwrap();
        store.expire().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn a_coordinator_whose_clock_is_wrong_does_as_the_others() {
    let database = Database::new().await;
    let store = database.replica().await;
    let worker = Incarnation::new();
    contract::fill(&store, worker, 1).await;
    contract::claim_all(&store, worker, 1).await;
    let ends: Vec<i64> = database
        .query("SELECT lease_ends - CAST(extract(epoch FROM now()) * 1000 AS BIGINT) FROM tasks WHERE state = 2")
        .await;
    let lease = contract::policy().lease.as_millis() as i64;
    assert!((lease - 5000..=lease).contains(&ends[0]), "by the server's clock: {ends:?}");
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn dead_rows_of_tasks_are_vacuumed_by_their_number() {
    let database = Database::new().await;
    database.replica().await;
    let options: Vec<Vec<String>> = database.query("SELECT reloptions FROM pg_class WHERE relname = 'tasks'").await;
    for option in ["fillfactor=70", "autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=500"] {
        assert!(options[0].iter().any(|set| set == option), "{option} is not among {options:?}");
    }
}

#[tokio::test]
#[ignore = "needs a Postgres server: tests/fleet.sh"]
async fn a_database_of_a_newer_release_is_told() {
    let database = Database::new().await;
    database.replica().await;
    let _: Vec<i64> = database
        .query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'from the future', TRUE, '', 0) RETURNING version",
        )
        .await;
    let error = PostgresStore::open(&database.0, None, contract::policy()).await.err().unwrap();
    assert!(matches!(error, OpenError::TooNew { version: 9999, .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_its_password() {
    let StoreAddress::Postgres(nowhere) = "postgres://ada:hunter2@127.0.0.1:1/likeness".parse().unwrap() else {
        panic!("it is a Postgres address")
    };
    let opened = tokio::time::timeout(Duration::from_secs(30), PostgresStore::open(&nowhere, None, contract::policy()));
    let error = opened.await.unwrap().err().unwrap().to_string();
    assert!(error.contains("127.0.0.1:1/likeness") && !error.contains("hunter2"), "{error}");
}
