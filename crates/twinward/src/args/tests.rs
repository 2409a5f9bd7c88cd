use clap::CommandFactory as _;

use super::*;

/// The long help of a command as a person sees it in a terminal of 100 columns.
fn help(path: &[&str]) -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut command = &mut command;
    for name in path {
        command = command.find_subcommand_mut(name).unwrap();
    }
    command.render_long_help().to_string()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_texts_are_as_reviewed() {
    for path in [
        &[][..],
        &["up"],
        &["status"],
        &["device"],
        &["device", "create"],
        &["device", "list"],
        &["module", "create"],
        &["enrollment", "create"],
        &["twin", "get"],
        &["twin", "patch"],
        &["twin", "watch"],
        &["policy"],
        &["policy", "apply"],
        &["ingestion"],
        &["completions"],
    ] {
        let name = if path.is_empty() {
            "twinward".to_owned()
        } else {
            path.join("_")
        };
        insta::assert_snapshot!(format!("help_{name}"), help(path));
    }
}

#[test]
fn policy_is_a_service_without_a_verb_and_a_verb_otherwise() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' '));
    let Command::Policy(args) = parse("twinward policy --config x.toml").unwrap().command else {
        panic!("policy expected");
    };
    assert!(args.command.is_none());
    let Command::Policy(args) = parse("twinward policy list -o json").unwrap().command else {
        panic!("policy expected");
    };
    assert!(args.command.is_some());
    assert!(parse("twinward policy --config x.toml list").is_err());
}

#[test]
fn a_wrong_id_says_what_is_allowed() {
    let error = Cli::try_parse_from(["twinward", "device", "get", "a b"]).unwrap_err();
    assert_eq!(error.exit_code(), i32::from(exit::Kind::Usage.code()));
    let text = error.to_string();
    assert!(text.contains("a b") && text.contains("allowed"), "{text}");
}
