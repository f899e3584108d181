//! How the process ends: one table of exit codes, and the failure that carries one of them.

use likeness_proto::{ErrorCode, Refusal};
use std::fmt;
use std::process::ExitCode;

/// Why a command ended without success. Each has an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// A bug or an unexpected fault.
    Unexpected,
    /// Arguments that the command does not take.
    Usage,
    /// A setting that does not exist or holds a value that is not accepted.
    Setting,
    /// A prompts file that cannot be read or holds something that is not accepted.
    Prompts,
    /// A photos folder or a photo that cannot be read.
    Photos,
    /// A model directory with a missing or corrupt file.
    Model,
    /// A place to write to that is taken or cannot be written.
    Output,
    /// The disk is full; nothing half-written is left.
    DiskFull,
    /// The bucket cannot be written.
    Bucket,
    /// The port to listen on is taken.
    PortInUse,
    /// The state folder is used by another process, or cannot be used.
    State,
    /// No server answers.
    Unreachable,
    /// The job failed.
    JobFailed,
    /// Some subjects of the job failed.
    JobPartlyFailed,
    /// The job was cancelled.
    JobCancelled,
    /// An embedding or latents file that cannot be read or does not fit.
    Embedding,
    /// An address off this machine, which would need TLS.
    Insecure,
    /// A question that was not answered with yes.
    NotConfirmed,
    /// A token that cannot be read.
    Token,
    /// Stopped by a signal before the end.
    Interrupted,
    /// A device that is not there or cannot be used.
    Device,
    /// An audit log that is not what was written.
    Audit,
    /// The server refused, or failed in this way.
    Refused(ErrorCode),
}

/// Codes of [`Exit::Refused`] begin here: this plus the number of the error in `common.proto`.
const REFUSED_BASE: u8 = 40;

/// Numbers of errors on the wire are below it.
const WIRE_CODES: i32 = 80;

/// Local ends in the order of the table.
const LOCAL: [Exit; 22] = [
    Exit::Unexpected,
    Exit::Usage,
    Exit::Setting,
    Exit::Prompts,
    Exit::Photos,
    Exit::Model,
    Exit::Output,
    Exit::DiskFull,
    Exit::Bucket,
    Exit::PortInUse,
    Exit::State,
    Exit::Unreachable,
    Exit::JobFailed,
    Exit::JobPartlyFailed,
    Exit::JobCancelled,
    Exit::Embedding,
    Exit::Insecure,
    Exit::NotConfirmed,
    Exit::Token,
    Exit::Interrupted,
    Exit::Device,
    Exit::Audit,
];

impl Exit {
    /// What the process returns, 1 to 125.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::Setting => 3,
            Self::Prompts => 4,
            Self::Photos => 5,
            Self::Model => 6,
            Self::Output => 7,
            Self::DiskFull => 8,
            Self::Bucket => 9,
            Self::PortInUse => 10,
            Self::State => 11,
            Self::Unreachable => 12,
            Self::JobFailed => 13,
            Self::JobPartlyFailed => 14,
            Self::JobCancelled => 15,
            Self::Embedding => 16,
            Self::Insecure => 17,
            Self::NotConfirmed => 18,
            Self::Token => 19,
            Self::Interrupted => 20,
            Self::Device => 21,
            Self::Audit => 22,
            Self::Refused(code) => u8::try_from(code as i32).map_or(1, |number| REFUSED_BASE + number),
        }
    }

    /// One line for the table.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Unexpected => "an unexpected fault",
            Self::Usage => "arguments that the command does not take",
            Self::Setting => "a setting that does not exist, or a value that it does not take",
            Self::Prompts => "a prompts file that cannot be read, or something in it that is not accepted",
            Self::Photos => "a photos folder or a photo that cannot be read",
            Self::Model => "a model directory with a missing or corrupt file",
            Self::Output => "an output that is taken or cannot be written",
            Self::DiskFull => "the disk is full; nothing half-written is left",
            Self::Bucket => "the bucket cannot be written",
            Self::PortInUse => "the port to listen on is taken",
            Self::State => "the state folder is used by another process, or cannot be used",
            Self::Unreachable => "no server answers",
            Self::JobFailed => "the job failed",
            Self::JobPartlyFailed => "some subjects failed, the others have their avatars",
            Self::JobCancelled => "the job was cancelled",
            Self::Embedding => "an embedding or latents file that cannot be read, or does not fit the model",
            Self::Insecure => "an address off this machine, which needs TLS",
            Self::NotConfirmed => "a question that was not answered with yes",
            Self::Token => "a token that cannot be read",
            Self::Interrupted => "stopped by a signal before the end",
            Self::Device => "a device that is not there or cannot be used",
            Self::Audit => "an audit log that was changed or cut off",
            Self::Refused(code) => refusal_meaning(code),
        }
    }

    /// Every end, by code.
    pub fn all() -> impl Iterator<Item = Self> {
        let refused = (0..WIRE_CODES).filter_map(|number| ErrorCode::try_from(number).ok()).map(Self::Refused);
        LOCAL.into_iter().chain(refused)
    }
}

