//! Rows that were damaged under a running service: each is told of where somebody asks for it, and
//! nothing beside it is stopped.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use std::path::Path;

use testkit::NatsServer;
use wire::registry::v1 as registry;
use wire::twin::v1 as proto;
use wire::twin::v1::moment::At;

use crate::service::{Service, partition, refused_with};

const NAME: &str = "devices/d";

/// Changes a row behind the service's back.
pub(crate) fn tamper(folder: &Path, sql: &str) {
    let raw = rusqlite::Connection::open(folder.join("twins.db")).expect("it opens");
    assert_eq!(raw.execute(sql, []).expect("it runs"), 1, "{sql}");
}

async fn then(
    service: &Service,
    revision: u64,
) -> Result<tonic::Response<proto::TwinRevisionSnapshot>, tonic::Status> {
    let request = proto::GetTwinRevisionRequest {
        name: NAME.to_owned(),
        moment: Some(proto::Moment {
            at: Some(At::Revision(revision)),
        }),
        ..Default::default()
    };
    service.history().get_twin_revision(request).await
}

#[tokio::test]
async fn a_damaged_row_is_told_of_in_its_place_and_stops_nothing() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let mut written = Vec::new();
    for number in 0..3 {
        let twin = service.desire(NAME, &format!(r#"{{"n":{number}}}"#)).await;
        written.push(twin.revision);
    }
    let repeated = proto::PatchTwinRequest {
        name: NAME.to_owned(),
        desired_patch_json: r#"{"once":1}"#.to_owned(),
        request_id: "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11".to_owned(),
        ..proto::PatchTwinRequest::default()
    };
    let once = service.twins().patch_twin(repeated.clone()).await.unwrap();
    let middle = written[1];
    let chain = partition("d").get();
    for sql in [
        format!(
            "UPDATE history SET cause = CAST(x'ff' AS TEXT)
             WHERE device_id = 'd' AND module_id = '' AND revision = {middle}"
        ),
        format!(
            "UPDATE audit SET actor = CAST(x'ff' AS TEXT)
             WHERE partition = {chain} AND sequence = 2"
        ),
        "UPDATE requests SET fingerprint = x'00'".to_owned(),
    ] {
        tamper(folder.path(), &sql);
    }

    let request = proto::ListTwinRevisionsRequest {
        name: NAME.to_owned(),
        ..Default::default()
    };
    let listed = service.history().list_twin_revisions(request).await;
    let listed = listed.expect("the others can be read").into_inner();
    let holes: Vec<_> = listed
        .revisions
        .iter()
        .filter(|one| !one.problem.is_empty())
        .map(|one| one.revision)
        .collect();
    assert_eq!(holes, [middle]);
    assert_eq!(listed.revisions.len(), 5, "created, and changed four times");
    // The way back ends there, and not before.
    let later = then(&service, written[2]).await.expect("it is newer");
    let later = later.into_inner().twin.unwrap();
    assert!(later.desired_json.contains(r#""n":2"#), "{later:?}");
    refused_with(then(&service, written[0]).await, "RECORD_DAMAGED");

    let request = registry::ListAuditEntriesRequest::default();
    let entries = service.audit().list_audit_entries(request).await;
    let entries = entries
        .expect("the others can be read")
        .into_inner()
        .entries;
    let holes: Vec<_> = entries
        .iter()
        .filter(|one| !one.problem.is_empty())
        .map(|one| (one.partition, one.sequence))
        .collect();
    assert_eq!(holes, [(chain.into(), 2)]);
    assert_eq!(entries.len(), 6);
    let verified = service
        .audit()
        .verify_audit(registry::VerifyAuditRequest::default())
        .await;
    let verified = verified.expect("a verdict").into_inner();
    assert!(!verified.whole);
    let broken: Vec<_> = verified.chains.iter().map(|one| one.broken_at).collect();
    assert_eq!(broken, [2], "{verified:?}");

    // What was answered then nobody knows, so nothing is done again; everything else goes on.
    for _ in 0..2 {
        let again = service.twins().patch_twin(repeated.clone()).await;
        refused_with(again, "RECORD_DAMAGED");
    }
    let next = service.desire(NAME, r#"{"n":9}"#).await;
    assert!(next.revision > once.into_inner().revision);
    service.stop().await;
}
