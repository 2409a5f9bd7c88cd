//! Lists of audit entries: along the chains, or by time.

use futures::future::BoxFuture;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use twin::Partition;
use wire::InvalidField;
use wire::registry::v1 as proto;
use wire::time::{optional, to_wire};

use super::super::token::{self, Kind};
use super::super::{Api, page_size};
use super::CHUNK;
use crate::error::Error;
use crate::hex;
use crate::store::row::history::{instant, nanoseconds};
use crate::store::{self, AuditEntry, AuditFound, AuditPlace, AuditRead, Hole};

/// Entries looked at for one page, so that a call ends in time whatever is asked for; a page may
/// then be short, or empty with a token.
const SCAN_MAX: usize = 20_000;
/// Bytes after which a page ends early: details are up to 64 KiB each.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Chain,
    Time,
}

/// Where the next page of a list starts: behind this entry.
#[derive(Serialize, Deserialize)]
struct Place {
    /// Of what the list was asked for.
    list: String,
    partition: u16,
    sequence: u64,
    /// Its time in nanoseconds since 1970; none along the chains.
    at: Option<i64>,
}

/// A list as it was asked for.
struct List {
    /// Names it in tokens.
    name: String,
    order: Order,
    read: AuditRead,
    partition: Option<u32>,
    after_sequence: u64,
    size: usize,
}

/// A page as it fills.
#[derive(Default)]
struct Filling {
    answer: proto::ListAuditEntriesResponse,
    bytes: usize,
    looked_at: usize,
}

impl Filling {
    fn add(&mut self, entry: proto::AuditEntry) {
        self.bytes += entry.encoded_len();
        self.answer.entries.push(entry);
    }

    fn has_enough(&self, list: &List) -> bool {
        self.answer.entries.len() >= list.size || self.bytes >= PAGE_BYTES
    }

    fn is_full(&self, list: &List) -> bool {
        self.has_enough(list) || self.looked_at >= SCAN_MAX
    }

    fn ending_behind(mut self, place: &Place) -> proto::ListAuditEntriesResponse {
        self.answer.next_page_token = token::seal(Kind::Page, place);
        self.answer
    }
}

impl Api {
    pub(super) async fn audit_page(
        &self,
        request: proto::ListAuditEntriesRequest,
    ) -> Result<proto::ListAuditEntriesResponse, Error> {
        let (list, begin) = read(request)?;
        match list.order {
            Order::Chain => self.along_chains(&list, begin).await,
            Order::Time => self.by_time(list, begin).await,
        }
    }

    async fn along_chains(
        &self,
        list: &List,
        begin: Option<Place>,
    ) -> Result<proto::ListAuditEntriesResponse, Error> {
        let mut page = Filling::default();
        for partition in self.partitions().await? {
            if list
                .partition
                .is_some_and(|only| only != u32::from(partition.get()))
            {
                continue;
            }
            let mut after = match &begin {
                Some(place) if partition.get() < place.partition => continue,
                Some(place) if partition.get() == place.partition => place.sequence,
                Some(_) | None => list.after_sequence,
            };
            loop {
                let chunk = self.store.audit(partition, after, CHUNK).await?;
                let before = after;
                for entry in chunk.entries {
                    page.looked_at += 1;
                    match entry {
                        Ok(entry) => {
                            after = after.max(entry.sequence);
                            if list.read.wants(&entry) {
                                page.add(message(entry));
                            }
                        }
                        // Nobody knows what it was, so it is told whatever was asked for.
                        Err(hole) => {
                            after = after.max(hole.at);
                            page.add(unreadable(partition, hole));
                        }
                    }
                    if page.is_full(list) {
                        let place = Place {
                            list: list.name.clone(),
                            partition: partition.get(),
                            sequence: after,
                            at: None,
                        };
                        return Ok(page.ending_behind(&place));
                    }
                }
                // Nothing is left, or damaged numbers lead no further.
                if after == before {
                    break;
                }
            }
        }
        Ok(page.answer)
    }

    async fn by_time(
        &self,
        mut list: List,
        begin: Option<Place>,
    ) -> Result<proto::ListAuditEntriesResponse, Error> {
        if let Some(begin) = begin {
            list.read.after = Some(self.place(&begin).await?);
        }
        fill(list, |read| self.store.audit_by_time(read)).await
    }

    /// The place that a token names.
    async fn place(&self, token: &Place) -> Result<AuditPlace, Error> {
        let partitions = self.partitions().await?;
        let partition = partitions
            .into_iter()
            .find(|partition| partition.get() == token.partition);
        match (partition, token.at) {
            (Some(partition), Some(at)) => Ok(AuditPlace {
                at: instant(at),
                partition,
                sequence: token.sequence,
            }),
            _ => Err(foreign_token()),
        }
    }
}

impl List {
    /// How many entries are to be found yet.
    fn missing(&self, page: &Filling) -> u32 {
        let missing = self.size.saturating_sub(page.answer.entries.len());
        u32::try_from(missing).map_or(CHUNK, |missing| missing.min(CHUNK))
    }

