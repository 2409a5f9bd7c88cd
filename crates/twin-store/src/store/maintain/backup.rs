//! Writes a store into a file, and a file into a store.

use std::io::{Read, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::check::{Checker, Sound, Whole};
use super::frames::{Frame, FrameReader, FrameWriter};
use super::{BATCH, BATCHES, Batch, Item, Maintain, MaintainError, Report, Row, Table};

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

    fn parse(text: &str) -> Option<Header> {
        let text: HeaderText = serde_json::from_str(text).ok()?;
        Some(Header {
            made_at: text.made_at.parse().ok()?,
            program: text.program,
            kind: text.kind,
        })
    }
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the backup says of itself.
    pub header: Header,
    /// Rows restored, and what was left out because it was damaged when it was backed up.
    pub report: Report,
}

/// Writes everything that a store has, as it is at one moment. The report says what was damaged in
/// the store already; it is in the backup as it is.
///
/// # Errors
/// The store cannot be read, or the backup not be written.
pub async fn backup<W: Write + Send + 'static>(
    store: &dyn Maintain,
    to: W,
    now: Timestamp,
    progress: impl FnMut(Table, u64) + Send + 'static,
) -> Result<(W, Report), MaintainError> {
    let header = Header {
        made_at: now,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        kind: store.kind().to_owned(),
    };
    let (into, from) = mpsc::channel(BATCHES);
    let write = tokio::task::spawn_blocking(move || write(to, &header, from, progress));
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
            if let Item::Row(row) = &item
                && row.table != Table::Index
            {
                frames.row(row)?;
            }
            checker.take(item);
        }
        checker.tell(&mut progress);
    }
    let report = checker.end();
    Ok((frames, report))
}

/// Fills an empty store from a backup.
///
/// # Errors
/// The backup is damaged or of a newer program, the store is not empty, or cannot be written;
/// nothing was restored then.
pub async fn restore<R: Read + Send + 'static>(
    from: R,
    store: &dyn Maintain,
    progress: impl FnMut(Table, u64) + Send + 'static,
) -> Result<Restored, MaintainError> {
    let (into, batches) = mpsc::channel(BATCHES);
    let read = tokio::task::spawn_blocking(move || read(from, &into, progress));
    let (read, filled) = tokio::join!(read, store.fill(batches));
    let read = read.map_err(|_| MaintainError::Stopped)?;
    // Whichever failed first made the other one stop.
    match (read, filled) {
        (Err(error), Ok(()) | Err(MaintainError::Stopped)) | (_, Err(error)) => Err(error),
        (Ok(restored), Ok(())) => Ok(restored),
    }
}

fn read<R: Read>(
    from: R,
    into: &mpsc::Sender<Batch>,
    mut progress: impl FnMut(Table, u64),
) -> Result<Restored, MaintainError> {
    let send = |batch| {
        into.blocking_send(batch)
            .map_err(|_| MaintainError::Stopped)
    };
    let mut frames = FrameReader::begin(from)?;
    let Frame::Header(header) = frames.next()? else {
        return Err(MaintainError::Foreign);
    };
    let header = Header::parse(&header).ok_or(MaintainError::Foreign)?;
    let mut checker = Checker::new(Whole::Backup);
    let mut rows: Vec<Row> = Vec::with_capacity(BATCH);
    loop {
        match frames.next()? {
            Frame::Header(_) => return Err(MaintainError::Foreign),
            // Follows from the twins.
            Frame::Row(row) if row.table == Table::Index => {}
            Frame::Row(row) => {
                let row = row.with_added_columns();
                if let Sound::Yes(index) = checker.take(Item::Row(row.clone())) {
                    rows.push(row);
                    rows.extend(index);
                }
            }
            Frame::End => {
                let report = checker.end();
                send(Batch::Rows(rows))?;
                send(Batch::End)?;
                return Ok(Restored { header, report });
            }
        }
        if rows.len() >= BATCH {
            send(Batch::Rows(std::mem::take(&mut rows)))?;
            checker.tell(&mut progress);
        }
    }
}
