//! The `likeness` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    likeness_cli::main()
}
