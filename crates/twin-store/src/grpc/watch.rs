//! `WatchTwins`: the present twins, then every change as it is committed, from whichever replica.
//!
//! A watch is a place in the log of each partition (`place`) and reads on from there (`watcher`),
//! at the pace of its reader: what a slow one has not taken yet stays in the log and becomes one
//! change per twin (`batch`). The log is read and decoded once for all watches (`feed`). The place
//! goes to the reader as a token, with which a later watch goes on, on this replica or another.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use wire::twin::v1 as proto;

use super::filter::Filter;
use super::read_mask::ReadMask;
use super::{Api, identity, refuse, token};
use crate::error::Error;
use crate::metrics::Metrics;

mod batch;
mod feed;
mod place;
mod watcher;

pub(crate) use feed::{Feed, follow_heads};

use batch::Shown;
use place::{Bond, Place, Snapshot};
use watcher::{Ask, End, Watcher};

/// The stream of a watch.
pub(super) type Watch =
    Pin<Box<dyn Stream<Item = Result<proto::WatchTwinsResponse, Status>> + Send>>;

/// Messages that wait for a slow reader; behind them the changes wait in the log.
const READY: usize = 16;

/// Opens a watch; its work ends when the caller goes or the service stops.
pub(super) async fn open(api: &Api, request: proto::WatchTwinsRequest) -> Result<Watch, Error> {
    let ask = Ask {
        only: match request.name.as_str() {
            "" => None,
            name => Some(identity("name", name)?),
        },
        filter: Filter::parse_for_changes("filter", &request.filter)?,
        mask: ReadMask::parse(request.read_mask.as_ref())?,
    };
    let bond = Bond {
        store: api.store.identity().await?,
        watch: token::fingerprint(["WatchTwins", &request.name, &request.filter]),
    };
    // Before the heads are read, so that none of their moves is missed.
    let moves = api.feed.subscribe();
    let heads = api.feed.heads().await?;
    let (place, shown) = match request.resume_token.as_str() {
        "" => {
            let place = Place {
                passed: heads,
                snapshot: (!request.skip_snapshot).then(Snapshot::default),
            };
            (place, Shown::nothing())
        }
        text => {
            let place = Place::of_token(text, &bond, api.engine.count(), &heads)?;
            (place, Shown::unknown())
        }
    };
    let (sender, receiver) = mpsc::channel(READY);
    let watcher = Watcher {
        api: api.clone(),
        interest: ask.filter.interest(),
        ask,
        bond,
        place,
        shown,
        moves,
        sender: sender.clone(),
        ahead: std::collections::BTreeMap::new(),
        bookmarked: None,
        moved: false,
    };
    let shutdown = api.shutdown.clone();
    let open = Open::new(api.metrics.clone());
    // The stream drives the watcher itself, so that it ends with the call and needs no task.
    let work = async move {
        let _open = open;
        let outcome = shutdown
            .run_until(Box::pin(watcher.run()))
            .await
            .unwrap_or(Err(End::Failed(Error::Stopping)));
        if let Err(End::Failed(error)) = outcome {
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
