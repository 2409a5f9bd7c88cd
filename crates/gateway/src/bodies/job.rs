//! Jobs as IoT Hub shows and takes them (spec iot-hub-twins §7.7). A job is an operation of
//! twin-store with a name of its caller's choice.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use wire::twin::v1::{BulkUpdate, Job, Operation, OperationResult, OperationState, Outcome};

use super::twin::{Section, TwinBody};
use super::{NEVER, time};
use crate::error::ApiError;

/// The type of a job that patches twins.
pub(crate) const UPDATE_TWIN: &str = "scheduleUpdateTwin";
/// The type of a job that calls direct methods.
pub(crate) const DEVICE_METHOD: &str = "scheduleDeviceMethod";

/// What a PUT may hold. Everything else is read and ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobBody<'a> {
    job_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Read twice: for its etag, and as a patch.
    #[serde(borrow)]
    update_twin: Option<&'a RawValue>,
    query_condition: Option<String>,
    start_time: Option<String>,
    max_execution_time_in_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
struct Tag {
    #[serde(default)]
    etag: Option<String>,
}

/// A job that patches twins, as twin-store wants it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub update: BulkUpdate,
    pub job: Job,
}

impl JobBody<'_> {
    /// Reads what is asked for.
    pub(crate) fn into_wire(self, id: &str) -> Result<Asked, ApiError> {
        if let Some(named) = self.job_id.filter(|named| named != id) {
            return Err(ApiError::argument(format!(
                "the body names the job `{named}`, the path `{id}`"
            )));
        }
        match self.kind.as_deref() {
            Some(kind) if kind.eq_ignore_ascii_case(UPDATE_TWIN) => {}
            Some(kind) if kind.eq_ignore_ascii_case(DEVICE_METHOD) => {
                return Err(ApiError::new(
                    400_003,
                    "InvalidOperation",
                    format!("jobs of the type {DEVICE_METHOD} are not served here"),
                ));
            }
            other => {
                return Err(ApiError::argument(format!(
                    "type is `{}`; want {UPDATE_TWIN}",
                    other.unwrap_or_default()
                )));
            }
        }
        let twin = self
            .update_twin
            .filter(|twin| twin.get() != "null")
            .ok_or_else(|| ApiError::argument("updateTwin is missing; want a patch of a twin"))?;
        let tag: Tag = super::read(twin.get().as_bytes())?;
        let twin: TwinBody<'_> = super::read(twin.get().as_bytes())?;
        if !matches!(tag.etag.as_deref(), None | Some("" | "*" | "\"*\"")) {
            return Err(ApiError::argument(
                "updateTwin.etag must be `*`: a job is for many twins",
            ));
        }
        let section = |name: &str, section: Section<'_>| match section {
            Section::Absent => Ok(String::new()),
            Section::Given(text) => Ok(text.to_owned()),
            Section::Emptied => Err(ApiError::argument(format!(
                "updateTwin.{name} is null; a job merges, so name the keys that shall go with null"
            ))),
        };
        let condition = self.query_condition.unwrap_or_default();
        if condition.trim().is_empty() {
            return Err(ApiError::argument(
                "queryCondition is missing; want a WHERE part such as `deviceId IN ['a']`, or `*`",
            ));
        }
        let update = BulkUpdate {
            source: "devices".to_owned(),
            condition,
            tags_patch_json: section("tags", twin.tags())?,
            desired_patch_json: section("properties.desired", twin.desired())?,
        };
        let start_time = match self.start_time.as_deref() {
            None | Some("") => None,
            Some(text) => {
                let at = instant(text).ok_or_else(|| {
                    ApiError::argument(format!(
                        "startTime is `{text}`; want a time such as 2026-01-31T08:00:00Z"
                    ))
                })?;
                Some(prost_types::Timestamp {
                    seconds: at.as_second(),
                    nanos: at.subsec_nanosecond(),
                })
            }
        };
        let max_execution_time = match self.max_execution_time_in_seconds {
            // SDKs send 0 when nobody chose a time.
            None | Some(0) => None,
            Some(seconds) => Some(prost_types::Duration { seconds, nanos: 0 }),
        };
        Ok(Asked {
            update,
            job: Job {
                job_id: id.to_owned(),
                start_time,
                max_execution_time,
            },
        })
    }
}

