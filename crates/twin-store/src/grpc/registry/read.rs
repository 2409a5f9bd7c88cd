//! Reading devices: one, some, all that match.

use std::collections::{BTreeMap, BTreeSet};

use twin::IdentityKey;
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;

use super::super::filter::Filter;
use super::super::identity::Show;
use super::super::list_place::{list_token, place};
use super::super::{Api, damaged_name, device, page_size, report_damaged, token};
use crate::error::Error;
use crate::record::{Damaged, Record};
use crate::store::{Estimates, Loaded, Search, Selection, Source};

/// Devices looked at for one page of a filtered list, so that a call ends in time whatever the
/// filter; a page may then be short, or empty with a token.
pub(super) const SCAN_MAX: usize = 5000;
/// Names of one batch.
pub(super) const NAMES_MAX: usize = 1000;

/// What is stored under some names; nothing under those that are not there.
pub(super) type Found = BTreeMap<IdentityKey, Result<Box<Record>, Damaged>>;

impl Api {
    pub(super) async fn read(&self, key: IdentityKey) -> Result<Record, Error> {
        self.store
            .get(key.clone())
            .await?
            .ok_or(Error::NotFound(key))
    }

    pub(super) async fn batch_get(
        &self,
        request: proto::BatchGetDevicesRequest,
        show: Show<proto::Device>,
    ) -> Result<proto::BatchGetDevicesResponse, Error> {
        let read = |(index, name): (usize, &String)| {
            let device = device(&format!("names[{index}]"), name)?;
            Ok(IdentityKey::new_device(device))
        };
        let keys = named(&request.names, read)?;
        let found = self.by_key(&keys).await?;
        let mut answer = proto::BatchGetDevicesResponse::default();
        for key in keys {
            match found.get(&key) {
                None => answer.missing.push(identity_name(&key)),
                Some(Err(damaged)) => {
                    report_damaged(std::slice::from_ref(damaged));
                    answer.damaged.push(identity_name(&key));
                }
                Some(Ok(record)) => {
                    let unreadable = &mut answer.unreadable_keys;
                    let device = show.listed(&self.sealer, record, unreadable)?;
                    answer.devices.push(device);
                }
            }
        }
        Ok(answer)
    }

    /// Records by name, as far as they are there.
    pub(super) async fn by_key(&self, keys: &[IdentityKey]) -> Result<Found, Error> {
        let selections: BTreeSet<_> = keys.iter().cloned().map(Selection::One).collect();
        let mut found = Found::new();
        for loaded in self.store.load(selections.into_iter().collect()).await? {
            match loaded {
                Loaded::Whole(record) => drop(found.insert(record.key.clone(), Ok(record))),
                Loaded::Damaged(Selection::One(key), damaged) => {
                    found.insert(key, Err(damaged));
                }
                Loaded::Damaged(..)
                | Loaded::Token(..)
                | Loaded::Request(_)
                | Loaded::Operation(_)
                | Loaded::Provisioning(_) => {}
            }
        }
        Ok(found)
    }

    pub(super) async fn list(
        &self,
        request: proto::ListDevicesRequest,
        show: Show<proto::Device>,
    ) -> Result<proto::ListDevicesResponse, Error> {
        let size = page_size(request.page_size)?;
        let filter = Filter::parse("filter", &request.filter)?;
        let asked = token::fingerprint(["ListDevices", &request.filter]);
        let (mut after, now) = match place(&request.page_token, &asked)? {
            Some((after, now)) => (Some(after), now),
            None => (None, self.clock.now()),
        };
        let onward = |next: Option<&IdentityKey>| next.map(|next| list_token(&asked, next, now));
        let mut answer = proto::ListDevicesResponse::default();
        let mut looked_at = 0;
        loop {
            let page = self
                .store
                .search(Search {
                    source: Source::Devices,
                    condition: filter.scope(),
                    now,
                    after,
                    limit: size,
                    estimates: Estimates::default(),
                })
                .await?;
            report_damaged(&page.damaged);
            let damaged = page.damaged.iter();
            answer
                .damaged
                .extend(damaged.map(|it| damaged_name(&it.key)));
            looked_at += page.records.len();
            for record in &page.records {
                match filter.passes(record, now) {
                    Ok(true) => {
                        let unreadable = &mut answer.unreadable_keys;
                        let device = show.listed(&self.sealer, record, unreadable)?;
                        answer.devices.push(device);
                    }
                    Ok(false) => {}
                    Err(damaged) => {
                        report_damaged(&[damaged]);
                        answer.damaged.push(identity_name(&record.key));
                    }
                }
                if answer.devices.len() >= size as usize {
                    // It may turn out that nothing follows; an empty last page is allowed.
                    let last = page
                        .records
                        .last()
                        .is_some_and(|last| last.key == record.key);
                    let next = if last {
                        page.next.as_ref()
                    } else {
                        Some(&record.key)
                    };
                    answer.next_page_token = onward(next).unwrap_or_default();
                    return Ok(answer);
                }
            }
            after = page.next;
            if after.is_none() || looked_at >= SCAN_MAX {
                answer.next_page_token = onward(after.as_ref()).unwrap_or_default();
                return Ok(answer);
            }
        }
    }
}

/// Reads the names of a call that is about some identities.
pub(super) fn named(
    names: &[String],
    read: impl Fn((usize, &String)) -> Result<IdentityKey, Error>,
) -> Result<Vec<IdentityKey>, Error> {
    if names.is_empty() || names.len() > NAMES_MAX {
        let problem = format!("has {} names; allowed are 1 to {NAMES_MAX}", names.len());
        return Err(InvalidField::new("names", problem).into());
    }
    names.iter().enumerate().map(read).collect()
}
