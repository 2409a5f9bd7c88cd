//! Passes a call on to the replica that owns the partition it is about.
//!
//! A handler does not know who owns what: it asks the engine, and is refused for a partition that is
//! another's. This layer, between authorisation and the handlers, has kept the call, and sends it to
//! the owner as it came, saying who its caller is, which the owner believes of a replica alone
//! ([`Vouching`]); the owner's answer is the answer. While a
//! partition changes hands it tries again for a few seconds, but only where it is certain that nothing
//! was done: a call that was refused by its handler, or never sent.
//!
//! It never passes on what was passed on, nor calls whose caller sends a stream.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use service_kit::auth::{Principal, Vouching};
use service_kit::client::{self, ClientConfig};
use service_kit::error::chain;
use service_kit::status::to_status;
use service_kit::tls::ClientTls;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{ConnectError, Status};
use tower::{Layer, Service, ServiceExt as _};
use twin::Partition;

use crate::grpc::peers::{Directory, FORWARDED, Owner};
use crate::metrics::Metrics;

mod undelivered;

use undelivered::Undelivered;

/// Header of a refusal that names the partition it is for.
const PARTITION: &str = "x-twinward-partition";
/// How long a call waits for a partition that has no owner, or whose owner cannot be reached: a
/// little longer than a lease, so that the end of a replica costs callers time and nothing else. How
/// long whoever carries the call out takes for it is another matter.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long the owner may take for a call that was passed on: as long as most calls may take when
/// they are not (reads that take longer are nobody's in particular, and are never passed on). Behind
/// it nobody can say whether the call was carried out.
const OWNER_WITHIN: service_kit::units::Duration = service_kit::units::Duration::secs(30);
/// How long a connection to an owner may take to come about; a fraction of the patience.
const CONNECT_WITHIN: service_kit::units::Duration = service_kit::units::Duration::secs(2);
/// How long to wait between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// What gRPC adds to a message.
const FRAME: usize = 5;

/// Marks a refusal because a partition is not ours.
pub(crate) fn mark(status: &mut Status, partition: Partition) {
    let number = AsciiMetadataValue::from(partition.get());
    status.metadata_mut().insert(PARTITION, number);
}

/// Where the owners of the other partitions are. Clones share the same knowledge.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owners(Arc<RwLock<BTreeMap<u16, String>>>);

impl Owners {
    /// Takes over what was found.
    pub(crate) fn set(&self, elsewhere: BTreeMap<Partition, String>) {
        let elsewhere = elsewhere
            .into_iter()
            .map(|(partition, address)| (partition.get(), address));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = elsewhere.collect();
    }

    fn address(&self, partition: u16) -> Option<String> {
        let owners = self.0.read().unwrap_or_else(PoisonError::into_inner);
        owners.get(&partition).cloned()
    }
}

/// Lets calls through, and passes on those for others.
#[derive(Clone)]
pub(crate) struct ForwardLayer(Option<Arc<Forwarder>>);

struct Forwarder {
    owners: Owners,
    tls: ClientTls,
    vouching: Vouching,
    metrics: Metrics,
    /// Paths of methods whose callers send streams.
    streaming: HashSet<String>,
    message_max: usize,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl ForwardLayer {
    /// Only lets calls through: there is one replica.
    pub(crate) fn alone() -> ForwardLayer {
        ForwardLayer(None)
    }

    /// Passes calls on to others of whom `owners` tells.
    pub(crate) fn new(
        owners: Owners,
        tls: ClientTls,
        vouching: Vouching,
        metrics: Metrics,
        message_max: usize,
    ) -> ForwardLayer {
        ForwardLayer(Some(Arc::new(Forwarder {
            owners,
            tls,
            vouching,
            metrics,
            streaming: streaming_methods(wire::FILE_DESCRIPTOR_SET),
            message_max,
            channels: Mutex::default(),
        })))
    }
}

impl ForwardLayer {
    /// The other replicas, for handlers of calls that concern several; none: there is one replica.
    pub(crate) fn peers(&self) -> Option<Arc<dyn Directory>> {
        let forwarder = self.0.clone()?;
        Some(forwarder)
    }
}

impl Directory for Forwarder {
    fn owner(&self, partition: Partition) -> Option<Owner> {
        let address = self.owners.address(partition.get())?;
        let channel = self.channel(&address).ok()?;
        Some(Owner { address, channel })
    }

    fn vouch(&self, principal: &Principal, metadata: MetadataMap) -> MetadataMap {
        let mut headers = metadata.into_headers();
        self.vouching.vouch(principal, &mut headers);
        MetadataMap::from_headers(headers)
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = Forwarding<S>;

    fn layer(&self, inner: S) -> Forwarding<S> {
        Forwarding {
            inner,
            forwarder: self.0.clone(),
        }
    }
}

/// A service behind the layer.
#[derive(Clone)]
pub(crate) struct Forwarding<S> {
    inner: S,
    forwarder: Option<Arc<Forwarder>>,
}

impl<S: NamedService> NamedService for Forwarding<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Forwarding<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready is the one to be called.
        let fresh = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, fresh);
        let forwarder = self.forwarder.clone();
        let forwarder = forwarder.filter(|forwarder| forwarder.may_pass_on(&request));
        match forwarder {
            None => inner.call(request).boxed(),
            Some(forwarder) => async move { Ok(forwarder.serve(inner, request).await) }.boxed(),
        }
    }
}

