//! The audit log by time and by what it says, and verifying it a piece at a time.

use std::collections::BTreeMap;

use testkit::NatsServer;
use wire::registry::v1 as proto;

use crate::damage::tamper;
use crate::service::{Service, refused_with};

async fn list(
    service: &Service,
    request: proto::ListAuditEntriesRequest,
) -> Vec<proto::AuditEntry> {
    let mut request = proto::ListAuditEntriesRequest {
        page_size: 2,
        ..request
    };
    let mut all = Vec::new();
    loop {
        let page = service.audit().list_audit_entries(request.clone()).await;
        let page = page.expect("a page").into_inner();
        all.extend(page.entries);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

fn resources(entries: &[proto::AuditEntry]) -> Vec<&str> {
    entries.iter().map(|one| one.resource.as_str()).collect()
}

#[tokio::test]
async fn the_newest_come_first_and_filters_hold_in_every_order() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b", "c", "d", "e"] {
        service.create(id).await;
        service.desire(&format!("devices/{id}"), r#"{"x":1}"#).await;
    }
    let newest = proto::ListAuditEntriesRequest {
        order: proto::AuditOrder::NewestFirst.into(),
        ..Default::default()
    };
    let all = list(&service, newest.clone()).await;
    let mut in_chains = list(&service, proto::ListAuditEntriesRequest::default()).await;
    assert_eq!(all.len(), in_chains.len());
    let time = |entry: &proto::AuditEntry| {
        let at = entry.time.unwrap_or_default();
        (at.seconds, at.nanos, entry.partition, entry.sequence)
    };
    in_chains.sort_by_key(time);
    let oldest = proto::ListAuditEntriesRequest {
        order: proto::AuditOrder::OldestFirst.into(),
        ..Default::default()
    };
    assert_eq!(list(&service, oldest).await, in_chains);
    in_chains.reverse();
    assert_eq!(all, in_chains);

    let patches = proto::ListAuditEntriesRequest {
        action: "twin.patch".to_owned(),
        actor: "operator:admin".to_owned(),
        ..newest.clone()
    };
    let patches = list(&service, patches).await;
    let named = [
        "devices/e",
        "devices/d",
        "devices/c",
        "devices/b",
        "devices/a",
    ];
    assert_eq!(resources(&patches), named);
    let within = proto::ListAuditEntriesRequest {
        action: "twin.patch".to_owned(),
        start_time: patches[3].time,
        end_time: patches[1].time,
        ..newest.clone()
    };
    let within = list(&service, within).await;
    assert_eq!(resources(&within), ["devices/c", "devices/b"]);
    let of_d = proto::ListAuditEntriesRequest {
        resource: "devices/d".to_owned(),
        ..newest.clone()
    };
    let of_d = list(&service, of_d).await;
    assert!(of_d.len() > 1, "{of_d:?}");
    assert!(
        resources(&of_d)
            .iter()
            .all(|one| one.starts_with("devices/d"))
    );

    // One chain, behind a place.
    let (partition, sequence) = (patches[0].partition, patches[0].sequence);
    let behind = proto::ListAuditEntriesRequest {
        partition: Some(partition),
        after_sequence: sequence - 1,
        ..Default::default()
    };
    let behind = list(&service, behind).await;
    assert_eq!(behind[0], patches[0]);
    assert!(behind.iter().all(|one| one.partition == partition));

    for (request, field) in [
        (
            proto::ListAuditEntriesRequest {
                partition: Some(0),
                ..newest.clone()
            },
            "partition",
        ),
        (
            proto::ListAuditEntriesRequest {
                after_sequence: 3,
                ..Default::default()
            },
            "after_sequence",
        ),
        (
            proto::ListAuditEntriesRequest {
                order: 9,
                ..Default::default()
            },
            "order",
        ),
        (
            proto::ListAuditEntriesRequest {
                page_token: "x".to_owned(),
                ..newest.clone()
            },
            "page_token",
        ),
    ] {
        let refused = service.audit().list_audit_entries(request).await;
        assert_eq!(refused_with(refused, "INVALID_FIELD"), [field]);
    }
    // A token goes on with its own list alone.
    let page = proto::ListAuditEntriesRequest {
        page_size: 1,
        ..newest.clone()
    };
    let page = service.audit().list_audit_entries(page).await;
    let other = proto::ListAuditEntriesRequest {
        page_token: page.unwrap().into_inner().next_page_token,
        action: "twin.patch".to_owned(),
        ..newest
    };
    let refused = service.audit().list_audit_entries(other).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["page_token"]);
    service.stop().await;
}

