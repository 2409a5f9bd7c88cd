//! All twins of a running hub, evaluated again by a job of its policy service.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use loadgen::hub::Hub;
use policy::policy_doc::Policy;
use policy::resource;
use serde_json::{Value, json};
use service_kit::client::Connection;
use tokio::time::sleep;
use wire::policy::v1 as api;
use wire::policy::v1::policy_service_client::PolicyServiceClient;
use wire::policy::v1::reevaluation::State;
use wire::policy::v1::reevaluation_service_client::ReevaluationServiceClient;

use crate::policies::name;

/// How long everything may take after the policies were applied.
const SETTLED_WITHIN: Duration = Duration::from_mins(30);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// One wait for a re-evaluation: less than the time that a call has.
const WAIT: prost_types::Duration = prost_types::Duration {
    seconds: 5,
    nanos: 0,
};

/// Applies the policies, lets everything come to rest, and has all twins evaluated again, twice: the
/// first run warms what the machine keeps in memory.
pub(crate) async fn run(hub: &Hub, policies: &[Policy], twins: u32) -> Result<Value> {
    let connection = hub.service(&hub.policy_url)?;
    let applied = apply(&connection, policies).await?;
    let mut runs = Vec::new();
    for _ in 0..2 {
        runs.push(reevaluate(&connection, twins).await?);
    }
    Ok(json!({
        "twins": twins,
        "policies": policies.len(),
        "sweepSeconds": applied.as_secs_f64(),
        "runs": runs,
    }))
}

/// Until the sweep after the last policy is done.
async fn apply(connection: &Connection, policies: &[Policy]) -> Result<Duration> {
    let mut client = PolicyServiceClient::new(connection.clone());
    for policy in policies {
        let request = api::ApplyPolicyRequest {
            policy: Some(resource::to_request(policy.spec())),
            ..api::ApplyPolicyRequest::default()
        };
        let answer = client.apply_policy(request).await;
        let answer = answer.context("cannot apply a policy")?.into_inner();
        ensure!(
            answer.guard.is_empty(),
            "the mass-change guard steps in: {}; turn it off for this hub",
            answer.guard
        );
    }
    let began = Instant::now();
    for policy in policies {
        loop {
            let request = api::GetPolicyRequest {
                name: name(policy.id()),
            };
            let found = client.get_policy(request).await?.into_inner();
            if found
                .evaluation
                .is_some_and(|evaluation| evaluation.complete)
            {
                break;
            }
            ensure!(
                began.elapsed() < SETTLED_WITHIN,
                "the sweep has not ended within {SETTLED_WITHIN:?}"
            );
            sleep(LOOK).await;
        }
    }
    Ok(began.elapsed())
}

async fn reevaluate(connection: &Connection, twins: u32) -> Result<Value> {
    let mut client = ReevaluationServiceClient::new(connection.clone());
    let began = Instant::now();
    let asked = client
        .start_reevaluation(api::StartReevaluationRequest::default())
        .await
        .context("cannot begin a re-evaluation")?
        .into_inner();
    let ended = loop {
        let request = api::WaitReevaluationRequest {
            name: asked.name.clone(),
            timeout: Some(WAIT),
        };
        let one = client.wait_reevaluation(request).await?.into_inner();
        if !matches!(one.state(), State::Waiting | State::Running) {
            break one;
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{} twins in {seconds:.1} s", ended.twins_evaluated);
    ensure!(
        ended.state() == State::Succeeded && ended.twins_failed == 0,
        "it did not end well: {ended:?}"
    );
    ensure!(
        ended.twins_evaluated == u64::from(twins) && ended.twins_changed == 0,
        "{twins} twins were to be looked at and none to be written: {ended:?}"
    );
    Ok(json!({
        "seconds": seconds,
        "microsecondsPerTwin": seconds * 1e6 / f64::from(twins.max(1)),
        "evaluated": ended.twins_evaluated,
    }))
}
