//! Queues: one per subject of a stream, bounded by a number of messages, each of which may end by
//! itself after a time.
//!
//! They are read without a consumer, because a consumer for each of tens of thousands of devices is
//! more than the server carries. The reader keeps its place in memory and removes what is done with,
//! so whatever it forgets comes again.

use std::time::Duration;

use async_nats::jetstream::stream::{DeleteMessageErrorKind, LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use futures::TryStreamExt as _;

use crate::connection::Bus;
use crate::error::{Cause, EnsureError};
use crate::message::{Headers, Outgoing, Sequence};

/// A message of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its place in the stream.
    pub sequence: Sequence,
    /// By what it is known if it is published again ([`Headers::MESSAGE_ID`]).
    pub message_id: Option<String>,
    /// Its bytes.
    pub payload: Bytes,
}

impl Outgoing {
    /// Lets the server remove the message after this time; whole seconds, one at least.
    #[must_use]
    pub fn expires_after(self, time: Duration) -> Self {
        let seconds = time.as_secs().max(1);
        self.header(Headers::TIME_TO_LIVE, seconds.to_string())
    }
}

impl Bus {
    /// The first message of a queue behind a place; `None` when there is none.
    pub async fn next_queued(
        &self,
        stream: &str,
        subject: &str,
        after: Sequence,
    ) -> Result<Option<Queued>, EnsureError> {
        let handle = self.queues(stream).await?;
        let first = after.next().get();
        match handle
            .get_first_raw_message_by_subject(subject, first)
            .await
        {
            Ok(message) => Ok(Some(Queued {
                sequence: Sequence::new(message.sequence),
                message_id: message
                    .headers
                    .get(Headers::MESSAGE_ID)
                    .map(ToString::to_string),
                payload: message.payload,
            })),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                Ok(None)
            }
            Err(error) => Err(unreadable(stream, error.into())),
        }
    }

    /// Removes a message. One that is not there (any more) is removed.
    pub async fn remove_queued(&self, stream: &str, sequence: Sequence) -> Result<(), EnsureError> {
        let handle = self.queues(stream).await?;
        match handle.delete_message(sequence.get()).await {
            Ok(_) => Ok(()),
            // The server answers, so it is no longer there: it has no other reason.
            Err(error) if matches!(error.kind(), DeleteMessageErrorKind::JetStream(_)) => Ok(()),
            Err(error) => Err(EnsureError::Trim {
                stream: stream.to_owned(),
                up_to: sequence,
                source: error.into(),
            }),
        }
    }

    /// Removes all messages of a queue. Returns how many went.
    pub async fn purge_queue(&self, stream: &str, subject: &str) -> Result<u64, EnsureError> {
        let handle = self.queues(stream).await?;
        let purged = handle.purge().filter(subject).await;
        let purged = purged.map_err(|error| unreadable(stream, error.into()))?;
        Ok(purged.purged)
    }

    /// The queues that hold something, with their lengths; `subjects` may have wildcards, and should
    /// name few.
    pub async fn queue_lengths(
        &self,
        stream: &str,
        subjects: &str,
    ) -> Result<Vec<(String, usize)>, EnsureError> {
        let failed = |source: Cause| unreadable(stream, source);
        let handle = self.queues(stream).await?;
        let lengths = handle.info_with_subjects(subjects).await;
        let lengths = lengths.map_err(|error| failed(error.into()))?;
        let lengths = lengths.try_collect().await;
        lengths.map_err(|error| failed(error.into()))
    }

    async fn queues(&self, stream: &str) -> Result<Stream<()>, EnsureError> {
        let handle = self.context().get_stream_no_info(stream).await;
        handle.map_err(|error| unreadable(stream, error.into()))
    }
}

fn unreadable(stream: &str, source: Cause) -> EnsureError {
    EnsureError::Status {
        stream: stream.to_owned(),
        source,
    }
}
