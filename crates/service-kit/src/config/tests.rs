//! Layering, all problems at once, and what is printed.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::*;
use crate::secret::{REDACTED, Secret};
use crate::server::GrpcConfig;
use crate::units::Duration;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Demo {
    name: String,
    workers: u16,
    hosts: Vec<String>,
    ratio: f64,
    password: Option<Secret>,
    grpc: GrpcConfig,
}

impl Default for Demo {
    fn default() -> Self {
        Self {
            name: "demo".to_owned(),
            workers: 4,
            hosts: vec!["localhost".to_owned()],
            ratio: 0.5,
            password: None,
            grpc: GrpcConfig::on(SocketAddr::from(([127, 0, 0, 1], 7400))),
        }
    }
}

impl Validate for Demo {
    fn validate(&self, problems: &mut Problems) {
        problems.require(
            (1..=64).contains(&self.workers),
            "workers",
            "must be between 1 and 64",
        );
        problems.nested("grpc", &self.grpc);
    }
}

fn load(file: &str, variables: &[(&str, &str)]) -> Result<Demo, ConfigError> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("demo.toml");
    std::fs::write(&path, file).expect("a file");
    Loader::new("demo")
        .environment(variables.iter().copied())
        .file(Some(&path))
        .load()
}

/// The problems as text, one a line, without the path of the temporary file.
fn problems(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let error = load(file, variables).expect_err("problems");
    let in_file = |problem: &Problem| {
        let origin = problem.origin.as_deref();
        match origin {
            Some(origin) if origin.ends_with("demo.toml") => {
                format!("{}: {} (in the file)", problem.key, problem.message)
            }
            _ => problem.to_string(),
        }
    };
    error.problems().iter().map(in_file).collect()
}

#[test]
fn later_layers_win_key_by_key() {
    let file = "name = 'file'\nworkers = 8\n[grpc]\ncall_timeout = '2s'\n";
    let variables = [
        ("TWINWARD_DEMO__WORKERS", "16"),
        ("TWINWARD_DEMO__GRPC__KEEP_ALIVE", "45s"),
        ("TWINWARD_OTHER__WORKERS", "nonsense"),
    ];
    let demo = load(file, &variables).expect("a valid configuration");
    assert_eq!(demo.name, "file", "the file over the default");
    assert_eq!(demo.workers, 16, "the environment over the file");
    assert_eq!(
        demo.grpc.call_timeout,
        Duration::secs(2),
        "nested, from the file"
    );
    assert_eq!(
        demo.grpc.keep_alive,
        Duration::secs(45),
        "nested, from the environment"
    );
    assert_eq!(
        demo.grpc.listen.port(),
        7400,
        "the service's own default stays"
    );

    let demo: Demo = Loader::new("demo")
        .environment([("TWINWARD_DEMO__WORKERS", "16")])
        .set("workers", "32")
        .load()
        .expect("a valid configuration");
    assert_eq!(demo.workers, 32, "the command line over the environment");
}

#[test]
fn the_text_of_a_variable_takes_the_type_of_its_key() {
    let demo = load(
        "",
        &[
            ("TWINWARD_DEMO__NAME", "true"),
            ("TWINWARD_DEMO__PASSWORD", "12345678901234567"),
            ("TWINWARD_DEMO__HOSTS", "a, b"),
            ("TWINWARD_DEMO__RATIO", "0.25"),
            ("TWINWARD_DEMO__GRPC__ALLOW_INSECURE", "true"),
            ("TWINWARD_DEMO__WORKERS", ""),
        ],
    )
    .expect("a valid configuration");
    assert_eq!(demo.name, "true");
    assert_eq!(demo.password, Some(Secret::new("12345678901234567")));
    assert_eq!(demo.hosts, ["a", "b"]);
    assert!((demo.ratio - 0.25).abs() < f64::EPSILON);
    assert!(demo.grpc.allow_insecure);
    assert_eq!(demo.workers, 4, "an empty variable counts as unset");

    let list = load("", &[("TWINWARD_DEMO__HOSTS", "['only, one']")]).expect("a TOML list");
    assert_eq!(list.hosts, ["only, one"]);
}

