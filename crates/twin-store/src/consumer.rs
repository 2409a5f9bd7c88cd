//! Reads one partition's telemetry in order and has it folded.
//!
//! The hop before is ingestion's durable publish, the hop after the engine's commit. The position
//! is committed with what the messages caused, so a message takes effect once: after a crash the
//! reader starts behind the last one committed. Only one batch is with the engine at a time; the
//! next is not asked for before, so a slow store slows the reader and nothing piles up here.

use std::time::Duration;

use bus::{Bus, Fetched, Headers, Pull, PullError, PullOptions, Reject, Sequence};
use prost::Message as _;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use service_kit::trace;
use tracing::{debug, error, info, warn};
use twin::Partition;
use wire::bus::v1 as proto;
use wire::{InvalidField, subjects};

use crate::apply::telemetry::{Content, Entry, Folded, fold_entries};
use crate::engine::Engine;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::presence::Presence;
use crate::store::{self, Selection, failpoint};

mod entry;

/// Messages folded in one commit: at 32 events each, the group of events an fsync is paid for.
const BATCH_MESSAGES: usize = 64;
/// How long the reader waits for a message before it looks whether it should stop.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// How long telemetry waits when the store cannot be read.
const STORE_WAIT: Duration = Duration::from_secs(1);
/// Folded messages are trimmed this many at a time; a purge costs the server a scan. With a commit
/// of [`BATCH_MESSAGES`] on top, what is folded and not trimmed stays below ingestion's bound for a
/// backlog, however large the messages are.
const TRIM_EVERY: u64 = 64;
/// Where rejects of this service go.
const SERVICE: &str = "twin-store";

/// The reader of one partition.
pub struct Consumer {
    bus: Bus,
    engine: Engine,
    metrics: Metrics,
    presence: Presence,
    partition: Partition,
    stream: String,
    position: u64,
    trimmed: u64,
}

impl Consumer {
    /// A reader that continues after `position`.
    pub fn new(
        bus: Bus,
        engine: Engine,
        metrics: Metrics,
        presence: Presence,
        partition: Partition,
        position: u64,
    ) -> Consumer {
        let stream = subjects::telemetry_stream(partition);
        Consumer {
            bus,
            engine,
            metrics,
            presence,
            partition,
            stream,
            position,
            trimmed: 0,
        }
    }

    /// Reads until shutdown.
    ///
    /// # Errors
    /// The engine has stopped, or the stream is gone.
    pub async fn run(mut self, shutdown: ShutdownToken) -> Result<(), RunError> {
        let mut pull = self.pull();
        while !shutdown.is_triggered() {
            // Cancelling loses nothing: an undelivered message comes again.
            let Some(next) = shutdown
                .run_until(pull.next_batch(BATCH_MESSAGES, IDLE_WAIT))
                .await
            else {
                break;
            };
            match next {
                Ok(batch) if batch.is_empty() => self.trim_idle().await,
                Ok(batch) => match self.fold_in_time(&batch, &shutdown).await {
                    Ok(()) => {
                        failpoint::hit("consumer.folded");
                        self.trim().await;
                    }
                    // The partition is another replica's now, or soon somebody's again.
                    Err(Error::Stopping | Error::NotOwned { .. }) => break,
                    Err(error) => return Err(error.into()),
                },
                Err(PullError::Gap { expected, got, .. }) => {
                    self.lost(expected, got);
                    pull.accept_gap(got);
                }
                Err(PullError::Ahead { position, last, .. }) => {
                    error!(
                        stream = self.stream, %position, %last,
                        "the telemetry stream was made anew; reading it from its beginning"
                    );
                    self.position = 0;
                    self.trimmed = 0;
                    pull = self.pull();
                }
                Err(error @ PullError::Missing { .. }) => return Err(error.into()),
            }
            self.metrics.backlog(self.partition.get(), pull.backlog());
        }
        debug!(
            stream = self.stream,
            position = self.position,
            "reader ended"
        );
        Ok(())
    }

