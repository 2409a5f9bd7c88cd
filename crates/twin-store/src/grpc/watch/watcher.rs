//! One watch at work: pages of the snapshot, and behind each the changes so far; then changes.
//!
//! Between two pages only changes of twins that the snapshot has passed are told: the others come
//! with their page. A page may show a twin as a change that is still to come made it; that change
//! is left out then, so that a reader never sees a twin go back.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;
use twin::{IdentityKey, Partition, Revision};
use wire::names::identity_name;
use wire::twin::v1 as proto;
use wire::twin::v1::watch_twins_response::Event;

use super::batch::{Batch, Gathered, Shown};
use super::feed::{Heads, PAGE};
use super::place::{Bond, Place};
use crate::error::Error;
use crate::grpc::filter::{Filter, Interest, show, show_logged};
use crate::grpc::read_mask::ReadMask;
use crate::grpc::{Api, report_damaged};
use crate::record::{Damaged, Record};
use crate::store::{self, Estimates, Page, Search, Source};

/// A reader is told where it is at least so often.
const BOOKMARK: Duration = Duration::from_secs(10);
/// And not more often than this, however much changes: a token may have some KB.
const BOOKMARK_BUSY: Duration = Duration::from_secs(1);

/// What is watched.
pub(super) struct Ask {
    /// One twin; none: all.
    pub(super) only: Option<IdentityKey>,
    /// Which of them.
    pub(super) filter: Filter,
    /// What is shown of them.
    pub(super) mask: ReadMask,
}

/// One watch at work.
pub(super) struct Watcher {
    pub(super) api: Api,
    pub(super) ask: Ask,
    pub(super) interest: Interest,
    pub(super) bond: Bond,
    pub(super) place: Place,
    pub(super) shown: Shown,
    pub(super) moves: watch::Receiver<Heads>,
    pub(super) sender: mpsc::Sender<Result<proto::WatchTwinsResponse, Status>>,
    /// Twins that the snapshot has shown ahead of the changes passed on; as many as one page has.
    pub(super) ahead: BTreeMap<IdentityKey, Revision>,
    /// When the reader was last told where it is.
    pub(super) bookmarked: Option<Instant>,
    /// Whether the place has moved since the last bookmark.
    pub(super) moved: bool,
}

/// Why a watch ends.
pub(super) enum End {
    /// The caller has gone.
    Gone,
    /// It cannot go on.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for End {
    fn from(error: E) -> End {
        End::Failed(error.into())
    }
}

impl Watcher {
    /// Works until the caller goes or the watch cannot go on.
    pub(super) async fn run(mut self) -> Result<(), End> {
        while self.place.snapshot.is_some() {
            self.snapshot_page().await?;
        }
        loop {
            let heads = self.moves.borrow_and_update().clone();
            self.catch_up(&heads).await?;
            let wait = self.until_bookmark();
            if wait.is_zero() {
                self.bookmark().await?;
                continue;
            }
            // Waiting may be dropped at any time: heads that moved meanwhile are seen as moved.
            let waited = tokio::select! {
                moved = self.moves.changed() => moved.is_ok(),
                () = tokio::time::sleep(wait) => true,
                () = self.sender.closed() => return Err(End::Gone),
            };
            if !waited {
                return Err(End::Failed(Error::Stopping));
            }
        }
    }

    /// Shows one page, then passes on what changed on the twins shown so far.
    async fn snapshot_page(&mut self) -> Result<(), End> {
        let Some(mut snapshot) = self.place.snapshot.take() else {
            return Ok(());
        };
        let page = self.read_page(snapshot.after.clone()).await?;
        report_damaged(&page.damaged);
        for record in &page.records {
            let partition = self.api.engine.partition(&record.key);
            let passed = self.place.passed.get(&partition).copied();
            if record.revision > passed.unwrap_or_default() {
                self.ahead.insert(record.key.clone(), record.revision);
            }
            if let Some(twin) = self.visible(record) {
                snapshot.count += 1;
                self.shown.add(&record.key);
                self.send(Event::Twin(twin), Vec::new(), String::new())
                    .await?;
            }
        }
        let count = snapshot.count;
        let is_last = page.next.is_none();
        snapshot.after = page.next.or(snapshot.after);
        self.place.snapshot = Some(snapshot).filter(|_| !is_last);
        // As fresh as the page or fresher, so that nothing is ahead any more.
        let heads = self.api.feed.heads().await?;
        self.catch_up(&heads).await?;
        self.ahead.clear();
        if is_last {
            let complete = proto::SnapshotComplete {
                twin_count: count,
                resume_token: self.place.token(&self.bond),
            };
            self.noted();
            return self
                .send(Event::SnapshotComplete(complete), Vec::new(), String::new())
                .await;
        }
        self.moved = true;
        if self.until_bookmark().is_zero() {
            self.bookmark().await?;
        }
        Ok(())
    }

    /// A reader that is shown no snapshot gets the first bookmark at once: a place to come back to.
    fn until_bookmark(&self) -> Duration {
        let due = if self.moved { BOOKMARK_BUSY } else { BOOKMARK };
        let since = self.bookmarked.map(|at| at.elapsed());
        since.map_or(Duration::ZERO, |since| due.saturating_sub(since))
    }

