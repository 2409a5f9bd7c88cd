//! Writes a store into a file.

use std::io::Write;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::check::{Checker, Whole};
use super::frames::FrameWriter;
use super::{BATCHES, Gaps, Item, Maintain, MaintainError, Report, Table};

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// When it was made.
    pub made_at: Timestamp,
    /// By which version of Twinward.
    pub program: String,
    /// Of which kind of store, for instance `sqlite`.
    pub kind: String,
}

/// The header as it lies in the file.
#[derive(Serialize, Deserialize)]
struct HeaderText {
    made_at: String,
    program: String,
    kind: String,
}

impl Header {
    fn print(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&HeaderText {
            made_at: self.made_at.to_string(),
            program: self.program.clone(),
            kind: self.kind.clone(),
        })
    }

    pub(super) fn parse(text: &str) -> Option<Header> {
        let text: HeaderText = serde_json::from_str(text).ok()?;
        Some(Header {
            made_at: text.made_at.parse().ok()?,
            program: text.program,
            kind: text.kind,
        })
    }
}

/// Writes everything that a store has, as it is at one moment. The report says which rows were
/// damaged in the store already; they are in the backup as they are.
///
/// # Errors
/// The store cannot be read, or the backup not be written. With [`Gaps::Refused`] also when a table
/// breaks off or a partition is damaged: who restores such a backup loses what nobody can name.
pub async fn backup<W: Write + Send + 'static>(
    store: &dyn Maintain,
    to: W,
    now: Timestamp,
    gaps: Gaps,
    progress: impl FnMut(Table, u64) + Send + 'static,
) -> Result<(W, Report), MaintainError> {
    let header = Header {
        made_at: now,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        kind: store.kind().to_owned(),
    };
    let (into, from) = mpsc::channel(BATCHES);
    let write = tokio::task::spawn_blocking(move || write(to, &header, gaps, from, progress));
    let (read, written) = tokio::join!(store.dump(into), write);
    // Who cannot write stops the reader, so that its problem is the one to tell.
    let (frames, report) = written.map_err(|_| MaintainError::Stopped)??;
    // Only now: a store that could not be read to its end must not look whole.
    read?;
    let ended = tokio::task::spawn_blocking(move || frames.end()).await;
    Ok((ended.map_err(|_| MaintainError::Stopped)??, report))
}

fn write<W: Write>(
    to: W,
    header: &Header,
    gaps: Gaps,
    mut from: mpsc::Receiver<Vec<Item>>,
    mut progress: impl FnMut(Table, u64),
) -> Result<(FrameWriter<W>, Report), MaintainError> {
    let header = header
        .print()
        .map_err(|error| MaintainError::Write(std::io::Error::other(error)))?;
    let mut frames = FrameWriter::begin(to, &header)?;
    let mut checker = Checker::new(Whole::Store);
    while let Some(items) = from.blocking_recv() {
        for item in items {
            match &item {
                // It follows from the twins.
                Item::Row(row) if row.table == Table::Index => {}
                Item::Unreadable(Table::Index, _) => {}
                Item::Row(row) => frames.row(row)?,
                Item::Unreadable(table, problem) => frames.broken(*table, problem)?,
            }
            checker.take(item);
            if gaps == Gaps::Refused
                && let Some(gap) = checker.gap()
            {
                return Err(MaintainError::Unreadable(gap.clone()));
            }
        }
        checker.tell(&mut progress);
    }
    Ok((frames, checker.end()))
}
