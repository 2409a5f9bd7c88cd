//! The client's cache, kept in step with a real service whose connections and which itself are
//! killed.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too
#![allow(clippy::disallowed_methods)] // tasks of a test need no supervisor

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Change, Informer, InformerConfig, Kept, Runner, Tuning, What};
use service_kit::backoff::Policy;
use service_kit::client::{ClientConfig, connect};
use service_kit::metrics::Registry;
use service_kit::shutdown::ShutdownToken;
use testkit::{NatsServer, wait_for};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use twin::IdentityKey;
use wire::twin::v1::twin_service_client::TwinServiceClient;
use wire::twin::v1::{self as proto, Twin};

use crate::service::{SOON, Service, config};

/// Pauses of a test.
const QUICK: Tuning = Tuning {
    retry: Policy {
        first: Duration::from_millis(5),
        cap: Duration::from_millis(50),
        budget: None,
    },
    silence: Duration::from_secs(30),
};

/// Carries connections to wherever the service is, and cuts them all when told to.
struct Line {
    address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    open: Arc<tokio::sync::Mutex<JoinSet<()>>>,
    accepting: JoinHandle<()>,
}

impl Line {
    async fn to(target: SocketAddr) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = Arc::new(Mutex::new(target));
        let open = Arc::new(tokio::sync::Mutex::new(JoinSet::new()));
        let (target, carried) = (to.clone(), open.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let target = *target.lock().unwrap();
                carried.lock().await.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Line {
            address,
            to,
            open,
            accepting,
        }
    }