#[test]
fn all_problems_are_reported_at_once_with_their_origin() {
    let file = "nmae = 'typo'\nhosts = [1]\n[grpc]\nlisten = 'here'\ncall_timeout = 5\n";
    let variables = [
        ("TWINWARD_DEMO__WORKERS", "70000"),
        ("TWINWARD_DEMO__GRPC__PORT", "1"),
        ("UNRELATED", "x"),
    ];
    let found = problems(file, &variables);
    let expected = [
        "grpc.call_timeout: invalid type: integer `5`, expected a string (in the file)",
        "grpc.listen: invalid socket address syntax (in the file)",
        "grpc.port: unknown field `port`, expected one of",
        "hosts: invalid type: integer `1`, expected a string (in the file)",
        "nmae: unknown field `nmae`, expected one of",
        "workers: invalid value: integer `70000`, expected u16 (from TWINWARD_DEMO__WORKERS)",
    ];
    for line in expected {
        assert!(
            found.iter().any(|one| one.starts_with(line)),
            "{line} is missing in {found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn wrong_types_and_broken_rules_are_reported_together() {
    let found = problems(
        "workers = 0\nratio = 'half'\n[grpc]\nlisten = '0.0.0.0:1'\n",
        &[],
    );
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].starts_with("ratio: invalid type"), "{found:#?}");
    assert_eq!(found[1], "workers: must be between 1 and 64");
    assert!(
        found[2].starts_with("grpc.tls: refusing to listen on 0.0.0.0:1"),
        "{found:#?}"
    );
    assert!(
        found[3].starts_with("grpc.token: refusing to serve 0.0.0.0:1"),
        "{found:#?}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Loader::new("demo")
        .file(Some("/nowhere/demo.toml"))
        .load::<Demo>();
    let text = error.expect_err("no such file").to_string();
    assert!(
        text.contains("/nowhere/demo.toml: cannot be read: No such file"),
        "{text}"
    );
}

#[test]
fn a_syntax_error_names_the_line_and_does_not_show_it() {
    let found = problems("name = 'demo'\npassword = \"hunter2\n", &[]);
    assert!(found[0].contains("demo.toml: line 2: "), "{found:?}");
    assert!(!found[0].contains("hunter2"), "{found:?}");
}

#[test]
fn one_file_may_serve_several_services() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("all.toml");
    std::fs::write(&path, "[demo]\nworkers = 7\n[other]\nwhatever = 1\n").expect("a file");
    let loader = Loader::new("demo")
        .environment([("", ""); 0])
        .file(Some(&path))
        .section("demo");
    assert_eq!(loader.load::<Demo>().expect("valid").workers, 7);
}

#[test]
fn the_effective_configuration_can_be_loaded_again_and_shows_no_secret() {
    let demo = load("password = 'hunter2'\nworkers = 9\n", &[]).expect("valid");
    let text = effective(&demo).expect("TOML");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains(REDACTED), "{text}");
    let again = load(&text, &[]).expect("the same form");
    assert_eq!((again.workers, again.grpc), (9, demo.grpc));
}

/// Two services share the door; each spells it out among its own keys.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Flat {
    workers: u16,
    door: Door,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Door {
    url: String,
    width: u16,
    key: Option<String>,
}

impl Validate for Flat {
    const SPELLED_OUT: &'static [SpelledOut] = &[SpelledOut {
        prefix: "door_",
        field: "door",
    }];

    fn validate(&self, problems: &mut Problems) {
        problems.spelled_out("door_", &self.door);
    }
}

impl Validate for Door {
    fn validate(&self, problems: &mut Problems) {
        problems.require(self.width < 10, "width", "must be below 10");
    }
}

fn load_flat(file: &str, variables: &[(&str, &str)]) -> Result<Flat, ConfigError> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flat.toml");
    std::fs::write(&path, file).expect("a file");
    Loader::new("flat")
        .environment(variables.iter().copied())
        .file(Some(&path))
        .set("door_key", "k")
        .load()
}

#[test]
fn a_shared_part_is_spelled_out_among_the_services_own_keys() {
    let variables = [("TWINWARD_FLAT__DOOR_WIDTH", "7")];
    let flat = load_flat("workers = 1\ndoor_url = 'u'\ndoor_width = 3\n", &variables);
    let flat = flat.expect("valid");
    let door = Door {
        url: "u".to_owned(),
        width: 7,
        key: Some("k".to_owned()),
    };
    assert_eq!(flat, Flat { workers: 1, door });
    let shown = document(&flat).expect("a document").to_string();
    assert_eq!(
        shown,
        r#"{"door_key":"k","door_url":"u","door_width":7,"workers":1}"#
    );
}

#[test]
fn what_is_wrong_with_a_shared_part_is_named_as_it_was_written() {
    let file = "door_url = 5\ndoor_width = 11\ndoor_colour = 'red'\ndoors = 1\n";
    let variables = [("TWINWARD_FLAT__DOOR_HEIGHT", "2")];
    let error = load_flat(file, &variables).expect_err("all wrong");
    let mut found: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| format!("{}: {}", problem.key, problem.message))
        .collect();
    found.sort();
    let known = "expected one of `door_url`, `door_width`, `door_key`";
    assert_eq!(
        found,
        [
            format!("door_colour: unknown field `door_colour`, {known}"),
            format!("door_height: unknown field `door_height`, {known}"),
            "door_url: invalid type: integer `5`, expected a string".to_owned(),
            "door_width: must be below 10".to_owned(),
            "doors: unknown field `doors`, expected `workers` or `door`".to_owned(),
        ]
    );
}
