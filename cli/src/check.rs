//! `--check-config`: what a role reads before it does anything, read and then told. Nothing is made, opened, listened on or asked for it, so
//! the model, the devices, and whatever is on another machine are not looked at.

use crate::args::Command;
use crate::commands::{Context, meta};
use crate::device::DeviceWish;
use crate::exit::Failure;
use crate::group::Node;
use crate::roles::{self, Said};
use crate::settings::{Settings, read_token};
use crate::state_dir::StateDir;
use crate::worker;
use likeness_diffusion::Device;

/// Says what holds for `command`.
///
/// # Errors
/// Those that the role would end with before it starts.
pub(crate) fn command(context: &Context, command: &Command) -> Result<(), Failure> {
    verify(&context.settings, command)?;
    meta::config(context)
}

fn verify(settings: &Settings, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Up(_) => {
            roles::on_this_machine(settings.listen)?;
            computes(settings)?;
        }
        Command::Coordinator(_) => {
            Said::of(settings, &StateDir::at(&settings.state))?;
            settings.pepper_file.as_deref().map(read_token).transpose()?;
        }
        Command::Trainer(_) => {
            let node = Node::of(settings)?;
            node.may_be_reached()?;
            if !node.follows() {
                worker::said(settings)?;
            }
            computes(settings)?;
        }
        Command::Sampler(_) => {
            worker::said(settings)?;
            computes(settings)?;
        }
        _starts_nothing => {}
    }
    Ok(())
}

/// A GPU need not be here to be spoken of.
fn computes(settings: &Settings) -> Result<(), Failure> {
    match settings.device {
        DeviceWish::Cpu => settings.precision.on(&Device::Cpu).map(drop),
        DeviceWish::Cuda(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use crate::exit::Exit;
    use crate::settings::Sources;
    use clap::Parser;

    /// How `likeness LINE --check-config` ends with a token.
    fn checked(line: &str) -> Result<(), Exit> {
        let words = format!("likeness {line} --check-config --state /nowhere/likeness");
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
        assert!(cli.command.only_checks());
        let flags = [cli.settings(), vec![("token", "secret".to_owned())]].concat();
        let resolved = Settings::resolve(&Sources { flags, ..Sources::default() }).map_err(|failure| failure.exit)?;
        verify(&resolved.settings, &cli.command).map_err(|failure| failure.exit)
    }

    #[test]
    fn what_would_start_is_told_without_a_server_a_model_or_a_state_folder() {
        let worker = "--server https://likeness:7431 --bucket s3://avatars --model /models/sd15";
        for line in [
            "up".to_owned(),
            "coordinator --listen 127.0.0.1:0 --bucket s3://avatars".to_owned(),
            format!("trainer {worker} --device cuda --precision bf16"),
            format!("sampler {worker}"),
            "trainer --group-leader localhost --group-size 2 --group-index 1".to_owned(),
        ] {
            assert_eq!(checked(&line), Ok(()), "{line}");
        }
        assert!(!std::path::Path::new("/nowhere").exists());
    }

    #[test]
    fn what_would_not_start_ends_as_the_role_would() {
        for (line, exit) in [
            ("up --listen 0.0.0.0:7431", Exit::Insecure),
            ("coordinator --listen 0.0.0.0:7431", Exit::Insecure),
            ("coordinator --bucket gs://avatars", Exit::Setting),
            ("trainer --server http://likeness:7431", Exit::Insecure),
            ("trainer", Exit::Unreachable),
            ("trainer --group-leader leader --group-size 2 --group-index 1", Exit::Insecure),
            ("trainer --group-size 2", Exit::Setting),
            ("sampler --server https://likeness:7431 --precision bf16", Exit::Setting),
        ] {
            assert_eq!(checked(line), Err(exit), "{line}");
        }
    }
}