    /// Notes that messages are missing from the stream. Before the first fold of a store it is what
    /// an older store has folded and trimmed.
    fn lost(&self, expected: Sequence, got: Sequence) {
        if self.position == 0 {
            info!(stream = self.stream, from = %got, "the stream begins later than the store");
            return;
        }
        self.metrics.lost(got.get().saturating_sub(expected.get()));
        error!(
            stream = self.stream, %expected, %got,
            "telemetry that was acknowledged is gone from the stream"
        );
    }

    fn pull(&self) -> Pull {
        self.bus.pull(
            &self.stream,
            Sequence::new(self.position),
            PullOptions::default(),
        )
    }

    /// Folds a batch, again and again while the store cannot be read or written: what follows it has to wait,
    /// other partitions and callers do not.
    async fn fold_in_time(
        &mut self,
        batch: &[Fetched],
        shutdown: &ShutdownToken,
    ) -> Result<(), Error> {
        loop {
            let Err(error) = self.fold(batch).await else {
                return Ok(());
            };
            match error {
                // Of the latter two something else in its commit was damaged, and nothing was written: without that it
                // is the next time, or when those have gone who want to change it all the same.
                Error::Store(store::Error::Engine { .. })
                | Error::Overtaken
                | Error::Damaged(_) => {}
                error => return Err(error),
            }
            warn!(
                stream = self.stream,
                error = chain(&error),
                "telemetry waits for the store"
            );
            let waited = shutdown.run_until(tokio::time::sleep(STORE_WAIT)).await;
            waited.ok_or(Error::Stopping)?;
        }
    }

    /// Folds a batch and waits until it is durable.
    async fn fold(&mut self, batch: &[Fetched]) -> Result<(), Error> {
        let Some(last) = batch.last().map(|message| message.sequence.get()) else {
            return Ok(());
        };
        failpoint::hit("consumer.fetched");
        let span = tracing::info_span!("fold", partition = %self.partition, through = last);
        let mut entries = Vec::new();
        for message in batch {
            self.read(message, &mut entries).await;
        }
        continue_trace(&span, &mut entries);
        for entry in &entries {
            if let Content::Session(notice) = &entry.content {
                self.presence.heard_of(notice.run.as_deref());
            }
        }
        let selections = entries
            .iter()
            .map(|entry| Selection::One(entry.key.clone()))
            .collect();
        let partition = self.partition;
        let (folded, entries) = self
            .engine
            .fold(selections, (self.partition, last), move |overlay, now| {
                let folded = fold_entries(overlay, partition, &entries, now);
                (folded, entries)
            })
            .await?;
        drop(span);
        self.position = last;
        self.metrics.folded(&folded);
        for run in &folded.taken_up {
            self.presence.met(run);
        }
        self.refuse(&folded, &entries, batch).await;
        Ok(())
    }