    async fn cut(&self) {
        self.open.lock().await.shutdown().await;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn key(id: &str) -> IdentityKey {
    wire::names::parse_identity("name", &format!("devices/{id}")).unwrap()
}

fn informer(
    address: SocketAddr,
    registry: &Registry,
) -> (
    Informer<String>,
    JoinHandle<Result<(), client::InformerError>>,
    ShutdownToken,
) {
    let connection = connect(&ClientConfig::to(format!("http://{address}"))).unwrap();
    let config = InformerConfig {
        tuning: QUICK,
        ..InformerConfig::of(What {
            filter: "NOT IS_DEFINED(tags.hidden)".to_owned(),
            fields: vec!["tags_json".to_owned(), "module_id".to_owned()],
            ..What::default()
        })
    };
    let keep = |twin: &Twin| twin.module_id.is_empty().then(|| twin.tags_json.clone());
    let client = TwinServiceClient::new(connection);
    let (informer, runner) = Informer::new(client, config, &registry.scope("test"), keep);
    let shutdown = ShutdownToken::new();
    let running = tokio::spawn(runner.run(shutdown.clone()));
    (informer, running, shutdown)
}

async fn tag(service: &Service, id: &str, patch: &str) {
    let request = wire::twin::v1::PatchTwinRequest {
        name: format!("devices/{id}"),
        tags_patch_json: patch.to_owned(),
        ..Default::default()
    };
    service.twins().patch_twin(request).await.expect("patched");
}

async fn delete(service: &Service, id: &str) {
    let request = wire::registry::v1::DeleteDeviceRequest {
        name: format!("devices/{id}"),
        ..Default::default()
    };
    service.registry().delete_device(request).await.unwrap();
}

/// Waits until the cache holds exactly these devices with these tags.
async fn holds(informer: &Informer<String>, expected: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(id, tags)| (key(id), (*tags).to_owned()))
        .collect();
    wait_for(&format!("a cache of {expected:?}"), SOON, async || {
        let held = informer.snapshot().into_iter();
        let held: BTreeMap<_, _> = held.map(|(key, tags)| (key, (*tags).clone())).collect();
        (held == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cache_stays_in_step_while_connections_and_the_service_are_killed() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b", "c"] {
        service.create(id).await;
    }
    let line = Line::to(service.addresses.grpc).await;
    let registry = Registry::new();
    let (informer, running, shutdown) = informer(line.address, &registry);
    let mut changes = informer.changes();
    assert!(informer.synced().await);
    assert_eq!(informer.len(), 3, "modules are not kept");
    line.cut().await;
    tag(&service, "a", r#"{"n":1}"#).await;
    holds(&informer, &[("a", r#"{"n":1}"#), ("b", "{}"), ("c", "{}")]).await;
    line.cut().await;
    tag(&service, "b", r#"{"hidden":true}"#).await;
    delete(&service, "c").await;
    holds(&informer, &[("a", r#"{"n":1}"#)]).await;
    service.stop().await;
    let service = Service::start(&nats, &folder).await;
    *line.to.lock().unwrap() = service.addresses.grpc;
    service.create("e").await;
    holds(&informer, &[("a", r#"{"n":1}"#), ("e", "{}")]).await;
    let page = registry.encode().unwrap();
    assert!(
        page.contains("twinward_test_informer_snapshots_total 1"),
        "it resumed every time: {page}"
    );
    assert!(page.contains("twinward_test_informer_entries 2"), "{page}");
    let mut followed = BTreeMap::new();
    while followed.len() != 2 || !followed.contains_key(&key("e")) {
        let change = tokio::time::timeout(SOON, changes.next()).await;
        match change.expect("it comes").expect("it goes on") {
            Change::Kept(key, tags) => followed.insert(key, tags),
            Change::Removed(key) => followed.remove(&key),
        };
    }
    assert_eq!(*followed[&key("a")], r#"{"n":1}"#);
    shutdown.trigger();
    running.await.unwrap().expect("a good end");
    assert!(changes.next().await.is_none(), "no more will come");
    service.stop().await;
}

#[tokio::test]
async fn what_was_deleted_while_it_could_not_resume_is_removed_all_the_same() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b", "c"] {
        service.create(id).await;
    }
    let line = Line::to(service.addresses.grpc).await;
    let registry = Registry::new();
    let (informer, running, shutdown) = informer(line.address, &registry);
    assert!(informer.synced().await);
    holds(&informer, &[("a", "{}"), ("b", "{}"), ("c", "{}")]).await;
    service.stop().await;
    // Another store under the same address, as after a restore: its places mean nothing here.
    let other = tempfile::tempdir().unwrap();
    let service = Service::start_with(config(&nats, other.path())).await;
    service.create("b").await;
    tag(&service, "b", r#"{"n":2}"#).await;
    *line.to.lock().unwrap() = service.addresses.grpc;
    holds(&informer, &[("b", r#"{"n":2}"#)]).await;
    let page = registry.encode().unwrap();
    assert!(
        page.contains("twinward_test_informer_snapshots_total 2"),
        "{page}"
    );
    shutdown.trigger();
    running.await.unwrap().expect("a good end");
    service.stop().await;
}

#[tokio::test]
async fn a_cache_can_be_turned_to_other_twins_and_spares_work_that_is_done() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for (id, tags) in [("a", r#"{"site":1}"#), ("b", r#"{"site":2}"#)] {
        service.create(id).await;
        tag(&service, id, tags).await;
    }
    let line = Line::to(service.addresses.grpc).await;
    let connection = connect(&ClientConfig::to(format!("http://{}", line.address))).unwrap();
    let site = |site: u32| What {
        filter: format!("tags.site = {site}"),
        ..What::default()
    };
    let (informer, mut runner) = Informer::new(
        TwinServiceClient::new(connection),
        InformerConfig {
            tuning: QUICK,
            ..InformerConfig::of(site(1))
        },
        &Registry::new().scope("test"),
        |twin| Some(twin.tags_json.clone()),
    );
    // A cache holds what came before the word arrives that it is whole, so both are waited for.
    let follow = async |runner: &mut Runner<String>, until: &[(&str, &str)]| {
        let settled = async {
            holds(&informer, until).await;
            assert!(informer.synced().await);
        };
        tokio::select! {
            error = runner.follow() => panic!("{error}"),
            () = settled => {}
        }
    };
    follow(&mut runner, &[("a", r#"{"site":1}"#)]).await;
    assert!(informer.is_synced());
    assert!(informer.in_step_for().is_some());
    // From here on only a change of tags, or nothing before, makes it look.
    runner.refocus(site(2), |came| match came.before {
        Some(_) if !came.changes.contains(&proto::Change::Tags) => Kept::Same,
        _ => Kept::New(format!(
            "{} {}",
            came.twin.tags_json, came.twin.desired_json
        )),
    });
    assert!(!informer.is_synced(), "nothing of the new ones is known");
    assert_eq!(informer.in_step_for(), None);
    assert_eq!(informer.len(), 1, "what was kept stays until then");
    follow(&mut runner, &[("b", r#"{"site":2} {}"#)]).await;
    let desire = |patch: &str| proto::PatchTwinRequest {
        name: "devices/b".to_owned(),
        desired_patch_json: patch.to_owned(),
        ..Default::default()
    };
    let written = service.twins().patch_twin(desire(r#"{"x":1}"#)).await;
    written.expect("written");
    tag(&service, "a", r#"{"site":2}"#).await;
    let both = [("a", r#"{"site":2} {}"#), ("b", r#"{"site":2} {}"#)];
    follow(&mut runner, &both).await;
    tag(&service, "b", r#"{"n":1}"#).await;
    let looked = [
        ("a", r#"{"site":2} {}"#),
        ("b", r#"{"n":1,"site":2} {"x":1}"#),
    ];
    follow(&mut runner, &looked).await;

    // Without its connection it cannot say that it is in step; with a new one it can.
    let before = informer.in_step_for();
    assert!(before.is_some());
    line.cut().await;
    let step = async |runner: &mut Runner<String>, is_in_step: bool| {
        let reached = wait_for("the step", SOON, async || {
            (informer.in_step_for().is_some() == is_in_step).then_some(())
        });
        tokio::select! {
            error = runner.follow() => panic!("{error}"),
            () = reached => {}
        }
    };
    let elsewhere = std::mem::replace(&mut *line.to.lock().unwrap(), nowhere());
    step(&mut runner, false).await;
    assert!(informer.is_synced(), "what it has is whole, if old");
    *line.to.lock().unwrap() = elsewhere;
    step(&mut runner, true).await;
    runner.clear();
    assert!(informer.is_empty());
    service.stop().await;
}

/// Where nobody listens.
fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

#[tokio::test]
async fn a_question_that_cannot_be_asked_ends_it_and_so_do_too_many_twins() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("a").await;
    let run = async |config: InformerConfig| {
        let url = format!("http://{}", service.addresses.grpc);
        let client = TwinServiceClient::new(connect(&ClientConfig::to(url)).unwrap());
        let scope = Registry::new().scope("test");
        let (informer, runner) = Informer::new(client, config, &scope, |_| Some(()));
        let ended = tokio::time::timeout(SOON, runner.run(ShutdownToken::new())).await;
        assert!(!informer.synced().await, "it never was");
        ended.expect("it ends").expect_err("refused").to_string()
    };
    let bad = What {
        filter: "((".to_owned(),
        ..What::default()
    };
    assert!(run(InformerConfig::of(bad)).await.contains("refuses"));
    let small = InformerConfig {
        entries_max: 1,
        ..InformerConfig::of(What::default())
    };
    assert!(run(small).await.contains("more than 1 twins"));
    service.stop().await;
}
