//! Reading twins: one, some, all that match.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use twin::IdentityKey;
use wire::InvalidField;
use wire::names::{identity_name, parse_identity};
use wire::twin::v1 as proto;

use crate::error::{Error, ReadError};
use crate::grpc::filter::{Filter, show};
use crate::grpc::read_mask::ReadMask;
use crate::grpc::token::{self, Kind};
use crate::grpc::{Api, identity, page_size, report_damaged};
use crate::record::Damaged;
use crate::search::Turn;
use crate::store::{Loaded, Search, Selection, Source};

/// Names of one batch.
const BATCH_MAX: usize = 1000;
/// Bytes of one batch's answer: more than a client takes unless it was told to, and little enough
/// for many calls at once.
const BATCH_BYTES: usize = 32 * 1024 * 1024;
/// Twins read from the store at once.
const CHUNK: u32 = 256;
/// Bytes after which a page ends early. With one more twin it stays below the 4 MiB that gRPC
/// clients take when nobody tells them otherwise.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Twins looked at for one page of a filtered list, so that a call ends in time whatever the
/// filter; a page may then be short, or empty with a token.
const SCAN_MAX: usize = 5000;

/// Where the next page of a list starts.
#[derive(Serialize, Deserialize)]
struct Place {
    /// Of what the list was asked for.
    list: String,
    /// Behind which twin.
    after: String,
    /// What `NOW()` is on every page.
    now: String,
}

impl Api {
    pub(super) async fn one(&self, request: proto::GetTwinRequest) -> Result<proto::Twin, Error> {
        let key = identity("name", &request.name)?;
        let mask = ReadMask::parse(request.read_mask.as_ref())?;
        let record = self.store.get(key.clone()).await?;
        let record = record.ok_or(Error::NotFound(key))?;
        Ok(show(&record, &mask)?)
    }

    pub(super) async fn some(
        &self,
        request: proto::BatchGetTwinsRequest,
    ) -> Result<proto::BatchGetTwinsResponse, Error> {
        let mask = ReadMask::parse(request.read_mask.as_ref())?;
        if request.names.is_empty() || request.names.len() > BATCH_MAX {
            let problem = format!(
                "has {} names; allowed are 1 to {BATCH_MAX}",
                request.names.len()
            );
            return Err(InvalidField::new("names", problem).into());
        }
        let mut keys = Vec::with_capacity(request.names.len());
        for (index, name) in request.names.iter().enumerate() {
            keys.push(identity(&format!("names[{index}]"), name)?);
        }
        let mut answer = proto::BatchGetTwinsResponse::default();
        let mut bytes = 0;
        for chunk in keys.chunks(CHUNK as usize) {
            let found = self.load(chunk).await?;
            for key in chunk {
                match found.get(key) {
                    None => answer.missing.push(identity_name(key)),
                    Some(Err(damaged)) => {
                        report_damaged(std::slice::from_ref(damaged));
                        answer.damaged.push(identity_name(key));
                    }
                    Some(Ok(record)) => match show(record, &mask) {
                        Ok(twin) => {
                            bytes += twin.encoded_len();
                            answer.twins.push(twin);
                        }
                        Err(damaged) => {
                            report_damaged(&[damaged]);
                            answer.damaged.push(identity_name(key));
                        }
                    },
                }
                if bytes > BATCH_BYTES {
                    let allowed = BATCH_BYTES;
                    return Err(ReadError::TooLarge { allowed }.into());
                }
            }
        }
        Ok(answer)
    }

    async fn load(
        &self,
        keys: &[IdentityKey],
    ) -> Result<BTreeMap<IdentityKey, Result<Box<crate::record::Record>, Damaged>>, Error> {
        let selections = keys.iter().cloned().map(Selection::One).collect();
        let loaded = self.store.load(selections).await?;
        let found = loaded.into_iter().filter_map(|loaded| match loaded {
            Loaded::Whole(record) => Some((record.key.clone(), Ok(record))),
            Loaded::Damaged(key, damaged) => Some((key, Err(damaged))),
            Loaded::Token(..) | Loaded::Request(_) | Loaded::Operation(_) => None,
        });
        Ok(found.collect())
    }

    pub(super) async fn page(
        &self,
        request: proto::ListTwinsRequest,
    ) -> Result<proto::ListTwinsResponse, Error> {
        let size = page_size(request.page_size)? as usize;
        let filter = Filter::parse("filter", &request.filter)?;
        let mask = ReadMask::parse(request.read_mask.as_ref())?;
        let list = token::fingerprint(["ListTwins", &request.filter]);
        let (mut after, now) = match place(&request.page_token, &list)? {
            Some((after, now)) => (Some(after), now),
            None => (None, self.clock.now()),
        };
        let mut answer = proto::ListTwinsResponse::default();
        let (mut scanned, mut bytes) = (0, 0);
        let mut turn = Turn::begin();
        loop {
            let search = Search {
                source: Source::All,
                condition: filter.scope(),
                now,
                after,
                limit: CHUNK,
            };
            let page = self.store.search(search).await?;
            report_damaged(&page.damaged);
            let damaged = page
                .damaged
                .iter()
                .map(|damaged| damaged_name(&damaged.key));
            answer.damaged.extend(damaged);
            scanned += page.records.len();
            for record in &page.records {
                turn.share().await;
                let shown = match filter.passes(record, now) {
                    Ok(false) => continue,
                    Ok(true) => show(record, &mask),
                    Err(damaged) => Err(damaged),
                };
                match shown {
                    Ok(twin) => {
                        bytes += twin.encoded_len();
                        answer.twins.push(twin);
                    }
                    Err(damaged) => {
                        report_damaged(&[damaged]);
                        answer.damaged.push(identity_name(&record.key));
                    }
                }
                if answer.twins.len() >= size || bytes >= PAGE_BYTES {
                    // It may turn out that nothing follows; an empty last page is allowed.
                    answer.next_page_token = page_token(&list, &record.key, now);
                    return Ok(answer);
                }
            }
            after = page.next;
            match &after {
                Some(next) if scanned >= SCAN_MAX => {
                    answer.next_page_token = page_token(&list, next, now);
                    return Ok(answer);
                }
                Some(_) => {}
                None => return Ok(answer),
            }
        }
    }
}

/// The resource name in a report of damage, as far as it is one.
fn damaged_name(key: &str) -> String {
    IdentityKey::parse_path(key).map_or_else(|_| key.to_owned(), |key| identity_name(&key))
}

fn page_token(list: &str, after: &IdentityKey, now: Timestamp) -> String {
    let place = Place {
        list: list.to_owned(),
        after: identity_name(after),
        now: now.to_string(),
    };
    token::seal(Kind::Page, &place)
}

fn place(token: &str, list: &str) -> Result<Option<(IdentityKey, Timestamp)>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let place: Place = token::open(Kind::Page, token)
        .ok_or_else(|| InvalidField::new("page_token", "is not one that this service gave"))?;
    if place.list != list {
        let problem = "is of a list with another filter; start again without it";
        return Err(InvalidField::new("page_token", problem).into());
    }
    let after = parse_identity("page_token", &place.after)?;
    let now = place
        .now
        .parse()
        .map_err(|error| InvalidField::new("page_token", error))?;
    Ok(Some((after, now)))
}
