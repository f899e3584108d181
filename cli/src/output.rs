//! Standard output: data, as text or as JSON.

use crate::exit::{Exit, Failure};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// JSON: one value, or one a line for commands that go on.
    Json,
}

impl Format {
    /// From the `--json` flag.
    #[must_use]
    pub fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    /// Prints a value: its JSON, or what `text` makes of it.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn print<T: Serialize, D: Display>(self, value: &T, text: impl FnOnce(&T) -> D) -> Result<(), Failure> {
        match self {
            Self::Json => line(&serde_json::to_string_pretty(value).map_err(Failure::unexpected)?),
            Self::Text => line(&text(value).to_string()),
        }
    }

    /// Prints a value as one line of JSON; nothing as text.
    ///
    /// # Errors
    /// As [`Format::print`].
    pub fn print_line<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        match self {
            Self::Json => line(&serde_json::to_string(value).map_err(Failure::unexpected)?),
            Self::Text => Ok(()),
        }
    }
}

/// Writes a line to standard output. A reader that went away (`likeness list | head`) is no failure.
fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::StorageFull => {
            Err(Failure::new(Exit::DiskFull, "cannot write standard output: the disk is full"))
        }
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Output, format!("cannot write standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Lines up rows in columns, two spaces apart.
#[must_use]
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["job", "state"], ["a", "running"]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "job  state\na    running");
        assert_eq!(columns::<2>(&[]), "");
    }
}
