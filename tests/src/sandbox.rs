use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};

use serde_json::{Deserializer, Value};
use tempfile::TempDir;

use crate::{Contents, Invariants};

/// A `likeness up` on a state folder of its own. The server may be killed and started again; the state stays until the
/// sandbox is dropped.
pub struct Sandbox {
    program: PathBuf,
    folder: TempDir,
    server: Option<Child>,
}

impl Sandbox {
    /// Starts `program up` and returns when it serves.
    pub fn start(program: impl AsRef<Path>) -> Self {
        let mut sandbox = Self::stopped(program);
        sandbox.up();
        sandbox
    }

    /// A sandbox whose server is yet to be started.
    pub fn stopped(program: impl AsRef<Path>) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        Self { program: program.as_ref().to_path_buf(), folder, server: None }
    }

    /// The state folder of the server.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// All that lies in its bucket.
    pub fn contents(&self) -> Contents {
        let (root, mut contents) = (self.state().join("bucket"), Contents::new());
        read_all(&root, &root, &mut contents);
        contents
    }

    /// Asserts that a job has ended well, with so many avatars of each subject.
    #[track_caller]
    pub fn nothing_is_lost(&self, job: &str, avatars: u64) {
        let (last, _) = self.watch(job).end();
        let (job, contents) = (self.run(&["show", job, "--json"]).json(), self.contents());
        assert_eq!(job["state"], last["state"]);
        let jobs = self.run(&["list", "--json"]).json();
        let (address, token) = (self.address(), self.token());
        Invariants { job: &job, jobs: &jobs, contents: &contents, server: (&address, &token) }.hold(avatars);
        self.run(&["audit", "verify"]).succeeds();
    }

    /// A place for a test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command `likeness ARGS…` against this sandbox's state, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--state").arg(self.state()).args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
        command
    }

    /// Runs `likeness ARGS…` to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the program starts"), args)
    }

    /// Starts the server and waits until it says where it listens.
    pub fn up(&mut self) {
        self.up_by(self.up_command(&[]));
    }

    /// Starts the server by a command made from [`Self::up_command`].
    pub fn up_by(&mut self, mut command: Command) {
        let mut server = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let ready = values(server.stdout.take().expect("piped")).next().expect("the server says that it is ready");
        assert!(ready["server"].is_string(), "unexpected first words of `up`: {ready}");
        self.server = Some(server);
    }

    /// Starts a coordinator alone and waits until it says where it listens.
    pub fn coordinator(&mut self) {
        self.coordinator_at("127.0.0.1:0");
    }

    /// The same at an address, where the last one listened.
    pub fn coordinator_at(&mut self, address: &str) {
        let mut command = self.command(&["coordinator", "--json"]);
        command.env("LIKENESS__LISTEN", address);
        self.coordinator_by(command);
    }

    /// The same by a command of the caller's.
    pub fn coordinator_by(&mut self, mut command: Command) {
        command.env("LIKENESS__LEASE_SECONDS", "2");
        let mut server = command.stdout(Stdio::piped()).spawn().expect("the coordinator starts");
        let ready = values(server.stdout.take().expect("piped")).next().expect("it says that it is ready");
        assert!(ready.is_string(), "unexpected first words of `coordinator`: {ready}");
        self.server = Some(server);
    }

    /// The command that starts the server with quick leases, so that a killed worker's task is ready again soon, and with its
    /// slots set, so that it measures nothing first.
    pub fn up_command(&self, more: &[&str]) -> Command {
        let mut command = self.command(&["up", "--json"]);
        command.args(more).env("LIKENESS__LISTEN", "127.0.0.1:0").env("LIKENESS__LEASE_SECONDS", "2");
        command.env("LIKENESS__TRAINER_SLOTS", "1");
        command
    }

    /// Starts a server that is expected to refuse to.
    pub fn fails_to_start(&mut self, more: &[&str]) -> Ran {
        Ran::of(self.up_command(more).output().expect("the program starts"), &["up"])
    }

    /// Where the server listens, as a URI.
    pub fn address(&self) -> String {
        let address = std::fs::read_to_string(self.state().join("address")).expect("the server's address");
        format!("http://{}", address.trim())
    }

    /// The token that clients and workers present.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.state().join("token")).expect("the server's token").trim().to_owned()
    }

    /// `kill -9` of the server.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("a running server");
        server.kill().expect("SIGKILL");
        server.wait().expect("the server is gone");
    }

    /// SIGTERM, then the exit status.
    pub fn drain(&mut self) -> ExitStatus {
        let mut server = self.server.take().expect("a running server");
        signal(&server, "TERM");
        server.wait().expect("the server is gone")
    }

    /// Submits and returns the job's id.
    pub fn submit(&self, args: &[&str]) -> String {
        let job = self.run(&[&["submit", "--json"], args].concat()).json();
        job["id"].as_str().expect("a job id").to_owned()
    }

    /// Follows a job.
    pub fn watch(&self, job: &str) -> Watch {
        let mut child = self.command(&["watch", job, "--json"]).stdout(Stdio::piped()).spawn().expect("watch starts");
        let states = values(child.stdout.take().expect("piped"));
        Watch { child, states: Box::new(states) }
    }

    /// Downloads a job's files into `name` and returns the folder.
    pub fn fetch(&self, job: &str, name: &str) -> PathBuf {
        let out = self.path(name);
        self.run(&["fetch", job, "--out", out.to_str().expect("UTF-8")]).succeeds();
        out
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Files below a folder, but for those that are still being written, by their path from `root`.
fn read_all(root: &Path, folder: &Path, contents: &mut Contents) {
    for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let key = path.strip_prefix(root).expect("below it").to_string_lossy().into_owned();
        if path.is_dir() {
            read_all(root, &path, contents);
        } else if key.starts_with("v1/") && !key.contains('#') {
            contents.insert(key, std::fs::read(&path).expect("a file"));
        }
    }
}

