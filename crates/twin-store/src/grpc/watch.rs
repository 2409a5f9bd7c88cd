//! `WatchTwins`: the present twins, then every change as it is committed.
//!
//! Changes are subscribed to before the snapshot is read, so none falls between. A change that the
//! snapshot holds already is left out, so a watcher never sees a twin go back: the snapshot
//! remembers the log revision of each twin that changed while it was read, and no others.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use twin::{IdentityKey, Partition};
use wire::twin::v1 as proto;
use wire::twin::v1::watch_twins_response::Event;

use super::twins::Filter;
use super::{Api, identity, refuse};
use crate::engine::Committed;
use crate::error::Error;
use crate::record::Record;

/// The stream of a watch.
pub(super) type Watch =
    Pin<Box<dyn Stream<Item = Result<proto::WatchTwinsResponse, Status>> + Send>>;

/// Messages that wait for a slow reader; behind them the changes wait, bounded too.
const READY: usize = 64;
/// Twins of the snapshot read at once.
const PAGE: u32 = 256;

/// Opens a watch; its work ends when the caller goes or the service stops.
pub(super) fn open(api: &Api, request: proto::WatchTwinsRequest) -> Result<Watch, Error> {
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
        changes: api.engine.watch(),
        sender: sender.clone(),
        seen: BTreeMap::new(),
    };
    let shutdown = api.shutdown.clone();
    let metrics = api.metrics.clone();
    // The stream drives the watcher itself, so that it ends with the call and needs no task.
    let work = async move {
        metrics.watches.inc();
        let outcome = shutdown
            .run_until(watcher.run())
            .await
            .unwrap_or(Err(Error::Stopping));
        metrics.watches.dec();
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

struct Watcher {
    api: Api,
    only: Option<IdentityKey>,
    filter: Filter,
    skip_snapshot: bool,
    changes: broadcast::Receiver<Arc<Committed>>,
    sender: mpsc::Sender<Result<proto::WatchTwinsResponse, Status>>,
    /// Log revision of each twin as the snapshot showed it. Dropped when every change that was
    /// committed before the snapshot ended has been passed.
    seen: BTreeMap<IdentityKey, (Partition, u64)>,
}

impl Watcher {
    async fn run(mut self) -> Result<(), Error> {
        if !self.skip_snapshot {
            self.snapshot().await?;
        }
        loop {
            let committed = match self.changes.recv().await {
                Ok(committed) => committed,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Err(Error::WatchTooSlow { missed });
                }
                Err(broadcast::error::RecvError::Closed) => return Err(Error::Stopping),
            };
            if self
                .only
                .as_ref()
                .is_some_and(|only| *only != committed.key)
            {
                continue;
            }
            let revision = committed.change.revision;
            let known = self.seen.get(&committed.key);
            if known.is_some_and(|(_, known)| revision <= *known) {
                continue;
            }
            self.seen.remove(&committed.key);
            if !self.change(&committed).await? {
                return Ok(());
            }
        }
    }

    async fn snapshot(&mut self) -> Result<(), Error> {
        let mut twin_count = 0;
        if let Some(only) = self.only.clone() {
            if let Some(record) = self.api.store.get(only).await? {
                twin_count += self.show(&record).await?;
            }
        } else {
            let mut after = None;
            loop {
                let page = self.api.store.list(after, PAGE).await?;
                for record in &page.records {
                    twin_count += self.show(record).await?;
                }
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        self.forget_old();
        let complete = Event::SnapshotComplete(proto::SnapshotComplete { twin_count });
        self.send(Some(complete), Vec::new(), String::new()).await;
        Ok(())
    }

    /// Shows a twin of the snapshot and answers how many that were.
    async fn show(&mut self, record: &Record) -> Result<u64, Error> {
        let partition = self.api.engine.partition(&record.key);
        self.seen
            .insert(record.key.clone(), (partition, record.revision.get()));
        if !self.filter.passes(record)? {
            return Ok(0);
        }
        let twin = self.api.message(record)?;
        self.send(Some(Event::Twin(twin)), Vec::new(), String::new())
            .await;
        Ok(1)
    }

    /// Without changes that wait there is nothing that the snapshot could have overtaken.
    fn forget_old(&mut self) {
        if self.changes.is_empty() {
            self.seen.clear();
        }
    }

    /// Passes a change on; false when the caller has gone.
    async fn change(&mut self, committed: &Committed) -> Result<bool, Error> {
        let change = &committed.change;
        if change.deleted {
            let name = change
                .twin
                .as_ref()
                .map(|twin| twin.name.clone())
                .unwrap_or_default();
            let event = Event::DeletedName(name);
            return Ok(self
                .send(Some(event), Vec::new(), change.trace_parent.clone())
                .await);
        }
        let record = &committed.record;
        let Some(record) = record.as_ref().filter(|_| change.twin.is_some()) else {
            return Ok(true);
        };
        if !self.filter.passes(record)? {
            return Ok(true);
        }
        let event = Event::Twin(self.api.message(record)?);
        Ok(self
            .send(
                Some(event),
                change.changes.clone(),
                change.trace_parent.clone(),
            )
            .await)
    }

    async fn send(&self, event: Option<Event>, changes: Vec<i32>, trace_parent: String) -> bool {
        let response = proto::WatchTwinsResponse {
            event,
            changes,
            trace_parent,
        };
        self.sender.send(Ok(response)).await.is_ok()
    }
}
