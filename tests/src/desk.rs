use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::fleet::Role;
use crate::sandbox::Ran;

/// A coordinator on all addresses, whose certificate an authority of its own signed for `localhost`, and clients that trust that.
pub struct Desk {
    program: PathBuf,
    folder: TempDir,
    /// The coordinator.
    pub coordinator: Role,
    server: String,
}

impl Desk {
    /// Starts `program coordinator`, with further settings by the names of their variables.
    pub fn start(program: impl Into<PathBuf>, settings: &[(&str, &Path)]) -> Self {
        let (program, folder) = (program.into(), TempDir::new().expect("a temporary folder"));
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("cert.pem"), cert.pem()).expect("a file");
        std::fs::write(path("key.pem"), signing_key.serialize_pem()).expect("a file");
        let mut command = Command::new(&program);
        command.arg("--state").arg(path("state")).args(["coordinator", "--json", "--listen", "0.0.0.0:0"]);
        command.env("LIKENESS__TLS_CERT", path("cert.pem")).env("LIKENESS__TLS_KEY", path("key.pem"));
        command.envs(settings.iter().copied());
        let coordinator = Role::start(&mut command, true);
        let port = coordinator.url.rsplit(':').next().expect("a port");
        let server = format!("https://localhost:{port}");
        Self { program, folder, coordinator, server }
    }

    /// A place for a test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `likeness ARGS…` with a token.
    pub fn run(&self, token: &str, args: &[&str]) -> Ran {
        self.run_by(Command::new(&self.program).env("LIKENESS__TLS_CA", self.path("cert.pem")), token, args)
    }

    /// The same by a command that trusts whom it likes.
    pub fn run_by(&self, command: &mut Command, token: &str, args: &[&str]) -> Ran {
        command.arg("--state").arg(self.path("client")).args(["--server", &self.server]).args(args);
        command.env("LIKENESS__TOKEN", token).env("LIKENESS__RETRY_SECONDS", "2").stdin(Stdio::null());
        Ran::of(command.output().expect("the program starts"), args)
    }

    /// Starts a worker without a token, on the coordinator's bucket, with further settings.
    pub fn worker(&self, args: &[&str], settings: &[(&str, &Path)]) -> Role {
        let mut command = Command::new(&self.program);
        command.arg("--state").arg(self.path("worker")).args(["--server", &self.server]).args(args);
        command.env("LIKENESS__BUCKET", format!("file://{}", self.path("state/bucket").display()));
        command.env("LIKENESS__TLS_CA", self.path("cert.pem")).env("LIKENESS__THREADS", "1");
        Role::start(command.envs(settings.iter().copied()).env_remove("LIKENESS__TOKEN"), false)
    }

    /// The token that opens everything.
    pub fn administrator(&self) -> String {
        std::fs::read_to_string(self.path("state/token")).expect("a token").trim().to_owned()
    }

    /// A fresh key of a tenant, which is made.
    pub fn key(&self, tenant: &str, role: &str) -> String {
        let admin = self.administrator();
        self.run(&admin, &["admin", "tenant", "create", tenant]).succeeds();
        let made = self.run(&admin, &["admin", "key", "create", "--tenant", tenant, "--role", role, "--json"]).json();
        made["token"].as_str().expect("a token").to_owned()
    }
}
