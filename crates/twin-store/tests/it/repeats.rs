//! Every call with a `request_id`: repeated, it is answered the same and writes nothing more.

use std::collections::BTreeSet;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use prost::Message;
use testkit::{NatsServer, wait_for};
use tonic::{Response, Status};
use wire::registry::v1 as registry;
use wire::twin::v1 as twins;

use crate::service::{SOON, Service, refused_with};

/// Asks with an id, in one of two forms that say something else, and answers bytes.
type Ask =
    for<'s> fn(&'s Service, String, bool) -> BoxFuture<'s, Result<Response<Vec<u8>>, Status>>;

fn bytes<T: Message>(answer: Result<Response<T>, Status>) -> Result<Response<Vec<u8>>, Status> {
    answer.map(|answer| Response::new(answer.get_ref().encode_to_vec()))
}

/// A method under its request's name. `$other` is whether the call says something else.
macro_rules! asks {
    ($($message:literal: $door:ident.$method:ident($service:ident, $other:ident) $request:expr;)*) => {
        [$((
            $message,
            (|$service, request_id, $other| {
                async move {
                    let mut request = $request;
                    request.request_id = request_id;
                    bytes($service.$door().$method(request).await)
                }
                .boxed()
            }) as Ask,
        )),*]
    };
}

fn text(other: bool) -> String {
    if other { "other" } else { "one" }.to_owned()
}

