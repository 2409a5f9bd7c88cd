//! An agent gets its credentials with a token, once, and keeps them to itself.

use std::os::unix::fs::PermissionsExt as _;

use testkit::{ProcessBuilder, workspace_binary};
use wire::registry::v1::CreateEnrollmentTokenRequest;

use crate::support::SOON;
use crate::support::hub::Hub;
use crate::support::real_agent::RealAgent;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_one_device_in_and_the_key_file_is_private() {
    let hub = Hub::start().await;
    let api = hub.api();
    let agent = RealAgent::enroll(&api, &hub.agent_url(), "cam-1", hub.folder()).await;
    let name = "devices/cam-1/modules/DefenderIotMicroAgent";
    api.twin_until(name, "the agent to connect", |twin| {
        twin.posture()["agent"]["connected"] == true
    })
    .await;
    agent.stop().await;
    api.twin_until(name, "the end of the session", |twin| {
        twin.posture()["agent"]["connected"] == false
    })
    .await;
    let mut key_files = 0;
    for entry in files(&hub.folder().join("agent")) {
        let text = std::fs::read_to_string(&entry).unwrap_or_default();
        if text.contains("SharedAccessKey=") {
            let mode = std::fs::metadata(&entry)
                .expect("a file")
                .permissions()
                .mode()
                & 0o777;
            assert_eq!(mode, 0o600, "{}", entry.display());
            key_files += 1;
        }
    }
    assert!(key_files > 0, "the key is kept in a file");
    // The second run needs no token.
    let again = RealAgent::again(&hub.agent_url(), hub.folder());
    api.twin_until(name, "the agent to connect again", |twin| {
        twin.posture()["agent"]["connected"] == true
    })
    .await;
    again.stop().await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_or_used_token_is_refused_with_what_to_do() {
    let hub = Hub::start().await;
    let api = hub.api();
    let request = CreateEnrollmentTokenRequest {
        device_id: "cam-1".to_owned(),
        ..Default::default()
    };
    let token = api.registry.clone().create_enrollment_token(request).await;
    let token = token.expect("a token is made").into_inner().token;
    for (device, token, says) in [
        ("cam-2", token.as_str(), "another device"),
        ("cam-1", "twe_wrong", "unknown, expired or used up"),
    ] {
        let mut agent = ProcessBuilder::new("agent", workspace_binary("twinward-agent"))
            .args([
                "enroll",
                "--server",
                &hub.agent_url(),
                "--device-id",
                device,
                "--data-dir",
            ])
            .arg(hub.folder().join(device))
            .env("TWINWARD_AGENT__ENROLLMENT_TOKEN", token)
            .allow("")
            .spawn();
        let status = agent.wait_exit(SOON).await;
        let lines = agent.lines().join("\n");
        assert!(!status.success(), "{lines}");
        assert!(lines.contains(says), "{lines}");
    }
    hub.stop().await;
}

fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}