/// Why the owner did not answer.
enum Failure {
    /// Nothing was sent.
    Unreached(String),
    /// Nobody can say what it did.
    InDoubt(String),
}

impl Forwarder {
    fn may_pass_on(&self, request: &Request<Body>) -> bool {
        !request.headers().contains_key(FORWARDED) && !self.streaming.contains(request.uri().path())
    }

    async fn serve<S>(&self, inner: S, request: Request<Body>) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    {
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, self.message_max + FRAME).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return refuse(&if error.is::<LengthLimitError>() {
                    let allowed = self.message_max;
                    Undelivered::TooLarge { allowed }
                } else {
                    let problem = error.to_string();
                    Undelivered::Unreadable { problem }
                });
            }
        };
        self.settle(inner, &parts, &body).await
    }

    /// Asks ourselves and the owner in turn until one of them does not refuse.
    async fn settle<S>(&self, inner: S, parts: &Parts, body: &Bytes) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    {
        let mut refused_since = None;
        loop {
            let request = Request::from_parts(parts.clone(), Body::new(Full::new(body.clone())));
            let response = match inner.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let Some(partition) = refused_for(&response) else {
                return response;
            };
            let since = *refused_since.get_or_insert_with(Instant::now);
            if let Some(address) = self.owners.address(partition) {
                match self.pass_on(&address, parts, body).await {
                    Ok(response) if refused_for(&response).is_none() => {
                        self.metrics.forwarded("answered");
                        return response;
                    }
                    // It has just given the partition up.
                    Ok(_) => self.metrics.forwarded("refused"),
                    Err(Failure::Unreached(error)) => {
                        self.metrics.forwarded("unreached");
                        tracing::debug!(address, error, "a replica cannot be reached");
                    }
                    Err(Failure::InDoubt(error)) => {
                        self.metrics.forwarded("in_doubt");
                        tracing::info!(address, error, "a call was lost on its way to a replica");
                        return refuse(&Undelivered::InDoubt);
                    }
                }
            }
            if since.elapsed() >= PATIENCE {
                return refuse(&Undelivered::NoOwner);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn pass_on(
        &self,
        address: &str,
        parts: &Parts,
        body: &Bytes,
    ) -> Result<Response<Body>, Failure> {
        let channel = self.channel(address).map_err(Failure::Unreached)?;
        let mut request = Request::new(Body::new(Full::new(body.clone())));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = parts.uri.clone();
        *request.version_mut() = parts.version;
        *request.headers_mut() = parts.headers.clone();
        request.headers_mut().remove(HOST);
        let caller = parts.extensions.get::<Principal>();
        let caller = caller.cloned().unwrap_or_else(Principal::nobody);
        self.vouching.vouch(&caller, request.headers_mut());
        let forwarded = HeaderValue::from_static("1");
        request.headers_mut().insert(FORWARDED, forwarded);
        channel.oneshot(request).await.map_err(|error| {
            let text = chain(&error);
            if is_unreached(&error) {
                Failure::Unreached(text)
            } else {
                Failure::InDoubt(text)
            }
        })
    }

    fn channel(&self, address: &str) -> Result<Channel, String> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let config = ClientConfig {
            tls: self.tls.clone(),
            connect_timeout: CONNECT_WITHIN,
            call_timeout: OWNER_WITHIN,
            ..ClientConfig::to(address)
        };
        let channel = client::channel(&config).map_err(|error| chain(&error))?;
        // Replicas come and go under new addresses; those that went are not worth keeping.
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Channels kept; more than a hub has replicas.
const CHANNELS_MAX: usize = 64;

fn refuse(undelivered: &Undelivered) -> Response<Body> {
    to_status(undelivered).into_http()
}

/// The partition for which a handler has refused a call.
fn refused_for(response: &Response<Body>) -> Option<u16> {
    let header = response.headers().get(PARTITION)?;
    header.to_str().ok()?.parse().ok()
}

/// Whether a call failed before anything of it was sent.
fn is_unreached(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// The paths of methods whose callers send streams.
fn streaming_methods(descriptors: &[u8]) -> HashSet<String> {
    let Ok(set) = FileDescriptorSet::decode(descriptors) else {
        return HashSet::new();
    };
    let mut paths = HashSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                if method.client_streaming() {
                    let (package, service) = (file.package(), service.name());
                    paths.insert(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
    }
    paths
}

#[cfg(test)]
mod tests;
