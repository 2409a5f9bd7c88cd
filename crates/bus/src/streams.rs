//! The streams that must exist, made or brought to their specification at start.
//!
//! One stream per partition: a consumer filtered to a sixteenth of one stream costs the server
//! five times as much per message, and the bound of one partition must not fill another's.

use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, LastRawMessageErrorKind, RetentionPolicy, State, StorageType,
};
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use jiff::Timestamp;
use tracing::{debug, info};

use crate::connection::Bus;
use crate::error::{Cause, EnsureError};
use crate::message::Sequence;

/// Within this time the server drops a message whose id it has seen. It must outlast the repeats of
/// one publish and a restart of the publisher; the server keeps each id in memory for as long.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// Changes are re-read from twin-store by whoever fell further behind than this.
const TWINS_KEPT: Duration = Duration::from_hours(24);

/// As long as IoT Hub keeps device-to-cloud messages by default.
pub const APPLICATION_KEPT: Duration = Duration::from_hours(24);

/// A week, so that a reject made on Friday evening can be looked at on Monday.
const REJECTS_KEPT: Duration = Duration::from_hours(7 * 24);

/// What happens when a stream has reached its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// New messages are refused, so nothing that was acknowledged is ever lost; the reader trims.
    RefuseNew,
    /// The oldest go.
    DropOldest,
}

/// What a stream must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Name of the stream, upper case.
    pub name: String,
    /// Subject it takes, possibly with a wildcard.
    pub subject: String,
    /// Its bound in bytes on disk.
    pub max_bytes: u64,
    /// How long messages are kept; `None` is until trimmed.
    pub max_age: Option<Duration>,
    /// Whether of each subject only the newest message is kept, as of a table of values.
    pub newest_only: bool,
    /// How many messages of each subject there may be, as of queues; more are refused. `None`: any
    /// number. Messages of queues may end by themselves ([`Outgoing::expires_after`]).
    ///
    /// [`Outgoing::expires_after`]: crate::Outgoing::expires_after
    pub queue_max: Option<u16>,
    /// What happens at the bound.
    pub when_full: WhenFull,
    /// For the operator who lists streams.
    pub description: &'static str,
}

impl StreamSpec {
    /// Telemetry of one partition: what was acknowledged to a device stays until it is folded.
    pub fn telemetry(name: impl Into<String>, subject: impl Into<String>, max_bytes: u64) -> Self {
        Self {
            name: name.into(),
            subject: subject.into(),
            max_bytes,
            max_age: None,
            newest_only: false,
            queue_max: None,
            when_full: WhenFull::RefuseNew,
            description: "admitted device telemetry of one partition; trimmed by twin-store",
        }
    }

    /// Changed twins of one partition: a feed that may forget, since twin-store has the truth.
    pub fn twins(name: impl Into<String>, subject: impl Into<String>, max_bytes: u64) -> Self {
        Self {
            name: name.into(),
            subject: subject.into(),
            max_bytes,
            max_age: Some(TWINS_KEPT),
            newest_only: false,
            queue_max: None,
            when_full: WhenFull::DropOldest,
            description: "changes of the twins of one partition, in order",
        }
    }

    /// Messages that could not be used, with the reason, for a person to look at.
    pub fn rejects(name: impl Into<String>, subject: impl Into<String>, max_bytes: u64) -> Self {
        Self {
            name: name.into(),
            subject: subject.into(),
            max_bytes,
            max_age: Some(REJECTS_KEPT),
            newest_only: false,
            queue_max: None,
            when_full: WhenFull::DropOldest,
            description: "messages that could not be used, with the reason",
        }
    }

    /// What devices send for others to read: kept for a day, and the oldest go first.
    pub fn application(
        name: impl Into<String>,
        subject: impl Into<String>,
        max_bytes: u64,
    ) -> Self {
        Self {
            name: name.into(),
            subject: subject.into(),
            max_bytes,
            max_age: Some(APPLICATION_KEPT),
            newest_only: false,
            queue_max: None,
            when_full: WhenFull::DropOldest,
            description: "messages of devices for applications",
        }
    }

    /// A value per subject; [`Bus::newest`] reads one. At the bound those go that were written
    /// longest ago.
    pub fn values(
        name: impl Into<String>,
        subject: impl Into<String>,
        max_bytes: u64,
        description: &'static str,
    ) -> Self {
        Self {
            name: name.into(),
            subject: subject.into(),
            max_bytes,
            max_age: None,
            newest_only: true,
            queue_max: None,
            when_full: WhenFull::DropOldest,
            description,
        }
    }

