//! Reading modules: some by name, those of a device, of some devices or of all.

use std::collections::BTreeSet;

use jiff::Timestamp;
use twin::{DeviceId, IdentityKey};
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;

use super::super::filter::Filter;
use super::super::identity::Show;
use super::super::list_place::{list_token, place};
use super::super::{Api, damaged_name, device, module, page_size, report_damaged, token};
use super::read::{NAMES_MAX, SCAN_MAX, named};
use crate::error::Error;
use crate::record::Record;
use crate::store::{self, Estimates, Loaded, Search, Selection, Source};

/// Devices read at once with their modules: some hundred records, if each has all that it may have.
const FAMILIES: usize = 10;

/// A list on its way to being a page.
struct Page<'a> {
    api: &'a Api,
    filter: Filter,
    show: Show<proto::Module>,
    now: Timestamp,
    /// What its tokens are bound to.
    list: String,
    size: usize,
    looked_at: usize,
    answer: proto::ListModulesResponse,
}

impl Api {
    pub(super) async fn batch_get_modules(
        &self,
        request: proto::BatchGetModulesRequest,
        show: Show<proto::Module>,
    ) -> Result<proto::BatchGetModulesResponse, Error> {
        let read = |(index, name): (usize, &String)| module(&format!("names[{index}]"), name);
        let keys = named(&request.names, read)?;
        let found = self.by_key(&keys).await?;
        let mut answer = proto::BatchGetModulesResponse::default();
        for key in keys {
            match found.get(&key) {
                None => answer.missing.push(identity_name(&key)),
                Some(Err(damaged)) => {
                    report_damaged(std::slice::from_ref(damaged));
                    answer.damaged.push(identity_name(&key));
                }
                Some(Ok(record)) => {
                    let unreadable = &mut answer.unreadable_keys;
                    let module = show.listed(&self.sealer, record, unreadable)?;
                    answer.modules.push(module);
                }
            }
        }
        Ok(answer)
    }

    pub(super) async fn list_of_modules(
        &self,
        request: proto::ListModulesRequest,
        show: Show<proto::Module>,
    ) -> Result<proto::ListModulesResponse, Error> {
        let devices = self.parents(&request).await?;
        let parts = ["ListModules", &request.parent, &request.filter];
        let parts = parts.into_iter();
        let list = token::fingerprint(parts.chain(request.devices.iter().map(String::as_str)));
        let (after, now) = match place(&request.page_token, &list)? {
            Some((after, now)) => (Some(after), now),
            None => (None, self.clock.now()),
        };
        let page = Page {
            api: self,
            filter: Filter::parse("filter", &request.filter)?,
            show,
            now,
            list,
            size: page_size(request.page_size)? as usize,
            looked_at: 0,
            answer: proto::ListModulesResponse::default(),
        };
        match devices {
            Some(devices) => page.of_devices(devices, after).await,
            None => page.of_all(after).await,
        }
    }

    /// The devices whose modules are asked for; none: all.
    async fn parents(
        &self,
        request: &proto::ListModulesRequest,
    ) -> Result<Option<BTreeSet<DeviceId>>, Error> {
        if request.parent.is_empty() {
            if request.devices.is_empty() {
                return Ok(None);
            }
            let count = request.devices.len();
            if count > NAMES_MAX {
                let problem = format!("has {count} names; at most {NAMES_MAX} are allowed");
                return Err(InvalidField::new("devices", problem).into());
            }
            let names = request.devices.iter().enumerate();
            let read = names.map(|(index, name)| device(&format!("devices[{index}]"), name));
            return read.collect::<Result<_, _>>().map(Some);
        }
        if !request.devices.is_empty() {
            let problem = "cannot be given together with parent";
            return Err(InvalidField::new("devices", problem).into());
        }
        let device = device("parent", &request.parent)?;
        // Also for a device whose own record is damaged, hence no `?` on anything but its absence.
        match self.read(IdentityKey::new_device(device.clone())).await {
            Ok(_) | Err(Error::Store(store::Error::Damaged(_))) => {}
            Err(error) => return Err(error),
        }
        Ok(Some(BTreeSet::from([device])))
    }
}

