//! The connection to the service: opens a session, passes messages both ways, and opens the next one
//! with back-off when it ends. Knows nothing of what the messages mean.

use std::time::Duration;

use iot_hub::connection_string::ConnectionString;
use iot_hub::sas::{SasResource, SasToken};
use jiff::SignedDuration;
use service_kit::backoff::{Backoff, Policy};
use service_kit::client::{self, ClientConfig, ClientError, Connection};
use service_kit::clock::SharedClock;
use service_kit::shutdown::ShutdownToken;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status, Streaming};
use wire::agent::v1::agent_service_client::AgentServiceClient;
use wire::agent::v1::{OpenSessionRequest, OpenSessionResponse};

/// Messages that may wait to be written. The engine has at most a dozen batches in flight.
const OUTBOUND_MAX: usize = 64;

/// How long the service may take to begin its answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A session that was open for this long was a good one: the next failure starts the back-off anew.
const GOOD_SESSION: Duration = Duration::from_secs(5);

/// How long a token is good for. The session ends with it, so a new one is opened a bit earlier.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(24);
const SESSION_LIFE: Duration = Duration::from_hours(20);

/// An outage must not bring a whole fleet back in the same second, nor keep a device away for long.
const RECONNECT: Policy = Policy {
    first: Duration::from_millis(250),
    cap: Duration::from_secs(30),
    budget: None,
};

/// What happens on the connection.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A session begins; `hello` must be the first message put in. Triggering `reset` ends it.
    Opened {
        outbound: mpsc::Sender<OpenSessionRequest>,
        reset: ShutdownToken,
    },
    /// The service says something.
    Received(Box<OpenSessionResponse>),
    /// The session is over; another one follows.
    Closed,
}

/// Why the connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The channel cannot be made.
    #[error("cannot prepare the connection to {url}")]
    Channel {
        url: String,
        source: Box<ClientError>,
    },
}

/// The connection of one identity.
pub(crate) struct Link {
    url: String,
    client: AgentServiceClient<Connection>,
    identity: ConnectionString,
    events: mpsc::Sender<LinkEvent>,
    clock: SharedClock,
    shutdown: ShutdownToken,
}

/// Why a session ended.
enum End {
    Service(Status),
    Finished,
    Engine,
    Renewal,
}

impl Link {
    /// Prepares the connection; nothing is sent yet. To be called inside the runtime.
    pub(crate) fn new(
        config: &ClientConfig,
        identity: ConnectionString,
        events: mpsc::Sender<LinkEvent>,
        clock: SharedClock,
        shutdown: ShutdownToken,
    ) -> Result<Self, Error> {
        let channel = client::connect(config).map_err(|source| Error::Channel {
            url: config.url.clone(),
            source: Box::new(source),
        })?;
        let client = AgentServiceClient::new(channel);
        Ok(Self {
            url: config.url.clone(),
            client,
            identity,
            events,
            clock,
            shutdown,
        })
    }

