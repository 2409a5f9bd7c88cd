//! Messages to devices: into the queue, counted, listed, purged, and gone with their device.

use std::collections::HashMap;

use bus::Sequence;
use prost::Message as _;
use service_kit::error::{Classified as _, Kind};
use service_kit::status::RemoteError;
use testkit::{NatsServer, wait_for};
use tonic::Status;
use twin::IdentityKey;
use wire::bus::v1 as bus_proto;
use wire::device::v1 as proto;
use wire::registry::v1 as registry;
use wire::subjects::{self, DEVICE_MESSAGES_STREAM};

use crate::service::{SOON, Service, connect};

fn message(text: &str) -> proto::SendMessageRequest {
    proto::SendMessageRequest {
        name: "devices/d".to_owned(),
        payload: text.into(),
        message_id: text.to_owned(),
        ..Default::default()
    }
}

async fn send(
    service: &Service,
    request: proto::SendMessageRequest,
) -> Result<proto::SendMessageResponse, Status> {
    let sent = service.commands().send_message(request).await?;
    Ok(sent.into_inner())
}

async fn listed(service: &Service) -> Vec<String> {
    let name = "devices/d".to_owned();
    let listed = service
        .commands()
        .list_messages(proto::ListMessagesRequest { name })
        .await;
    let messages = listed.expect("listed").into_inner().messages;
    messages.into_iter().map(|it| it.message_id).collect()
}

async fn counts(service: &Service, names: &[&str]) -> Vec<u32> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let counted = service
        .commands()
        .count_messages(proto::CountMessagesRequest { names })
        .await;
    counted.expect("counted").into_inner().counts
}

fn refusal<T: std::fmt::Debug>(refused: Result<T, Status>) -> RemoteError {
    RemoteError::from(refused.expect_err("refused"))
}

#[tokio::test]
async fn a_message_is_durable_told_of_counted_and_in_the_audit_log() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let device = service.create("d").await;
    service.create("e").await;
    assert_eq!(counts(&service, &["devices/d", "devices/x"]).await, [0, 0]);
    let bus = connect(&nats).await;
    let mut hints = bus.listen(subjects::MESSAGE_SUBJECTS).await.unwrap();
    let full = proto::SendMessageRequest {
        correlation_id: "c".to_owned(),
        user_id: "u".to_owned(),
        content_type: "text/plain".to_owned(),
        content_encoding: "utf-8".to_owned(),
        properties: HashMap::from([
            ("b".to_owned(), "2".to_owned()),
            ("a".to_owned(), "1".to_owned()),
        ]),
        time_to_live: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..message("1")
    };
    let sent = send(&service, full).await.expect("sent");
    assert_eq!(sent.message_id, "1");
    let key = IdentityKey::parse_path("d").unwrap();
    let hint = tokio::time::timeout(SOON, hints.recv()).await.unwrap();
    let hint = hint.expect("a hint");
    assert_eq!(
        subjects::identity_of_subject(&hint.subject),
        Some(key.clone())
    );
    let queue = subjects::device_messages_subject(&key, &device.generation_id);
    let queued = bus
        .next_queued(DEVICE_MESSAGES_STREAM, &queue, Sequence::ZERO)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(queued.sequence.get(), sent.sequence_number);
    let stored = bus_proto::DeviceBoundMessage::decode(queued.payload).unwrap();
    assert_eq!(stored.expire_time, sent.expire_time);
    let at = |time| wire::time::required("time", time).unwrap();
    let waits = at(stored.expire_time).duration_since(at(stored.enqueued_time));
    assert_eq!(waits.as_secs(), 60);
    let pair = |name: &str, value: &str| bus_proto::DeviceBoundProperty {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let wanted = bus_proto::DeviceBoundMessage {
        message_id: "1".to_owned(),
        correlation_id: "c".to_owned(),
        user_id: "u".to_owned(),
        content_type: "text/plain".to_owned(),
        content_encoding: "utf-8".to_owned(),
        properties: vec![pair("a", "1"), pair("b", "2")],
        payload: b"1".to_vec(),
        enqueued_time: stored.enqueued_time,
        expire_time: stored.expire_time,
    };
    assert_eq!(stored, wanted);
    // A repetition is known by its id, and answered the same.
    let repeated = || proto::SendMessageRequest {
        request_id: "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11".to_owned(),
        message_id: String::new(),
        ..message("2")
    };
    let first = send(&service, repeated()).await.expect("sent");
    let second = send(&service, repeated()).await.expect("sent");
    assert_eq!(first.message_id, second.message_id);
    assert_eq!(first.sequence_number, second.sequence_number);
    let ids = ["1".to_owned(), first.message_id];
    assert_eq!(listed(&service).await, ids);
    let names = ["devices/e", "devices/d", "devices/x"];
    assert_eq!(counts(&service, &names).await, [0, 2, 0]);
    let name = "devices/d".to_owned();
    let purge = proto::PurgeMessagesRequest {
        name,
        operator: String::new(),
    };
    let purged = service.commands().purge_messages(purge).await.unwrap();
    assert_eq!(purged.into_inner().purged_count, 2);
    assert_eq!(counts(&service, &names).await, [0, 0, 0]);
    let entries = registry::ListAuditEntriesRequest {
        resource: "devices/d".to_owned(),
        ..Default::default()
    };
    let entries = service.audit().list_audit_entries(entries).await.unwrap();
    let entries = entries.into_inner().entries;
    let count = |action: &str| entries.iter().filter(|it| it.action == action).count();
    assert_eq!((count("message.send"), count("message.purge")), (3, 1));
    assert!(
        entries
            .iter()
            .any(|it| it.detail_json == r#"{"message":"1"}"#)
    );
    service.stop().await;
}

#[tokio::test]
async fn a_full_queue_and_a_large_message_are_refused_with_their_numbers() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    for number in 0..50 {
        let sent = send(&service, message(&number.to_string())).await;
        sent.expect("there is room");
    }
    let full = refusal(send(&service, message("50")).await);
    assert_eq!(full.reason(), "QUEUE_FULL", "{full}");
    assert_eq!(full.kind(), Kind::ResourceExhausted);
    assert_eq!(full.fact("iot_hub_code"), Some("403004"));
    assert!(full.to_string().contains("50 messages"), "{full}");
    let mut large = message("large");
    large.payload = vec![0; 64 << 10];
    let large = refusal(send(&service, large).await);
    assert_eq!(large.reason(), "MESSAGE_TOO_LARGE", "{large}");
    assert_eq!(large.fact("iot_hub_code"), Some("413001"));
    for name in ["devices/nobody", "devices/nobody-else"] {
        let mut nobody = message("1");
        nobody.name = name.to_owned();
        let nobody = refusal(send(&service, nobody).await);
        assert_eq!(nobody.reason(), "DEVICE_NOT_FOUND", "{nobody}");
    }
    let name = "devices/nobody".to_owned();
    let listed = service
        .commands()
        .list_messages(proto::ListMessagesRequest { name })
        .await;
    assert_eq!(refusal(listed).reason(), "DEVICE_NOT_FOUND");
    let names = vec!["devices/d".to_owned(); 1001];
    let many = service
        .commands()
        .count_messages(proto::CountMessagesRequest { names })
        .await;
    assert_eq!(refusal(many).violations()[0].subject, "names");
    service.stop().await;
}

