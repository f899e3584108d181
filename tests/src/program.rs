//! `likeness` under another name, so that Cargo builds it before these tests and tells them its path.

fn main() -> std::process::ExitCode {
    likeness_cli::main()
}
