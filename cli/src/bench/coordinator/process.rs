//! The coordinator under test.

use crate::exit::Failure;
use crate::settings::read_token;
use likeness_proto::Secret;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tonic::transport::Endpoint;

/// A coordinator on a state folder of its own; killed when it is dropped.
pub(super) struct Process {
    folder: TempDir,
    store: Option<String>,
    child: Child,
    url: String,
}

impl Process {
    pub(super) fn start(store: Option<&str>) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("likeness-bench-").tempdir().map_err(Failure::unexpected)?;
        let store = store.map(str::to_owned);
        let (child, url) = spawn(&folder.path().join("state"), store.as_deref())?;
        Ok(Self { folder, store, child, url })
    }

    /// `kill -9`, and again on what is left.
    pub(super) fn restart(&mut self) -> Result<(), Failure> {
        self.child.kill().and_then(|()| self.child.wait()).map_err(Failure::unexpected)?;
        (self.child, self.url) = spawn(&self.folder.path().join("state"), self.store.as_deref())?;
        Ok(())
    }

    pub(super) fn endpoint(&self) -> Result<Endpoint, Failure> {
        Endpoint::from_shared(self.url.clone()).map_err(Failure::unexpected)
    }

    pub(super) fn token(&self) -> Result<Secret, Failure> {
        read_token(&self.folder.path().join("state/token"))
    }

    /// Resident memory by now.
    pub(super) fn resident_mib(&self) -> Result<f64, Failure> {
        self.memory("VmRSS:")
    }

    /// The most resident memory that it had.
    pub(super) fn peak_mib(&self) -> Result<f64, Failure> {
        self.memory("VmHWM:")
    }

    /// A line of Linux's account, in KiB there.
    fn memory(&self, field: &str) -> Result<f64, Failure> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).map_err(Failure::unexpected)?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib: Option<f64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        kib.map(|kib| kib / 1024.0).ok_or_else(|| Failure::unexpected(format!("the system tells no {field}")))
    }

    /// Its bucket's folder.
    pub(super) fn bucket(&self) -> PathBuf {
        self.folder.path().join("state/bucket")
    }
}

fn spawn(state: &Path, store: Option<&str>) -> Result<(Child, String), Failure> {
    let mut command = Command::new(std::env::current_exe().map_err(Failure::unexpected)?);
    command.arg("--state").arg(state).args(["coordinator", "--json", "--port", "0"]);
    if let Some(store) = store {
        // Not on the command line, where everybody could read a password.
        command.env("LIKENESS__STORE", store);
    }
    command.env("LIKENESS__LEASE_SECONDS", "60").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(Failure::unexpected)?;
    let mut line = String::new();
    let stdout = child.stdout.take().ok_or_else(|| Failure::unexpected("no output of the coordinator"))?;
    BufReader::new(stdout).read_line(&mut line).map_err(Failure::unexpected)?;
    let url = line.trim().trim_matches('"').to_owned();
    if url.is_empty() {
        return Err(Failure::unexpected("the coordinator under test did not start; its log says why"));
    }
    Ok((child, url))
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}