    /// Opens one session after the other until told to stop.
    pub(crate) async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        // Dropped where it waits: a session needs no farewell, the service sees the stream end.
        shutdown.run_until(self.follow()).await;
    }

    async fn follow(&mut self) {
        let mut backoff = Backoff::new(RECONNECT);
        loop {
            let (end, open_for) = self.session().await;
            if self.events.send(LinkEvent::Closed).await.is_err() {
                return;
            }
            // Time spent on a peer that does not answer is not time of a session.
            if open_for > GOOD_SESSION {
                backoff = Backoff::new(RECONNECT);
            }
            let delay = backoff.next_delay().unwrap_or(RECONNECT.cap);
            log_end(&self.url, &end, delay, backoff.used());
            tokio::time::sleep(delay).await;
        }
    }

    /// Holds one session; answers how it ended and how long it was open.
    async fn session(&mut self) -> (End, Duration) {
        let (outbound, requests) = mpsc::channel(OUTBOUND_MAX);
        let reset = ShutdownToken::new();
        let opened = LinkEvent::Opened {
            outbound,
            reset: reset.clone(),
        };
        if self.events.send(opened).await.is_err() {
            return (End::Engine, Duration::ZERO);
        }
        let mut opened_at = None;
        let exchange = self.exchange(requests, &mut opened_at);
        let end = match reset.run_until(timeout(SESSION_LIFE, exchange)).await {
            None => End::Engine,
            Some(Err(_elapsed)) => End::Renewal,
            Some(Ok(Ok(()))) => End::Finished,
            Some(Ok(Err(status))) => End::Service(status),
        };
        (end, opened_at.map_or(Duration::ZERO, |at| at.elapsed()))
    }

    /// Passes messages both ways until the session ends; notes when the service first answered.
    async fn exchange(
        &mut self,
        requests: mpsc::Receiver<OpenSessionRequest>,
        opened_at: &mut Option<Instant>,
    ) -> Result<(), Status> {
        let mut request = Request::new(ReceiverStream::new(requests));
        request
            .metadata_mut()
            .insert("authorization", self.authorization()?);
        // The welcome belongs to the opening: a service that takes the call and says nothing would
        // otherwise keep the agent waiting for as long as the connection lives.
        let opening = async {
            let mut responses = self.client.open_session(request).await?.into_inner();
            let first = responses.message().await?;
            Ok::<_, Status>((responses, first))
        };
        let (mut responses, mut next): (Streaming<OpenSessionResponse>, _) =
            timeout(OPEN_TIMEOUT, opening)
                .await
                .map_err(|_| Status::deadline_exceeded("the service did not answer"))??;
        *opened_at = Some(Instant::now());
        while let Some(response) = next {
            if self
                .events
                .send(LinkEvent::Received(Box::new(response)))
                .await
                .is_err()
            {
                return Ok(());
            }
            next = responses.message().await?;
        }
        Ok(())
    }

    fn authorization(&self) -> Result<MetadataValue<Ascii>, Status> {
        let resource =
            SasResource::of_identity(self.identity.host_name(), self.identity.identity());
        let expires_at = self.clock.now() + TOKEN_LIFE;
        let token = SasToken::sign(resource, self.identity.key(), expires_at);
        let mut value: MetadataValue<Ascii> = token
            .to_string()
            .parse()
            .map_err(|_| Status::internal("the token does not fit in a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What somebody must mend is said as a warning each time; an outage once, then quietly.
fn log_end(url: &str, end: &End, delay: Duration, attempt: u32) {
    let delay_ms = delay.as_millis();
    match end {
        End::Service(status) => {
            let (code, reason) = (status.code(), reason(status));
            match code {
                Code::Unauthenticated | Code::PermissionDenied | Code::NotFound | Code::Aborted => {
                    tracing::warn!(
                        url,
                        ?code,
                        reason,
                        delay_ms,
                        "the service ended the session"
                    );
                }
                _ if attempt == 1 => {
                    tracing::warn!(
                        url,
                        ?code,
                        reason,
                        delay_ms,
                        "no session with the service; collecting goes on"
                    );
                }
                _ => {
                    tracing::debug!(url, ?code, reason, delay_ms, attempt, "still no session");
                }
            }
        }
        End::Finished => tracing::info!(delay_ms, "the service closed the session"),
        End::Engine => tracing::info!(delay_ms, "session reset"),
        End::Renewal => tracing::debug!(delay_ms, "session renewed before its token ends"),
    }
}

/// What the service said, or what the connection died of: there the message is only the last link of
/// the chain, and the one to mend (a refused port, a certificate) is behind it.
fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_reason_of_an_outage_names_its_cause() {
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "port is closed");
        let mut status = Status::unavailable("connect error");
        status.set_source(Arc::new(refused));
        assert_eq!(reason(&status), "connect error: port is closed");
        assert_eq!(reason(&Status::aborted("taken over")), "taken over");
    }
}
