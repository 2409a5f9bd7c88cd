//! A watch that outlives its connections.
//!
//! It reconnects with back-off and resumes behind the last token, so that nothing is lost and
//! nothing that did not change comes twice. Where it cannot resume it begins anew and says so
//! ([`Event::Begins`]): what its reader knows may be outdated then, until the snapshot is complete.
//! It keeps no twin.

use std::time::Duration;

use service_kit::backoff::{Backoff, Policy};
use service_kit::client::Connection;
use service_kit::error::{Classified as _, Kind};
use service_kit::status::RemoteError;
use tokio::time::Instant;
use tonic::{Status, Streaming};
use wire::twin::v1 as proto;
use wire::twin::v1::twin_service_client::TwinServiceClient;
use wire::twin::v1::watch_twins_response::Event as Sent;

/// A message holds one twin; the largest is far below this.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Reason of the refusal of a token whose place is no longer in the log.
const TOO_OLD: &str = "WATCH_TOKEN_TOO_OLD";
/// Reason of the refusal of a token that this service did not give for this watch.
const NOT_OURS: &str = "WATCH_TOKEN_INVALID";

/// What to watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct What {
    /// Resource name of one twin; empty: all.
    pub name: String,
    /// WHERE part of the query language; empty: all.
    pub filter: String,
    /// Fields of `Twin` to send; empty: all.
    pub fields: Vec<String>,
    /// Leave out the present state.
    pub changes_only: bool,
}

/// How patient a watch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Pauses before it connects again.
    pub retry: Policy,
    /// A connection that is silent for so long counts as lost: twin-store sends a bookmark every
    /// 10 seconds at least, and a peer that lost power does not say so.
    pub silence: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            retry: Policy {
                first: Duration::from_millis(100),
                cap: Duration::from_secs(5),
                budget: None,
            },
            silence: Duration::from_secs(30),
        }
    }
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// What follows starts from nothing: first the present twins, then [`Event::Synced`], then
    /// changes. What was known before and does not come again is gone. With `changes_only` no
    /// present twins come, and changes may have been missed (unless it is the first).
    Begins(Begin),
    /// A twin as it is now.
    Twin {
        /// The twin.
        twin: Box<proto::Twin>,
        /// What changed; empty: it is of the snapshot.
        changes: Vec<proto::Change>,
        /// W3C trace context of the write; may be empty.
        trace_parent: String,
    },
    /// The identity was deleted.
    Deleted(String),
    /// The twin is there and no longer matches the filter.
    Unmatched(String),
    /// All present twins have come: so many.
    Synced(u64),
    /// Everything up to here has come; [`Watch::token`] has moved.
    Bookmark,
    /// The connection was lost; the next call waits and tries again.
    Interrupted {
        /// Why, for people.
        why: String,
        /// How long it will wait.
        pause: Duration,
    },
}

/// Why a watch starts from nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// It is new.
    First,
    /// The connection was lost before there was a token.
    Interrupted,
    /// The place where it was is no longer in the log.
    TokenTooOld,
    /// The token is another store's, or another watch's.
    TokenRefused,
}

