//! The connection: opens it, refuses a server that cannot keep our promises, reconnects for ever,
//! and says in the log and through a watch how the link is.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{AccountErrorKind, ContextBuilder};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, jetstream};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::config::{BusConfig, Credentials, Replicas};
use crate::error::{Cause, ConnectError};

/// The oldest server we accept: earlier ones ignore stream settings that they do not know instead
/// of refusing them.
const OLDEST_SERVER: &str = "2.12.0";

/// How long one request to JetStream may take. It covers a leader election in a cluster.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// First and longest pause between attempts to (re)connect. A second at most, because every
/// service's readiness hangs on it; not less, because all services return to one server together.
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_LONGEST: Duration = Duration::from_secs(1);

/// A ping every so often finds a connection that is dead without a reset; two must be missed.
const PING_EVERY: Duration = Duration::from_secs(10);

/// How the link to the server is, for readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Connected.
    Up,
    /// Trying to reconnect; publishes wait and time out.
    Down,
    /// Closed by us; it stays so.
    Closed,
}

/// The link's state and how often it has come up, so that a reader who missed a short outage still
/// sees that there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The state.
    pub state: LinkState,
    /// Number of times that the link came up.
    pub generation: u64,
    /// Number of times that messages were dropped because we read a subscription too slowly.
    pub dropped: u64,
}

/// A connection to the bus. Cheap to clone; all clones share one connection.
#[derive(Clone, Debug)]
pub struct Bus {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    context: jetstream::Context,
    link: watch::Sender<Link>,
    replicas: Replicas,
    servers: String,
}

impl Bus {
    /// Connects and checks that the server is new enough and runs JetStream.
    ///
    /// It keeps trying for `connect_within`, except when the server refuses the credentials. Once
    /// connected, a lost connection is restored for ever in the background.
    pub async fn connect(config: BusConfig) -> Result<Self, ConnectError> {
        if config.servers.is_empty() {
            return Err(ConnectError::NoServers);
        }
        let servers = config.servers.join(", ");
        let (link, _) = watch::channel(Link {
            state: LinkState::Down,
            generation: 0,
            dropped: 0,
        });
        let options = options(&config, link.clone()).await?;
        let deadline = Instant::now() + config.connect_within;
        let client = connect_until(deadline, &config, &servers, options).await?;
        let context = ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .build(client.clone());
        let bus = Self {
            shared: Arc::new(Shared {
                client,
                context,
                link,
                replicas: config.replicas,
                servers,
            }),
        };
        bus.check_version()?;
        bus.check_until(deadline).await?;
        let version = bus.client().server_info().version;
        info!(servers = %bus.shared.servers, version, "bus connected");
        Ok(bus)
    }

    /// The link's state, now and as it changes: the hook for readiness.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    /// Whether the link is up.
    pub fn is_up(&self) -> bool {
        self.shared.link.borrow().state == LinkState::Up
    }

    /// Asks JetStream for an answer: the thorough readiness check.
    pub async fn check(&self) -> Result<(), ConnectError> {
        let servers = self.shared.servers.clone();
        match self.context().query_account().await {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.kind() {
                AccountErrorKind::JetStream(ref refusal)
                    if is_jetstream_off(refusal.error_code()) =>
                {
                    ConnectError::NoJetStream { servers }
                }
                AccountErrorKind::TimedOut
                | AccountErrorKind::JetStream(_)
                | AccountErrorKind::JetStreamUnavailable
                | AccountErrorKind::Other => ConnectError::JetStreamSilent {
                    servers,
                    source: error.into(),
                },
            }),
        }
    }

    /// The largest message the server takes, headers included.
    pub fn max_message_bytes(&self) -> usize {
        self.client().max_payload()
    }

    /// Copies of each stream.
    pub fn replicas(&self) -> Replicas {
        self.shared.replicas
    }

    /// Sends what is still buffered and closes the connection. Publishes in flight end with an
    /// error, so end packers first.
    pub async fn close(&self) {
        if let Err(error) = self.client().drain().await {
            debug!(%error, "bus was closed already");
        }
        self.shared
            .link
            .send_modify(|link| link.state = LinkState::Closed);
    }

    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    pub(crate) fn context(&self) -> &jetstream::Context {
        &self.shared.context
    }

    /// A server that has just started answers clients before JetStream has read its streams.
    async fn check_until(&self, deadline: Instant) -> Result<(), ConnectError> {
        if !self.client().server_info().jetstream {
            return Err(ConnectError::NoJetStream {
                servers: self.shared.servers.clone(),
            });
        }
        loop {
            match self.check().await {
                Err(ConnectError::JetStreamSilent { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(RECONNECT_FIRST).await;
                }
                checked => return checked,
            }
        }
    }

    fn check_version(&self) -> Result<(), ConnectError> {
        if self.client().is_server_compatible(2, 12, 0) {
            return Ok(());
        }
        Err(ConnectError::TooOld {
            servers: self.shared.servers.clone(),
            found: self.client().server_info().version,
            needed: OLDEST_SERVER,
        })
    }
}