impl Page<'_> {
    async fn of_devices(
        mut self,
        devices: BTreeSet<DeviceId>,
        after: Option<IdentityKey>,
    ) -> Result<proto::ListModulesResponse, Error> {
        let begun = |device: &DeviceId| after.as_ref().is_none_or(|key| *device >= key.device);
        let devices: Vec<_> = devices.into_iter().filter(begun).collect();
        for devices in devices.chunks(FAMILIES) {
            let families = devices.iter().cloned().map(Selection::Family).collect();
            let mut loaded = Vec::new();
            for item in self.api.store.load(families).await? {
                match item {
                    Loaded::Whole(record) => loaded.push((record.key.clone(), Ok(record))),
                    Loaded::Damaged(Selection::One(key), damaged) => {
                        loaded.push((key, Err(damaged)));
                    }
                    // Nobody can tell which modules it has.
                    Loaded::Damaged(Selection::Family(device), damaged) => {
                        report_damaged(&[damaged]);
                        let key = IdentityKey::new_device(device);
                        self.answer.damaged.push(identity_name(&key));
                    }
                    Loaded::Damaged(_, damaged) => report_damaged(&[damaged]),
                    Loaded::Token(..)
                    | Loaded::Request(_)
                    | Loaded::Operation(_)
                    | Loaded::Provisioning(_) => {}
                }
            }
            loaded.sort_by(|(one, _), (other, _)| one.cmp(other));
            for (key, record) in loaded {
                let is_behind = after.as_ref().is_none_or(|after| key > *after);
                if key.module.is_none() || !is_behind {
                    continue;
                }
                match record {
                    Ok(record) => self.look_at(&record)?,
                    Err(damaged) => {
                        report_damaged(&[damaged]);
                        self.answer.damaged.push(identity_name(&key));
                    }
                }
                if self.is_full() {
                    return Ok(self.end(Some(&key)));
                }
            }
        }
        Ok(self.end(None))
    }

    async fn of_all(
        mut self,
        mut after: Option<IdentityKey>,
    ) -> Result<proto::ListModulesResponse, Error> {
        loop {
            let search = Search {
                source: Source::Modules,
                condition: self.filter.scope(),
                now: self.now,
                after,
                limit: u32::try_from(self.size).unwrap_or(u32::MAX),
                estimates: Estimates::default(),
            };
            let page = self.api.store.search(search).await?;
            report_damaged(&page.damaged);
            let damaged = page.damaged.iter().map(|one| damaged_name(&one.key));
            self.answer.damaged.extend(damaged);
            for record in &page.records {
                self.look_at(record)?;
                if self.answer.modules.len() >= self.size {
                    let is_last = page
                        .records
                        .last()
                        .is_some_and(|last| last.key == record.key);
                    let next = if is_last {
                        page.next.as_ref()
                    } else {
                        Some(&record.key)
                    };
                    return Ok(self.end(next));
                }
            }
            after = page.next;
            if after.is_none() || self.is_full() {
                return Ok(self.end(after.as_ref()));
            }
        }
    }

    /// Takes a module in if it passes.
    fn look_at(&mut self, record: &Record) -> Result<(), Error> {
        self.looked_at += 1;
        match self.filter.passes(record, self.now) {
            Ok(true) => {
                let unreadable = &mut self.answer.unreadable_keys;
                let module = self.show.listed(&self.api.sealer, record, unreadable)?;
                self.answer.modules.push(module);
            }
            Ok(false) => {}
            Err(damaged) => {
                report_damaged(&[damaged]);
                self.answer.damaged.push(identity_name(&record.key));
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.answer.modules.len() >= self.size || self.looked_at >= SCAN_MAX
    }

    /// The page, and behind which module the next one starts.
    fn end(self, next: Option<&IdentityKey>) -> proto::ListModulesResponse {
        let token = next.map(|next| list_token(&self.list, next, self.now));
        proto::ListModulesResponse {
            next_page_token: token.unwrap_or_default(),
            ..self.answer
        }
    }
}
