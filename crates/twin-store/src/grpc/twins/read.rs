//! Reading twins: one, some, all that match.

use std::collections::BTreeMap;

use prost::Message as _;
use twin::IdentityKey;
use wire::InvalidField;
use wire::names::identity_name;
use wire::twin::v1 as proto;

use crate::error::Error;
use crate::grpc::filter::{Filter, show};
use crate::grpc::list_place::{list_token, place};
use crate::grpc::read_mask::ReadMask;
use crate::grpc::token;
use crate::grpc::{Api, PAGE_BYTES, damaged_name, has_room, identity, page_size, report_damaged};
use crate::record::Damaged;
use crate::search::Turn;
use crate::store::{Estimates, Loaded, Search, Selection, Source};

/// Names of one batch.
const BATCH_MAX: usize = 1000;
/// Twins read from the store at once.
const CHUNK: u32 = 256;
/// Twins looked at for one page of a filtered list, so that a call ends in time whatever the
/// filter; a page may then be short, or empty with a token.
const SCAN_MAX: usize = 5000;

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
            if bytes >= PAGE_BYTES {
                answer.unread.extend(chunk.iter().map(identity_name));
                continue;
            }
            let found = self.load(chunk).await?;
            for key in chunk {
                if bytes >= PAGE_BYTES {
                    answer.unread.push(identity_name(key));
                    continue;
                }
                match found.get(key) {
                    None => answer.missing.push(identity_name(key)),
                    Some(Err(damaged)) => {
                        report_damaged(std::slice::from_ref(damaged));
                        answer.damaged.push(identity_name(key));
                    }
                    Some(Ok(record)) => match show(record, &mask) {
                        Ok(twin) if !has_room(bytes, twin.encoded_len()) => {
                            answer.unread.push(identity_name(key));
                        }
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
            Loaded::Damaged(Selection::One(key), damaged) => Some((key, Err(damaged))),
            Loaded::Damaged(..)
            | Loaded::Token(..)
            | Loaded::Request(_)
            | Loaded::Operation(_)
            | Loaded::Provisioning(_) => None,
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
        let mut behind = after.clone();
        let mut turn = Turn::begin();
        loop {
            let search = Search {
                source: Source::All,
                condition: filter.scope(),
                now,
                after,
                limit: CHUNK,
                estimates: Estimates::default(),
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
                    Ok(twin) if !has_room(bytes, twin.encoded_len()) => {
                        if let Some(behind) = &behind {
                            answer.next_page_token = list_token(&list, behind, now);
                        }
                        return Ok(answer);
                    }
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
                    answer.next_page_token = list_token(&list, &record.key, now);
                    return Ok(answer);
                }
                behind = Some(record.key.clone());
            }
            after = page.next;
            match &after {
                Some(next) if scanned >= SCAN_MAX => {
                    answer.next_page_token = list_token(&list, next, now);
                    return Ok(answer);
                }
                Some(_) => {}
                None => return Ok(answer),
            }
        }
    }
}
