//! MQTT over WebSocket: devices that come by the port of the REST API, because their SDKs know no
//! other (`/$iothub/websocket`, sub-protocol `mqtt`).
//!
//! The gateway shakes hands and carries bytes between the device and ingestion, and tells that where
//! the device comes from and which certificates it has shown. Who it is, and what it may do, is
//! ingestion's to judge; nothing here reads MQTT. Each device has a connection to ingestion of its
//! own, so that one that is not read holds up no other.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ring::digest;
use service_kit::client::ClientConfig;
use service_kit::log_budget::LogBudget;
use service_kit::server::web::Visitor;
use service_kit::shutdown::ShutdownToken;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::rates::Meter;
use tunnel::Tunnel;

mod frames;
mod tunnel;

/// Where devices ask for it. The dollar sign may come escaped.
const PATHS: [&str; 2] = ["/$iothub/websocket", "/%24iothub/websocket"];

/// What is spoken over it.
const MQTT: &str = "mqtt";

/// The only version there is.
const VERSION: &str = "13";

/// What the key is completed with before it is hashed (RFC 6455, 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The length of a key in base64: it has 16 bytes.
const KEY_CHARACTERS: usize = 24;

/// Devices that may wait to be begun with; beginning takes microseconds.
const QUEUE_MAX: usize = 64;

/// Brings devices to ingestion. Clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct Devices {
    /// `None`: the configuration names no ingestion.
    ingestion: Option<ClientConfig>,
    queue: mpsc::Sender<BoxFuture<'static, ()>>,
    metrics: Metrics,
    /// How often each address begins.
    meter: Arc<Meter>,
    /// Of which ends the log has room to tell.
    log: Arc<LogBudget>,
    stop: ShutdownToken,
}

/// The devices that are to be carried, for [`run`].
pub(crate) type Beginnings = mpsc::Receiver<BoxFuture<'static, ()>>;

/// Whether a request is for this module.
pub(crate) fn is_asked_for(request: &Request) -> bool {
    PATHS.contains(&request.uri().path())
}

impl Devices {
    /// The way to ingestion, and the other end of the queue.
    pub(crate) fn new(
        ingestion: Option<ClientConfig>,
        metrics: Metrics,
        meter: Arc<Meter>,
        stop: ShutdownToken,
    ) -> (Self, Beginnings) {
        let (queue, beginnings) = mpsc::channel(QUEUE_MAX);
        let devices = Self {
            ingestion,
            queue,
            metrics,
            meter,
            log: Arc::default(),
            stop,
        };
        (devices, beginnings)
    }

    /// Shakes hands, and has the device carried from then on.
    pub(crate) async fn open(&self, mut request: Request) -> Result<Response, ApiError> {
        let Some(ingestion) = self.ingestion.clone() else {
            let problem = "MQTT over WebSocket is not served here: `ingestion_url` is not set";
            return Err(ApiError::new(404_000, "NotFound", problem));
        };
        let accept = match check(request.method(), request.headers()) {
            Ok(key) => accept_of(key),
            Err(error) => return Err(error),
        };
        let accept = HeaderValue::from_str(&accept)
            .map_err(|_| ApiError::argument("the key cannot be answered"))?;
        let Some(visitor) = request.extensions().get::<Visitor>().cloned() else {
            return Err(ApiError::argument("the connection cannot be taken over"));
        };
        let tunnel = Tunnel {
            ingestion,
            visitor,
            metrics: self.metrics.clone(),
            meter: Arc::clone(&self.meter),
            log: Arc::clone(&self.log),
            stop: self.stop.clone(),
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let begun = self.queue.send(tunnel.run(upgrade).boxed()).await;
        begun.map_err(|_| ApiError::new(503_001, "ServiceUnavailable", "the gateway stops"))?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(MQTT));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        Ok(response)
    }
}

/// Carries devices until told to stop and the last one is gone. They watch the shutdown themselves.
pub(crate) async fn run(mut beginnings: Beginnings, stop: ShutdownToken) {
    let mut tunnels = JoinSet::new();
    let mut open = true;
    while open || !tunnels.is_empty() {
        tokio::select! {
            Some(outcome) = tunnels.join_next() => {
                if let Err(error) = outcome && error.is_panic() {
                    tracing::error!(%error, "a device's connection failed");
                }
            }
            () = stop.triggered(), if !beginnings.is_closed() => beginnings.close(),
            begun = beginnings.recv(), if open => match begun {
                Some(tunnel) => {
                    tunnels.spawn(tunnel);
                }
                None => open = false,
            },
        }
    }
}

/// What a handshake must say; answers its key.
fn check<'a>(method: &Method, headers: &'a HeaderMap) -> Result<&'a str, ApiError> {
    let wrong = |what: &str| {
        Err(ApiError::argument(format!(
            "no handshake of WebSocket: {what}"
        )))
    };
    if *method != Method::GET {
        return wrong("the method must be GET");
    }
    if !lists(headers, &UPGRADE, "websocket") || !lists(headers, &CONNECTION, "upgrade") {
        return wrong("it needs the headers `Upgrade: websocket` and `Connection: Upgrade`");
    }
    if !lists(headers, &SEC_WEBSOCKET_VERSION, VERSION) {
        return wrong("Sec-WebSocket-Version must be 13");
    }
    if !lists(headers, &SEC_WEBSOCKET_PROTOCOL, MQTT) {
        return wrong("Sec-WebSocket-Protocol must offer `mqtt`");
    }
    let key = headers.get(SEC_WEBSOCKET_KEY);
    match key.and_then(|key| key.to_str().ok()).map(str::trim) {
        Some(key) if key.len() == KEY_CHARACTERS => Ok(key),
        Some(_) | None => wrong("Sec-WebSocket-Key must be 16 bytes in base64"),
    }
}

/// Whether one of the comma-separated values of a header is this, in whatever case.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(wanted))
}

/// Shows the client that its handshake was understood. SHA-1 protects nothing here.
fn accept_of(key: &str) -> String {
    let text = format!("{key}{GUID}");
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    BASE64_STANDARD.encode(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (UPGRADE, "WebSocket"),
            (CONNECTION, "keep-alive, Upgrade"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_PROTOCOL, "mqttv3.1, MQTT"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_handshake_of_the_rfc_is_answered_as_it_says() {
        let headers = good();
        let key = check(&Method::GET, &headers).expect("a handshake");
        assert_eq!(accept_of(key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(check(&Method::POST, &good()).is_err());
        for (name, wanted) in [
            (UPGRADE, "Upgrade: websocket"),
            (CONNECTION, "Connection: Upgrade"),
            (SEC_WEBSOCKET_VERSION, "Sec-WebSocket-Version"),
            (SEC_WEBSOCKET_PROTOCOL, "`mqtt`"),
            (SEC_WEBSOCKET_KEY, "Sec-WebSocket-Key"),
        ] {
            let mut headers = good();
            headers.remove(&name);
            let error = check(&Method::GET, &headers).expect_err("incomplete");
            assert!(error.to_string().contains(wanted), "{error}");
            headers.insert(&name, HeaderValue::from_static("other"));
            let error = check(&Method::GET, &headers).expect_err("wrong");
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
}
