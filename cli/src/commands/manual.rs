//! What shells and `man` know of the command line, made from its definition.

use super::Context;
use crate::args::Cli;
use crate::exit::{Exit, Failure};
use clap::CommandFactory;
use clap_complete::Shell;
use std::fs;
use std::path::Path;

pub(super) fn completions(context: &Context, shell: Shell) -> Result<(), Failure> {
    context.format.print(&script(shell), String::clone)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "likeness", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes `likeness.1` and one page for every command, named like `likeness-admin-key-create.1`.
pub(super) fn pages(dir: &Path) -> Result<(), Failure> {
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.map_err(|error| {
        let message =
            format!("cannot write man pages to {}: {error}; name a folder that can be written", dir.display());
        Failure::new(Exit::Output, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Command;

    /// Every command by its path, as `likeness-admin-key-create`.
    fn all(command: &Command, path: &str) -> Vec<String> {
        let below = command.get_subcommands().flat_map(|below| all(below, &format!("{path}-{}", below.get_name())));
        [path.to_owned()].into_iter().chain(below).collect()
    }

    #[test]
    fn every_command_has_a_page_that_says_what_it_is() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("man");
        pages(&dir).unwrap();
        let commands = all(&Cli::command(), "likeness");
        assert!(commands.len() > 30, "{commands:?}");
        for name in commands {
            let page =
                fs::read_to_string(dir.join(format!("{name}.1"))).unwrap_or_else(|_| panic!("no page of {name}"));
            assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = pages(&file.path().join("man")).unwrap_err();
        assert!(failure.exit == Exit::Output && failure.message.contains("man"), "{failure}");
    }

    #[test]
    fn every_shell_knows_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell} does not know {}", command.get_name());
            }
        }
    }
}