/// Verifies so many entries at a time; answers the chains, and how many calls it took.
async fn verify(
    service: &Service,
    mut after: BTreeMap<u32, proto::AuditPlace>,
    max_entries: i32,
) -> (BTreeMap<u32, proto::AuditChain>, u64, u32) {
    let (mut chains, mut entries, mut calls) = (BTreeMap::new(), 0, 0);
    loop {
        let request = proto::VerifyAuditRequest {
            after: after.values().cloned().collect(),
            max_entries,
        };
        let answer = service.audit().verify_audit(request).await;
        let answer = answer.expect("a verdict").into_inner();
        calls += 1;
        let walked: u64 = answer.chains.iter().map(|chain| chain.entries).sum();
        assert!(walked <= u64::try_from(max_entries).expect("positive"));
        entries += walked;
        for chain in answer.chains {
            let place = proto::AuditPlace {
                partition: chain.partition,
                sequence: chain.reached_sequence,
                hash: chain.reached_hash.clone(),
            };
            after.insert(chain.partition, place);
            chains.insert(chain.partition, chain);
        }
        if !answer.more {
            return (chains, entries, calls);
        }
    }
}

#[tokio::test]
async fn a_log_is_verified_a_piece_at_a_time_and_again_from_where_it_was() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b", "c", "d", "e"] {
        service.create(id).await;
        service.desire(&format!("devices/{id}"), r#"{"x":1}"#).await;
    }
    let (chains, entries, calls) = verify(&service, BTreeMap::new(), 2).await;
    let heads: u64 = chains.values().map(|chain| chain.head_sequence).sum();
    assert_eq!(entries, heads);
    assert!(u64::from(calls) >= heads / 2, "{calls} calls for {heads}");
    assert!(
        chains.values().all(|chain| chain.broken_at == 0),
        "{chains:?}"
    );

    // Only what came since is walked.
    let places = chains.values().map(|chain| proto::AuditPlace {
        partition: chain.partition,
        sequence: chain.reached_sequence,
        hash: chain.reached_hash.clone(),
    });
    let places: BTreeMap<_, _> = places.map(|place| (place.partition, place)).collect();
    service.desire("devices/a", r#"{"x":2}"#).await;
    let (chains, entries, _) = verify(&service, places.clone(), 1000).await;
    assert_eq!(entries, 1);
    assert!(
        chains.values().all(|chain| chain.broken_at == 0),
        "{chains:?}"
    );

    // A log that was made anew, or cut off, is not the one that was walked.
    let (partition, place) = places.first_key_value().unwrap();
    let mut other = places.clone();
    other.get_mut(partition).unwrap().hash = "ab".repeat(32);
    let (chains, ..) = verify(&service, other, 1000).await;
    assert!(chains[partition].broken_at > 0, "{chains:?}");
    let mut cut = places.clone();
    cut.get_mut(partition).unwrap().sequence += 9;
    let (chains, ..) = verify(&service, cut, 1000).await;
    assert!(chains[partition].problem.contains("cut off"), "{chains:?}");

    // A change behind the place is found by a walk from the beginning alone; one after it by both.
    let changed = format!(
        "UPDATE audit SET resource = 'devices/z' WHERE partition = {partition} AND sequence = {}",
        place.sequence
    );
    tamper(folder.path(), &changed);
    let (chains, ..) = verify(&service, BTreeMap::new(), 3).await;
    assert_eq!(chains[partition].broken_at, place.sequence);

    for (request, field) in [
        (
            proto::VerifyAuditRequest {
                max_entries: 100_001,
                ..Default::default()
            },
            "max_entries",
        ),
        (
            proto::VerifyAuditRequest {
                after: vec![proto::AuditPlace {
                    partition: 999,
                    ..place.clone()
                }],
                ..Default::default()
            },
            "after[0].partition",
        ),
        (
            proto::VerifyAuditRequest {
                after: vec![place.clone(), place.clone()],
                ..Default::default()
            },
            "after[1].partition",
        ),
        (
            proto::VerifyAuditRequest {
                after: vec![proto::AuditPlace {
                    hash: "xyz".to_owned(),
                    ..place.clone()
                }],
                ..Default::default()
            },
            "after[0].hash",
        ),
    ] {
        let refused = service.audit().verify_audit(request).await;
        assert_eq!(refused_with(refused, "INVALID_FIELD"), [field]);
    }
    service.stop().await;
}