async fn options(
    config: &BusConfig,
    link: watch::Sender<Link>,
) -> Result<ConnectOptions, ConnectError> {
    let mut options = ConnectOptions::new()
        .name(&config.name)
        .ping_interval(PING_EVERY)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            on_event(&link, event);
            async {}
        });
    options =
        match &config.credentials {
            Credentials::None => options,
            Credentials::Token(token) => options.token(token.clone()),
            Credentials::User { name, password } => {
                options.user_and_password(name.clone(), password.clone())
            }
            Credentials::File(path) => options.credentials_file(path).await.map_err(|source| {
                ConnectError::Credentials {
                    path: path.display().to_string(),
                    source,
                }
            })?,
        };
    if let Some(tls) = &config.tls {
        options = options.require_tls(true);
        if let Some(ca_file) = &tls.ca_file {
            options = options.add_root_certificates(ca_file.clone());
        }
        if let Some((certificate, key)) = &tls.client {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
    }
    Ok(options)
}

async fn connect_until(
    deadline: Instant,
    config: &BusConfig,
    servers: &str,
    options: ConnectOptions,
) -> Result<Client, ConnectError> {
    let mut attempt = 1;
    loop {
        let failure = match options.clone().connect(config.servers.as_slice()).await {
            Ok(client) => return Ok(client),
            Err(failure) => failure,
        };
        let refused = matches!(
            failure.kind(),
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation
        );
        let source: Cause = failure.into();
        if refused {
            return Err(ConnectError::Refused {
                servers: servers.to_owned(),
                source,
            });
        }
        let pause = reconnect_delay(attempt);
        if Instant::now() + pause >= deadline {
            return Err(ConnectError::Unreachable {
                servers: servers.to_owned(),
                within: config.connect_within,
                source,
            });
        }
        debug!(%servers, attempt, error = %source, "cannot reach the bus yet");
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

fn is_jetstream_off(code: ErrorCode) -> bool {
    code == ErrorCode::JETSTREAM_NOT_ENABLED || code == ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
}

/// Doubles from the first pause to the longest.
fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1))
        .unwrap_or(u32::MAX)
        .min(16);
    RECONNECT_FIRST
        .saturating_mul(1 << doublings)
        .min(RECONNECT_LONGEST)
}

/// Keeps the watch in step and tells the operator, once per change.
fn on_event(link: &watch::Sender<Link>, event: Event) {
    match event {
        Event::Connected => {
            let mut generation = 0;
            link.send_modify(|link| {
                link.state = LinkState::Up;
                link.generation += 1;
                generation = link.generation;
            });
            if generation > 1 {
                info!(generation, "bus connection restored");
            }
        }
        Event::Disconnected => {
            link.send_modify(|link| link.state = LinkState::Down);
            warn!("bus connection lost, reconnecting");
        }
        Event::Closed => {
            link.send_modify(|link| link.state = LinkState::Closed);
            info!("bus connection closed");
        }
        Event::Draining => debug!("bus connection draining"),
        Event::LameDuckMode => info!("the NATS server is about to stop, moving to another"),
        Event::SlowConsumer(subscription) => {
            let mut is_first = false;
            link.send_modify(|link| {
                link.dropped += 1;
                // It comes with each message, and each of a storm is not worth a line.
                is_first = link.dropped.is_power_of_two();
            });
            if is_first {
                warn!(
                    subscription,
                    "messages were dropped because a subscription was read too slowly"
                );
            }
        }
        Event::ServerError(error) => warn!(%error, "the NATS server reports an error"),
        Event::ClientError(error) => warn!(%error, "the NATS client reports an error"),
    }
}

/// Resolves when the link has come up another time than `generation`.
pub(crate) async fn came_up_again(link: &mut watch::Receiver<Link>, generation: u64) {
    let again = link.wait_for(|link| link.state == LinkState::Up && link.generation != generation);
    if again.await.is_err() {
        // The bus is gone and nothing will come up again.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_attempts_grow_to_a_second() {
        assert_eq!(reconnect_delay(0), RECONNECT_FIRST);
        assert_eq!(reconnect_delay(1), RECONNECT_FIRST);
        assert_eq!(reconnect_delay(2), RECONNECT_FIRST * 2);
        assert_eq!(reconnect_delay(usize::MAX), RECONNECT_LONGEST);
    }

    #[test]
    fn dropped_messages_are_visible_afterwards() {
        let (link, mut seen) = watch::channel(Link {
            state: LinkState::Up,
            generation: 1,
            dropped: 0,
        });
        seen.mark_unchanged();
        on_event(&link, Event::SlowConsumer(7));
        on_event(&link, Event::SlowConsumer(8));
        assert!(seen.has_changed().unwrap());
        let now = *seen.borrow_and_update();
        assert_eq!((now.generation, now.dropped), (1, 2));
    }

    #[test]
    fn a_short_outage_is_visible_afterwards() {
        let (link, seen) = watch::channel(Link {
            state: LinkState::Down,
            generation: 0,
            dropped: 0,
        });
        on_event(&link, Event::Connected);
        let before = *seen.borrow();
        on_event(&link, Event::Disconnected);
        on_event(&link, Event::Connected);
        let after = *seen.borrow();
        assert_eq!((before.state, after.state), (LinkState::Up, LinkState::Up));
        assert_ne!(before.generation, after.generation);
    }
}
