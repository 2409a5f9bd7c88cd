//! Jobs: updates of many twins with a name of the caller's own, which begin at a time and fail after
//! one.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use jiff::{SignedDuration, Timestamp};
use service_kit::clock::SystemClock;
use testkit::{NatsServer, wait_for};
use wire::time::to_wire;
use wire::twin::v1 as proto;

use crate::bulk::{Client, create, ended, get, patch, results, start};
use crate::service::{SOON, Service, refused_with};

fn now() -> Timestamp {
    SystemClock::shared().now()
}

fn job(id: &str, from_now: SignedDuration) -> proto::StartBulkUpdateRequest {
    proto::StartBulkUpdateRequest {
        job: Some(proto::Job {
            job_id: id.to_owned(),
            start_time: Some(to_wire(now() + from_now)),
            max_execution_time: None,
        }),
        ..patch("*", r#"{"job":1}"#)
    }
}

async fn listed(mut client: Client, page_size: i32) -> Vec<String> {
    let mut request = proto::ListOperationsRequest {
        page_size,
        jobs_only: true,
        ..Default::default()
    };
    let mut all = Vec::new();
    loop {
        let page = client.list_operations(request.clone()).await;
        let page = page.expect("a page").into_inner();
        all.extend(page.operations.into_iter().map(|operation| operation.name));
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_job_waits_for_its_time_also_over_a_restart_and_writes_every_twin_once() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let names = create(&service, 20).await;
    let soon = SignedDuration::from_secs(3);
    let begun = start(service.bulk(), job("j.1", soon)).await;
    assert_eq!(begun.name, "operations/job.j.1");
    assert!(!begun.begun, "{begun:?}");
    let due = now() + soon;
    let again = service.bulk().start_bulk_update(job("j.1", soon)).await;
    refused_with(again, "JOB_EXISTS");
    service.stop().await;

    let service = Service::start(&nats, &folder).await;
    let kept = get(service.bulk(), &begun.name).await;
    if now() < due {
        assert!(!kept.begun && kept.job == begun.job, "{kept:?}");
    }
    let done = ended(service.bulk(), &begun.name).await;
    assert_eq!(done.state(), proto::OperationState::Succeeded);
    assert_eq!((done.total, done.succeeded), (20, 20));
    let end = done.end_time.unwrap();
    assert!(Timestamp::new(end.seconds, end.nanos).unwrap() >= due - SignedDuration::from_secs(1));
    assert_eq!(service.twin(&names[7]).await.desired_version, 2);
    let told = results(service.bulk(), &begun.name, proto::Outcome::Succeeded).await;
    assert_eq!(told.len(), 20);
    service.stop().await;
}

#[tokio::test]
async fn jobs_are_listed_apart_cancelled_before_their_time_and_fail_after_it() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let names = create(&service, 30).await;
    let other = start(service.bulk(), patch("*", r#"{"x":1}"#)).await;
    let far = SignedDuration::from_hours(50);
    for id in ["a", "b", "c"] {
        start(service.bulk(), job(id, far)).await;
    }
    let jobs = ["c", "b", "a"].map(|id| format!("operations/job.{id}"));
    assert_eq!(listed(service.bulk(), 2).await, jobs);
    assert_eq!(listed(service.bulk(), 100).await, jobs);
    let all = proto::ListOperationsRequest::default();
    let all = service.bulk().list_operations(all).await.unwrap();
    let all: Vec<_> = all.into_inner().operations;
    assert_eq!(all.last().unwrap().name, other.name);

    let cancel = proto::CancelOperationRequest {
        name: jobs[0].clone(),
        ..Default::default()
    };
    let cancelled = service.bulk().cancel_operation(cancel).await.unwrap();
    assert_eq!(
        cancelled.into_inner().state(),
        proto::OperationState::Cancelled
    );

    // One twin a second, and one second for all of them.
    let mut slow = job("slow", SignedDuration::ZERO);
    slow.rate_per_second = 1;
    slow.job.as_mut().unwrap().max_execution_time = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let slow = start(service.bulk(), slow).await;
    let failed = wait_for("the job's end", SOON, async || {
        let found = get(service.bulk(), &slow.name).await;
        (found.state() != proto::OperationState::Running).then_some(found)
    })
    .await;
    assert_eq!(failed.state(), proto::OperationState::Failed);
    assert!(
        failed.error.contains("maximum execution time"),
        "{failed:?}"
    );
    assert!(failed.succeeded < 30, "{failed:?}");
    assert!(service.twin(&names[29]).await.desired_version <= 2);
    service.stop().await;
}

#[tokio::test]
async fn what_no_job_can_be_is_refused_and_there_are_a_hundred_at_most() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let far = SignedDuration::from_hours(50);
    for (request, field) in [
        (job("", far), "job.job_id"),
        (job("a/b", far), "job.job_id"),
        (
            job("a", SignedDuration::from_hours(400 * 24)),
            "job.start_time",
        ),
    ] {
        let refused = service.bulk().start_bulk_update(request).await;
        assert_eq!(refused_with(refused, "INVALID_FIELD"), [field]);
    }
    let mut long = job("a", far);
    long.job.as_mut().unwrap().max_execution_time = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    let refused = service.bulk().start_bulk_update(long).await;
    let fields = refused_with(refused, "INVALID_FIELD");
    assert_eq!(fields, ["job.max_execution_time"]);
    for number in 0..100 {
        start(service.bulk(), job(&format!("j-{number}"), far)).await;
    }
    let refused = service.bulk().start_bulk_update(job("one-more", far)).await;
    refused_with(refused, "TOO_MANY_JOBS");
    // Jobs that wait take no place from what is to begin at once.
    let other = start(service.bulk(), patch("*", r#"{"x":1}"#)).await;
    let other = ended(service.bulk(), &other.name).await;
    assert_eq!(other.state(), proto::OperationState::Succeeded);
    service.stop().await;
}