fn json(other: bool) -> String {
    format!(r#"{{"n":"{}"}}"#, text(other))
}

/// In an order in which each finds what it needs.
fn asks() -> Vec<(&'static str, Ask)> {
    asks! {
        "CreateDeviceRequest": registry.create_device(service, other) registry::CreateDeviceRequest {
            device_id: "d".to_owned(),
            status_reason: text(other),
            ..registry::CreateDeviceRequest::default()
        };
        "UpdateDeviceRequest": registry.update_device(service, other) registry::UpdateDeviceRequest {
            name: "devices/d".to_owned(),
            iot_edge: Some(!other),
            ..registry::UpdateDeviceRequest::default()
        };
        "CreateModuleRequest": registry.create_module(service, other) registry::CreateModuleRequest {
            parent: "devices/d".to_owned(),
            module_id: "m".to_owned(),
            managed_by: text(other),
            ..registry::CreateModuleRequest::default()
        };
        "UpdateModuleRequest": registry.update_module(service, other) registry::UpdateModuleRequest {
            name: "devices/d/modules/m".to_owned(),
            managed_by: Some(text(other)),
            ..registry::UpdateModuleRequest::default()
        };
        "RotateKeysRequest": registry.rotate_keys(service, other) registry::RotateKeysRequest {
            name: "devices/d".to_owned(),
            kind: if other {
                registry::KeyKind::Primary.into()
            } else {
                registry::KeyKind::Secondary.into()
            },
            ..registry::RotateKeysRequest::default()
        };
        "CreateEnrollmentRequest": enrollments.create_enrollment(service, other) registry::CreateEnrollmentRequest {
            enrollment: Some(registry::Enrollment {
                name: "enrollments/sn-1".to_owned(),
                tags_json: json(other),
                ..registry::Enrollment::default()
            }),
            ..registry::CreateEnrollmentRequest::default()
        };
        "UpdateEnrollmentRequest": enrollments.update_enrollment(service, other) registry::UpdateEnrollmentRequest {
            enrollment: Some(registry::Enrollment {
                name: "enrollments/sn-1".to_owned(),
                desired_json: json(other),
                ..registry::Enrollment::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["desired_json".to_owned()],
            }),
            ..registry::UpdateEnrollmentRequest::default()
        };
        "DeleteEnrollmentRequest": enrollments.delete_enrollment(service, other) registry::DeleteEnrollmentRequest {
            name: "enrollments/sn-1".to_owned(),
            etag: if other { "o".to_owned() } else { String::new() },
            ..registry::DeleteEnrollmentRequest::default()
        };
        "CreateEnrollmentTokenRequest": registry.create_enrollment_token(service, other)
            registry::CreateEnrollmentTokenRequest {
                max_uses: if other { 2 } else { 1 },
                ..registry::CreateEnrollmentTokenRequest::default()
            };
        "PatchTwinRequest": twins.patch_twin(service, other) twins::PatchTwinRequest {
            name: "devices/d".to_owned(),
            tags_patch_json: json(other),
            ..twins::PatchTwinRequest::default()
        };
        "ReplaceTwinRequest": twins.replace_twin(service, other) twins::ReplaceTwinRequest {
            name: "devices/d".to_owned(),
            desired_json: json(other),
            ..twins::ReplaceTwinRequest::default()
        };
        "RevertTwinRequest": history.revert_twin(service, other) twins::RevertTwinRequest {
            name: "devices/d".to_owned(),
            moment: Some(twins::Moment {
                at: Some(twins::moment::At::Revision(if other { 2 } else { 1 })),
            }),
            ..twins::RevertTwinRequest::default()
        };
        "StartBulkUpdateRequest": bulk.start_bulk_update(service, other) twins::StartBulkUpdateRequest {
            bulk_update: Some(twins::BulkUpdate {
                source: "devices".to_owned(),
                condition: "*".to_owned(),
                tags_patch_json: json(other),
                ..twins::BulkUpdate::default()
            }),
            ..twins::StartBulkUpdateRequest::default()
        };
        "UndoOperationRequest": bulk.undo_operation(service, other) {
            let list = twins::ListOperationsRequest::default();
            let all = service.bulk().list_operations(list).await?.into_inner();
            let first = all.operations.last().expect("the bulk update");
            twins::UndoOperationRequest {
                name: first.name.clone(),
                operator: if other { "somebody".to_owned() } else { String::new() },
                ..twins::UndoOperationRequest::default()
            }
        };
        "CancelOperationRequest": bulk.cancel_operation(service, other) {
            // One that runs until it is cancelled: its time has not come.
            let start = twins::StartBulkUpdateRequest {
                bulk_update: Some(twins::BulkUpdate {
                    source: "devices".to_owned(),
                    condition: "*".to_owned(),
                    tags_patch_json: json(false),
                    ..twins::BulkUpdate::default()
                }),
                job: Some(twins::Job {
                    job_id: "later".to_owned(),
                    start_time: Some(in_an_hour(service).await),
                    ..twins::Job::default()
                }),
                ..twins::StartBulkUpdateRequest::default()
            };
            match service.bulk().start_bulk_update(start).await {
                Ok(_) => {}
                Err(exists) => assert_eq!(exists.code(), tonic::Code::AlreadyExists),
            }
            twins::CancelOperationRequest {
                name: format!("operations/job.{}", if other { "other" } else { "later" }),
                ..twins::CancelOperationRequest::default()
            }
        };
        "PatchReportedRequest": device_twins.patch_reported(service, other)
            twins::PatchReportedRequest {
                name: "devices/d".to_owned(),
                patch_json: json(other),
                ..twins::PatchReportedRequest::default()
            };
        "RecordAuditEntryRequest": audit.record_audit_entry(service, other)
            registry::RecordAuditEntryRequest {
                actor: "operator:admin".to_owned(),
                action: "policy.create".to_owned(),
                resource: format!("policies/{}", text(other)),
                change_time: Some(prost_types::Timestamp::default()),
                detail_json: "{}".to_owned(),
                ..registry::RecordAuditEntryRequest::default()
            };
        "DeleteModuleRequest": registry.delete_module(service, other) registry::DeleteModuleRequest {
            name: "devices/d/modules/m".to_owned(),
            etag: if other { "*".to_owned() } else { String::new() },
            ..registry::DeleteModuleRequest::default()
        };
        "EnsureSecurityModulesRequest": registry.ensure_security_modules(service, other)
            registry::EnsureSecurityModulesRequest {
                page_size: if other { 2 } else { 1 },
                ..registry::EnsureSecurityModulesRequest::default()
            };
        "ResealSecretsRequest": registry.reseal_secrets(service, other) registry::ResealSecretsRequest {
            page_size: if other { 2 } else { 1 },
            ..registry::ResealSecretsRequest::default()
        };
        "DeleteDeviceRequest": registry.delete_device(service, other) registry::DeleteDeviceRequest {
            name: "devices/d".to_owned(),
            etag: if other { "*".to_owned() } else { String::new() },
            ..registry::DeleteDeviceRequest::default()
        };
    }
    .into()
}

/// Calls that find nothing to do here; where they do, is tried in `fleet`.
const IDLE: [&str; 1] = ["ResealSecretsRequest"];

/// By the clock of the service.
async fn in_an_hour(service: &Service) -> prost_types::Timestamp {
    let device = service.device("d").await;
    let now = device.create_time.expect("it was created");
    prost_types::Timestamp {
        seconds: now.seconds + 3600,
        nanos: 0,
    }
}

/// Waits until no operation runs, and counts the administrative changes and what a device reported.
async fn changes(service: &Service) -> (u64, u64) {
    wait_for("every operation to end", SOON, async || {
        let list = twins::ListOperationsRequest::default();
        let all = service.bulk().list_operations(list).await.expect("listed");
        let operations = all.into_inner().operations;
        operations
            .iter()
            .all(|operation| operation.end_time.is_some())
            .then_some(())
    })
    .await;
    let verify = registry::VerifyAuditRequest::default();
    let verified = service.audit().verify_audit(verify).await.expect("read");
    let chains = verified.into_inner().chains;
    let entries = chains.iter().map(|chain| chain.entries).sum();
    let get = twins::GetTwinRequest {
        name: "devices/d".to_owned(),
        read_mask: None,
    };
    // Before it is created and after it is removed there is none.
    let twin = service.twins().get_twin(get).await;
    let reported = twin.map_or(0, |twin| twin.get_ref().reported_version);
    (entries, reported)
}

#[tokio::test]
async fn a_repeated_call_is_answered_the_same_and_writes_once_whatever_it_is() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for (number, (name, ask)) in asks().into_iter().enumerate() {
        let id = format!("6f2c3c1e-8a54-4c69-9d0b-0000000000{number:02}");
        let before = changes(&service).await;
        let first = ask(&service, id.clone(), false).await;
        let first = first.unwrap_or_else(|status| panic!("{name}: {status}"));
        let after = changes(&service).await;
        assert_eq!(after != before, !IDLE.contains(&name), "{name} is a change");
        let again = ask(&service, id.clone(), false).await;
        let again = again.unwrap_or_else(|status| panic!("{name}: {status}"));
        assert_eq!(again.get_ref(), first.get_ref(), "{name}");
        assert_eq!(changes(&service).await, after, "{name} writes once");
        refused_with(ask(&service, id, true).await, "REQUEST_ID_REUSED");
        let refused = ask(&service, "7".to_owned(), false).await;
        assert_eq!(
            refused_with(refused, "INVALID_FIELD"),
            ["request_id"],
            "{name}"
        );
        assert_eq!(changes(&service).await, after, "{name} was refused");
    }
    service.stop().await;
}

#[test]
fn every_request_that_has_an_id_is_tried() {
    let all = prost_types::FileDescriptorSet::decode(wire::FILE_DESCRIPTOR_SET).unwrap();
    let served = ["twinward.registry.v1", "twinward.twin.v1"];
    let files = all
        .file
        .iter()
        .filter(|file| served.contains(&file.package()));
    let messages = files.flat_map(|file| &file.message_type);
    let with_id: BTreeSet<_> = messages
        .filter(|message| {
            message
                .field
                .iter()
                .any(|field| field.name() == "request_id")
        })
        .map(|message| message.name().to_owned())
        .collect();
    let tried: BTreeSet<_> = asks().iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(tried, with_id);
}
