//! SIGTERM drains within a deadline; a second signal leaves at once.

use crate::support::SOON;
use crate::support::agent::{Agent, failed_login};
use crate::support::hub::{Hub, Up};

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
async fn up_ends_its_nats_server_too_and_starts_again_on_the_same_data() {
    let hub = Up::start().await;
    let nats = hub.variable("TWINWARD_NATS_URL").to_owned();
    hub.api().device("cam-1").await;
    hub.stop().await;
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
}
