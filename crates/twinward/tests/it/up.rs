//! `twinward up`: starting, stopping, and what a crash of any part leaves behind.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::{Signal, kill_process};
use testkit::wait_for;

use crate::support::{SOON, Up, builder, directory, nats_pid, stderr, stdout, verb};

#[tokio::test]
async fn everything_serves_when_the_env_file_appears_and_the_file_goes_with_it() {
    let dir = directory();
    let other = dir.path().join("other.env");
    let data_dir = dir.path().join("data");
    let process = builder(&data_dir)
        .args(["--host", "hub.example.net"])
        .arg("--env-file")
        .arg(&other)
        .spawn();
    let mut up = Up::wait(process, &data_dir).await;
    up.process.wait_for_file(&other, SOON).await;

    let mode = std::fs::metadata(&other).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds the admin token");
    assert_eq!(
        std::fs::read(&other).unwrap(),
        std::fs::read(data_dir.join("twinward.env")).unwrap()
    );
    assert_eq!(
        up.variables["TWINWARD_DATA_DIR"],
        data_dir.to_str().unwrap()
    );
    assert_eq!(up.variables["TWINWARD_HOST"], "hub.example.net");
    for name in ["INGESTION", "TWIN_STORE", "POLICY"] {
        let url = &up.variables[&format!("TWINWARD_{name}_METRICS_URL")];
        let probed = up.ask(&["probe", url]);
        assert_eq!(probed.status.code(), Some(0), "{}", stderr(&probed));
    }
    let status = up.ask(&["status", "-o", "json"]);
    assert_eq!(status.status.code(), Some(0), "{}", stderr(&status));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let serving: Vec<_> = status["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["state"].clone())
        .collect();
    assert_eq!(serving, ["serving"; 4], "{status:#}");

    let said = up.process.lines().join("\n");
    assert!(said.contains("Twinward is up."), "{said}");
    assert!(
        !said.contains(&up.variables["TWINWARD_ADMIN_TOKEN"]),
        "the token is printed"
    );
    up.process.stop(SOON).await;
    assert!(!other.exists() && !data_dir.join("twinward.env").exists());
    assert_eq!(nats_pid(&data_dir), None, "the NATS server goes with it");
}

#[tokio::test]
async fn a_second_signal_leaves_at_once_and_takes_nats_along() {
    let dir = directory();
    let mut up = Up::start(dir.path()).await;
    up.process.allow("second signal");
    // What the services say about a bus that does not answer any more is not this test's matter.
    up.process.allow("WARN");
    up.process.allow("ERROR");
    // A server that is stopped does not answer, so the shutdown has to wait for it.
    kill_process(up.nats_pid(), Signal::STOP).unwrap();
    up.process.terminate();
    up.process
        .wait_for_line("a second signal leaves at once", SOON)
        .await;
    up.process.terminate();
    // Well below what waiting for the server would take.
    let status = up
        .process
        .wait_exit(std::time::Duration::from_secs(4))
        .await;
    assert_eq!(status.code(), Some(143));
    wait_for("the NATS server to die", SOON, async || {
        nats_pid(dir.path()).is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_up_leaves_no_server_behind_and_starts_again_with_the_same_data() {
    let dir = directory();
    let mut up = Up::start(dir.path()).await;
    let created = up.ask(&["device", "create", "cam-1"]);
    assert_eq!(created.status.code(), Some(0), "{}", stderr(&created));
    let before = up.variables.clone();
    up.process.kill();
    wait_for("the NATS server to die", SOON, async || {
        nats_pid(dir.path()).is_none().then_some(())
    })
    .await;

    let left = verb(dir.path()).arg("status").output().unwrap();
    assert_eq!(
        left.status.code(),
        Some(1),
        "the old env file is there, but nobody serves"
    );
    // The next start takes the old file away as well, but only once it runs.
    std::fs::remove_file(dir.path().join("twinward.env")).unwrap();
    let up = Up::start(dir.path()).await;
    for same in ["TWINWARD_ADMIN_TOKEN", "TWINWARD_NATS_URL"] {
        assert_eq!(up.variables[same], before[same], "{same}");
    }
    let listed = up.ask(&["device", "list"]);
    assert!(stdout(&listed).contains("cam-1"), "{}", stdout(&listed));
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn a_killed_nats_server_is_started_again_where_clients_look_for_it() {
    let dir = directory();
    let mut up = Up::start(dir.path()).await;
    let killed = up.nats_pid();
    // The loss of the connection is what this test causes.
    for expected in ["NATS", "nats", "bus"] {
        up.process.allow(expected);
    }
    kill_process(killed, Signal::KILL).unwrap();
    up.process
        .wait_for_line("the NATS server is back", SOON)
        .await;
    assert_ne!(up.nats_pid(), killed);
    wait_for("everything to serve again", SOON, async || {
        let status = up.ask(&["status"]);
        (status.status.code() == Some(0)).then_some(())
    })
    .await;
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    let second = verb(dir.path())
        .args(["up", "--any-port"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(4));
    assert!(
        stderr(&second).contains("--data-dir"),
        "{}",
        stderr(&second)
    );
    assert!(
        dir.path().join("twinward.env").exists(),
        "the first one's file stays"
    );
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let dir = directory();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut process = builder(dir.path())
        .args(["--policy-listen", &address])
        .spawn();
    let status = process.wait_exit(SOON).await;
    let said = process.lines().join("\n");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("policy cannot start") && said.contains(&address),
        "{said}"
    );
    assert_eq!(
        nats_pid(dir.path()),
        None,
        "the NATS server does not stay behind"
    );
}

#[tokio::test]
async fn without_a_server_it_says_how_to_get_one() {
    let dir = directory();
    let path = dir.path().join("no-server");
    let output = verb(dir.path())
        .args(["up", "--nats-server", path.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("no-server") && text.contains("--nats-server"),
        "{text}"
    );
}