    /// Reads a message; what cannot be used goes to REJECTS and does not stop the rest.
    async fn read(&self, message: &Fetched, entries: &mut Vec<Entry>) {
        let decoded = match proto::TelemetryMessage::decode(message.payload.clone()) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.metrics.poison();
                warn!(
                    stream = self.stream, sequence = %message.sequence, error = chain(&error),
                    "a telemetry message cannot be read and goes to REJECTS"
                );
                self.reject(Reject {
                    subject: subjects::rejects_subject(SERVICE),
                    id: format!("{}/{}", self.stream, message.sequence),
                    source: format!("{}/{}", self.stream, message.sequence),
                    code: "MALFORMED_MESSAGE".to_owned(),
                    reason: error.to_string(),
                    traceparent: message.headers.get(Headers::TRACEPARENT).map(str::to_owned),
                    original: message.payload.clone(),
                })
                .await;
                return;
            }
        };
        let sequence = message.sequence.get();
        for (index, entry) in decoded.entries.into_iter().enumerate() {
            match entry::read(sequence, index, entry) {
                Ok(entry) => entries.push(entry),
                Err(reason) => self.unusable(message, index, &reason).await,
            }
        }
    }

    async fn unusable(&self, message: &Fetched, index: usize, reason: &InvalidField) {
        self.metrics.poison();
        let Some(original) = original(message, index) else {
            return;
        };
        warn!(
            stream = self.stream, sequence = %message.sequence, index,
            device_id = original.device_id, %reason,
            "a telemetry entry cannot be used and goes to REJECTS"
        );
        self.reject(Reject {
            subject: subjects::rejects_subject(SERVICE),
            id: format!("{}/{}/{index}", self.stream, message.sequence),
            source: original.device_id.clone(),
            code: "INVALID_ENTRY".to_owned(),
            reason: reason.to_string(),
            traceparent: Some(original.trace_parent.clone()).filter(|text| !text.is_empty()),
            original: original.encode_to_vec().into(),
        })
        .await;
    }

    /// Entries without a twin: the identity was deleted or made anew while they were on the way.
    async fn refuse(&self, folded: &Folded, entries: &[Entry], batch: &[Fetched]) {
        for (index, reason) in &folded.refused {
            let Some(entry) = entries.get(*index) else {
                continue;
            };
            info!(device_id = %entry.key.device, reason, "telemetry without a twin goes to REJECTS");
            let original = batch
                .iter()
                .find(|message| message.sequence.get() == entry.sequence)
                .and_then(|message| original(message, entry.index))
                .map(|original| original.encode_to_vec());
            self.reject(Reject {
                subject: subjects::rejects_subject(SERVICE),
                id: format!("{}/{}/{}", self.stream, entry.sequence, entry.index),
                source: entry.key.to_string(),
                code: "NO_TWIN".to_owned(),
                reason: reason.clone(),
                traceparent: entry.trace_parent.clone(),
                original: original.unwrap_or_default().into(),
            })
            .await;
        }
    }

    /// A reject that cannot be kept is still in the log; it must not hold up the partition.
    async fn reject(&self, reject: Reject) {
        let source = reject.source.clone();
        if let Err(error) = self.bus.reject(reject).await {
            error!(source, error = chain(&error), "a reject could not be kept");
        }
    }

    /// Frees the stream of what is folded, a good number at a time.
    async fn trim(&mut self) {
        if self.position >= self.trimmed + TRIM_EVERY {
            self.trim_to(self.position).await;
        }
    }

    /// Frees the stream when there is nothing to fold. Ingestion takes a stream that stays large
    /// for a backlog and holds its agents, and then nothing would come that leads to a trim. The
    /// last message stays, so that the stream's end never rests on the server's memory of it.
    async fn trim_idle(&mut self) {
        let all_but_last = self.position.saturating_sub(1);
        if all_but_last > self.trimmed {
            self.trim_to(all_but_last).await;
        }
    }

    /// It may fail: the next trim does more.
    async fn trim_to(&mut self, position: u64) {
        match self.bus.trim(&self.stream, Sequence::new(position)).await {
            Ok(_) => self.trimmed = position,
            Err(error) => warn!(
                stream = self.stream,
                error = chain(&error),
                "trimming failed"
            ),
        }
    }
}

/// A batch mixes many traces. Its span continues the newest one, which a lone event's is, and the
/// change that this entry causes continues the span.
fn continue_trace(span: &tracing::Span, entries: &mut [Entry]) {
    let newest = entries
        .iter_mut()
        .rev()
        .find(|entry| entry.trace_parent.is_some());
    let Some(entry) = newest else { return };
    if let Some(parent) = &entry.trace_parent
        && trace::set_parent(span, parent)
        && let Some(own) = trace::traceparent_of(span)
    {
        entry.trace_parent = Some(own);
    }
}

/// An entry as it came. Read again from its message only when it is to be rejected, which is rare.
fn original(message: &Fetched, index: usize) -> Option<proto::TelemetryEntry> {
    let decoded = proto::TelemetryMessage::decode(message.payload.clone()).ok()?;
    decoded.entries.into_iter().nth(index)
}

/// Why a reader ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The stream cannot be read.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The fold cannot be committed.
    #[error(transparent)]
    Fold(#[from] Error),
}
