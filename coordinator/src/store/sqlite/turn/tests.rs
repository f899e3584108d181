use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;

use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use tempfile::TempDir;

use super::*;

/// A file with one table, `numbers`.
struct File {
    writer: Writer,
    commits: Arc<AtomicUsize>,
    _folder: TempDir,
}

impl File {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("numbers.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let mut connection = options.connect().await.unwrap();
        let table = "CREATE TABLE numbers (number INTEGER PRIMARY KEY, load BLOB)";
        sqlx::query(table).execute(&mut connection).await.unwrap();
        let commits = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&commits);
        connection.lock_handle().await.unwrap().set_commit_hook(move || {
            count.fetch_add(1, SeqCst);
            true
        });
        Self { writer: Writer::new(options, connection), commits, _folder: folder }
    }

    async fn insert(&self, number: i64) -> Result<()> {
        self.insert_with(number, 0).await?.commit().await
    }

    /// Begins, and inserts a number with so many bytes.
    async fn insert_with(&self, number: i64, bytes: usize) -> Result<Turn> {
        let mut turn = self.writer.begin().await?;
        let insert = sqlx::query("INSERT INTO numbers VALUES ($1, $2)").bind(number).bind(vec![0; bytes]);
        match insert.execute(&mut *turn).await {
            Ok(_) => Ok(turn),
            Err(error) => {
                turn.roll_back().await;
                Err(error.into())
            }
        }
    }

    /// As somebody else reads it.
    async fn numbers(&self) -> Vec<i64> {
        let mut reader = self.writer.options.connect().await.unwrap();
        sqlx::query_scalar("SELECT number FROM numbers ORDER BY number").fetch_all(&mut reader).await.unwrap()
    }
}

#[tokio::test]
async fn who_waits_for_a_turn_shares_the_commit_of_who_has_it() {
    let file = File::new().await;
    let first = file.insert_with(0, 0).await.unwrap();
    let others = (1..9).map(|number| file.insert(number));
    let (others, first) = tokio::join!(biased; futures::future::join_all(others), first.commit());
    first.unwrap();
    others.into_iter().for_each(|ended| ended.unwrap());
    assert_eq!(file.numbers().await, Vec::from_iter(0..9));
    assert_eq!(file.commits.load(SeqCst), 1);
}

#[tokio::test]
async fn who_writes_alone_commits_at_once() {
    let file = File::new().await;
    for number in 0..3 {
        file.insert(number).await.unwrap();
        assert_eq!(file.numbers().await, Vec::from_iter(0..=number));
    }
    assert_eq!(file.commits.load(SeqCst), 3);
}

#[tokio::test]
async fn who_fails_in_a_group_is_undone_alone() {
    let file = File::new().await;
    let first = file.insert_with(0, 0).await.unwrap();
    let others = [1, 2, 1, 3].map(|number| file.insert(number));
    let (others, first) = tokio::join!(biased; futures::future::join_all(others), first.commit());
    first.unwrap();
    assert_eq!(others.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
    assert_eq!(file.numbers().await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn who_is_given_up_at_any_point_takes_nobody_s_work_along() {
    let file = Arc::new(File::new().await);
    let writers = (0..400).map(|number| {
        let file = Arc::clone(&file);
        tokio::spawn(async move {
            // Every third is polled a few times and dropped then: waiting, beginning, inserting.
            let polls = if number % 3 == 0 { 1 + number / 3 % 7 } else { i64::MAX };
            let turn = given_up_after(polls, file.insert_with(number, 100)).await?.unwrap();
            turn.commit().await.unwrap();
            Some(number)
        })
    });
    let written = futures::future::join_all(writers).await.into_iter().filter_map(|writer| writer.unwrap());
    let written: BTreeSet<i64> = written.collect();
    assert!((267..400).contains(&written.len()), "{} of 400", written.len());
    assert_eq!(BTreeSet::from_iter(file.numbers().await), written);
}

#[tokio::test]
async fn a_full_disk_undoes_a_group_and_each_of_it_hears_so() {
    let file = File::new().await;
    let mut first = file.insert_with(0, 0).await.unwrap();
    sqlx::query("PRAGMA max_page_count = 1").execute(&mut *first).await.unwrap();
    let others = [(1, 0), (2, 100_000), (3, 0)].map(|(number, bytes)| {
        let file = &file;
        async move { file.insert_with(number, bytes).await?.commit().await }
    });
    let (others, first) = tokio::join!(biased; futures::future::join_all(others), first.commit());
    assert!(matches!(first, Err(StoreError::Contended(_))), "{first:?}");
    assert!(matches!(others[0], Err(StoreError::Contended(_))), "{:?}", others[0]);
    assert!(matches!(others[1], Err(StoreError::Full)), "{:?}", others[1]);
    others[2].as_ref().unwrap();
    assert_eq!(file.numbers().await, [3]);
}

#[tokio::test]
async fn what_ended_well_is_on_the_disk_when_the_store_closes() {
    let file = File::new().await;
    let turn = file.insert_with(0, 0).await.unwrap();
    let (closed, committed) = tokio::join!(biased; file.writer.close(), turn.commit());
    committed.unwrap();
    assert_eq!((file.numbers().await, closed), (vec![0], ()));
    assert!(file.insert(1).await.is_err());
}

/// What a future comes to, unless it has not ended after so many polls.
async fn given_up_after<T>(polls: i64, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), polls);
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}