pub(crate) fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
    assert!(sent.expect("kill runs").success(), "SIG{name} could not be sent");
}

/// A command that has ended.
pub struct Ran {
    args: String,
    output: Output,
}

impl Ran {
    /// What a command printed and how it ended; `args` name it in failures.
    pub fn of(output: Output, args: &[&str]) -> Self {
        Self { args: args.join(" "), output }
    }

    /// Standard output, decoded.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Standard error, decoded.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// The exit code.
    pub fn code(&self) -> i32 {
        self.output.status.code().unwrap_or_else(|| panic!("`{}` ended by a signal", self.args))
    }

    /// Asserts success.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code(), 0, "`{}` failed: {}", self.args, self.stderr());
        self
    }

    /// Asserts an exit code, and that standard error says each of `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        let stderr = self.stderr();
        assert_eq!(self.code(), code, "`{}` said: {stderr}", self.args);
        for word in words {
            assert!(stderr.contains(word), "`{}` should say {word:?}, but said: {stderr}", self.args);
        }
        self
    }

    /// Asserts success and reads standard output as JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let ran = self.succeeds();
        serde_json::from_slice(&ran.output.stdout).unwrap_or_else(|e| panic!("`{}`: {e}: {}", ran.args, ran.stdout()))
    }
}

/// The JSON values that a running program prints.
fn values(stdout: ChildStdout) -> impl Iterator<Item = Value> {
    Deserializer::from_reader(BufReader::new(stdout)).into_iter().map(|value| value.expect("JSON"))
}

/// A running `watch --json`: one value each time the job changes.
pub struct Watch {
    child: Child,
    states: Box<dyn Iterator<Item = Value>>,
}

impl Watch {
    /// Reads on until a state of the job for which `condition` holds.
    #[track_caller]
    pub fn until(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for state in self.states.by_ref() {
            last = state;
            if condition(&last) {
                return last;
            }
        }
        panic!("the job ended before {what}; its last state: {last:#}")
    }

    /// Follows to the end; the last state and the exit code.
    pub fn end(mut self) -> (Value, i32) {
        let last = self.states.by_ref().last().expect("at least one state");
        let code = self.child.wait().expect("watch ends").code().expect("no signal");
        (last, code)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