/// A time, also one without a zone, which is UTC then.
fn instant(text: &str) -> Option<Timestamp> {
    let zoned: Result<Timestamp, _> = text.parse();
    zoned.ok().or_else(|| {
        let at: DateTime = text.parse().ok()?;
        Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })
}

/// How IoT Hub calls where a job stands.
pub(crate) fn status(operation: &Operation, now: Timestamp) -> &'static str {
    match operation.state() {
        OperationState::Running if operation.begun => "running",
        OperationState::Running if waits(operation, now) => "scheduled",
        OperationState::Running => "queued",
        OperationState::Succeeded => "completed",
        OperationState::Cancelled => "cancelled",
        OperationState::Failed => "failed",
        OperationState::Unspecified => "unknown",
    }
}

/// Whether its time is ahead. The clock of twin-store may be ahead of ours: a job that is to begin
/// at once waits for nothing, whatever our clock says.
fn waits(operation: &Operation, now: Timestamp) -> bool {
    let read = |at: prost_types::Timestamp| Timestamp::new(at.seconds, at.nanos).ok();
    let start = operation.job.as_ref().and_then(|job| job.start_time);
    let start = start.and_then(read);
    let created = operation.create_time.and_then(read).unwrap_or(now);
    start.is_some_and(|start| start > now.max(created))
}

/// A job as an answer.
pub(crate) fn print(operation: &Operation, now: Timestamp) -> Value {
    let job = operation.job.clone().unwrap_or_default();
    let update = operation.bulk_update.clone().unwrap_or_default();
    let object = |json: &str| serde_json::from_str::<Map<String, Value>>(json).ok();
    let mut twin = json!({ "etag": "*" });
    if let Some(tags) = object(&update.tags_patch_json) {
        twin["tags"] = tags.into();
    }
    if let Some(desired) = object(&update.desired_patch_json) {
        twin["properties"] = json!({ "desired": desired });
    }
    let done = operation.succeeded + operation.failed + operation.skipped;
    let pending = if operation.state() == OperationState::Running {
        operation.total.saturating_sub(done)
    } else {
        0
    };
    let mut shown = json!({
        "jobId": job.job_id,
        "type": UPDATE_TWIN,
        "status": status(operation, now),
        "queryCondition": update.condition,
        "createdTime": time(operation.create_time.as_ref()),
        "startTime": time(job.start_time.as_ref()),
        "maxExecutionTimeInSeconds": job.max_execution_time.map_or(0, |time| time.seconds),
        "updateTwin": twin,
        "deviceJobStatistics": {
            "deviceCount": operation.total,
            "failedCount": operation.failed,
            "succeededCount": operation.succeeded,
            "runningCount": 0,
            "pendingCount": pending,
        },
    });
    if operation.end_time.is_some() {
        shown["endTime"] = time(operation.end_time.as_ref());
    }
    if !operation.error.is_empty() {
        shown["failureReason"] = operation.error.clone().into();
        shown["statusMessage"] = operation.error.clone().into();
    }
    shown
}