    async fn read_page(&self, after: Option<IdentityKey>) -> Result<Page, store::Error> {
        if let Some(only) = self.ask.only.clone() {
            return Ok(Page {
                records: self.api.store.get(only).await?.into_iter().collect(),
                ..Page::default()
            });
        }
        let search = Search {
            source: Source::All,
            // A twin that is passed over and matches later is behind the cursor then, and comes as
            // a change.
            condition: self.ask.filter.scope(),
            now: self.api.clock.now(),
            after,
            limit: PAGE,
            estimates: Estimates::default(),
        };
        self.api.store.search(search).await
    }

    /// Passes on every change up to these heads.
    async fn catch_up(&mut self, heads: &Heads) -> Result<(), End> {
        for (partition, head) in heads {
            if let Some(only) = &self.ask.only
                && self.api.engine.partition(only) != *partition
            {
                continue;
            }
            while self.passed(*partition) < *head {
                if !self.pass_batch(*partition, *head).await? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn passed(&self, partition: Partition) -> Revision {
        let passed = self.place.passed.get(&partition);
        passed.copied().unwrap_or_default()
    }

    /// Passes on some changes of a partition; false if there are none.
    async fn pass_batch(&mut self, partition: Partition, head: Revision) -> Result<bool, End> {
        let from = self.passed(partition);
        let mut through = from;
        let mut batch = Batch::default();
        while through < head && !batch.is_full() {
            let piece = self.api.feed.read(partition, through).await?;
            if piece.through <= through {
                break;
            }
            through = piece.through;
            for logged in piece.changes {
                if self.concerns(&logged.key) {
                    batch.take(logged);
                }
            }
        }
        for gathered in batch.into_changes() {
            self.pass(gathered).await?;
        }
        // Only now, so that a token never leads behind what was not sent.
        self.place.passed.insert(partition, through);
        self.moved |= through > from;
        Ok(through > from)
    }

    /// Whether changes of a twin are told now.
    fn concerns(&self, key: &IdentityKey) -> bool {
        match (&self.ask.only, &self.place.snapshot) {
            (Some(only), _) if only != key => false,
            (_, Some(snapshot)) => snapshot.after.as_ref().is_some_and(|after| key <= after),
            (_, None) => true,
        }
    }

    async fn pass(&mut self, gathered: Gathered) -> Result<(), End> {
        let logged = &gathered.last;
        let key = &logged.key;
        let shown_ahead = self.ahead.get(key).copied().unwrap_or_default();
        if logged.revision <= shown_ahead {
            return Ok(());
        }
        let trace_parent = logged.change.trace_parent.clone();
        let twin = match &logged.change.twin {
            Some(twin) if !logged.change.deleted => twin,
            _ => {
                if !self.is_filtered() || self.shown.remove(key) {
                    let event = Event::DeletedName(identity_name(key));
                    self.send(event, Vec::new(), trace_parent).await?;
                }
                return Ok(());
            }
        };
        let passes = self.ask.filter.passes_logged(twin);
        let visible = passes.and_then(|passes| {
            if passes {
                show_logged(twin.clone(), &self.ask.mask).map(Some)
            } else {
                Ok(None)
            }
        });
        match undamaged(visible) {
            Some(twin) => {
                if self.is_filtered() {
                    self.shown.add(key);
                }
                let changes = gathered.changes.iter().copied().collect();
                self.send(Event::Twin(twin), changes, trace_parent).await
            }
            None if self.interest.meets(&gathered.changes) && self.shown.remove(key) => {
                let event = Event::UnmatchedName(identity_name(key));
                self.send(event, Vec::new(), trace_parent).await
            }
            None => Ok(()),
        }
    }

    fn is_filtered(&self) -> bool {
        matches!(self.ask.filter, Filter::Where(_))
    }

    /// The record as a message, if the caller asked for it.
    fn visible(&self, record: &Record) -> Option<proto::Twin> {
        let passes = self.ask.filter.passes(record, self.api.clock.now());
        let visible = passes.and_then(|passes| {
            if passes {
                show(record, &self.ask.mask).map(Some)
            } else {
                Ok(None)
            }
        });
        undamaged(visible)
    }

    async fn bookmark(&mut self) -> Result<(), End> {
        let bookmark = proto::Bookmark {
            resume_token: self.place.token(&self.bond),
        };
        self.noted();
        self.send(Event::Bookmark(bookmark), Vec::new(), String::new())
            .await
    }

    fn noted(&mut self) {
        self.bookmarked = Some(Instant::now());
        self.moved = false;
    }

    async fn send(&self, event: Event, changes: Vec<i32>, trace_parent: String) -> Result<(), End> {
        let response = proto::WatchTwinsResponse {
            event: Some(event),
            changes,
            trace_parent,
        };
        self.sender.send(Ok(response)).await.map_err(|_| End::Gone)
    }
}

/// A damaged twin must not end the watch.
fn undamaged(visible: Result<Option<proto::Twin>, Damaged>) -> Option<proto::Twin> {
    visible.unwrap_or_else(|damaged| {
        report_damaged(&[damaged]);
        None
    })
}
