use std::path::PathBuf;
use std::sync::Arc;

use likeness_proto::{ErrorCode, Refusal, SubjectName};
use sqlx::Connection as _;
use tempfile::TempDir;

use super::dialect::{ALONE, IDLE, READY};
use super::*;
use crate::audit::AuditLog;
use crate::clock::ManualClock;
use crate::store::contract::tampering::{self, Tampering};
use crate::store::contract::{self, Engine, contract};
use crate::store::{OpenError, Policy, Store, StoreAddress, Sweep};

struct File {
    folder: TempDir,
}

impl File {
    fn path(&self) -> PathBuf {
        self.folder.path().join("likeness.db")
    }

    async fn try_open(&self) -> std::result::Result<SqliteStore, OpenError> {
        SqliteStore::open(&self.path(), Some(Arc::new(ManualClock::default())), contract::policy()).await
    }
}

impl Engine for File {
    type Store = SqliteStore;

    async fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, clock: Arc<ManualClock>, policy: Policy) -> SqliteStore {
        SqliteStore::open(&self.path(), Some(clock), policy).await.unwrap()
    }
}

contract!(File);

/// No page more than there are now: SQLite's own way to a full disk, for as long as the connection lives.
const FULL: &str = "PRAGMA max_page_count = 1";
const ROOMY: &str = "PRAGMA max_page_count = 1000000";

async fn write(store: &SqliteStore, statement: &'static str) {
    let mut turn = store.writer.begin().await.unwrap();
    sqlx::query(statement).execute(&mut *turn).await.unwrap();
    turn.commit().await.unwrap();
}

impl Tampering for File {
    async fn log(&self) -> AuditLog {
        AuditLog::open(&StoreAddress::Sqlite(self.path())).await.unwrap()
    }

    async fn run(&self, statement: &'static str) -> Result<(), sqlx::Error> {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.path());
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
        sqlx::query(statement).execute(&mut connection).await.map(drop)
    }