/// twin-store refuses the watch itself. The next call tries again all the same, after a pause, for
/// readers that wait until an operator has mended it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("twin-store refuses the watch")]
pub struct WatchError(#[source] Box<RemoteError>);

impl WatchError {
    /// What twin-store says.
    pub fn refusal(&self) -> &RemoteError {
        &self.0
    }
}

/// One watch. [`Watch::next`] may be dropped at any time; nothing is lost.
#[derive(Debug)]
pub struct Watch {
    client: TwinServiceClient<Connection>,
    what: What,
    tuning: Tuning,
    token: String,
    begin: Begin,
    backoff: Backoff,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Down,
    Pausing(Instant),
    Up(Box<Streaming<proto::WatchTwinsResponse>>),
}

impl Watch {
    /// Makes a watch; nothing is sent before the first [`Watch::next`].
    pub fn new(client: TwinServiceClient<Connection>, what: What, tuning: Tuning) -> Watch {
        Watch {
            client: client.max_decoding_message_size(MESSAGE_BYTES_MAX),
            what,
            tuning,
            token: String::new(),
            begin: Begin::First,
            backoff: Backoff::new(tuning.retry),
            link: Link::Down,
        }
    }

    /// Goes on from where an earlier watch of the same things was.
    #[must_use]
    pub fn resume(mut self, token: impl Into<String>) -> Watch {
        self.token = token.into();
        self
    }

    /// With it a later watch goes on behind the last [`Event::Synced`] or [`Event::Bookmark`];
    /// empty before the first.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// twin-store refuses the watch; trying again helps only if somebody mends something.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        loop {
            match &mut self.link {
                Link::Pausing(until) => {
                    tokio::time::sleep_until(*until).await;
                    self.link = Link::Down;
                }
                Link::Down => match self.open().await {
                    Ok(Some(begins)) => return Ok(begins),
                    Ok(None) => {}
                    Err(status) => return self.failed(status),
                },
                Link::Up(stream) => {
                    match tokio::time::timeout(self.tuning.silence, stream.message()).await {
                        Ok(Ok(Some(message))) => {
                            if let Some(event) = self.take(message) {
                                return Ok(event);
                            }
                        }
                        Ok(Ok(None)) => return Ok(self.lost("the service closed the watch")),
                        Ok(Err(status)) => return self.failed(status),
                        Err(_) => return Ok(self.lost("the connection went silent")),
                    }
                }
            }
        }
    }

    async fn open(&mut self) -> Result<Option<Event>, Status> {
        let request = proto::WatchTwinsRequest {
            name: self.what.name.clone(),
            filter: self.what.filter.clone(),
            skip_snapshot: self.what.changes_only,
            resume_token: self.token.clone(),
            read_mask: (!self.what.fields.is_empty()).then(|| prost_types::FieldMask {
                paths: self.what.fields.clone(),
            }),
        };
        let opening = self.client.watch_twins(request);
        let stream = tokio::time::timeout(self.tuning.silence, opening)
            .await
            .map_err(|_| Status::deadline_exceeded("the service does not answer"))??;
        self.link = Link::Up(Box::new(stream.into_inner()));
        let begins = self.token.is_empty().then_some(Event::Begins(self.begin));
        self.begin = Begin::Interrupted;
        Ok(begins)
    }

    fn take(&mut self, message: proto::WatchTwinsResponse) -> Option<Event> {
        let changes = message.changes().collect();
        Some(match message.event? {
            Sent::Twin(twin) => Event::Twin {
                twin: Box::new(twin),
                changes,
                trace_parent: message.trace_parent,
            },
            Sent::DeletedName(name) => Event::Deleted(name),
            Sent::UnmatchedName(name) => Event::Unmatched(name),
            Sent::SnapshotComplete(complete) => {
                self.arrived(complete.resume_token);
                Event::Synced(complete.twin_count)
            }
            Sent::Bookmark(bookmark) => {
                self.arrived(bookmark.resume_token);
                Event::Bookmark
            }
        })
    }

    /// Only a token says that the service does well: one that ends each watch after its first
    /// message must not be asked without pause.
    fn arrived(&mut self, token: String) {
        if !token.is_empty() {
            self.token = token;
        }
        self.backoff = Backoff::new(self.tuning.retry);
    }

    fn failed(&mut self, status: Status) -> Result<Event, WatchError> {
        let refusal = RemoteError::from(status);
        // A watch ends with the proof it began with. Whether there is a fresh one shows when it begins
        // again: a refusal then is final.
        let is_over = matches!(self.link, Link::Up(_)) && refusal.kind() == Kind::Unauthenticated;
        let begin = match refusal.reason() {
            TOO_OLD => Some(Begin::TokenTooOld),
            NOT_OURS => Some(Begin::TokenRefused),
            _ => None,
        };
        if let Some(begin) = begin {
            self.token.clear();
            self.begin = begin;
        }
        let event = self.lost(&refusal.to_string());
        if begin.is_none() && is_final(refusal.kind()) && !is_over {
            return Err(WatchError(Box::new(refusal)));
        }
        Ok(event)
    }

    fn lost(&mut self, why: &str) -> Event {
        let pause = self.backoff.next_delay().unwrap_or(self.tuning.retry.cap);
        self.link = Link::Pausing(Instant::now() + pause);
        Event::Interrupted {
            why: why.to_owned(),
            pause,
        }
    }
}

/// Whether asking again helps only if somebody mends something.
fn is_final(kind: Kind) -> bool {
    match kind {
        Kind::InvalidArgument
        | Kind::NotFound
        | Kind::AlreadyExists
        | Kind::FailedPrecondition
        | Kind::OutOfRange
        | Kind::PermissionDenied
        | Kind::Unauthenticated
        | Kind::Unimplemented => true,
        Kind::Aborted
        | Kind::ResourceExhausted
        | Kind::Unavailable
        | Kind::DeadlineExceeded
        | Kind::Internal
        | Kind::DataLoss => false,
    }
}

#[cfg(test)]
mod tests;
