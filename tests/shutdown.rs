//! SIGTERM drains within a deadline; a second signal leaves at once.

use std::time::{Duration, Instant};

use testkit::wait_for;

use crate::support::SOON;
use crate::support::agent::{Agent, failed_login};
use crate::support::api::{Api, Device, whole};
use crate::support::hub::{Hub, Part, Up};

/// Events to stream: more than are delivered before the end.
const EVENTS: u64 = 10_000;
/// How long a service may take to stop, by default.
const SERVICE_DRAIN: Duration = Duration::from_secs(10);
/// How long `twinward up` may take to stop, by default.
const UP_DRAIN: Duration = Duration::from_secs(20);
/// The bytes that ingestion has taken and that are not stored yet.
const WAITING: &str = "twinward_ingestion_waiting_bytes";
/// What a busy machine adds.
const SLACK: Duration = Duration::from_secs(5);
/// What shows that a drain is held up: without anything in its way it takes far less.
const HELD_UP: Duration = Duration::from_secs(2);
/// How long leaving at once may take: well below what a drain takes that is held up.
const AT_ONCE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_every_service_and_nothing_acknowledged_is_lost() {
    let mut hub = Hub::start().await;
    let api = hub.api();
    let device = api.device("cam-1").await;
    let mut agent = Agent::new(hub.agent_url(), device.clone());
    for _ in 0..100 {
        agent.observe(failed_login());
    }
    agent.deliver(10, async |_| {}).await;
    agent.disconnect();
    hub.ingestion.terminate();
    assert!(hub.ingestion.wait_exit(SOON).await.success());
    hub.policy.terminate();
    assert!(hub.policy.wait_exit(SOON).await.success());
    api.twin_until(&device.twin, "all events", |twin| {
        twin.count("/eventCount") == 100
    })
    .await;
    hub.twin_store.terminate();
    assert!(hub.twin_store.wait_exit(SOON).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_for_all_while_batches_are_under_way_loses_nothing_acknowledged() {
    let mut hub = Hub::start().await;
    // They are all ended at the same time, so each misses the others.
    hub.allow_everything();
    let device = hub.api().device("cam-1").await;
    let mut agent = Agent::new(hub.agent_url(), device.clone());
    stream_until(&mut agent, async || {
        let all = [&mut hub.ingestion, &mut hub.policy, &mut hub.twin_store];
        for process in &all {
            process.terminate();
        }
        let started = Instant::now();
        for process in all {
            assert!(process.wait_exit(SOON).await.success());
            assert!(started.elapsed() < SERVICE_DRAIN + SLACK, "{started:?}");
        }
    })
    .await;
    for part in [Part::TwinStore, Part::Ingestion, Part::Policy] {
        hub.kill_and_restart(part).await;
    }
    assert_posture_has(&hub.api(), &device, &agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_for_up_while_batches_are_under_way_loses_nothing_acknowledged() {
    let mut hub = Up::start().await;
    let device = hub.api().device("cam-1").await;
    let mut agent = Agent::new(hub.agent_url(), device.clone());
    stream_until(&mut agent, async || {
        hub.process.terminate();
        let started = Instant::now();
        assert!(hub.process.wait_exit(SOON).await.success());
        assert!(started.elapsed() < UP_DRAIN + SLACK, "{started:?}");
    })
    .await;
    hub.restart().await;
    assert_posture_has(&hub.api(), &device, &agent).await;
    hub.stop().await;
}

/// Streams, and has `stop` do its work in the middle; the agent never stops by itself.
async fn stream_until(agent: &mut Agent, stop: impl AsyncFnOnce()) {
    for _ in 0..EVENTS {
        agent.observe(failed_login());
    }
    let under_way = tokio::sync::Notify::new();
    tokio::select! {
        () = agent.deliver(10, async |acknowledged| {
            if acknowledged >= 100 {
                under_way.notify_one();
            }
        }) => panic!("all was delivered before the end"),
        () = async {
            under_way.notified().await;
            stop().await;
        } => {}
    }
    assert!((100..EVENTS).contains(&agent.acknowledged));
}

/// All that the agent was told is durable is in the posture, and without a gap before it.
async fn assert_posture_has(api: &Api, device: &Device, agent: &Agent) {
    let twin = api
        .twin_until(&device.twin, "all acknowledged events", |twin| {
            twin.count("/eventCount") >= agent.acknowledged && whole(twin, "high")
        })
        .await;
    let received = twin.count("/delivery/high/received");
    assert_eq!(twin.count("/eventCount"), received, "{}", twin.posture());
    assert_eq!(twin.count("/delivery/high/missing"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_does_not_wait_for_the_drain() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let device = hub.api().device("cam-1").await;
    let mut agent = Agent::new(hub.agent_url(), device);
    agent.observe(failed_login());
    agent.deliver(1, async |_| {}).await;
    // A batch that cannot be stored holds the drain up.
    hub.nats.kill();
    agent.observe(failed_login());
    let ended = async {
        wait_for("the batch to wait for its publish", SOON, async || {
            let waiting = hub.metric(Part::Ingestion, WAITING).await?;
            (waiting > 0.0).then_some(())
        })
        .await;
        hub.ingestion.terminate();
        hub.ingestion
            .wait_for_line("second signal leaves", SOON)
            .await;
        let first = hub.ingestion.wait_exit(SOON);
        let first = tokio::time::timeout(HELD_UP, first).await;
        assert!(first.is_err(), "the drain is held up: {first:?}");
        let asked = Instant::now();
        hub.ingestion.terminate();
        let status = hub.ingestion.wait_exit(SOON).await;
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        status
    };
    let status = tokio::select! {
        () = agent.deliver(1, async |_| {}) => panic!("nobody can have stored it"),
        status = ended => status,
    };
    assert_eq!(status.code(), Some(143));
}

#[tokio::test(flavor = "multi_thread")]
async fn up_ends_its_nats_server_too_and_starts_again_on_the_same_data() {
    let mut hub = Up::start().await;
    let nats = hub.variable("TWINWARD_NATS_URL").to_owned();
    let device = hub.api().device("cam-1").await;
    let mut agent = Agent::new(hub.agent_url(), device.clone());
    agent.observe(failed_login());
    agent.deliver(1, async |_| {}).await;
    hub.process.terminate();
    assert!(hub.process.wait_exit(SOON).await.success());
    hub.process.assert_clean_log();
    let port = nats
        .rsplit(':')
        .next()
        .and_then(|port| port.parse::<u16>().ok());
    let address = (std::net::Ipv4Addr::LOCALHOST, port.expect("a port"));
    let refused = tokio::net::TcpStream::connect(address).await;
    assert!(
        refused.is_err(),
        "nothing listens on the NATS server's port any more"
    );
    hub.restart().await;
    let twin = hub
        .api()
        .twin_until(&device.twin, "the event of the run before", |twin| {
            twin.count("/eventCount") == 1
        })
        .await;
    assert_eq!(twin.count("/logins/failed"), 1);
    // Its key still opens the door.
    agent.disconnect();
    agent.observe(failed_login());
    agent.deliver(1, async |_| {}).await;
    hub.stop().await;
}
