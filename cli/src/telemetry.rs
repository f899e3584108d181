//! Log lines and progress bars, on the same terminal without tearing each other.

use crate::exit::{Exit, Failure};
use crate::settings::{LogFormat, Settings};
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Standard error: bars when it is a terminal, plain lines otherwise.
#[derive(Clone, Debug)]
pub struct Console {
    bars: MultiProgress,
    live: bool,
}

impl Console {
    /// The process's standard error.
    #[must_use]
    pub fn stderr() -> Self {
        let live = io::stderr().is_terminal();
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()), live }
    }

    /// One that shows no bars; for tests.
    #[must_use]
    pub fn plain() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()), live: false }
    }

    /// The bars, if they can be seen.
    #[must_use]
    pub fn bars(&self) -> Option<&MultiProgress> {
        self.live.then_some(&self.bars)
    }

    /// Writes a line for the user.
    pub fn say(&self, line: impl AsRef<str>) {
        self.bars.suspend(|| {
            // Nobody is left to be told that standard error is closed.
            let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
        });
    }
}

/// A log line's way to standard error: bars step aside for it.
#[derive(Clone)]
struct LogWriter(MultiProgress);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Installs the log of this process. `serves`: the default filter says what happens, else only warnings.
///
/// # Errors
/// [`Exit::Setting`] when the filter cannot be read.
pub fn install(settings: &Settings, serves: bool, console: &Console) -> Result<(), Failure> {
    let text = settings.log.as_deref().unwrap_or(if serves { "info" } else { "warn" });
    let filter = EnvFilter::try_new(text)
        .map_err(|error| Failure::new(Exit::Setting, format!("the log filter `{text}` is not accepted: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(LogWriter(console.bars.clone()));
    let installed = match settings.log_format {
        LogFormat::Text => builder.with_ansi(console.live).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    installed.map_err(Failure::unexpected)
}
