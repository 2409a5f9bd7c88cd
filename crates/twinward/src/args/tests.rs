use super::*;

/// The long help of a command as a person sees it in a terminal of 100 columns.
fn help(path: &[&str]) -> String {
    let mut command = command().term_width(100);
    command.build();
    let mut command = &mut command;
    for name in path {
        command = command.find_subcommand_mut(name).unwrap();
    }
    command.render_long_help().to_string()
}

#[test]
fn the_command_line_is_consistent() {
    command().debug_assert();
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
        &["device", "get"],
        &["device", "delete"],
        &["device", "enable"],
        &["device", "update"],
        &["device", "rotate-keys"],
        &["device", "import"],
        &["device", "export"],
        &["device", "ensure-security-modules"],
        &["device", "disable"],
        &["module", "list"],
        &["module", "get"],
        &["module", "delete"],
        &["module", "create"],
        &["enrollment", "create"],
        &["provisioning"],
        &["provisioning", "create"],
        &["provisioning", "derive-keys"],
        &["twin", "get"],
        &["twin", "patch"],
        &["twin", "history"],
        &["twin", "diff"],
        &["twin", "replace"],
        &["twin", "revert"],
        &["watch"],
        &["query"],
        &["bulk", "update"],
        &["operation"],
        &["operation", "list"],
        &["operation", "results"],
        &["operation", "undo"],
        &["store"],
        &["store", "verify"],
        &["store", "backup"],
        &["store", "restore"],
        &["audit", "list"],
        &["audit", "verify"],
        &["policy"],
        &["policy", "apply"],
        &["policy", "get"],
        &["policy", "list"],
        &["policy", "delete"],
        &["policy", "history"],
        &["policy", "diff"],
        &["policy", "explain"],
        &["policy", "preview"],
        &["policy", "actions"],
        &["policy", "freeze"],
        &["policy", "unfreeze"],
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

#[test]
fn a_service_that_runs_alone_refuses_what_it_would_ignore() {
    let read = |line: &str| Cli::read(line.split(' ').map(std::ffi::OsString::from));
    for line in [
        "twinward twin-store --data-dir /data",
        "twinward --data-dir /data ingestion",
        "twinward policy --data-dir /data",
    ] {
        let error = read(line).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(exit::Kind::Usage.code()));
        let text = error.to_string();
        assert!(text.contains("--set data_dir=…"), "{line}: {text}");
    }
    for line in [
        "twinward twin-store --set data_dir=/data",
        "twinward ingestion",
        "twinward policy",
        "twinward policy list --data-dir /data --timeout 1s",
        "twinward --token t --data-dir /data device list",
        "twinward up --data-dir /data",
    ] {
        assert!(read(line).is_ok(), "{line}");
    }
}

#[test]
fn a_patch_without_anything_names_all_ways_to_give_one() {
    let error = Cli::try_parse_from(["twinward", "twin", "patch", "cam-1"]).unwrap_err();
    let text = error.to_string();
    for option in ["--desired", "--tags", "--file"] {
        assert!(text.contains(option), "{option}: {text}");
    }
}

#[test]
fn the_example_of_a_policy_file_can_be_applied() {
    let text = help(&["policy", "apply"]);
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.contains("kind: Policy"))
        .take_while(|line| !line.is_empty())
        .collect();
    let file = lines.join("\n");
    let specs = ::policy::file::parse(&file).unwrap();
    assert_eq!(specs.len(), 1, "{file}");
}

#[test]
fn every_verb_has_an_example_and_every_example_is_a_command_line() {
    fn walk(command: &clap::Command, path: &str, count: &mut usize) {
        for below in command.get_subcommands() {
            walk(below, &format!("{path} {}", below.get_name()), count);
        }
        let Some(help) = command.get_after_long_help().or(command.get_after_help()) else {
            return;
        };
        let help = help.to_string().replace("\\\n", " ");
        for line in help
            .lines()
            .map(str::trim)
            .filter(|l| l.starts_with("twinward "))
        {
            let Some(words) = words(line) else { continue };
            *count += 1;
            let read = Cli::read(words.iter().map(std::ffi::OsString::from));
            assert!(read.is_ok(), "{path}: {line}: {}", read.unwrap_err());
        }
    }
    let mut count = 0;
    walk(&command(), "twinward", &mut count);
    assert!(count > 60, "only {count} examples were found");
}

/// Splits an example as a shell would, up to a pipe or a redirection. None for one that is
/// continued on the next line, or has words behind it that explain it.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '&' | ';' | '#') => break,
            (None, ' ') if characters.peek() == Some(&' ') => break,
            (None, ' ') => words.extend(word.take()),
            (Some(_) | None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}