    async fn unlock(&self) {
        for statement in ["DROP TRIGGER audit_is_not_changed", "DROP TRIGGER audit_is_not_cut"] {
            self.run(statement).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_log_refuses_to_be_changed_or_cut() {
    tampering::the_log_refuses_to_be_changed_or_cut::<File>(&[
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit WHERE sequence = 5",
        "DELETE FROM audit",
    ])
    .await;
}

#[tokio::test]
async fn whoever_changes_the_log_all_the_same_is_found_out() {
    tampering::whoever_changes_the_log_all_the_same_is_found_out::<File>().await;
}

#[tokio::test]
async fn a_tail_that_was_cut_off_is_missed_by_whoever_noted_the_head() {
    tampering::a_tail_that_was_cut_off_is_missed_by_whoever_noted_the_head::<File>().await;
}

#[tokio::test]
async fn workers_of_an_earlier_release_are_known_by_their_models() {
    tampering::workers_of_an_earlier_release_are_known_by_their_models::<File>().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_told() {
    let file = File::new().await;
    std::fs::write(file.path(), "dear diary, ".repeat(1000)).unwrap();
    let error = file.try_open().await.err().unwrap();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("likeness.db"), "{error}");
}

#[tokio::test]
async fn a_damaged_database_is_told() {
    let file = File::new().await;
    file.try_open().await.unwrap().close().await;
    let mut bytes = std::fs::read(file.path()).unwrap();
    let end = bytes.len();
    bytes[4096..end].fill(0xA5);
    std::fs::write(file.path(), bytes).unwrap();
    let error = file.try_open().await.err().unwrap();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_told() {
    let file = File::new().await;
    let store = file.try_open().await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'from the future', TRUE, x'00', 0)";
    write(&store, newer).await;
    store.close().await;
    let error = file.try_open().await.err().unwrap();
    assert!(matches!(error, OpenError::TooNew { version: 9999, .. }), "{error}");
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_told() {
    let file = File::new().await;
    let path = file.path().join("below").join("likeness.db");
    let opened = SqliteStore::open(&path, Some(Arc::new(ManualClock::default())), contract::policy()).await;
    let error = opened.err().unwrap();
    assert!(matches!(error, OpenError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn an_upload_of_a_process_that_is_gone_is_taken_back_at_once() {
    let file = File::new().await;
    let (tenant, subject) = ("acme".parse().unwrap(), "ada".parse().unwrap());
    file.try_open().await.unwrap().begin_upload(&tenant, &subject).await.unwrap();
    let store = file.try_open().await.unwrap();
    store.expire().await.unwrap();
    let owed = store.owed(Sweep::Due).await.unwrap();
    assert!(matches!(owed.as_slice(), [erasure] if erasure.locked), "{owed:?}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_half_done() {
    let file = File::new().await;
    let store = file.try_open().await.unwrap();
    write(&store, FULL).await;
    let (tenant, mut refusal) = ("acme".parse().unwrap(), None);
    for number in 0..2000 {
        let name: SubjectName = format!("subject-{number}").parse().unwrap();
        if let Err(error) = store.begin_upload(&tenant, &name).await {
            refusal = Some(Refusal::from(error));
            break;
        }
    }
    assert_eq!(refusal.expect("the pages must run out").code, ErrorCode::StorageFull);
    write(&store, ROOMY).await;
    store.begin_upload(&tenant, &"later".parse().unwrap()).await.unwrap();
}

#[tokio::test]
async fn commits_are_synced_and_keys_are_enforced() {
    let file = File::new().await;
    let store = file.try_open().await.unwrap();
    let pragma = async |name: &'static str| -> String {
        let value: (String,) =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}")))
                .fetch_one(&mut *store.writer.begin().await.unwrap())
                .await
                .unwrap();
        value.0
    };
    assert_eq!(pragma("journal_mode").await, "wal");
    assert_eq!(pragma("synchronous").await, "2", "FULL");
    assert_eq!(pragma("foreign_keys").await, "1");
}

#[tokio::test]
async fn what_is_asked_of_one_of_a_million_tasks_is_found_by_the_index_that_is_meant_for_it() {
    let file = File::new().await;
    let store = file.try_open().await.unwrap();
    for (statement, index) in [
        (
            "SELECT subject, sum(drawn) FROM tasks WHERE tenant = $1 AND job = $2 AND drawn > 0 GROUP BY subject",
            "tasks_by_course",
        ),
        (
            "SELECT state FROM tasks WHERE tenant = $1 AND job = $2 AND subject = $3 ORDER BY position",
            "tasks_by_course",
        ),
        ("SELECT count(*) FROM tasks WHERE state = 2 AND tenant = $1", "tasks_running"),
        ("SELECT id FROM tasks WHERE state = 2 AND lease_ends <= $1", "tasks_leased"),
        ("SELECT count(*) FROM jobs WHERE tenant = $1 AND ended_at IS NULL", "jobs_open"),
        ("SELECT id FROM jobs WHERE tenant = $1 ORDER BY submitted_at DESC, id DESC LIMIT 5", "jobs_newest"),
        ("SELECT key FROM objects WHERE tenant = $1 AND subject = $2", "objects_by_subject"),
        ("SELECT 1 FROM queues WHERE kind = $1 AND base_model = $2 LIMIT 2", "SEARCH queues USING"),
        (READY, "tasks_ready"),
        (IDLE, "tasks_ready"),
        (ALONE, "tasks_running"),
    ] {
        let explain = || sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")));
        let written: Vec<(i64, i64, i64, String)> =
            explain().fetch_all(&mut *store.writer.begin().await.unwrap()).await.unwrap();
        let read = explain().fetch_all(&store.readers).await.unwrap();
        for plan in [written, read] {
            assert!(plan.iter().any(|(.., step)| step.contains(index)), "{statement}: {plan:?}");
        }
    }
}
