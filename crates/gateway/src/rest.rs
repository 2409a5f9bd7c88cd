//! Answers REST calls: finds the call, its caller and its body, and says what came of it.

use std::sync::Arc;
use std::time::Instant;

use access_policies::Followed;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::from_fn;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;
use service_kit::clock::SharedClock;
use service_kit::log_budget::LogBudget;
use service_kit::server::web::Visitor;
use service_kit::suspects::Suspects;
use service_kit::trace;
use tracing::{Instrument as _, Span, field};

use crate::access::Bearers;
use crate::bodies;
use crate::error::ApiError;
use crate::headers::{self, IfMatch, JSON};
use crate::hub::{Hub, Session};
use crate::metrics::{ErrorLabels, Metrics, RequestLabels};
use crate::rates::Meter;
use crate::registrations::{self, Failures};
use crate::route::Route;
use crate::websocket::{self, Devices};

mod body;
mod bulk;
mod callers;
mod configurations;
mod devices;
mod job_rows;
mod jobs;
mod messages;
mod methods;
mod modules;
mod query;
mod statistics;
mod twins;
mod unread;

pub(crate) use body::Bodies;

/// The description of the API, for programs that make clients and tests of it.
pub(crate) const OPENAPI: &str = include_str!("../openapi.json");
/// The header that says what the rows of a query are.
const ITEM_TYPE: HeaderName = HeaderName::from_static("x-ms-item-type");
/// The header with which the next page is asked for.
const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");
/// The header that says how many rows a page may have.
const MAX_ITEM_COUNT: HeaderName = HeaderName::from_static("x-ms-max-item-count");

/// What answers need.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub hub: Hub,
    pub policies: Followed,
    pub clock: SharedClock,
    pub metrics: Metrics,
    /// The hub's host name, which devices that register are told.
    pub host: String,
    /// Who failed to register.
    pub failures: Arc<Failures>,
    pub suspects: Arc<Suspects>,
    /// How often everybody calls.
    pub meter: Arc<Meter>,
    pub bearers: Arc<Bearers>,
    pub bodies: Bodies,
    pub devices: Devices,
    /// What of refusals the log has room for.
    pub log: Arc<LogBudget>,
}

/// The body of an answer.
#[derive(Debug)]
enum Json {
    Made(Value),
    Text(String),
}

/// What a call is answered with.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    body: Option<Json>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Answer {
    fn ok(body: Value) -> Self {
        Self {
            status: StatusCode::OK,
            body: Some(Json::Made(body)),
            headers: Vec::new(),
        }
    }

    /// JSON that is passed on as it came.
    fn text(json: String) -> Self {
        Self {
            status: StatusCode::OK,
            body: Some(Json::Text(json)),
            headers: Vec::new(),
        }
    }

    fn no_content() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            body: None,
            headers: Vec::new(),
        }
    }

    /// A resource with its etag, which C# reads from the header alone.
    fn tagged(body: Value, etag: &str) -> Self {
        let mut answer = Self::ok(body);
        answer.header(header::ETAG, &format!("\"{etag}\""));
        answer
    }

    fn header(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
    }

    fn into_response(self) -> Response {
        let has_body = self.body.is_some();
        let body = self.body.map(|body| match body {
            Json::Made(value) => value.to_string(),
            Json::Text(text) => text,
        });
        let mut response = Response::new(body.map_or_else(Body::empty, Body::from));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if has_body {
            headers.insert(header::CONTENT_TYPE, JSON);
        }
        headers.extend(self.headers);
        response
    }
}

/// Every path is ours to judge, so there is one handler and [`Route`] is the table.
pub(crate) fn router(api: Api) -> Router {
    let router = Router::new().fallback(handle).with_state(api);
    router.layer(from_fn(unread::read_on))
}

async fn handle(State(api): State<Api>, request: Request) -> Response {
    if let Some(call) = registrations::Call::parse(request.method(), request.uri().path()) {
        return registrations::answer(&api, call, request).await;
    }
    let span = tracing::info_span!(
        "http",
        otel.kind = "server",
        otel.name = field::Empty,
        call = field::Empty,
        status = field::Empty,
    );
    if let Some(parent) = request
        .headers()
        .get(trace::TRACEPARENT)
        .and_then(|value| value.to_str().ok())
    {
        trace::set_parent(&span, parent);
    }
    let started = Instant::now();
    let work = async {
        let mut label = "unknown";
        let now = api.clock.now();
        let answered = respond(&api, request, &mut label).await;
        if let Err(error) = &answered {
            let code = error.number();
            api.metrics
                .errors
                .get_or_create(&ErrorLabels { code })
                .inc();
            tracing::debug!(call = label, code, name = error.name(), %error, "a call was refused");
        }
        let response = match answered {
            Ok(response) => response,
            Err(error) => error.at(now).into_response(),
        };
        let status = response.status().as_u16();
        let span = Span::current();
        span.record("otel.name", label);
        span.record("call", label);
        span.record("status", status);
        let labels = RequestLabels {
            call: label,
            status,
        };
        let seconds = started.elapsed().as_secs_f64();
        api.metrics.requests.get_or_create(&labels).observe(seconds);
        response
    };
    work.instrument(span).await
}

