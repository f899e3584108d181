//! A fleet of processes over servers that `tests/fleet.sh` starts: Postgres and an S3 bucket.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::sandbox::{Ran, signal};
use crate::{Contents, Invariants};

const TOKEN: &str = "of-all-roles";
const PEPPER: &str = "of-all-coordinators";
const PATIENCE: Duration = Duration::from_secs(60);

/// A database and a prefix of the bucket of its own, a client, and what was started over them. All of it ends when it is dropped.
pub struct Fleet {
    program: PathBuf,
    folder: TempDir,
    store: String,
    bucket: String,
    endpoint: String,
    coordinator: String,
    started: AtomicU32,
    clock: Option<&'static str>,
}

/// A process of a fleet.
pub struct Role {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// What it printed first, if it prints: a coordinator's URL.
    pub url: String,
}

fn named(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names no server; run tests/fleet.sh"))
}

impl Fleet {
    /// An empty fleet of `program`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let name = format!("fleet{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let server = named("LIKENESS_TEST_POSTGRES");
        let made = Command::new("psql").args([&server, "-qc", &format!("CREATE DATABASE {name}")]).status();
        assert!(made.expect("psql runs").success(), "the database {name} could not be made");
        let (server, _) = server.rsplit_once('/').expect("an address with a database");
        std::fs::write(folder.path().join("token"), TOKEN).expect("a token file");
        std::fs::write(folder.path().join("pepper"), PEPPER).expect("a pepper file");
        Self {
            program: program.into(),
            store: format!("{server}/{name}"),
            bucket: format!("s3://likeness/{name}"),
            endpoint: named("LIKENESS_TEST_S3"),
            coordinator: String::new(),
            started: AtomicU32::new(0),
            clock: None,
            folder,
        }
    }

    /// Reaches the bucket at another address, through a proxy.
    pub fn bucket_at(mut self, endpoint: String) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// Uses another bucket.
    pub fn in_bucket(mut self, url: String) -> Self {
        self.bucket = url;
        self
    }

    /// The address of its database.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// The clocks of what is started from now on are set wrong by this much, such as `+5m`.
    pub fn set_clock(&mut self, by: Option<&'static str>) {
        self.clock = by;
    }

    /// What its database answers, as `psql` prints it.
    pub fn ask(&self, query: &str) -> String {
        let ran = Command::new("psql").args([&self.store, "-qtAc", query]).output().expect("psql runs");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    /// All that lies in its part of the bucket, as SeaweedFS's own file server has it.
    pub fn contents(&self) -> Contents {
        let name = self.bucket.rsplit('/').next().expect("a name");
        let (root, mut contents) = (format!("{}/{name}/", named("LIKENESS_TEST_FILER")), Contents::new());
        read_all(&root, "v1/", &mut contents);
        contents
    }

    /// Asserts that a job has ended well, with so many avatars of each subject, and every task of the fleet's been done once.
    #[track_caller]
    pub fn nothing_is_lost(&self, job: &str, avatars: u64) {
        self.run(&["watch", job]).succeeds();
        let (job, contents) = (self.run(&["show", job, "--json"]).json(), self.contents());
        let jobs = self.run(&["list", "--json"]).json();
        Invariants { job: &job, jobs: &jobs, contents: &contents, server: (&self.coordinator, TOKEN) }.hold(avatars);
        self.run(&["audit", "verify", "--store", &self.store]).succeeds();
        let undone =
            format!("SELECT count(*) FROM tasks WHERE job = '{}' AND state != 3", job["id"].as_str().expect("an id"));
        assert_eq!(self.ask(&undone), "0", "train, render and assemble are done");
    }

    /// A place for a test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command `likeness ARGS…` with a state folder of its own.
    fn command(&self, args: &[&str]) -> Command {
        let state = self.path(&format!("state-{}", self.started.fetch_add(1, Ordering::Relaxed)));
        let mut command = Command::new(&self.program);
        if let Some(by) = self.clock {
            // Spans are as long as ever.
            command.env("LD_PRELOAD", named("LIKENESS_TEST_FAKETIME")).env("FAKETIME", by);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command.arg("--state").arg(state).args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
        command.env("LIKENESS__TOKEN_FILE", self.path("token")).env("LIKENESS__PEPPER_FILE", self.path("pepper"));
        command
    }

    fn role(&self, args: &[&str], server: Option<&str>) -> Command {
        let mut command = self.command(args);
        command.args(["--bucket", &self.bucket]).env("LIKENESS__BUCKET_ENDPOINT", &self.endpoint);
        command.env("LIKENESS__LEASE_SECONDS", "2").env("LIKENESS__THREADS", "1").env("LIKENESS__DRAIN_SECONDS", "2");
        if let Some(server) = server {
            command.env("LIKENESS__SERVER", server);
        }
        command
    }

    /// Starts a coordinator; the first one is the client's.
    pub fn coordinator(&mut self) -> Role {
        let mut command = self.role(&["coordinator", "--json", "--port", "0"], None);
        let role = Role::start(command.env("LIKENESS__STORE", &self.store), true);
        if self.coordinator.is_empty() {
            self.coordinator = role.url.clone();
        }
        role
    }

    /// Starts a trainer that works for a coordinator.
    pub fn trainer(&self, name: &str, server: &Role) -> Role {
        Role::start(&mut self.role(&["trainer", "--name", name, "--slots", "1"], Some(&server.url)), false)
    }

    /// Starts a sampler that works for a coordinator.
    pub fn sampler(&self, name: &str, server: &Role) -> Role {
        Role::start(&mut self.role(&["sampler", "--name", name, "--slots", "2"], Some(&server.url)), false)
    }

    /// Runs `likeness ARGS…` against the first coordinator.
    pub fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        command.env("LIKENESS__SERVER", &self.coordinator);
        Ran::of(command.output().expect("the program starts"), args)
    }

    /// Has this machine looked at, with the settings of its coordinators.
    pub fn doctor(&self) -> Ran {
        let mut command = self.command(&["doctor", "--json"]);
        command.env("LIKENESS__STORE", &self.store).env("LIKENESS__BUCKET", &self.bucket);
        command.env("LIKENESS__BUCKET_ENDPOINT", &self.endpoint);
        Ran::of(command.output().expect("the program starts"), &["doctor"])
    }

    /// Backs its database up, while it is in use.
    pub fn back_up(&self) -> PathBuf {
        let file = self.path("store.backup");
        succeeds(Command::new("pg_dump").arg("--format=custom").arg("--file").arg(&file).arg(&self.store));
        file
    }

    /// Loses its database and all of `v1/` of its bucket, and has both from backups again. Whatever was started over them has to have
    /// ended; the next coordinator is the client's.
    pub fn restore(&mut self, store: &Path, bucket: &Contents) {
        let (server, name) = self.store.rsplit_once('/').expect("an address with a database");
        for statement in [format!("DROP DATABASE {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")] {
            succeeds(Command::new("psql").args([&format!("{server}/postgres"), "-qc", &statement]));
        }
        succeeds(Command::new("pg_restore").args(["--no-owner", "--dbname", &self.store]).arg(store));

        let root = format!("{}/{}", named("LIKENESS_TEST_FILER"), self.bucket.rsplit('/').next().expect("a name"));
        succeeds(Command::new("curl").args(["-fsS", "-X", "DELETE", &format!("{root}/v1?recursive=true")]));
        assert!(self.contents().is_empty(), "the bucket was lost");
        let file = self.path("object");
        for (key, bytes) in bucket {
            std::fs::write(&file, bytes).expect("a file");
            succeeds(
                Command::new("curl").args(["-fsS", "-o", "/dev/null", "-T"]).arg(&file).arg(format!("{root}/{key}")),
            );
        }
        self.coordinator.clear();
    }

    /// The first coordinator's URL.
    pub fn url(&self) -> &str {
        &self.coordinator
    }

    /// The token of all its roles.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// Submits once workers are there, and returns the job's id.
    pub fn submit(&self, args: &[&str]) -> String {
        let start = std::time::SystemTime::now();
        loop {
            let ran = self.run(&[&["submit", "--json"], args].concat());
            if ran.code() == 0 {
                return ran.json()["id"].as_str().expect("a job id").to_owned();
            }
            // No worker has said yet which model it holds.
            let early =
                ran.stderr().contains("no worker has registered") && start.elapsed().is_ok_and(|gone| gone < PATIENCE);
            assert!(early, "submit failed: {}", ran.stderr());
        }
    }
}

