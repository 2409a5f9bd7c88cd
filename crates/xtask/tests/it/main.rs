//! The automation from outside: what a person or a program that starts it gets.

use std::process::{Command, Output, Stdio};

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("xtask is built")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_guard_becomes_the_program_of_its_parent() {
    let parent = std::process::id().to_string();
    let output = xtask(&["guard", &parent, "/bin/echo", "--it", "runs"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--it runs\n");
}

#[test]
fn a_guard_whose_parent_is_gone_starts_nothing() {
    // Process 1 is never the parent of a test's child.
    let output = xtask(&["guard", "1", "/bin/echo", "it runs"]);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    assert!(said(&output).contains("is gone"), "{}", said(&output));
}

#[test]
fn a_second_demo_in_the_same_directory_says_so_and_touches_nothing() {
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let lock = std::fs::File::create(directory.path().join("demo.lock")).expect("it is ours");
    lock.try_lock().expect("nobody else has it");
    let kept = directory.path().join("hub");
    std::fs::create_dir(&kept).expect("it is ours");

    let path = directory.path().to_str().expect("it is text");
    let output = xtask(&["demo", "--once", "--dir", path]);
    assert!(!output.status.success());
    assert!(
        said(&output).contains("another demo runs"),
        "{}",
        said(&output)
    );
    assert!(kept.exists());
}

#[test]
fn json_is_for_once_only() {
    let output = xtask(&["demo", "--json"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("--once"), "{}", said(&output));
}