/// What became of one device in a job: a row of `devices.jobs`.
pub(crate) fn row(operation: &Operation, result: &OperationResult) -> Map<String, Value> {
    let job = operation.job.clone().unwrap_or_default();
    let device = result.twin.strip_prefix("devices/").unwrap_or_default();
    let status = match result.outcome() {
        Outcome::Succeeded => "completed",
        Outcome::Failed => "failed",
        // It was left alone: deleted meanwhile, or it did not match any more.
        Outcome::Skipped => "canceled",
        Outcome::Unspecified => "pending",
    };
    let start = time(job.start_time.as_ref());
    let at = time(result.time.as_ref());
    let mut row = Map::new();
    for (key, value) in [
        ("deviceId", Value::from(device)),
        ("jobId", job.job_id.into()),
        ("jobType", UPDATE_TWIN.into()),
        ("status", status.into()),
        ("startTimeUtc", start),
        ("endTimeUtc", at.clone()),
        ("createdDateTimeUtc", time(operation.create_time.as_ref())),
        ("lastUpdatedDateTimeUtc", at),
    ] {
        if value != NEVER {
            row.insert(key.to_owned(), value);
        }
    }
    if !result.reason.is_empty() {
        let code = if result.outcome() == Outcome::Failed {
            "OperationFailed"
        } else {
            "OperationSkipped"
        };
        let error = json!({ "code": code, "description": result.reason });
        row.insert("error".to_owned(), error);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &Value) -> Result<Asked, ApiError> {
        let body = body.to_string();
        let body: JobBody<'_> = serde_json::from_str(&body).expect("JSON");
        body.into_wire("j")
    }

    #[test]
    fn what_sdks_send_is_read() {
        let asked = read(&json!({
            "jobId": "j",
            "type": "scheduleUpdateTwin",
            "updateTwin": {
                "deviceId": null, "etag": "*",
                "tags": {"a": 1}, "properties": {"desired": {"b": null}},
            },
            "queryCondition": "*",
            "startTime": "2026-01-31T08:00:00.5",
            "maxExecutionTimeInSeconds": 60,
            "cloudToDeviceMethod": null,
        }))
        .expect("it is good");
        assert_eq!(asked.update.tags_patch_json, r#"{"a": 1}"#.replace(' ', ""));
        assert_eq!(asked.update.desired_patch_json, r#"{"b":null}"#);
        assert_eq!(asked.job.start_time.map(|at| at.nanos), Some(500_000_000));
        assert_eq!(asked.job.max_execution_time.map(|it| it.seconds), Some(60));
    }

    #[test]
    fn what_no_job_can_do_is_refused_with_its_reason() {
        let good = json!({
            "type": "scheduleUpdateTwin",
            "updateTwin": {"tags": {"a": 1}},
            "queryCondition": "*",
        });
        assert!(read(&good).is_ok());
        for (key, value, words) in [
            ("jobId", json!("k"), "names the job `k`"),
            ("type", json!("other"), "type is `other`"),
            ("type", json!("scheduleDeviceMethod"), "not served"),
            ("updateTwin", Value::Null, "updateTwin is missing"),
            ("updateTwin", json!({"etag": "AAA=", "tags": {}}), "etag"),
            ("updateTwin", json!({"tags": null}), "tags is null"),
            ("queryCondition", json!(" "), "queryCondition"),
            ("startTime", json!("soon"), "startTime"),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            let error = read(&bad).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.status().as_u16(), 400);
        }
    }

    #[test]
    fn a_job_that_waits_is_told_from_one_that_goes_on() {
        let now = Timestamp::from_second(1000).expect("a time");
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let operation = |state: OperationState, begun, start| Operation {
            state: state.into(),
            begun,
            job: Some(Job {
                start_time: at(start),
                ..Job::default()
            }),
            ..Operation::default()
        };
        let at_once = Operation {
            create_time: at(1001),
            ..operation(OperationState::Running, false, 1001)
        };
        assert_eq!(status(&at_once, now), "queued");
        for (state, begun, start, wanted) in [
            (OperationState::Running, false, 2000, "scheduled"),
            (OperationState::Running, false, 500, "queued"),
            (OperationState::Running, true, 500, "running"),
            (OperationState::Succeeded, true, 500, "completed"),
            (OperationState::Cancelled, false, 2000, "cancelled"),
        ] {
            assert_eq!(status(&operation(state, begun, start), now), wanted);
        }
    }
}
