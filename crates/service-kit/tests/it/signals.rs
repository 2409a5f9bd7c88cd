//! SIGTERM twice. A signal is for a whole process, so this test runs itself as a child.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use service_kit::shutdown::{ShutdownToken, on_signals};

use crate::support::PATIENCE;

/// Not a test of its own: the child's part, which runs only when asked for by name. It stops
/// taking work at the first signal and never finishes what it holds.
#[tokio::test]
#[ignore = "the child's part of the test below"]
async fn child() {
    let token = ShutdownToken::new();
    on_signals(&token).expect("signal handlers");
    say("ready");
    token.triggered().await;
    say("stopping");
    // If the second signal does nothing, the child ends with 0 and the test below fails.
    tokio::time::sleep(PATIENCE).await;
}

fn say(word: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "child: {word}").expect("a pipe");
    out.flush().expect("a pipe");
}

#[test]
fn the_first_signal_asks_and_the_second_leaves_at_once() {
    let itself = std::env::current_exe().expect("this binary");
    let mut child = Command::new(itself)
        .args(["--exact", "signals::child", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let pid = Pid::from_child(&child);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for word in ["ready", "stopping"] {
        let said = lines
            .by_ref()
            .any(|line| line.expect("text").contains(word));
        assert!(said, "the child ended before it said {word}");
        kill_process(pid, Signal::TERM).expect("the child lives");
    }
    let status = child.wait().expect("an end");
    assert_eq!(status.code(), Some(143));
}
