//! One service alone: its configuration, and what is said when that is wrong.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::{PROGRAM, directory, stderr, stdout, verb};

#[test]
fn the_configuration_in_effect_is_printed_layer_by_layer_and_without_secrets() {
    let dir = directory();
    let file = dir.path().join("twinward.toml");
    std::fs::write(
        &file,
        "[twin-store]\nlisten = \"127.0.0.1:1111\"\nadmin_listen = \"127.0.0.1:2222\"\n\
         [telemetry]\nlog_format = \"json\"\n[policy]\nanything = 1\n",
    )
    .unwrap();
    let secret = dir.path().join("token");
    std::fs::write(&secret, "a-very-secret-token\n").unwrap();
    let output = verb(dir.path())
        .args([
            "twin-store",
            "--config",
            file.to_str().unwrap(),
            "--print-config",
        ])
        .args(["--set-file", &format!("token={}", secret.display())])
        .env("TWINWARD_TWIN_STORE__ADMIN_LISTEN", "127.0.0.1:3333")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for expected in [
        "[twin-store]",
        "127.0.0.1:1111",
        "127.0.0.1:3333",
        "[telemetry]",
        "log_format = \"json\"",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(
        !text.contains("2222") && !text.contains("very-secret"),
        "{text}"
    );
}

#[test]
fn every_service_prints_a_configuration_that_it_reads_back() {
    let dir = directory();
    for service in ["ingestion", "twin-store", "policy"] {
        let printed = verb(dir.path())
            .args([service, "--print-config"])
            .output()
            .unwrap();
        assert_eq!(
            printed.status.code(),
            Some(0),
            "{service}: {}",
            stderr(&printed)
        );
        let kept = printed_lines(&printed);
        let file = dir.path().join(format!("{service}.toml"));
        std::fs::write(&file, kept.join("\n")).unwrap();
        let again = verb(dir.path())
            .args([
                service,
                "--print-config",
                "--config",
                file.to_str().unwrap(),
            ])
            .output()
            .unwrap();
        assert_eq!(
            again.status.code(),
            Some(0),
            "{service}: {}",
            stderr(&again)
        );
        assert_eq!(stdout(&again), stdout(&printed), "{service}");
    }
}

#[test]
fn everything_that_is_wrong_with_a_configuration_is_said_at_once() {
    let dir = directory();
    let output = verb(dir.path())
        .args([
            "twin-store",
            "--set",
            "listen=nowhere",
            "--set",
            "partitions=1000",
        ])
        .env("TWINWARD_TWIN_STORE__PORT_TO_LISTEN", "x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5));
    let text = stderr(&output);
    for expected in [
        "listen",
        "port_to_listen",
        "TWINWARD_TWIN_STORE__PORT_TO_LISTEN",
        "partitions",
        "256",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn a_nats_server_that_merely_lies_around_is_never_run() {
    let dir = directory();
    let here = dir.path().join("elsewhere");
    let ran = dir.path().join("ran");
    // Below and above the directory we stand in, and above the program itself.
    for root in [dir.path(), &here] {
        let bin = root.join("target/tools/bin");
        std::fs::create_dir_all(&bin).unwrap();
        let planted = bin.join("nats-server");
        let script = format!(
            "#!/bin/sh\n: > '{}'\necho 'nats-server: v2.15.1'\n",
            ran.display()
        );
        std::fs::write(&planted, script).unwrap();
        std::fs::set_permissions(&planted, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    // Away from the target directory it was built in, whose own tools it may use.
    let program = here.join("twinward");
    if std::fs::hard_link(PROGRAM, &program).is_err() {
        std::fs::copy(PROGRAM, &program).unwrap();
    }
    let output = std::process::Command::new(&program)
        .args(["up", "--data-dir"])
        .arg(dir.path().join("data"))
        .current_dir(&here)
        .env_clear()
        // An empty part means the current directory to a shell.
        .env("PATH", ":")
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!ran.exists(), "{text}");
    assert!(
        text.contains("cargo xtask tools") && text.contains("--nats-server"),
        "{text}"
    );
}

/// Without the secrets that are not set: they print as placeholders, which no one should copy.
fn printed_lines(printed: &std::process::Output) -> Vec<String> {
    let lines = stdout(printed);
    lines
        .lines()
        .filter(|line| !line.contains("[redacted]"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn access_policies_are_made_once_and_shown_with_their_connection_strings() {
    let dir = directory();
    let list = |more: &[&str]| {
        verb(dir.path())
            .args(["access-policy", "list", "--host", "hub.example.net"])
            .args(more)
            .output()
            .unwrap()
    };
    let made = list(&["-o", "json"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let shown: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let owner = &shown["policies"][0];
    assert_eq!(owner["name"], "iothubowner");
    let string = owner["connectionString"].as_str().unwrap();
    let start = "HostName=hub.example.net;SharedAccessKeyName=iothubowner;SharedAccessKey=";
    assert!(string.starts_with(start), "{string}");
    assert!(dir.path().join("gateway/access-policies.toml").exists());
    let people = stdout(&list(&[]));
    assert!(people.contains(string), "the keys stay: {people}");
    assert!(people.contains("registryRead  RegistryRead\n"), "{people}");

    let file = dir.path().join("other.toml");
    std::fs::write(&file, "policy = 7").unwrap();
    let bad = list(&["--file", file.to_str().unwrap()]);
    assert_eq!(bad.status.code(), Some(1), "{}", stderr(&bad));
    assert!(stderr(&bad).contains("other.toml"), "{}", stderr(&bad));
}
