use super::*;

const SOON: Duration = Duration::from_secs(10);

fn shell(script: &str) -> ProcessBuilder {
    ProcessBuilder::new("shell", "sh").arg("-c").arg(script)
}

#[tokio::test]
async fn a_line_and_a_file_can_be_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("ready");
    let mut process =
        shell("echo getting ready; echo yes > ready.new; mv ready.new ready; exec sleep 600")
            .current_dir(directory.path())
            .spawn();
    assert_eq!(process.wait_for_line("ready", SOON).await, "getting ready");
    assert_eq!(process.wait_for_file(&file, SOON).await.trim(), "yes");
    assert!(process.is_running());
    process.kill();
    assert!(!process.is_running());
}

#[tokio::test]
async fn terminating_runs_the_programs_own_shutdown() {
    let mut process =
        shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done").spawn();
    process.wait_for_line("up", SOON).await;
    process.stop(SOON).await;
}

#[tokio::test]
#[should_panic(expected = "ended with exit status: 3 before a line with \"never\"")]
async fn ending_before_the_line_shows_the_log() {
    shell("echo oh; exit 3")
        .spawn()
        .wait_for_line("never", SOON)
        .await;
}

#[tokio::test]
#[should_panic(
    expected = "unexpected warning(s) or error(s):\n2026-11-22T10:00:00Z ERROR disk full"
)]
async fn an_unexpected_error_in_the_log_fails_the_test() {
    let mut process = shell("echo 2026-11-22T10:00:00Z ERROR disk full").spawn();
    process.wait_exit(SOON).await;
}

#[tokio::test]
async fn an_expected_warning_is_allowed() {
    let mut process = shell("echo 2026-11-22T10:00:00Z WARN bus: bus connection lost")
        .allow("connection lost")
        .spawn();
    process.wait_exit(SOON).await;
    process.assert_clean_log();
}

#[test]
fn levels_are_found_in_every_format_and_only_there() {
    assert!(is_trouble("2026-11-22T10:00:00Z  WARN bus: lost"));
    assert!(is_trouble(
        "\u{1b}[2m2026-11-22T10:00:00Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m bus: lost"
    ));
    assert!(is_trouble(
        r#"{"timestamp":"x","level":"ERROR","message":"lost"}"#
    ));
    assert!(is_trouble("thread 'main' panicked at src/main.rs:3:5:"));
    assert!(!is_trouble(
        "2026-11-22T10:00:00Z INFO admit: process named ERROR seen"
    ));
}
