//! Queries over twins (spec iot-hub-twins §7.4, §8.6).

use serde::Deserialize;
use serde_json::Value;
use wire::twin::v1::{QueryTwinsRequest, RowKind};

use super::{Answer, CONTINUATION, Call, ITEM_TYPE, MAX_ITEM_COUNT, job_rows};
use crate::bodies;
use crate::bodies::job_query::JobQuery;
use crate::error::ApiError;
use crate::headers;

/// Rows of a page if nobody says.
const PAGE: i32 = 100;
/// Most rows of a page: today's documentation says 100, older ones a thousand.
const PAGE_MAX: i32 = 1000;

#[derive(Deserialize)]
struct Body {
    query: String,
}

pub(super) async fn run(call: &Call<'_>) -> Result<Answer, ApiError> {
    let body: Body = bodies::read_object(call.body)?;
    let text = |name: &http::HeaderName| call.headers.get(name).and_then(|it| it.to_str().ok());
    let page_size = match text(&MAX_ITEM_COUNT) {
        // Some SDKs send the header without a value when nobody chose one.
        None | Some("") => PAGE,
        Some(count) => headers::number("x-ms-max-item-count", count, 1, PAGE_MAX)?,
    };
    let continuation = text(&CONTINUATION).unwrap_or_default();
    if let Some(query) = JobQuery::parse(&body.query)? {
        return job_rows::page(call, &query, page_size, continuation).await;
    }
    let request = QueryTwinsRequest {
        query: body.query,
        page_size,
        page_token: continuation.to_owned(),
    };
    let mut queries = call.session.queries();
    let page = queries.query_twins(call.session.request(request)).await?;
    let page = page.into_inner();
    let (kind, rows): (_, Vec<Value>) = match page.kind() {
        RowKind::Twin => {
            let twins = page.twins.iter().map(bodies::twin::twin);
            ("Twin", twins.collect::<Result<_, _>>()?)
        }
        RowKind::Raw | RowKind::Unspecified => {
            let rows = page
                .rows_json
                .iter()
                .map(|row| bodies::read(row.as_bytes()));
            ("Raw", rows.collect::<Result<_, _>>()?)
        }
    };
    let mut answer = Answer::ok(rows.into());
    answer.header(ITEM_TYPE, kind);
    // Absent, not empty, on the last page: SDKs ask for another page otherwise.
    if !page.next_page_token.is_empty() {
        answer.header(CONTINUATION, &page.next_page_token);
    }
    Ok(answer)
}
