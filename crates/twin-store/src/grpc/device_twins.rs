//! `DeviceTwinService`: what a device does with its own twin, by way of ingestion.

use posture::configuration::{AckOutcome, Acknowledgement};
use tonic::{Request, Response, Status};
use twin::{Version, Writer};
use wire::InvalidField;
use wire::time::optional;
use wire::twin::v1 as proto;
use wire::twin::v1::device_twin_service_server::DeviceTwinService;

use super::caller::Caller;
use super::repeatable::Repeatable;
use super::{Api, identity, object, refuse};
use crate::apply::pushes;
use crate::apply::twins::{self, Report};
use crate::error::Error;
use crate::store::Selection;

impl Api {
    async fn desired(
        &self,
        request: proto::GetDesiredRequest,
    ) -> Result<proto::DesiredSection, Error> {
        let key = identity("name", &request.name)?;
        let record = self
            .store
            .get(key.clone())
            .await?
            .ok_or_else(|| Error::NotFound(key.clone()))?;
        let (document_json, changes) = match request.changes_after_version {
            0 => (record.twin.desired.document.clone(), Vec::new()),
            after => (String::new(), self.desired_changes(&record, after).await?),
        };
        let configuration = &record.posture.configuration;
        let reported = request.include_reported.then_some(&record.twin.reported);
        Ok(proto::DesiredSection {
            document_json,
            version: record.twin.desired.version.get(),
            reported_json: reported
                .map(|section| section.document.clone())
                .unwrap_or_default(),
            reported_version: reported.map_or(0, |section| section.version.get()),
            trace_parent: configuration.trace_parent.clone().unwrap_or_default(),
            changes,
        })
    }

    async fn report(
        &self,
        caller: &Caller,
        request: proto::PatchReportedRequest,
    ) -> Result<proto::PatchReportedResponse, Error> {
        let key = identity("name", &request.name)?;
        let patch = object("patch_json", &request.patch_json)?
            .ok_or_else(|| InvalidField::new("patch_json", "must be a JSON object"))?;
        let expected = match request.expected_version {
            0 => None,
            number => Some(
                Version::new(number)
                    .map_err(|error| InvalidField::new("expected_version", error))?,
            ),
        };
        let told = request.told_desired_version;
        let id = &request.request_id;
        let repeatable = Repeatable::read("PatchReported", caller, id, &request)?;
        let cause = caller.cause_as(Writer::Device, id);
        let selection = Selection::One(key.clone());
        self.decide_once(repeatable, selection, move |overlay, now| {
            let report = Report {
                patch: &patch,
                expected,
                told,
            };
            let version = twins::patch_reported(overlay, &key, &report, now, &cause)?;
            Ok(proto::PatchReportedResponse {
                version: version.get(),
            })
        })
        .await
    }

    async fn acknowledge(
        &self,
        caller: &Caller,
        request: proto::AcknowledgeDesiredRequest,
    ) -> Result<(), Error> {
        let key = identity("name", &request.name)?;
        let pushed_at = optional("push_time", request.push_time)?;
        let applied_at = optional("apply_time", request.apply_time)?;
        let outcome = match (request.applied, request.reverted) {
            (true, true) => {
                let problem =
                    "must not be set together with applied: a version is either in force or not";
                return Err(InvalidField::new("reverted", problem).into());
            }
            (true, false) => AckOutcome::Applied,
            (false, true) => AckOutcome::Reverted {
                reason: request.reason,
                running: Some(request.running_version).filter(|version| *version > 0),
            },
            (false, false) => AckOutcome::Rejected {
                reason: request.reason,
                invalid_fields: request.invalid_fields,
            },
        };
        let cause = caller.cause_as(Writer::Device, "");
        let metrics = self.metrics.clone();
        self.engine
            .decide(Selection::One(key.clone()), move |overlay, now| {
                let answer = Acknowledgement {
                    version: request.version,
                    outcome,
                    at: now,
                    pushed_at,
                    applied_at,
                };
                let timeline = pushes::acknowledge(overlay, &key, &answer, &cause)?;
                if let Some(took) = timeline.and_then(|timeline| {
                    let span = timeline.applied_at?.duration_since(timeline.observed_at?);
                    std::time::Duration::try_from(span).ok()
                }) {
                    metrics.loop_closed(took);
                }
                Ok(())
            })
            .await
    }
}

#[tonic::async_trait]
impl DeviceTwinService for Api {
    async fn get_desired(
        &self,
        request: Request<proto::GetDesiredRequest>,
    ) -> Result<Response<proto::DesiredSection>, Status> {
        self.desired(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn patch_reported(
        &self,
        request: Request<proto::PatchReportedRequest>,
    ) -> Result<Response<proto::PatchReportedResponse>, Status> {
        let caller = Caller::of(&request);
        self.report(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn acknowledge_desired(
        &self,
        request: Request<proto::AcknowledgeDesiredRequest>,
    ) -> Result<Response<proto::AcknowledgeDesiredResponse>, Status> {
        let caller = Caller::of(&request);
        self.acknowledge(&caller, request.into_inner())
            .await
            .map_err(refuse)?;
        Ok(Response::new(proto::AcknowledgeDesiredResponse {}))
    }
}