fn succeeds(command: &mut Command) {
    let ran = command.output().expect("it starts");
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Objects below a folder of the bucket, by their path from `root`.
fn read_all(root: &str, folder: &str, contents: &mut Contents) {
    let get = |path: &str| {
        let got =
            Command::new("curl").args(["-sS", "-H", "Accept: application/json"]).arg(format!("{root}{path}")).output();
        got.expect("curl runs").stdout
    };
    let listed: Value = serde_json::from_slice(&get(&format!("{folder}?limit=1000"))).unwrap_or_default();
    for entry in listed["Entries"].as_array().into_iter().flatten() {
        const FOLDER: u64 = 1 << 31;
        let name = entry["FullPath"].as_str().and_then(|path| path.rsplit('/').next()).expect("a path");
        if entry["Mode"].as_u64().is_some_and(|mode| mode & FOLDER != 0) {
            read_all(root, &format!("{folder}{name}/"), contents);
        } else {
            contents.insert(format!("{folder}{name}"), get(&format!("{folder}{name}")));
        }
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Role {
    pub(crate) fn start(command: &mut Command, speaks: bool) -> Self {
        command.stdout(if speaks { Stdio::piped() } else { Stdio::null() }).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut role = Self { child, lines, url: String::new() };
        if speaks {
            let mut line = String::new();
            BufReader::new(role.child.stdout.take().expect("piped")).read_line(&mut line).expect("its first line");
            role.url = line.trim().trim_matches('"').to_owned();
            assert!(
                role.url.starts_with("http"),
                "it did not start: {line:?}, {:?}",
                role.lines.iter().collect::<Vec<_>>()
            );
        }
        role
    }

    /// Waits until its log has a line with `words`, and returns it.
    #[track_caller]
    pub fn says(&self, words: &str) -> String {
        let (mut said, end) = (Vec::new(), Instant::now() + PATIENCE);
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.contains(words) {
                return line;
            }
            said.push(line);
        }
        panic!("it never said {words:?}, but: {said:#?}")
    }

    /// All that it has said since it was last asked.
    pub fn said(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Waits until it ends by itself: its exit code, and all that it said.
    pub fn ended(&mut self) -> (Option<i32>, String) {
        let code = self.child.wait().expect("it was started").code();
        (code, self.lines.iter().collect::<Vec<_>>().join("\n"))
    }

    /// Sends it a signal: `STOP`, `CONT`, `KILL`, `TERM`.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