fn refusal_meaning(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Forbidden => "the credential's role may not do this",
        ErrorCode::UnknownTenant => "no such tenant",
        ErrorCode::UnknownKey => "no such API key, or it is revoked or expired",
        ErrorCode::Unspecified => "the server gave an error without a code",
        ErrorCode::Internal => "a fault of the server",
        ErrorCode::InvalidArgument => "a value outside what is accepted",
        ErrorCode::NotAnImage => "a file that is no PNG, JPEG or WebP",
        ErrorCode::ImageDamaged => "an image that ends early or is damaged",
        ErrorCode::ImageTooLarge => "an image of more bytes, pixels or decoder memory than is accepted",
        ErrorCode::ImageAnimated => "an image of more than one frame",
        ErrorCode::NoPhotos => "a subject without photos",
        ErrorCode::ConsentMissing => "nobody attests the subject's consent",
        ErrorCode::PromptWithoutSubject => "a prompt without {subject}",
        ErrorCode::PromptTooLong => "the subject's vectors do not fit into the prompt's 77 tokens",
        ErrorCode::InitEmpty => "an initial phrase without tokens",
        ErrorCode::ModelUnavailable => "no worker holds the base model",
        ErrorCode::ModelMismatch => "an embedding that was learned on another base model",
        ErrorCode::UnknownJob => "no such job",
        ErrorCode::UnknownSubject => "no such subject",
        ErrorCode::UnknownObject => "no such object, or it is not committed",
        ErrorCode::JobFinished => "the job has ended; it cannot be cancelled",
        ErrorCode::IdempotencyConflict => "the idempotency key was used for another request",
        ErrorCode::NoEmbedding => "the subject has no finished embedding",
        ErrorCode::StaleFence => "a report under an old fence",
        ErrorCode::Unauthenticated => "no token, or a wrong one",
        ErrorCode::StorageFull => "the server's disk is full",
        ErrorCode::StorageUnavailable => "the server's store or bucket does not answer",
        ErrorCode::Diverged => "the loss or the vectors became infinite or not a number",
        ErrorCode::WorkerLost => "workers were lost too often",
        ErrorCode::VersionMismatch => "client or worker speak another protocol version",
        ErrorCode::SubjectForgotten => "the subject was erased while the job ran",
        ErrorCode::ObjectCorrupt => "an object's bytes are not what its digest says",
        ErrorCode::UnknownWorker => "a worker that the coordinator does not know",
        ErrorCode::PeerLost => "a rank of a group of trainers was lost",
        ErrorCode::Unavailable => "the server is shutting down or not yet up",
        ErrorCode::QuotaExceeded => "the tenant has, or does, as much as it may",
        ErrorCode::Overloaded => "more was asked of the server at once than it takes",
    }
}

/// The table as text, a line each.
#[must_use]
pub fn table() -> String {
    let mut lines = String::from("  0  success\n");
    for exit in Exit::all() {
        lines.push_str(&format!("{:>3}  {}\n", exit.code(), exit.meaning()));
    }
    lines.push_str("130  ended at once by SIGINT\n143  ended at once by SIGTERM");
    lines
}

/// A command that did not succeed: its exit code and a sentence for the user.
#[derive(Debug)]
pub struct Failure {
    /// Chooses the exit code.
    pub exit: Exit,
    /// Lower case, without a full stop; names the value, what would be accepted and what to do.
    pub message: String,
}

impl Failure {
    /// A failure that ends the process with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// One that the server would give, found before it was asked.
    pub fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(Exit::Refused(code), message)
    }

    /// A fault that no input explains.
    pub fn unexpected(error: impl fmt::Display) -> Self {
        Self::new(Exit::Unexpected, error.to_string())
    }

    /// The same failure, said of `what`.
    #[must_use]
    pub fn about(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::refused(refusal.code, refusal.message)
    }
}

impl From<&Failure> for ExitCode {
    fn from(failure: &Failure) -> Self {
        failure.exit.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_end_has_a_code_of_its_own_below_the_shells() {
        let codes: Vec<u8> = Exit::all().map(Exit::code).collect();
        assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
        assert!(codes.iter().all(|code| (1..=125).contains(code)));
    }

    #[test]
    fn every_code_of_the_wire_is_in_the_table() {
        assert!(Exit::all().any(|exit| exit == Exit::Refused(ErrorCode::Internal)));
        assert!((WIRE_CODES..1000).all(|number| ErrorCode::try_from(number).is_err()));
    }

    #[test]
    fn every_end_means_something_of_its_own() {
        let meanings: HashSet<_> = Exit::all().map(Exit::meaning).collect();
        assert_eq!(meanings.len(), Exit::all().count());
    }
}