#[tokio::test]
async fn queues_survive_a_restart_go_with_their_device_and_end_by_themselves() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    send(&service, message("1")).await.expect("sent");
    service.stop().await;
    let service = Service::start(&nats, &folder).await;
    assert_eq!(listed(&service).await, ["1"]);
    let bus = connect(&nats).await;
    let waiting = async || {
        let status = bus.stream_status(DEVICE_MESSAGES_STREAM).await;
        status.expect("there").messages
    };
    let delete = registry::DeleteDeviceRequest {
        name: "devices/d".to_owned(),
        ..Default::default()
    };
    service.registry().delete_device(delete).await.unwrap();
    wait_for("the end of the queue", SOON, async || {
        (waiting().await == 0).then_some(())
    })
    .await;
    service.create("d").await;
    assert!(listed(&service).await.is_empty());
    let short = proto::SendMessageRequest {
        time_to_live: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..message("short")
    };
    send(&service, short).await.expect("sent");
    send(&service, message("long")).await.expect("sent");
    wait_for("the end of a message", SOON, async || {
        (waiting().await == 1).then_some(())
    })
    .await;
    assert_eq!(listed(&service).await, ["long"]);
    service.stop().await;
}

#[tokio::test]
async fn when_the_queues_are_half_full_a_device_has_its_share() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = twin_store::Config {
        device_messages_stream_bytes: service_kit::units::ByteSize::mib(1),
        ..crate::service::config(&nats, folder.path())
    };
    let service = Service::start_with(config).await;
    service.create("d").await;
    service.create("e").await;
    let large = |device: &str| proto::SendMessageRequest {
        name: format!("devices/{device}"),
        ..message(&"x".repeat(60_000))
    };
    let large = |device: &str| proto::SendMessageRequest {
        message_id: String::new(),
        ..large(device)
    };
    let identified = || proto::SendMessageRequest {
        request_id: "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11".to_owned(),
        ..large("d")
    };
    // Up to the half it may take what it likes.
    for _ in 0..8 {
        send(&service, large("d")).await.expect("sent");
    }
    let last = send(&service, identified()).await.expect("sent");
    let refused = refusal(send(&service, large("d")).await);
    assert_eq!(
        (refused.kind(), refused.reason()),
        (Kind::ResourceExhausted, "QUEUE_TOO_LARGE")
    );
    assert_eq!(refused.iot_hub().number(), 403_004);
    // Whoever had no answer to a message that lies there has one now.
    let again = send(&service, identified()).await.expect("no further one");
    assert_eq!(again.sequence_number, last.sequence_number);
    // 128 KiB of another.
    for _ in 0..2 {
        send(&service, large("e")).await.expect("its share");
    }
    let refused = refusal(send(&service, large("e")).await);
    assert_eq!(refused.reason(), "QUEUE_TOO_LARGE");
    let name = "devices/d".to_owned();
    let purge = proto::PurgeMessagesRequest {
        name,
        ..Default::default()
    };
    service
        .commands()
        .purge_messages(purge)
        .await
        .expect("purged");
    send(&service, large("e"))
        .await
        .expect("there is room again");
    service.stop().await;
}