async fn respond(
    api: &Api,
    request: Request,
    label: &mut &'static str,
) -> Result<Response, ApiError> {
    if websocket::is_asked_for(&request) {
        *label = "websocket";
        let visitor = request.extensions().get::<Visitor>();
        let address = visitor.map(|visitor| visitor.address().ip());
        api.meter.begins(address, api.clock.monotonic())?;
        return api.devices.open(request).await;
    }
    let answer = answer(api, request, label).await?;
    Ok(answer.into_response())
}

async fn answer(api: &Api, request: Request, label: &mut &'static str) -> Result<Answer, ApiError> {
    let (parts, body) = request.into_parts();
    let route = Route::parse(&parts.method, parts.uri.path());
    if let Ok(route) = &route {
        *label = route.label();
    }
    if let Ok(Route::OpenApi) = route {
        return Ok(Answer::ok(bodies::read(OPENAPI.as_bytes())?));
    }
    let now = api.clock.now();
    // Before anything of the body: whoever makes up a token is not to fill our memory with it.
    let admitted = callers::admit(api, &parts, route).await?;
    headers::check_version(&parts.uri)?;
    let (route, session) = (&admitted.route, &admitted.session);
    let body = api.bodies.take(body, route.body_max()).await?;
    let if_match = IfMatch::read(&parts.headers)?;
    let call = Call {
        session,
        headers: &parts.headers,
        if_match,
        body: &body.bytes,
        now,
    };
    let shows_counts = route.shows_message_counts();
    let answer = match route {
        Route::ListDevices => {
            let top = headers::parameter(&parts.uri, "top")?;
            devices::list(&call, top.as_deref()).await
        }
        Route::Bulk => bulk::run(&call).await,
        Route::Query => query::run(&call).await,
        Route::GetDevice(id) => devices::get(&call, id).await,
        Route::PutDevice(id) => devices::put(&call, id).await,
        Route::DeleteDevice(id) => devices::delete(&call, id).await,
        Route::ListModules(id) => modules::list(&call, id).await,
        Route::GetModule(key) => modules::get(&call, key).await,
        Route::PutModule(key) => modules::put(&call, key).await,
        Route::DeleteModule(key) => modules::delete(&call, key).await,
        Route::GetTwin(key) => twins::get(&call, key).await,
        Route::PatchTwin(key) => twins::patch(&call, key).await,
        Route::ReplaceTwin(key) => twins::replace(&call, key).await,
        Route::ListConfigurations => {
            let top = headers::parameter(&parts.uri, "top")?;
            configurations::list(&call, top.as_deref()).await
        }
        Route::GetConfiguration(id) => configurations::get(&call, id).await,
        Route::PutConfiguration(id) => configurations::put(&call, id).await,
        Route::DeleteConfiguration(id) => configurations::delete(&call, id).await,
        Route::PutJob(id) => jobs::put(&call, id, now).await,
        Route::GetJob(id) => jobs::get(&call, id, now).await,
        Route::CancelJob(id) => jobs::cancel(&call, id, now).await,
        Route::QueryJobs => jobs::list(&call, &parts.uri, now).await,
        Route::TestQueries => configurations::test_queries(&call).await,
        Route::SendMessage => messages::send(&call, now).await,
        Route::PurgeMessages(id) => messages::purge(&call, id).await,
        Route::InvokeMethod(key) => methods::invoke(&call, key).await,
        Route::DeviceStatistics => statistics::devices(&call).await,
        Route::ServiceStatistics => statistics::service(&call).await,
        Route::ApplyContent(id) => devices::apply_content(&call, id).await,
        // Answered above, to everybody.
        Route::OpenApi => Ok(Answer::no_content()),
    };
    let answer = match (answer, route.identity()) {
        (Err(error), Some(key)) => Err(modules::or_its_device(session, key, error).await),
        (answer, _) => answer,
    };
    let mut answer = answer.inspect_err(|error| admitted.note(api, error))?;
    if shows_counts {
        messages::show_counts(session, &mut answer).await;
    }
    Ok(answer)
}

/// A call with everything that its handler looks at.
struct Call<'a> {
    session: &'a Session,
    headers: &'a HeaderMap,
    if_match: Option<IfMatch>,
    body: &'a [u8],
    /// When it came.
    now: jiff::Timestamp,
}

impl Call<'_> {
    /// The etag as twin-store wants it: empty for any.
    fn etag(&self) -> String {
        IfMatch::etag(self.if_match.as_ref())
    }
}
