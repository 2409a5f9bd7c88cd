//! Watches: what is there, what changes, and going on where one was.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use service_kit::error::{Classified as _, Kind};
use testkit::NatsServer;
use tonic::Streaming;
use wire::registry::v1::DeleteDeviceRequest;
use wire::twin::v1 as proto;
use wire::twin::v1::watch_twins_response::Event;

use crate::service::{MODULE, SOON, Service, config, refusal, refused_with};

/// An open watch, with the last token that it gave.
struct Watch {
    stream: Streaming<proto::WatchTwinsResponse>,
    token: String,
}

async fn ask(service: &Service, request: proto::WatchTwinsRequest) -> Watch {
    let stream = service.twins().watch_twins(request).await;
    Watch {
        stream: stream.expect("a watch").into_inner(),
        token: String::new(),
    }
}

async fn open(service: &Service, name: &str, filter: &str) -> Watch {
    let request = proto::WatchTwinsRequest {
        name: name.to_owned(),
        filter: filter.to_owned(),
        ..Default::default()
    };
    ask(service, request).await
}

async fn resume(service: &Service, filter: &str, token: &str) -> Watch {
    let request = proto::WatchTwinsRequest {
        filter: filter.to_owned(),
        resume_token: token.to_owned(),
        ..Default::default()
    };
    ask(service, request).await
}

impl Watch {
    /// The next message, bookmarks too.
    async fn message(&mut self) -> proto::WatchTwinsResponse {
        let message = tokio::time::timeout(SOON, self.stream.message()).await;
        let message = message.expect("it comes").expect("the watch goes on");
        let message = message.expect("the watch goes on");
        match &message.event {
            Some(Event::Bookmark(bookmark)) => self.token.clone_from(&bookmark.resume_token),
            Some(Event::SnapshotComplete(complete)) => {
                self.token.clone_from(&complete.resume_token);
            }
            _ => {}
        }
        message
    }

    /// The next message that is no bookmark.
    async fn next(&mut self) -> proto::WatchTwinsResponse {
        loop {
            let message = self.message().await;
            if !matches!(message.event, Some(Event::Bookmark(_))) {
                return message;
            }
        }
    }

    /// The next event in short: `name`, `-name`, `~name`, `complete n`.
    async fn event(&mut self) -> String {
        match self.next().await.event.expect("an event") {
            Event::Twin(twin) => twin.name,
            Event::DeletedName(name) => format!("-{name}"),
            Event::UnmatchedName(name) => format!("~{name}"),
            Event::SnapshotComplete(complete) => format!("complete {}", complete.twin_count),
            Event::Bookmark(_) => unreachable!("left out"),
        }
    }

    /// Reads to the next bookmark, which must come before anything else.
    async fn bookmark(&mut self) -> String {
        let message = self.message().await;
        assert!(
            matches!(message.event, Some(Event::Bookmark(_))),
            "{message:?}"
        );
        self.token.clone()
    }

    /// The names in the snapshot.
    async fn snapshot(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            match self.next().await.event.expect("an event") {
                Event::Twin(twin) => names.push(twin.name),
                Event::SnapshotComplete(complete) => {
                    assert_eq!(complete.twin_count, names.len() as u64);
                    return names;
                }
                other => panic!("{other:?} is not of a snapshot"),
            }
        }
    }

    /// Why it ends; whatever comes before is left out.
    async fn end(mut self) -> tonic::Status {
        let reading = async {
            loop {
                match self.stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("it ends without a reason"),
                    Err(status) => return status,
                }
            }
        };
        tokio::time::timeout(SOON, reading).await.expect("it ends")
    }
}

async fn tag(service: &Service, name: &str, patch: &str) {
    let request = proto::PatchTwinRequest {
        name: name.to_owned(),
        tags_patch_json: patch.to_owned(),
        ..Default::default()
    };
    service.twins().patch_twin(request).await.expect("patched");
}

async fn delete(service: &Service, name: &str) {
    let request = DeleteDeviceRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    service.registry().delete_device(request).await.unwrap();
}

#[tokio::test]
async fn a_watch_shows_what_is_there_then_every_change_then_the_removal() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let mut watch = open(&service, "", "").await;
    assert_eq!(watch.snapshot().await, ["devices/d", MODULE]);
    for number in 1..=3 {
        let patch = format!(r#"{{"n":{number}}}"#);
        let written = service.desire(MODULE, &patch).await;
        let change = watch.next().await;
        assert_eq!(change.changes, [i32::from(proto::Change::Desired)]);
        assert_eq!(change.event, Some(Event::Twin(written)));
    }
    delete(&service, "devices/d").await;
    let gone = [watch.event().await, watch.event().await];
    let gone: BTreeSet<_> = gone.into_iter().collect();
    assert_eq!(
        gone,
        BTreeSet::from(["-devices/d".into(), format!("-{MODULE}")])
    );
    service.stop().await;
}

