use super::*;
use clap::CommandFactory;
use clap::error::ErrorKind;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn submit(line: &str) -> SubmitArgs {
    match parse(line).unwrap().command {
        Command::Submit(args) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn photos_need_a_subject_and_an_init() {
    let args = submit("likeness submit photos --subject ada --init person --prompts p.toml");
    assert_eq!(args.photos.photos.unwrap().to_str(), Some("photos"));
    assert!(args.photos.attest_as.is_none(), "consent is refused with its own code, not as usage");
    assert!(parse("likeness submit photos --init person --prompts p.toml").is_err());
    assert!(parse("likeness submit photos --subject ada --prompts p.toml").is_err());
}

#[test]
fn photos_dataset_and_embedding_exclude_each_other() {
    assert!(parse("likeness submit --dataset d --init person --prompts p.toml").is_ok());
    assert!(parse("likeness submit --embedding ada --prompts p.toml").is_ok());
    let both = parse("likeness submit --dataset d --embedding ada --init person --prompts p.toml").unwrap_err();
    assert_eq!(both.kind(), ErrorKind::ArgumentConflict);
    assert!(parse("likeness submit photos --dataset d --subject a --init person --prompts p.toml").is_err());
    assert!(parse("likeness submit --prompts p.toml").is_err());
}

#[test]
fn global_flags_stand_before_or_after_the_command() {
    for line in ["likeness --state s --json list", "likeness list --json --state s"] {
        let cli = parse(line).unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.settings(), [("state", "s".to_owned())]);
    }
}

#[test]
fn a_port_is_a_loopback_address() {
    let cli = parse("likeness up --port 0").unwrap();
    assert_eq!(cli.command.settings(), [("listen", "127.0.0.1:0".to_owned())]);
    assert!(parse("likeness up --port 1 --listen 127.0.0.1:2").is_err());
}

#[test]
fn a_measurement_takes_as_many_threads_as_the_peer_unless_told_otherwise() {
    let threads = |line| {
        let flags = parse(line).unwrap().settings();
        flags.into_iter().rfind(|(name, _)| *name == "threads").map(|(_, count)| count)
    };
    assert_eq!(threads("likeness bench render").as_deref(), Some("2"));
    assert_eq!(threads("likeness bench render --threads 4").as_deref(), Some("4"));
    assert_eq!(threads("likeness list"), None);
}

#[test]
fn what_is_not_given_of_the_training_stays_absent() {
    let train = submit("likeness submit p --subject a --init person --prompts p.toml --steps 10 --flip").train;
    let spec = train.spec();
    assert_eq!((spec.max_steps, spec.flip, spec.batch_size), (Some(10), Some(true), None));
    assert!(train.any() && !TrainArgs::default().any());
}

#[test]
fn an_unknown_name_is_refused_with_the_known_ones() {
    let error = parse("likeness render --prompt x --out o.png --scheduler k_lms").unwrap_err().to_string();
    assert!(error.contains("ddim, euler_ancestral, unipc"), "{error}");
}

#[test]
fn attest_as_self_is_spelled_self() {
    let args = submit("likeness submit p --subject a --init person --prompts p.toml --attest-as self --attest-by Ada");
    assert_eq!(args.photos.attest_as, Some(likeness_proto::Capacity::Self_));
}