    /// A queue per subject, each of so many messages at most; see [`crate::queues`].
    pub fn queues(
        name: impl Into<String>,
        subject: impl Into<String>,
        max_bytes: u64,
        queue_max: u16,
        max_age: Duration,
        description: &'static str,
    ) -> Self {
        Self {
            name: name.into(),
            subject: subject.into(),
            max_bytes,
            max_age: Some(max_age),
            newest_only: false,
            queue_max: Some(queue_max),
            when_full: WhenFull::RefuseNew,
            description,
        }
    }

    /// Lays our settings over `base`, which keeps what an operator may have added to the stream.
    fn over(&self, base: Config, replicas: u8) -> Config {
        Config {
            name: self.name.clone(),
            subjects: vec![self.subject.clone()],
            description: Some(self.description.to_owned()),
            max_bytes: i64::try_from(self.max_bytes).unwrap_or(i64::MAX),
            max_messages: -1,
            max_messages_per_subject: match self.queue_max {
                Some(max) => max.into(),
                None if self.newest_only => 1,
                None => -1,
            },
            discard_new_per_subject: self.queue_max.is_some(),
            // Once allowed, the server does not let it be taken back.
            allow_message_ttl: base.allow_message_ttl || self.queue_max.is_some(),
            max_age: self.max_age.unwrap_or(Duration::ZERO),
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: match self.when_full {
                WhenFull::RefuseNew => DiscardPolicy::New,
                WhenFull::DropOldest => DiscardPolicy::Old,
            },
            duplicate_window: DUPLICATE_WINDOW,
            num_replicas: usize::from(replicas),
            // Acknowledging from memory would break the promise of `publish`.
            persist_mode: None,
            no_ack: false,
            // The reader trims with a purge.
            deny_purge: false,
            ..base
        }
    }
}

/// What is in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// First message there is; one past the last when there is none.
    pub first: Sequence,
    /// Last message that was ever stored, also when it has gone since.
    pub last: Sequence,
    /// When that was stored; none if there is no message.
    pub first_at: Option<Timestamp>,
    /// Messages there are.
    pub messages: u64,
    /// Bytes they take.
    pub bytes: u64,
}

impl StreamStatus {
    /// How many messages a reader at `position` has before it.
    pub fn backlog(&self, position: Sequence) -> u64 {
        self.last
            .get()
            .saturating_sub(position.get())
            .min(self.messages)
    }
}

impl From<&State> for StreamStatus {
    fn from(state: &State) -> Self {
        Self {
            first: Sequence::new(state.first_sequence),
            last: Sequence::new(state.last_sequence),
            // The server says the year 1 of an empty stream.
            first_at: Timestamp::from_second(state.first_timestamp.unix_timestamp())
                .ok()
                .filter(|_| state.messages > 0),
            messages: state.messages,
            bytes: state.bytes,
        }
    }
}

impl Bus {
    /// Makes what is missing, updates what differs, and reports what cannot be changed in place.
    /// May be called by several services at once.
    pub async fn ensure_streams(&self, specs: &[StreamSpec]) -> Result<(), EnsureError> {
        for spec in specs {
            self.ensure_stream(spec).await?;
        }
        Ok(())
    }

    /// What is in a stream.
    pub async fn stream_status(&self, stream: &str) -> Result<StreamStatus, EnsureError> {
        let info = self.stream_info(stream).await?;
        let info = info.ok_or_else(|| EnsureError::Missing {
            stream: stream.to_owned(),
        })?;
        Ok(StreamStatus::from(&info.state))
    }

