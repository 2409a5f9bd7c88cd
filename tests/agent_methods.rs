//! "Collect now": an operator calls a method of the real agent on its own stream, and what this machine
//! is like at this moment is in the posture, long before the agent's interval.

use serde_json::{Value, json};
use testkit::{ProcessBuilder, workspace_binary};

use crate::support::SOON;
use crate::support::hub::Up;
use crate::support::real_agent::RealAgent;

const MODULE: &str = "DefenderIotMicroAgent";

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_has_the_agent_collect_now() {
    let hub = Up::start().await;
    let agent = RealAgent::enroll(&hub.api(), &hub.agent_url(), "watched", hub.folder()).await;
    let name = format!("devices/watched/modules/{MODULE}");
    let seen = hub
        .api()
        .twin_until(&name, "the agent's first snapshots", |twin| {
            twin.posture()["listeningPortsSnapshot"]["observedAt"].is_string()
        })
        .await;
    let before = seen.posture()["listeningPortsSnapshot"]["observedAt"].clone();
    let answered = invoke(&hub, "ping").await;
    assert_eq!(answered["status"], 200);
    assert!(
        answered["payload"]["agentVersion"].is_string(),
        "{answered}"
    );
    let answered = invoke(&hub, "collectNow").await;
    assert_eq!(answered["status"], 200);
    let collectors = answered["payload"]["collectors"].as_array();
    assert!(
        collectors.is_some_and(|names| names.contains(&json!("ListeningPorts"))),
        "{answered}"
    );
    // Ports were told already and their interval is half an hour, so this is what was asked for.
    hub.api()
        .twin_until(&name, "what was collected", |twin| {
            let at = &twin.posture()["listeningPortsSnapshot"]["observedAt"];
            at.is_string() && *at != before
        })
        .await;
    let unknown = invoke(&hub, "selfDestruct").await;
    assert_eq!(unknown["status"], 404);
    agent.stop().await;
    hub.stop().await;
}

/// What the command line prints of a call.
async fn invoke(hub: &Up, method: &str) -> Value {
    let mut verb = ProcessBuilder::new("invoke", workspace_binary("twinward"))
        .args(["-o", "json", "module", "invoke", "watched", MODULE, method])
        .args(["--connect-timeout", "20s"])
        .env(
            "TWINWARD_TWIN_STORE_URL",
            hub.variable("TWINWARD_TWIN_STORE_URL"),
        )
        .env("TWINWARD_ADMIN_TOKEN", hub.variable("TWINWARD_ADMIN_TOKEN"))
        .allow("")
        .spawn();
    let status = verb.wait_exit(SOON).await;
    let text = verb.lines().join("\n");
    assert!(status.success(), "{text}");
    serde_json::from_str(&text).expect("JSON")
}
