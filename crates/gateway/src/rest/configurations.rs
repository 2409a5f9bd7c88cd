//! Configurations: kept and judged by the policy service, counted by twin-store when they are read
//! (spec iot-hub-twins §7.5).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use wire::policy::v1::{
    CheckConfigurationQueriesRequest, Configuration, CreateConfigurationRequest,
    DeleteConfigurationRequest, GetConfigurationRequest, ListConfigurationsRequest,
    UpdateConfigurationRequest,
};
use wire::twin::v1::QueryTwinsRequest;

use super::{Answer, Call};
use crate::bodies;
use crate::bodies::configuration::{ConfigurationBody, Counts, Queries, counting, name, print};
use crate::error::ApiError;
use crate::headers;
use crate::hub::Session;

/// Configurations of a hub; IoT Hub takes a larger `top` for this one.
const TOP_MAX: usize = 100;
/// Counts that are asked for at the same time by one call.
const AT_ONCE: usize = 4;
/// How long a count may take before it is left out.
const COUNT_WITHIN: Duration = Duration::from_secs(10);
/// How long all counts of one call may take together: back ends give up on an answer after a minute.
const CALL_WITHIN: Duration = Duration::from_secs(30);
/// Rows of a page where a query has to be run to be counted.
const PAGE: i32 = 1000;
/// Pages up to which such rows are counted.
const PAGES_MAX: usize = 100;

pub(super) async fn list(call: &Call<'_>, top: Option<&str>) -> Result<Answer, ApiError> {
    let top = match top {
        None | Some("") => TOP_MAX,
        Some(top) => usize::try_from(headers::number("top", top, 1, i32::MAX)?).unwrap_or(TOP_MAX),
    };
    let mut configurations = call.session.configurations();
    let request = call.session.request(ListConfigurationsRequest {});
    let found = configurations.list_configurations(request).await?;
    let mut found = found.into_inner().configurations;
    found.truncate(top);
    let until = Instant::now() + CALL_WITHIN;
    let counted = found
        .iter()
        .map(|one| counted(call.session, one, until).boxed())
        .collect::<Vec<_>>();
    let shown: Vec<Value> = stream::iter(counted).buffered(AT_ONCE).collect().await;
    Ok(Answer::ok(shown.into()))
}

pub(super) async fn get(call: &Call<'_>, id: &str) -> Result<Answer, ApiError> {
    let request = GetConfigurationRequest { name: name(id) };
    let mut configurations = call.session.configurations();
    let found = configurations
        .get_configuration(call.session.request(request))
        .await?
        .into_inner();
    let until = Instant::now() + CALL_WITHIN;
    let shown = counted(call.session, &found, until).await;
    Ok(Answer::tagged(shown, &found.etag))
}

pub(super) async fn put(call: &Call<'_>, id: &str) -> Result<Answer, ApiError> {
    let body: ConfigurationBody = bodies::read_values(call.body)?;
    let configuration = Some(body.into_wire(id)?);
    let operator = call.session.operator();
    let mut configurations = call.session.configurations();
    let (stored, status) = if call.if_match.is_some() {
        let request = UpdateConfigurationRequest {
            configuration,
            etag: call.etag(),
            operator,
        };
        let request = call.session.request(request);
        let stored = configurations.update_configuration(request).await?;
        (stored.into_inner(), StatusCode::OK)
    } else {
        let request = CreateConfigurationRequest {
            configuration,
            operator,
        };
        let request = call.session.request(request);
        let stored = configurations.create_configuration(request).await?;
        (stored.into_inner(), StatusCode::CREATED)
    };
    // Nothing is counted for a write, as at IoT Hub, which counts at its next run.
    let shown = print(&stored, &Counts::new(), &Counts::new());
    let mut answer = Answer::tagged(shown, &stored.etag);
    answer.status = status;
    Ok(answer)
}

pub(super) async fn delete(call: &Call<'_>, id: &str) -> Result<Answer, ApiError> {
    let request = DeleteConfigurationRequest {
        name: name(id),
        etag: call.etag(),
        operator: call.session.operator(),
    };
    let mut configurations = call.session.configurations();
    configurations
        .delete_configuration(call.session.request(request))
        .await?;
    Ok(Answer::no_content())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Test {
    target_condition: Option<String>,
    custom_metric_queries: Option<HashMap<String, String>>,
}

pub(super) async fn test_queries(call: &Call<'_>) -> Result<Answer, ApiError> {
    let body: Test = bodies::read_object(call.body)?;
    let request = CheckConfigurationQueriesRequest {
        target_condition: body.target_condition.unwrap_or_default(),
        metric_queries: body.custom_metric_queries.unwrap_or_default(),
    };
    let mut configurations = call.session.configurations();
    let found = configurations
        .check_configuration_queries(call.session.request(request))
        .await?
        .into_inner();
    let errors: BTreeMap<_, _> = found.metric_query_errors.into_iter().collect();
    Ok(Answer::ok(json!({
        "targetConditionError": found.target_condition_error,
        "customMetricQueryErrors": errors,
    })))
}

/// A configuration with what its metrics find now. What the policy service has counted as twins
/// changed needs no search.
async fn counted(session: &Session, configuration: &Configuration, until: Instant) -> Value {
    let queries = Queries::of(configuration);
    let system = match &configuration.counts {
        Some(known) => Counts::from([
            ("targetedCount".to_owned(), known.twins_targeted),
            ("appliedCount".to_owned(), known.twins_applied),
        ]),
        None => counts(session, &queries.system, until).await,
    };
    let custom = counts(session, &queries.custom, until).await;
    print(configuration, &system, &custom)
}

async fn counts(session: &Session, queries: &BTreeMap<String, String>, until: Instant) -> Counts {
    let mut found = Counts::new();
    for (name, query) in queries {
        let by = until.min(Instant::now() + COUNT_WITHIN);
        let counted = tokio::time::timeout_at(by, count(session, query));
        match counted.await {
            Ok(Ok(count)) => {
                found.insert(name.clone(), count);
            }
            // Whoever may read configurations and not twins sees none, and so do all while
            // twin-store is away.
            Ok(Err(error)) => tracing::debug!(metric = name, %error, "a metric is not counted"),
            Err(_) => tracing::debug!(metric = name, "a metric takes too long to count"),
        }
    }
    found
}

/// How many rows a query has.
async fn count(session: &Session, query: &str) -> Result<u64, ApiError> {
    if query.is_empty() {
        return Ok(0);
    }
    if let Some(counting) = counting(query) {
        let page = page(session, counting, String::new()).await?;
        let row = page.rows_json.first().map(String::as_str);
        let row: Value = bodies::read(row.unwrap_or("{}").as_bytes())?;
        return Ok(row["n"].as_u64().unwrap_or_default());
    }
    let mut rows = 0;
    let mut token = String::new();
    for _ in 0..PAGES_MAX {
        let page = page(session, query.to_owned(), token).await?;
        rows += page.rows_json.len() + page.twins.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    Ok(u64::try_from(rows).unwrap_or(u64::MAX))
}

async fn page(
    session: &Session,
    query: String,
    page_token: String,
) -> Result<wire::twin::v1::QueryTwinsResponse, ApiError> {
    let request = QueryTwinsRequest {
        query,
        page_size: PAGE,
        page_token,
    };
    let mut queries = session.queries();
    let page = queries.query_twins(session.request(request)).await?;
    Ok(page.into_inner())
}