    /// The newest message on a subject of a stream; `None` when there is none (any more).
    pub async fn newest(&self, stream: &str, subject: &str) -> Result<Option<Bytes>, EnsureError> {
        let failed = |source: Cause| EnsureError::Status {
            stream: stream.to_owned(),
            source,
        };
        let handle = self.context().get_stream_no_info(stream).await;
        let handle = handle.map_err(|error| failed(error.into()))?;
        match handle.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                Ok(None)
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// The last message ever stored in a stream.
    pub async fn last_sequence(&self, stream: &str) -> Result<Sequence, EnsureError> {
        Ok(self.stream_status(stream).await?.last)
    }

    /// Removes all messages up to and with `up_to`, which the caller must have made durable
    /// elsewhere. Returns how many went. Safe to repeat.
    pub async fn trim(&self, stream: &str, up_to: Sequence) -> Result<u64, EnsureError> {
        let failed = |source: Cause| EnsureError::Trim {
            stream: stream.to_owned(),
            up_to,
            source,
        };
        let handle = self
            .context()
            .get_stream_no_info(stream)
            .await
            .map_err(|error| failed(error.into()))?;
        // The server removes what is below the sequence it is given.
        let purge = handle.purge().sequence(up_to.next().get());
        let purged = purge.await.map_err(|error| failed(error.into()))?;
        Ok(purged.purged)
    }

    async fn ensure_stream(&self, spec: &StreamSpec) -> Result<(), EnsureError> {
        let failed = |source: Cause| EnsureError::Failed {
            stream: spec.name.clone(),
            source,
        };
        let replicas = self.replicas().get();
        let Some(found) = self.stream_info(&spec.name).await? else {
            let wanted = spec.over(Config::default(), replicas);
            // Another service may make the same stream at this moment; the server takes an equal
            // configuration as done.
            self.context()
                .create_stream(wanted)
                .await
                .map_err(|error| failed(error.into()))?;
            info!(
                stream = spec.name,
                max_bytes = spec.max_bytes,
                "stream created"
            );
            return Ok(());
        };
        check_compatible(spec, &found.config)?;
        let wanted = spec.over(found.config.clone(), replicas);
        if wanted == found.config {
            debug!(stream = spec.name, "stream is as it should be");
            return Ok(());
        }
        self.context()
            .update_stream(&wanted)
            .await
            .map_err(|error| failed(error.into()))?;
        info!(
            stream = spec.name,
            max_bytes = spec.max_bytes,
            "stream settings updated"
        );
        Ok(())
    }

    /// `None` when there is no such stream.
    pub(crate) async fn stream_info(&self, stream: &str) -> Result<Option<Info>, EnsureError> {
        match self.context().get_stream(stream).await {
            Ok(handle) => Ok(Some(handle.cached_info().clone())),
            Err(error) if is_missing(&error.kind()) => Ok(None),
            Err(error) => Err(EnsureError::Status {
                stream: stream.to_owned(),
                source: error.into(),
            }),
        }
    }
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    match kind {
        GetStreamErrorKind::JetStream(error) => is_stream_missing(error),
        GetStreamErrorKind::EmptyName
        | GetStreamErrorKind::Request
        | GetStreamErrorKind::InvalidStreamName => false,
    }
}

pub(crate) fn is_stream_missing(error: &jetstream::Error) -> bool {
    error.error_code() == ErrorCode::STREAM_NOT_FOUND
}

/// The server changes limits, ages and discard policies in place, but not these.
fn check_compatible(spec: &StreamSpec, found: &Config) -> Result<(), EnsureError> {
    let incompatible = |what, found: String, wanted: &str| {
        Err(EnsureError::Incompatible {
            stream: spec.name.clone(),
            what,
            found,
            wanted: wanted.to_owned(),
        })
    };
    if found.storage != StorageType::File {
        return incompatible("storage", format!("{:?}", found.storage), "File");
    }
    if found.retention != RetentionPolicy::Limits {
        return incompatible("retention", format!("{:?}", found.retention), "Limits");
    }
    if found.mirror.is_some() || found.sources.as_ref().is_some_and(|list| !list.is_empty()) {
        return incompatible("source", "another stream".to_owned(), "its own subject");
    }
    if found.sealed {
        return incompatible("state", "sealed".to_owned(), "writable");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_telemetry_is_never_discarded_by_the_stream() {
        let spec = StreamSpec::telemetry("TELEMETRY_3", "telemetry.3", 1 << 30);
        let config = spec.over(Config::default(), 3);
        assert_eq!(config.discard, DiscardPolicy::New);
        assert_eq!(config.max_age, Duration::ZERO);
        assert_eq!(config.persist_mode, None);
        assert_eq!((config.max_bytes, config.num_replicas), (1 << 30, 3));
    }

    #[test]
    fn what_an_operator_added_to_a_stream_stays() {
        let base = Config {
            max_message_size: 123,
            ..Config::default()
        };
        let config = StreamSpec::twins("TWINS_0", "twins.0", 1).over(base, 1);
        assert_eq!(config.max_message_size, 123);
    }

    #[test]
    fn a_memory_stream_is_reported_and_not_touched() {
        let found = Config {
            storage: StorageType::Memory,
            ..Config::default()
        };
        let error = check_compatible(&StreamSpec::twins("TWINS_0", "twins.0", 1), &found)
            .expect_err("memory storage loses acknowledged data");
        assert_eq!(
            error.to_string(),
            "stream TWINS_0 exists with storage Memory, but File is needed; remove or rename it"
        );
    }

    #[test]
    fn backlog_counts_what_lies_before_a_reader() {
        let sequence = Sequence::new;
        let status = StreamStatus {
            first: sequence(11),
            last: sequence(20),
            first_at: None,
            messages: 10,
            bytes: 100,
        };
        assert_eq!(status.backlog(sequence(20)), 0);
        assert_eq!(status.backlog(sequence(15)), 5);
        assert_eq!(
            status.backlog(sequence(0)),
            10,
            "what was trimmed is not before anyone"
        );
    }
}
