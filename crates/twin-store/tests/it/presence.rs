//! Sessions of two runs of ingestion, told and beaten for by hand: whose clock is behind, who is gone,
//! who ended in order, and who was there after all.

use std::time::Duration;

use bus::{Bus, Outgoing};
use futures::StreamExt as _;
use jiff::Timestamp;
use prost::Message as _;
use service_kit::units;
use testkit::{NatsServer, wait_for};
use wire::bus::v1 as bus_proto;
use wire::bus::v1::telemetry_entry::Content;
use wire::subjects;

use crate::service::{SOON, Service, connect, publish};

/// The shortest time that may be told.
const LOST_AFTER: units::Duration = units::Duration::secs(10);

/// That a session of a device began or ended, at a second by the clock of its run.
fn notice(
    (device, generation): (&str, &str),
    (session, run): (&str, &str),
    connected: bool,
    seconds: i64,
) -> bus_proto::TelemetryEntry {
    // Times of runs are compared with each other alone.
    let at = Timestamp::from_second(1_760_000_000 + seconds).expect("a time");
    let notice = bus_proto::SessionNotice {
        session_id: session.to_owned(),
        connected,
        run: run.to_owned(),
        ..Default::default()
    };
    bus_proto::TelemetryEntry {
        device_id: device.to_owned(),
        generation_id: generation.to_owned(),
        receive_time: Some(wire::time::to_wire(at)),
        content: Some(Content::Session(notice)),
        ..Default::default()
    }
}

async fn beat(bus: &Bus, run: &str, ended: bool) {
    let alive = bus_proto::InstanceAlive {
        subject: subjects::methods_subject(run),
        run: run.to_owned(),
        ended,
    };
    let beat = Outgoing::new(subjects::INSTANCES_SUBJECT, alive.encode_to_vec());
    bus.send_hint(beat).await.expect("sent");
}

/// Says all the time that a run is there.
async fn beat_on(bus: &Bus, run: &str) {
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    loop {
        pace.tick().await;
        beat(bus, run, false).await;
    }
}

async fn until(service: &Service, device: &str, session: &str, connected: bool) {
    let what = format!("{device} to have {session}, connected: {connected}");
    let within = Duration::from_secs(40);
    wait_for(&what, within, async || {
        let posture = service.posture(&format!("devices/{device}")).await;
        let agent = &posture["agent"];
        let holds = agent["connected"] == connected && agent["sessionId"] == session;
        holds.then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_two_runs_the_one_that_is_there_has_the_device_whatever_the_clocks_say() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start_with(twin_store::Config {
        sessions_lost_after: LOST_AFTER,
        ..crate::service::config(&nats, folder.path())
    })
    .await;
    let bus = connect(&nats).await;
    let mut generations = Vec::new();
    for id in ["moved", "nobody", "old", "back"] {
        generations.push((id, service.create(id).await.generation_id));
    }
    let key = |id: &str| {
        let found = generations.iter().find(|(known, _)| *known == id);
        let (id, generation) = found.expect("it was made");
        (*id, generation.as_str())
    };
    let alive = beat_on(&bus, "run-b");
    let story = async {
        // On one that is killed, and then on another whose clock is half a minute behind.
        publish(&bus, vec![notice(key("moved"), ("s1", "run-a"), true, 0)]).await;
        publish(&bus, vec![notice(key("moved"), ("s2", "run-b"), true, -30)]).await;
        publish(&bus, vec![notice(key("nobody"), ("s3", "run-a"), true, 0)]).await;
        // From before there were runs.
        publish(&bus, vec![notice(key("old"), ("s4", ""), true, 0)]).await;
        publish(&bus, vec![notice(key("back"), ("s5", "run-a"), true, 0)]).await;
        for (id, session) in [
            ("moved", "s1"),
            ("nobody", "s3"),
            ("old", "s4"),
            ("back", "s5"),
        ] {
            until(&service, id, session, true).await;
        }
        until(&service, "nobody", "s3", false).await;
        until(&service, "old", "s4", false).await;
        until(&service, "back", "s5", false).await;
        until(&service, "moved", "s2", true).await;

        // The run that counted as gone is there after all: its roll is called.
        let mut calls = bus
            .take_questions(&subjects::roll_call_subject("run-a"))
            .await
            .expect("heard");
        beat(&bus, "run-a", false).await;
        let called = tokio::time::timeout(SOON, calls.next()).await;
        let call = called.expect("in time").expect("a question");
        bus.answer(call.reply_to, Vec::new()).await.expect("sent");
        publish(&bus, vec![notice(key("back"), ("s5", "run-a"), true, -20)]).await;
        until(&service, "back", "s5", true).await;
        until(&service, "moved", "s2", true).await;
        // It ends in order.
        publish(&bus, vec![notice(key("back"), ("s5", "run-a"), false, 0)]).await;
        until(&service, "back", "s5", false).await;
        beat(&bus, "run-a", true).await;
    };
    tokio::select! {
        () = alive => {}
        () = story => {}
    }
    let page = service.admin_page("/metrics").await;
    assert!(page.contains("sessions_lost_total 4"), "{page}");
    service.stop().await;
}
