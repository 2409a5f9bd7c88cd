//! Jobs v2: updates of many twins and calls of many devices that begin at a time, over twin-store's long-running operations
//! (spec iot-hub-twins §7.7).

use jiff::Timestamp;
use serde_json::Value;
use wire::twin::v1::{
    CancelOperationRequest, GetOperationRequest, ListOperationsRequest, Operation,
    StartBulkUpdateRequest,
};

use super::{Answer, CONTINUATION, Call, ITEM_TYPE, MAX_ITEM_COUNT};
use crate::bodies;
use crate::bodies::job::{JobBody, kind, print, status};
use crate::error::ApiError;
use crate::headers;

/// Jobs of a page if nobody says, and at most.
const PAGE: i32 = 100;
const PAGE_MAX: i32 = 1000;
/// Pages that are looked at for one answer, when few jobs of them are asked for.
const LOOKS_MAX: usize = 10;
/// A job of this name could not be read: its path is that of the query.
const QUERY: &str = "query";

pub(super) fn name(id: &str) -> String {
    format!("operations/job.{id}")
}

pub(super) async fn put(call: &Call<'_>, id: &str, now: Timestamp) -> Result<Answer, ApiError> {
    if id == QUERY {
        return Err(ApiError::argument(
            "the job id `query` is taken: GET /jobs/v2/query asks for many jobs",
        ));
    }
    let body: JobBody<'_> = bodies::read_values(call.body)?;
    let asked = body.into_wire(id)?;
    let request = StartBulkUpdateRequest {
        bulk_update: Some(asked.update),
        job: Some(asked.job),
        operator: call.session.operator(),
        ..StartBulkUpdateRequest::default()
    };
    let mut bulk = call.session.bulk();
    let begun = bulk
        .start_bulk_update(call.session.request(request))
        .await?;
    Ok(Answer::ok(print(&begun.into_inner(), now)))
}

pub(super) async fn get(call: &Call<'_>, id: &str, now: Timestamp) -> Result<Answer, ApiError> {
    let found = read(call, id).await?;
    Ok(Answer::ok(print(&found, now)))
}

pub(super) async fn read(call: &Call<'_>, id: &str) -> Result<Operation, ApiError> {
    let request = GetOperationRequest { name: name(id) };
    let mut bulk = call.session.bulk();
    let found = bulk.get_operation(call.session.request(request)).await?;
    Ok(found.into_inner())
}

pub(super) async fn cancel(call: &Call<'_>, id: &str, now: Timestamp) -> Result<Answer, ApiError> {
    let request = CancelOperationRequest {
        name: name(id),
        ..Default::default()
    };
    let mut bulk = call.session.bulk();
    let cancelled = bulk.cancel_operation(call.session.request(request)).await?;
    Ok(Answer::ok(print(&cancelled.into_inner(), now)))
}

/// Which jobs are asked for. SDKs spell names of types and states in both cases.
pub(super) struct Filter {
    kind: Option<String>,
    status: Option<String>,
}

impl Filter {
    fn takes(&self, operation: &Operation, now: Timestamp) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(found))
        };
        is(&self.kind, kind(operation)) && is(&self.status, status(operation, now))
    }
}

/// The page that a call asks for: the headers of C#, or the parameters of the others.
pub(super) fn page(call: &Call<'_>, uri: &http::Uri) -> Result<(i32, String), ApiError> {
    let header = |name: &http::HeaderName| {
        let value = call.headers.get(name).and_then(|it| it.to_str().ok());
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let parameter = |name| {
        let value = headers::parameter(uri, name)?;
        Ok::<_, ApiError>(value.filter(|value| !value.is_empty()))
    };
    let (what, size) = match header(&MAX_ITEM_COUNT) {
        Some(size) => ("x-ms-max-item-count", Some(size)),
        None => ("pageSize", parameter("pageSize")?),
    };
    let size = match size {
        Some(size) => headers::number(what, &size, 1, PAGE_MAX)?,
        None => PAGE,
    };
    let token = match header(&CONTINUATION) {
        Some(token) => token,
        None => parameter("continuationToken")?.unwrap_or_default(),
    };
    Ok((size, token))
}

pub(super) async fn list(
    call: &Call<'_>,
    uri: &http::Uri,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    let wanted = |name| {
        let value = headers::parameter(uri, name)?;
        Ok::<_, ApiError>(value.filter(|value| !value.is_empty()))
    };
    let filter = Filter {
        kind: wanted("jobType")?,
        status: wanted("jobStatus")?,
    };
    let (size, mut token) = page(call, uri)?;
    let mut shown: Vec<Value> = Vec::new();
    for _ in 0..LOOKS_MAX {
        let room = size - i32::try_from(shown.len()).unwrap_or(size);
        if room <= 0 {
            break;
        }
        let request = ListOperationsRequest {
            page_size: room,
            page_token: token,
            jobs_only: true,
            ..Default::default()
        };
        let mut bulk = call.session.bulk();
        let found = bulk.list_operations(call.session.request(request)).await?;
        let found = found.into_inner();
        let of_page = found.operations.iter().filter(|it| filter.takes(it, now));
        shown.extend(of_page.map(|operation| print(operation, now)));
        token = found.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let mut answer = Answer::ok(shown.into());
    answer.header(ITEM_TYPE, "JobResponse");
    if !token.is_empty() {
        answer.header(CONTINUATION, &token);
    }
    Ok(answer)
}
