//! Odd requests of every kind against the REST API of `twinward up`: none is a server's error, and the
//! hub serves afterwards. `cargo xtask fuzz rest` sends more of them. And too many of them: who calls too
//! often is told so.

use std::path::PathBuf;
use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};

/// Where `cargo xtask test` has put schemathesis.
const SCHEMATHESIS: &str = "TWINWARD_SCHEMATHESIS";
/// How many requests are answered at least; a round has some thousands.
const REQUESTS: u64 = 2000;
/// Python makes the requests, slowly.
const WITHIN: Duration = Duration::from_mins(8);

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_answered_with_an_error_of_the_server() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/rest/fuzz.py");
    let mut run = ProcessBuilder::new("odd requests", "python3")
        .arg(script)
        .arg(REQUESTS.to_string())
        .env("PYTHONPATH", folder())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TWINWARD_BIN", workspace_binary("twinward"))
        .allow("")
        .spawn();
    let status = run.wait_exit(WITHIN).await;
    let lines = run.lines();
    assert!(status.success(), "{}", lines.join("\n"));
    let last = lines.last().map_or("", String::as_str);
    assert!(last.starts_with("ok "), "{}", lines.join("\n"));
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test finds its tools by the environment"
)]
fn folder() -> PathBuf {
    let Some(folder) = std::env::var_os(SCHEMATHESIS) else {
        panic!("{SCHEMATHESIS} is not set: `cargo xtask test` fetches it and sets it");
    };
    PathBuf::from(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_too_often_is_told_so_and_nobody_else_is() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/rest/rates.py");
    let mut run = ProcessBuilder::new("rates", "python3")
        .arg(script)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TWINWARD_BIN", workspace_binary("twinward"))
        .allow("")
        .spawn();
    let status = run.wait_exit(WITHIN).await;
    let lines = run.lines();
    assert!(status.success(), "{}", lines.join("\n"));
    assert_eq!(lines.last().map(String::as_str), Some("ok"));
}
