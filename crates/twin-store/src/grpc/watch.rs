//! `WatchTwins`: the present twins, then every change as it is committed.
//!
//! Changes are subscribed to before the snapshot is read, so none falls between, and they are passed
//! on between the snapshot's pages, so that a long snapshot does not fall behind. A watcher never
//! sees a twin go back: a change that the snapshot has shown already is left out. For that the
//! watcher remembers the twins it has shown ahead of the changes it has passed, and no others; they
//! are as many as changes may wait, at most.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use twin::{IdentityKey, Partition, Revision};
use wire::names::identity_name;
use wire::twin::v1 as proto;
use wire::twin::v1::watch_twins_response::Event;

use super::twins::Filter;
use super::{Api, identity, refuse, report_damaged};
use crate::apply::Touch;
use crate::encode;
use crate::engine::Committed;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::record::Record;
use crate::store::{Page, Source, everything};

/// The stream of a watch.
pub(super) type Watch =
    Pin<Box<dyn Stream<Item = Result<proto::WatchTwinsResponse, Status>> + Send>>;

/// Messages that wait for a slow reader; behind them the changes wait, bounded too.
const READY: usize = 64;
/// Twins of the snapshot read at once.
const PAGE: u32 = 256;

/// Opens a watch; its work ends when the caller goes or the service stops.
pub(super) fn open(api: &Api, request: &proto::WatchTwinsRequest) -> Result<Watch, Error> {
    let only = match request.name.as_str() {
        "" => None,
        name => Some(identity("name", name)?),
    };
    let filter = Filter::parse(&request.filter)?;
    let (sender, receiver) = mpsc::channel(READY);
    let watcher = Watcher {
        api: api.clone(),
        only,
        filter,
        skip_snapshot: request.skip_snapshot,
        seen: Seen::from(api.engine.logs()),
        changes: api.engine.watch(),
        sender: sender.clone(),
    };
    let shutdown = api.shutdown.clone();
    let open = Open::new(api.metrics.clone());
    // The stream drives the watcher itself, so that it ends with the call and needs no task.
    let work = async move {
        let _open = open;
        let outcome = shutdown
            .run_until(Box::pin(watcher.run()))
            .await
            .unwrap_or(Err(Error::Stopping));
        if let Err(error) = outcome {
            let _ = sender.send(Err(refuse(error))).await;
        }
    };
    let work = futures::stream::once(work).filter_map(|()| std::future::ready(None));
    Ok(Box::pin(futures::stream::select(
        ReceiverStream::new(receiver),
        work,
    )))
}

/// Counts an open watch; also when its stream is dropped in the middle.
struct Open(Metrics);

impl Open {
    fn new(metrics: Metrics) -> Open {
        metrics.watches.inc();
        Open(metrics)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.watches.dec();
    }
}

struct Watcher {
    api: Api,
    only: Option<IdentityKey>,
    filter: Filter,
    skip_snapshot: bool,
    changes: broadcast::Receiver<Arc<Committed>>,
    sender: mpsc::Sender<Result<proto::WatchTwinsResponse, Status>>,
    seen: Seen,
}

/// The caller has gone.
struct Gone;

