//! Jobs as IoT Hub shows and takes them (spec iot-hub-twins §7.7). A job is an operation of
//! twin-store with a name of its caller's choice.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use wire::twin::v1::{
    BulkUpdate, Job, MethodCall, Operation, OperationResult, OperationState, Outcome,
};

use super::method::MethodBody;
use super::object;
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
    #[serde(borrow, deserialize_with = "object::optional")]
    cloud_to_device_method: Option<MethodBody<'a>>,
    query_condition: Option<String>,
    start_time: Option<String>,
    max_execution_time_in_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
struct Tag {
    #[serde(default)]
    etag: Option<String>,
}

/// A job, as twin-store wants it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub update: BulkUpdate,
    pub job: Job,
}

impl JobBody<'_> {
    /// Reads what is asked for.
    pub(crate) fn into_wire(mut self, id: &str) -> Result<Asked, ApiError> {
        if let Some(named) = self.job_id.as_ref().filter(|named| *named != id) {
            return Err(ApiError::argument(format!(
                "the body names the job `{named}`, the path `{id}`"
            )));
        }
        match self.kind.as_deref() {
            Some(kind) if kind.eq_ignore_ascii_case(UPDATE_TWIN) => {
                let update = self.patch()?;
                self.asked(id, update)
            }
            Some(kind) if kind.eq_ignore_ascii_case(DEVICE_METHOD) => {
                let method = self.cloud_to_device_method.take().ok_or_else(|| {
                    ApiError::argument("cloudToDeviceMethod is missing; want a method to call")
                })?;
                let update = BulkUpdate {
                    method: Some(method.into_wire()?),
                    ..BulkUpdate::default()
                };
                self.asked(id, update)
            }
            other => Err(ApiError::argument(format!(
                "type is `{}`; want {UPDATE_TWIN} or {DEVICE_METHOD}",
                other.unwrap_or_default()
            ))),
        }
    }

    /// What is to be written.
    fn patch(&self) -> Result<BulkUpdate, ApiError> {
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
        Ok(BulkUpdate {
            tags_patch_json: section("tags", twin.tags())?,
            desired_patch_json: section("properties.desired", twin.desired())?,
            ..BulkUpdate::default()
        })
    }

    /// With whom and when.
    fn asked(self, id: &str, update: BulkUpdate) -> Result<Asked, ApiError> {
        let condition = self.query_condition.unwrap_or_default();
        if condition.trim().is_empty() {
            return Err(ApiError::argument(
                "queryCondition is missing; want a WHERE part such as `deviceId IN ['a']`, or `*`",
            ));
        }
        let update = BulkUpdate {
            source: "devices".to_owned(),
            condition,
            ..update
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
    let done = operation.succeeded + operation.failed + operation.skipped;
    let pending = if operation.state() == OperationState::Running {
        operation.total.saturating_sub(done)
    } else {
        0
    };
    let mut shown = json!({
        "jobId": job.job_id,
        "type": kind(operation),
        "status": status(operation, now),
        "queryCondition": update.condition,
        "createdTime": time(operation.create_time.as_ref()),
        "startTime": time(job.start_time.as_ref()),
        "maxExecutionTimeInSeconds": job.max_execution_time.map_or(0, |time| time.seconds),
        "deviceJobStatistics": {
            "deviceCount": operation.total,
            "failedCount": operation.failed,
            "succeededCount": operation.succeeded,
            "runningCount": 0,
            "pendingCount": pending,
        },
    });
    match &update.method {
        Some(method) => shown["cloudToDeviceMethod"] = print_method(method),
        None => shown["updateTwin"] = print_patch(&update),
    }
    if operation.end_time.is_some() {
        shown["endTime"] = time(operation.end_time.as_ref());
    }
    if !operation.error.is_empty() {
        shown["failureReason"] = operation.error.clone().into();
        shown["statusMessage"] = operation.error.clone().into();
    }
    shown
}

/// Which type a job is of.
pub(crate) fn kind(operation: &Operation) -> &'static str {
    let update = operation.bulk_update.as_ref();
    match update.and_then(|update| update.method.as_ref()) {
        Some(_) => DEVICE_METHOD,
        None => UPDATE_TWIN,
    }
}

fn print_patch(update: &BulkUpdate) -> Value {
    let object = |json: &str| serde_json::from_str::<Map<String, Value>>(json).ok();
    let mut twin = json!({ "etag": "*" });
    if let Some(tags) = object(&update.tags_patch_json) {
        twin["tags"] = tags.into();
    }
    if let Some(desired) = object(&update.desired_patch_json) {
        twin["properties"] = json!({ "desired": desired });
    }
    twin
}

fn print_method(method: &MethodCall) -> Value {
    let seconds = |time: Option<prost_types::Duration>| time.map_or(0, |time| time.seconds);
    json!({
        "methodName": method.method_name,
        "payload": any_json(&method.payload_json),
        "responseTimeoutInSeconds": seconds(method.response_timeout),
        "connectTimeoutInSeconds": seconds(method.connect_timeout),
    })
}

/// JSON of a caller or a device. What our reader does not take (a number beyond its range) is shown
/// as text.
fn any_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
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
        ("jobType", kind(operation).into()),
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
    if let Some(answer) = &result.method {
        let response = json!({
            "status": answer.status,
            "payload": any_json(&answer.payload_json),
        });
        let outcome = json!({ "deviceMethodResponse": response });
        row.insert("outcome".to_owned(), outcome);
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
    fn a_method_is_read_and_shown_with_what_the_device_answered() {
        let asked = read(&json!({
            "type": "scheduleDeviceMethod",
            "cloudToDeviceMethod": {
                "methodName": "reboot", "payload": {"a": 1.5}, "responseTimeoutInSeconds": 60,
            },
            "queryCondition": "deviceId IN ['d']",
        }))
        .expect("it is good");
        let method = asked.update.method.clone().expect("a method");
        assert_eq!(method.payload_json, r#"{"a":1.5}"#);
        assert_eq!(method.response_timeout.map(|it| it.seconds), Some(60));
        assert_eq!(asked.update.condition, "deviceId IN ['d']");
        let operation = Operation {
            bulk_update: Some(asked.update),
            job: Some(asked.job),
            ..Operation::default()
        };
        let shown = print(&operation, Timestamp::UNIX_EPOCH);
        assert_eq!(shown["type"], "scheduleDeviceMethod");
        assert_eq!(shown["cloudToDeviceMethod"]["methodName"], "reboot");
        assert_eq!(shown["cloudToDeviceMethod"]["payload"], json!({"a": 1.5}));
        assert!(shown.get("updateTwin").is_none());
        let result = OperationResult {
            twin: "devices/d".to_owned(),
            outcome: Outcome::Succeeded.into(),
            method: Some(wire::twin::v1::MethodAnswer {
                status: 418,
                payload_json: "[1]".to_owned(),
            }),
            ..OperationResult::default()
        };
        let row = row(&operation, &result);
        assert_eq!(row["jobType"], "scheduleDeviceMethod");
        assert_eq!(row["status"], "completed");
        let response = &row["outcome"]["deviceMethodResponse"];
        assert_eq!(response, &json!({"status": 418, "payload": [1]}));
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
            (
                "type",
                json!("scheduleDeviceMethod"),
                "cloudToDeviceMethod is missing",
            ),
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
