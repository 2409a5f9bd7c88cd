//! Answers queries over `devices.jobs`: walks over jobs and over what became of their devices. A
//! device stands in it as soon as the job came to it.

use serde_json::Value;
use wire::twin::v1::{ListOperationResultsRequest, ListOperationsRequest, Operation};

use super::{Answer, CONTINUATION, Call, ITEM_TYPE, jobs};
use crate::bodies::job::row;
use crate::bodies::job_query::JobQuery;
use crate::error::ApiError;

/// Pages that are looked at for one answer, when few rows of them are asked for.
const LOOKS_MAX: usize = 20;
/// Jobs read at once.
const JOBS_PAGE: i32 = 1000;
/// Between the job and the place in it, in a continuation; no id has it.
const BETWEEN: char = '~';

/// Where a page begins.
struct Place {
    /// The first job that is looked at; empty: all.
    job: String,
    /// Where in it.
    results: String,
}

pub(super) async fn page(
    call: &Call<'_>,
    query: &JobQuery,
    size: i32,
    continuation: &str,
) -> Result<Answer, ApiError> {
    let (job, results) = match continuation.split_once(BETWEEN) {
        Some((job, results)) => (job, results),
        None if continuation.is_empty() => ("", ""),
        None => {
            return Err(ApiError::argument(
                "x-ms-continuation is not one that this query gave",
            ));
        }
    };
    let mut place = Place {
        job: job.to_owned(),
        results: results.to_owned(),
    };
    let jobs = match query.job() {
        Some(id) => match jobs::read(call, id).await {
            Ok(job) => vec![job],
            // A job that is not there has no rows.
            Err(error) if [400, 404].contains(&error.status().as_u16()) => Vec::new(),
            Err(error) => return Err(error),
        },
        None => all(call).await?,
    };
    let mut rows: Vec<Value> = Vec::new();
    let mut looks = 0;
    let mut next = None;
    'jobs: for job in &jobs {
        let id = job.job.as_ref().map_or("", |job| job.job_id.as_str());
        // Jobs come in the order of their ids backwards.
        if !place.job.is_empty() && id > place.job.as_str() {
            continue;
        }
        if id != place.job {
            place.results.clear();
        }
        place.job.clear();
        loop {
            let room = size - i32::try_from(rows.len()).unwrap_or(size);
            if room <= 0 || looks == LOOKS_MAX {
                next = Some(format!("{id}{BETWEEN}{}", place.results));
                break 'jobs;
            }
            looks += 1;
            let request = ListOperationResultsRequest {
                parent: job.name.clone(),
                page_size: room,
                page_token: std::mem::take(&mut place.results),
                outcome: 0,
            };
            let mut bulk = call.session.bulk();
            let found = bulk
                .list_operation_results(call.session.request(request))
                .await?
                .into_inner();
            let of_job = found.results.iter().map(|result| row(job, result));
            rows.extend(of_job.filter_map(|row| query.answer(row, call.now)));
            place.results = found.next_page_token;
            if place.results.is_empty() {
                break;
            }
        }
    }
    let mut answer = Answer::ok(rows.into());
    let kind = if query.is_whole() { "DeviceJob" } else { "Raw" };
    answer.header(ITEM_TYPE, kind);
    if let Some(next) = next {
        answer.header(CONTINUATION, &next);
    }
    Ok(answer)
}

/// All jobs, in twin-store's order.
async fn all(call: &Call<'_>) -> Result<Vec<Operation>, ApiError> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListOperationsRequest {
            page_size: JOBS_PAGE,
            page_token,
            jobs_only: true,
            ..Default::default()
        };
        let mut bulk = call.session.bulk();
        let page = bulk.list_operations(call.session.request(request)).await?;
        let page = page.into_inner();
        found.extend(page.operations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}