#[tokio::test]
async fn a_watch_passes_only_what_was_asked_for_and_tells_what_no_longer_matches() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    service.create("e").await;
    let mut one = open(&service, MODULE, "").await;
    let mut some = open(&service, "", "properties.desired.n > 1").await;
    assert_eq!(one.snapshot().await, [MODULE]);
    assert!(some.snapshot().await.is_empty());
    service.desire("devices/e", r#"{"n":2}"#).await;
    service.desire(MODULE, r#"{"n":1}"#).await;
    assert_eq!(one.event().await, MODULE);
    assert_eq!(some.event().await, "devices/e");
    // It was never shown, so nothing is told of it; the other one was.
    service.desire(MODULE, r#"{"n":0}"#).await;
    service.desire("devices/e", r#"{"n":1}"#).await;
    assert_eq!(some.event().await, "~devices/e");
    service.desire("devices/e", r#"{"n":3}"#).await;
    assert_eq!(some.event().await, "devices/e");
    delete(&service, "devices/d").await;
    delete(&service, "devices/e").await;
    assert_eq!(some.event().await, "-devices/e");
    for (filter, words) in [("((", "filter"), ("updateTime > NOW()", "time passes")] {
        let request = proto::WatchTwinsRequest {
            filter: filter.to_owned(),
            ..proto::WatchTwinsRequest::default()
        };
        let refused = service.twins().watch_twins(request).await;
        let refused = refusal(refused.map(|_| tonic::Response::new(())));
        assert!(refused.to_string().contains(words), "{refused}");
    }
    service.stop().await;
}

#[tokio::test]
async fn no_twin_goes_back_while_it_changes_under_the_snapshot_and_the_last_state_comes() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    service.create("e").await;
    let names = ["devices/d", MODULE, "devices/e"];
    let last = 40;
    let writing = async {
        for number in 1..=last {
            for name in names {
                service.desire(name, &format!(r#"{{"n":{number}}}"#)).await;
            }
        }
    };
    let watching = async |_| {
        let mut watch = open(&service, "", "").await;
        let mut seen = BTreeMap::new();
        while names.iter().any(|name| seen.get(*name) != Some(&last)) {
            let Some(Event::Twin(twin)) = watch.next().await.event else {
                continue;
            };
            let desired: Value = serde_json::from_str(&twin.desired_json).unwrap();
            let now = desired["n"].as_i64().unwrap_or_default();
            let before = seen.insert(twin.name.clone(), now).unwrap_or_default();
            assert!(before <= now, "{} went from {before} to {now}", twin.name);
        }
    };
    let watchers = futures::future::join_all((0..8).map(watching));
    tokio::join!(writing, watchers);
    service.stop().await;
}

#[tokio::test]
async fn open_watches_are_counted_and_end_with_a_reason_when_the_service_stops() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let mut kept = open(&service, "", "").await;
    let dropped = open(&service, "", "").await;
    kept.snapshot().await;
    let count = async |wanted: &str| {
        testkit::wait_for(wanted, SOON, async || {
            let page = service.admin_page("/metrics").await;
            page.contains(wanted).then_some(())
        })
        .await;
    };
    count("twinward_twin_store_watches 2").await;
    drop(dropped);
    count("twinward_twin_store_watches 1").await;
    service.shutdown.trigger();
    let end = kept.end().await;
    assert_eq!(end.code(), tonic::Code::Unavailable, "come again: {end}");
    refused_with(Err::<tonic::Response<()>, _>(end), "STOPPING");
    service.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_after_a_restart_without_loss_and_without_what_did_not_change() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b", "c", "d"] {
        service.create(id).await;
    }
    let filter = "properties.desired.n >= 0 OR NOT IS_DEFINED(properties.desired.n)";
    let mut watch = open(&service, "", filter).await;
    assert_eq!(watch.snapshot().await.len(), 8);
    let token = watch.token.clone();
    service.desire("devices/a", r#"{"n":1}"#).await;
    assert_eq!(watch.event().await, "devices/a");
    // Read, but no bookmark since: told again, because it changed behind the token.
    service.desire("devices/b", r#"{"n":1}"#).await;
    service.stop().await;
    let service = Service::start(&nats, &folder).await;
    service.desire("devices/b", r#"{"n":2}"#).await;
    service.desire("devices/c", r#"{"n":-1}"#).await;
    delete(&service, "devices/d").await;
    let mut resumed = resume(&service, filter, &token).await;
    let mut events = BTreeSet::new();
    for _ in 0..5 {
        events.insert(resumed.event().await);
    }
    let module = "-devices/d/modules/DefenderIotMicroAgent";
    let expected = ["devices/a", "devices/b", "~devices/c", "-devices/d", module];
    assert_eq!(events, expected.map(str::to_owned).into());
    let token = resumed.bookmark().await;
    service.desire("devices/a", r#"{"n":2}"#).await;
    let mut again = resume(&service, filter, &token).await;
    assert_eq!(again.event().await, "devices/a", "and nothing else before");
    service.stop().await;
}

#[tokio::test]
async fn a_watch_without_a_snapshot_has_a_place_to_come_back_to_at_once() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let request = proto::WatchTwinsRequest {
        skip_snapshot: true,
        read_mask: Some(prost_types::FieldMask {
            paths: vec!["tags_json".to_owned()],
        }),
        ..Default::default()
    };
    let mut watch = ask(&service, request).await;
    let token = watch.bookmark().await;
    drop(watch);
    tag(&service, "devices/d", r#"{"a":1}"#).await;
    let mut watch = resume(&service, "", &token).await;
    let message = watch.next().await;
    let Some(Event::Twin(twin)) = message.event else {
        panic!("{message:?}");
    };
    assert_eq!(
        (twin.name.as_str(), twin.tags_json.as_str()),
        ("devices/d", r#"{"a":1}"#)
    );
    assert!(
        !twin.desired_json.is_empty(),
        "the mask is not part of the token"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_token_of_another_watch_or_another_store_is_refused_and_one_too_old_is_told_apart() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&nats, folder.path());
    config.watch_log_changes = 8;
    let service = Service::start_with(config).await;
    service.create("d").await;
    let mut watch = open(&service, "", "").await;
    watch.snapshot().await;
    let token = watch.token.clone();
    drop(watch);
    let refused = async |service: &Service, filter: &str, token: &str| {
        let request = proto::WatchTwinsRequest {
            filter: filter.to_owned(),
            resume_token: token.to_owned(),
            ..Default::default()
        };
        let refused = service.twins().watch_twins(request).await;
        refusal(refused.map(|_| tonic::Response::new(())))
    };
    for (filter, text) in [("tags.a = 1", token.as_str()), ("", "nonsense")] {
        let refused = refused(&service, filter, text).await;
        assert_eq!(refused.reason(), "WATCH_TOKEN_INVALID", "{refused}");
        assert_eq!(refused.kind(), Kind::InvalidArgument);
    }
    // The log is trimmed in the background, once it is published.
    let end = testkit::wait_for("a log that was trimmed", SOON, async || {
        for number in 0..20 {
            service
                .desire(MODULE, &format!(r#"{{"n":{number}}}"#))
                .await;
        }
        let mut watch = resume(&service, "", &token).await;
        watch.stream.message().await.err()
    })
    .await;
    assert_eq!(end.code(), tonic::Code::OutOfRange);
    refused_with(Err::<tonic::Response<()>, _>(end), "WATCH_TOKEN_TOO_OLD");
    let mut anew = open(&service, "", "").await;
    assert_eq!(anew.snapshot().await.len(), 2);
    service.stop().await;
    let other = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &other).await;
    for id in ["d", "e", "f", "g"] {
        service.create(id).await;
    }
    let refused = refused(&service, "", &token).await;
    assert_eq!(refused.reason(), "WATCH_TOKEN_INVALID", "{refused}");
    assert!(refused.to_string().contains("another store"), "{refused}");
    service.stop().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_costs_little_and_gets_the_last_state_of_each_twin() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    service.create("e").await;
    let names = ["devices/d", MODULE, "devices/e"];
    let mut slow = open(&service, "", "").await;
    slow.snapshot().await;
    let (rounds, large) = (120, "x".repeat(4000));
    for number in 0..rounds {
        for name in names {
            let patch = format!(r#"{{"n":{number},"a":"{large}","b":"{large}","c":"{large}"}}"#);
            service.desire(name, &patch).await;
        }
    }
    let mut read = 0;
    let mut last = BTreeMap::new();
    while names
        .iter()
        .any(|name| last.get(*name) != Some(&(rounds - 1)))
    {
        if let Some(Event::Twin(twin)) = slow.next().await.event {
            let desired: Value = serde_json::from_str(&twin.desired_json).unwrap();
            let now = desired["n"].as_i64().unwrap_or(-1);
            let before = last.insert(twin.name.clone(), now).unwrap_or(-1);
            assert!(before < now, "{} went from {before} to {now}", twin.name);
            read += 1;
        }
    }
    let written = rounds * 3;
    assert!(read < written / 2, "{read} of {written} changes were sent");
    service.stop().await;
}

#[tokio::test]
async fn many_watches_see_a_change() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let opening = (0..100).map(|_| open(&service, "", "tags.site = 'a'"));
    let mut watches = futures::future::join_all(opening).await;
    for watch in &mut watches {
        assert!(watch.snapshot().await.is_empty());
    }
    tag(&service, MODULE, r#"{"site":"a"}"#).await;
    for watch in &mut watches {
        assert_eq!(watch.event().await, MODULE);
    }
    service.stop().await;
}