impl Watcher {
    async fn run(mut self) -> Result<(), Error> {
        if !self.skip_snapshot && self.snapshot().await?.is_err() {
            return Ok(());
        }
        loop {
            let committed = match self.changes.recv().await {
                Ok(committed) => committed,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Err(Error::WatchTooSlow { missed });
                }
                Err(broadcast::error::RecvError::Closed) => return Err(Error::Stopping),
            };
            if self.pass(&committed).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn snapshot(&mut self) -> Result<Result<(), Gone>, Error> {
        let mut twin_count = 0;
        let mut after = None;
        loop {
            let page = if let Some(only) = self.only.clone() {
                Page {
                    records: self.api.store.get(only).await?.into_iter().collect(),
                    ..Page::default()
                }
            } else {
                let search = everything(Source::All, after, PAGE, self.api.clock.now());
                self.api.store.search(search).await?
            };
            report_damaged(&page.damaged);
            for record in &page.records {
                self.seen
                    .shown(self.api.engine.partition(&record.key), record);
                let Some(twin) = self.visible(record) else {
                    continue;
                };
                twin_count += 1;
                if self.send(Event::Twin(twin), None).await.is_err() {
                    return Ok(Err(Gone));
                }
            }
            loop {
                match self.changes.try_recv() {
                    Ok(committed) => {
                        if self.pass(&committed).await.is_err() {
                            return Ok(Err(Gone));
                        }
                    }
                    Err(broadcast::error::TryRecvError::Empty) => break,
                    Err(broadcast::error::TryRecvError::Lagged(missed)) => {
                        return Err(Error::WatchTooSlow { missed });
                    }
                    Err(broadcast::error::TryRecvError::Closed) => return Err(Error::Stopping),
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let complete = proto::SnapshotComplete {
            twin_count,
            resume_token: String::new(),
        };
        Ok(self.send(Event::SnapshotComplete(complete), None).await)
    }

    /// Passes a change on, unless the snapshot has shown it or the caller did not ask for it.
    async fn pass(&mut self, committed: &Committed) -> Result<(), Gone> {
        if self.seen.knows(committed)
            || self
                .only
                .as_ref()
                .is_some_and(|only| *only != committed.key)
        {
            return Ok(());
        }
        let event = match &committed.record {
            None => Event::DeletedName(identity_name(&committed.key)),
            Some(record) => match self.visible(record) {
                Some(twin) => Event::Twin(twin),
                None => return Ok(()),
            },
        };
        self.send(event, Some(&committed.touch)).await
    }

    /// The twin as a message, if the caller asked for it. A damaged one must not end the watch.
    fn visible(&self, record: &Record) -> Option<proto::Twin> {
        self.filter.show(record).unwrap_or_else(|damaged| {
            report_damaged(&[damaged]);
            None
        })
    }

    async fn send(&self, event: Event, touch: Option<&Touch>) -> Result<(), Gone> {
        let response = proto::WatchTwinsResponse {
            event: Some(event),
            changes: touch.map(encode::change_kinds).unwrap_or_default(),
            trace_parent: touch
                .and_then(|touch| touch.cause.trace_parent.clone())
                .unwrap_or_default(),
        };
        self.sender.send(Ok(response)).await.map_err(|_| Gone)
    }
}

/// What the snapshot has shown ahead of the changes.
#[derive(Debug, Default)]
struct Seen {
    /// Revision of the last change of each partition that was passed or may be left out.
    passed: BTreeMap<Partition, Revision>,
    /// Twins shown with a later revision than that: a change may come that they hold already.
    ahead: BTreeMap<(Partition, Revision), IdentityKey>,
    revisions: BTreeMap<IdentityKey, Revision>,
}

impl Seen {
    /// Starts where the logs stand. To be read before the changes are subscribed to.
    fn from(passed: BTreeMap<Partition, Revision>) -> Seen {
        Seen {
            passed,
            ..Seen::default()
        }
    }

    /// The snapshot has shown a record.
    fn shown(&mut self, partition: Partition, record: &Record) {
        if self
            .passed
            .get(&partition)
            .is_none_or(|passed| record.revision > *passed)
        {
            self.ahead
                .insert((partition, record.revision), record.key.clone());
            self.revisions.insert(record.key.clone(), record.revision);
        }
    }

    /// Whether the snapshot has shown what a change says. Changes must come in their order.
    fn knows(&mut self, committed: &Committed) -> bool {
        let (partition, revision) = (committed.partition, committed.revision);
        self.passed.insert(partition, revision);
        let known = self
            .revisions
            .get(&committed.key)
            .is_some_and(|shown| revision <= *shown);
        // No change to come is as old as this one.
        if let Some(key) = self.ahead.remove(&(partition, revision)) {
            self.revisions.remove(&key);
        }
        known
    }
}

#[cfg(test)]
mod tests;