    fn token(&self, place: AuditPlace) -> Place {
        Place {
            list: self.name.clone(),
            partition: place.partition.get(),
            sequence: place.sequence,
            at: nanoseconds(place.at),
        }
    }
}

/// Fills a page of a list by time with what is read.
async fn fill<'s>(
    mut list: List,
    mut read: impl FnMut(AuditRead) -> BoxFuture<'s, Result<AuditFound, store::Error>>,
) -> Result<proto::ListAuditEntriesResponse, Error> {
    let mut page = Filling::default();
    // Most lists are served by an index, and then this is all that is to be read.
    list.read.limit = list.missing(&page);
    loop {
        let found = read(list.read.clone()).await?;
        page.looked_at += found.looked_at;
        let is_decided_by_index = found.entries.len() == found.looked_at;
        let mut entries = found.entries.into_iter().peekable();
        while let Some(entry) = entries.next() {
            let place = match &entry {
                Ok(entry) => Some(AuditPlace {
                    at: entry.at,
                    partition: entry.partition,
                    sequence: entry.sequence,
                }),
                // When it was nobody knows: a page does not end with it.
                Err(_) => None,
            };
            page.add(match entry {
                Ok(entry) => message(entry),
                Err(hole) => {
                    let Hole { at, damaged } = hole;
                    unreadable(at.0, Hole { at: at.1, damaged })
                }
            });
            let are_more = entries.peek().is_some() || found.next.is_some();
            if let Some(place) = place
                && are_more
                && page.has_enough(&list)
            {
                return Ok(page.ending_behind(&list.token(place)));
            }
        }
        let Some(next) = found.next else {
            return Ok(page.answer);
        };
        if page.is_full(&list) {
            return Ok(page.ending_behind(&list.token(next)));
        }
        // Of what an index does not decide, little of what is looked at may be wanted: then much at once, or a
        // small page would take a reading for every entry that is passed.
        list.read.limit = if is_decided_by_index {
            list.missing(&page)
        } else {
            CHUNK
        };
        list.read.after = Some(next);
        list.read.by = found.by;
    }
}

fn foreign_token() -> Error {
    InvalidField::new("page_token", "is not one that this service gave").into()
}

fn read(request: proto::ListAuditEntriesRequest) -> Result<(List, Option<Place>), Error> {
    let proto::ListAuditEntriesRequest {
        page_size: size,
        page_token,
        start_time,
        resource,
        end_time,
        actor,
        action,
        order,
        partition,
        after_sequence,
    } = request;
    let size = page_size(size)? as usize;
    let name = token::fingerprint([
        "ListAuditEntries",
        &format!("{start_time:?} {end_time:?} {order} {partition:?} {after_sequence}"),
        &resource,
        &actor,
        &action,
    ]);
    let (order, newest_first) = match proto::AuditOrder::try_from(order) {
        Ok(proto::AuditOrder::Unspecified | proto::AuditOrder::Chain) => (Order::Chain, false),
        Ok(proto::AuditOrder::NewestFirst) => (Order::Time, true),
        Ok(proto::AuditOrder::OldestFirst) => (Order::Time, false),
        Err(_) => {
            let problem = format!("is {order}, which is no order; see AuditOrder");
            return Err(InvalidField::new("order", problem).into());
        }
    };
    if order == Order::Time && partition.is_some() {
        let problem = "needs the order of chains: by time all chains are one list";
        return Err(InvalidField::new("partition", problem).into());
    }
    if after_sequence > 0 && partition.is_none() {
        let problem = "needs `partition`: it is a place in one chain";
        return Err(InvalidField::new("after_sequence", problem).into());
    }
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    let begin = match page_token.as_str() {
        "" => None,
        token => {
            let place: Place = token::open(Kind::Page, token).ok_or_else(foreign_token)?;
            if place.list != name {
                let problem = "is of a list that was asked for otherwise; start again without it";
                return Err(InvalidField::new("page_token", problem).into());
            }
            Some(place)
        }
    };
    let list = List {
        name,
        order,
        read: AuditRead {
            newest_first,
            from: optional("start_time", start_time)?,
            to: optional("end_time", end_time)?,
            actor: text(actor),
            action: text(action),
            resource: text(resource),
            after: None,
            limit: CHUNK,
            by: None,
        },
        partition,
        after_sequence,
        size,
    };
    Ok((list, begin))
}

/// An entry of which only the place is known.
fn unreadable(partition: Partition, hole: Hole<u64>) -> proto::AuditEntry {
    proto::AuditEntry {
        partition: partition.get().into(),
        sequence: hole.at,
        problem: hole.damaged.problem,
        ..proto::AuditEntry::default()
    }
}

fn message(entry: AuditEntry) -> proto::AuditEntry {
    proto::AuditEntry {
        partition: entry.partition.get().into(),
        sequence: entry.sequence,
        time: Some(to_wire(entry.at)),
        actor: entry.actor,
        action: entry.action,
        resource: entry.resource,
        detail_json: entry.detail,
        trace_parent: entry.trace_parent.unwrap_or_default(),
        hash: hex::text(&entry.hash),
        problem: String::new(),
    }
}

#[cfg(test)]
mod tests;
