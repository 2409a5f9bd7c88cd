//! Crowds at the agents' door that all come from one address, with more calls under way than there are
//! places for what they need of twin-store, and somebody elsewhere who is served meanwhile.

use std::net::IpAddr;

use jiff::SignedDuration;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use wire::agent::v1::EnrollRequest;
use wire::agent::v1::agent_service_client::AgentServiceClient;

use crate::agent::Agent;
use crate::hub::{Hub, SOON, good_token, key_of, token};

/// Where the crowd comes from, and somebody else.
const CROWD: [u8; 4] = [127, 0, 0, 66];
const ELSEWHERE: [u8; 4] = [127, 0, 0, 9];

/// Calls of one network that are looked up at the same time.
const OF_NETWORK: usize = 48;

/// More than there are places of all, and than a network may have looked up as suspects besides.
const MANY: usize = 224;

/// Calls that a connection may have open.
const STREAMS: usize = 32;

type Client = AgentServiceClient<Channel>;

async fn client_from(hub: &Hub, address: [u8; 4]) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{}", hub.addresses.grpc)).unwrap();
    let endpoint = endpoint.local_address(Some(IpAddr::from(address)));
    AgentServiceClient::new(endpoint.connect().await.unwrap())
}

async fn enroll(mut client: Client, token: &str, device_id: String) -> Result<(), Status> {
    let request = EnrollRequest {
        token: token.to_owned(),
        device_id,
        nonce: "0123456789abcdef".to_owned(),
    };
    loop {
        let outcome = client.enroll(request.clone()).await.map(|_| ());
        match outcome {
            // Its message has not come with its head, and so have those of many others.
            Err(status) if reason(&status) == "TOO_MANY_CALLS" => {
                let retry = status.get_details_retry_info();
                assert!(retry.is_some(), "{status:?}");
            }
            outcome => return outcome,
        }
    }
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// Has so many call at once. What they are told.
async fn crowd<F>(hub: &Hub, call: impl Fn(Client, String) -> F) -> JoinSet<Result<(), Status>>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let mut told = JoinSet::new();
    let mut client = client_from(hub, CROWD).await;
    for number in 0..MANY {
        if number % STREAMS == 0 {
            client = client_from(hub, CROWD).await;
        }
        told.spawn(call(client.clone(), format!("made-up-{number}")));
    }
    told
}

async fn until_held(hub: &Hub, wanted: usize) {
    testkit::wait_for("lookups", SOON, async || {
        (hub.store.state().held.all >= wanted).then_some(())
    })
    .await;
}

/// Somebody elsewhere is served while the crowd waits, and all of the crowd when it is their turn.
async fn all_take_their_turn(hub: Hub, gate: &tokio::sync::Semaphore, mut told: Told) {
    until_held(&hub, OF_NETWORK).await;
    hub.register("d");
    let client = client_from(&hub, ELSEWHERE).await;
    let session = Agent::connect(client.clone(), &good_token("d")).await;
    assert!(session.is_ok(), "{:?}", session.err());
    assert!(enroll(client, "good-token", "e".to_owned()).await.is_ok());
    gate.add_permits(MANY);
    while let Some(outcome) = told.join_next().await {
        let outcome = outcome.expect("told");
        assert!(outcome.is_ok(), "it waits for its turn: {outcome:?}");
    }
    let held = hub.store.state().held;
    assert_eq!((held.all, held.most), (MANY, OF_NETWORK));
    hub.stop().await;
}

type Told = JoinSet<Result<(), Status>>;

#[tokio::test]
async fn many_who_enrol_take_their_turns_and_leave_places_to_others() {
    let hub = Hub::start().await;
    let gate = hub.store.hold_lookups("devices/made-up");
    let told = crowd(&hub, |client, id| enroll(client, "good-token", id)).await;
    all_take_their_turn(hub, &gate, told).await;
}

#[tokio::test]
async fn many_agents_who_come_back_take_their_turns_and_leave_places_to_others() {
    let hub = Hub::start().await;
    for number in 0..MANY {
        hub.register(&format!("made-up-{number}"));
    }
    let gate = hub.store.hold_lookups("devices/made-up");
    let told = crowd(&hub, |client, id| async move {
        let agent = Agent::connect(client, &good_token(&id)).await;
        agent.map(|_| ())
    })
    .await;
    all_take_their_turn(hub, &gate, told).await;
}

/// Those that were looked up first fail, and by then all others have failed too often, too.
async fn only_the_first_are_looked_up(hub: Hub, gate: &tokio::sync::Semaphore, mut told: Told) {
    until_held(&hub, OF_NETWORK).await;
    gate.add_permits(MANY);
    let mut wait = 0;
    while let Some(outcome) = told.join_next().await {
        let status = outcome.expect("told").expect_err("wrong");
        wait += usize::from(status.code() == Code::ResourceExhausted);
    }
    let held = hub.store.state().held;
    // Suspects of one network: three, and those that wait behind them.
    assert!(held.most <= OF_NETWORK && held.all < MANY, "{}", held.all);
    assert!(wait >= MANY - held.all);
    hub.stop().await;
}

#[tokio::test]
async fn those_who_enrol_and_failed_while_they_waited_are_told_so() {
    let hub = Hub::start_with(|config| config.limits.enroll_failures_per_minute = 4).await;
    let gate = hub.store.hold_lookups("devices/made-up");
    let told = crowd(&hub, |client, id| enroll(client, "bad-token", id)).await;
    only_the_first_are_looked_up(hub, &gate, told).await;
}

#[tokio::test]
async fn agents_who_failed_while_they_waited_are_told_so() {
    let hub = Hub::start_with(|config| config.limits.auth_failures_per_minute = 4).await;
    let gate = hub.store.hold_lookups("devices/made-up");
    let told = crowd(&hub, |client, id| async move {
        let wrong = token(&id, &key_of("a guess"), SignedDuration::from_hours(1));
        Agent::connect(client, &wrong).await.map(|_| ())
    })
    .await;
    only_the_first_are_looked_up(hub, &gate, told).await;
}
