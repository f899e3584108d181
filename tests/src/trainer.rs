use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::{Sandbox, sandbox::signal};

/// What is waited for comes long before this.
const AMPLE: Duration = Duration::from_secs(120);

/// A `likeness trainer`, or another worker, in a process of its own, and what it logs.
pub struct Trainer {
    child: Child,
    log: Receiver<Value>,
    heard: Vec<Value>,
}

impl Trainer {
    /// Starts `likeness trainer ARGS…` for the coordinator of a sandbox. Slots and placement are set, so that it measures nothing first.
    pub fn start(sandbox: &Sandbox, args: &[&str]) -> Self {
        Self::start_with(sandbox, args, &[("PLACEMENT", "split")])
    }

    /// The same with other settings.
    pub fn start_with(sandbox: &Sandbox, args: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut command = sandbox.command(&["trainer"]);
        command.args(args).env("LIKENESS__LOG_FORMAT", "json").env("LIKENESS__TRAINER_SLOTS", "2");
        command.envs(settings.iter().map(|(name, value)| (format!("LIKENESS__{name}"), value)));
        Self::start_by(command)
    }

    /// Starts a worker of another role, `sampler`.
    pub fn of_role(sandbox: &Sandbox, role: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = sandbox.command(&[role]);
        command.env("LIKENESS__LOG_FORMAT", "json").env("LIKENESS__TRAINER_SLOTS", "2");
        command.envs(settings.iter().map(|(name, value)| (format!("LIKENESS__{name}"), value)));
        Self::start_by(command)
    }

    fn start_by(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the trainer starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (heard, log) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = heard.send(serde_json::from_str(&line).unwrap_or(Value::String(line))); // to the end, lest it blocks
            }
        });
        Self { child, log, heard: Vec::new() }
    }

    /// Reads the log on until a line says `what`; its fields.
    #[track_caller]
    pub fn until_it_says(&mut self, what: &str) -> Value {
        let [fields] = self.until_it_says_all([what]);
        fields
    }

    /// Reads the log on until a line was read for each of `whats`, in whatever order they come; their fields.
    #[track_caller]
    pub fn until_it_says_all<const N: usize>(&mut self, whats: [&str; N]) -> [Value; N] {
        let mut found = [const { None }; N];
        while found.iter().any(Option::is_none) {
            let Ok(line) = self.log.recv_timeout(AMPLE) else {
                panic!("the trainer never said all of {whats:?}, but: {:#?}", self.heard)
            };
            let said = line["fields"]["message"].as_str().unwrap_or_default();
            if let Some(place) = (0..N).find(|place| found[*place].is_none() && said.contains(whats[*place])) {
                found[place] = Some(line["fields"].clone());
            }
            self.heard.push(line);
        }
        found.map(|fields| fields.expect("found just now"))
    }

    /// Sends a signal, by its short name.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// `kill -9`; how it ended.
    pub fn kill(mut self) -> ExitStatus {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("the trainer is gone")
    }

    /// Waits until it ends by itself: its exit code, and what it said last.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("the trainer ends");
        self.heard.extend(self.log.iter());
        (status.code(), self.heard.last().map(Value::to_string).unwrap_or_default())
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
