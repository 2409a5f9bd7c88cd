//! Batches: up to 100 devices or modules in one commit, each item succeeding or failing for itself.

use std::collections::{BTreeMap, BTreeSet};

use service_kit::error::Classified as _;
use twin::IdentityKey;
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;

use super::super::caller::Caller;
use super::super::peers::{Origin, Owner};
use super::super::repeatable::Repeatable;
use super::super::{Api, device, device_id, etag, module, refuse};
use super::devices::Delete;
use super::modules::{self, new_module};
use super::only_if;
use crate::apply::Mode;
use crate::error::Error;
use crate::store::Selection;

mod item;
mod pass_on;

use item::{Item, Made};
use pass_on::{Raw, pass_on};

/// Items of a batch (spec iot-hub-twins §2.6).
const ITEMS_MAX: usize = 100;

/// An item under the name its result has, checked as the call alone would be.
struct Named {
    name: String,
    key: Option<IdentityKey>,
    item: Result<Item, Error>,
    raw: Raw,
}

/// What became of one item.
struct Done {
    name: String,
    made: Option<Made>,
    error: Option<proto::BatchError>,
}

/// Items with their places in the batch.
type Placed<T> = Vec<(usize, T)>;
/// The parts of other replicas, by their addresses.
type Parts = BTreeMap<String, (Owner, Placed<Named>)>;

impl Api {
    pub(super) async fn batch_create(
        &self,
        caller: &Caller,
        origin: &Origin,
        request: proto::BatchCreateDevicesRequest,
    ) -> Result<proto::BatchDevicesResponse, Error> {
        let named = |request: proto::CreateDeviceRequest| {
            let key = device_id(&request.device_id).map(IdentityKey::new_device);
            let key = key.ok();
            Named {
                name: key
                    .as_ref()
                    .map_or_else(|| format!("devices/{}", request.device_id), identity_name),
                key,
                item: self
                    .read_create(caller, request.clone())
                    .map(|create| Item::CreateDevice(Box::new(create))),
                raw: Raw::CreateDevice(request),
            }
        };
        let items = request.requests.into_iter().map(named).collect();
        self.batch(origin, items).await.map(devices)
    }

    pub(super) async fn batch_update(
        &self,
        caller: &Caller,
        origin: &Origin,
        request: proto::BatchUpdateDevicesRequest,
    ) -> Result<proto::BatchDevicesResponse, Error> {
        let named = |request: proto::UpdateDeviceRequest| Named {
            name: request.name.clone(),
            key: device("name", &request.name)
                .map(IdentityKey::new_device)
                .ok(),
            item: self
                .read_update(caller, request.clone())
                .map(|update| Item::UpdateDevice(Box::new(update))),
            raw: Raw::UpdateDevice(request),
        };
        let items = request.requests.into_iter().map(named).collect();
        self.batch(origin, items).await.map(devices)
    }

    pub(super) async fn batch_delete(
        &self,
        caller: &Caller,
        origin: &Origin,
        request: proto::BatchDeleteDevicesRequest,
    ) -> Result<proto::BatchDevicesResponse, Error> {
        let named = |request: proto::DeleteDeviceRequest| Named {
            name: request.name.clone(),
            key: device("name", &request.name)
                .map(IdentityKey::new_device)
                .ok(),
            item: read_delete(caller, &request).map(|delete| Item::Delete(Box::new(delete))),
            raw: Raw::DeleteDevice(request),
        };
        let items = request.requests.into_iter().map(named).collect();
        self.batch(origin, items).await.map(devices)
    }

    pub(super) async fn batch_create_modules(
        &self,
        caller: &Caller,
        origin: &Origin,
        request: proto::BatchCreateModulesRequest,
    ) -> Result<proto::BatchModulesResponse, Error> {
        let named = |request: proto::CreateModuleRequest| {
            let key = new_module(&request).ok();
            Named {
                name: key.as_ref().map_or_else(
                    || format!("{}/modules/{}", request.parent, request.module_id),
                    identity_name,
                ),
                key,
                item: self
                    .read_create_module(caller, request.clone())
                    .map(|create| Item::CreateModule(Box::new(create))),
                raw: Raw::CreateModule(request),
            }
        };
        let items = request.requests.into_iter().map(named).collect();
        self.batch(origin, items).await.map(modules_of)
    }

    pub(super) async fn batch_update_modules(
        &self,
        caller: &Caller,
        origin: &Origin,
        request: proto::BatchUpdateModulesRequest,
    ) -> Result<proto::BatchModulesResponse, Error> {
        let named = |request: proto::UpdateModuleRequest| Named {
            name: request.name.clone(),
            key: module("name", &request.name).ok(),
            item: self
                .read_update_module(caller, request.clone())
                .map(|update| Item::UpdateModule(Box::new(update))),
            raw: Raw::UpdateModule(request),
        };
        let items = request.requests.into_iter().map(named).collect();
        self.batch(origin, items).await.map(modules_of)
    }

    pub(super) async fn batch_delete_modules(
        &self,
        caller: &Caller,
        origin: &Origin,
        request: proto::BatchDeleteModulesRequest,
    ) -> Result<proto::BatchModulesResponse, Error> {
        let named = |request: proto::DeleteModuleRequest| Named {
            name: request.name.clone(),
            key: module("name", &request.name).ok(),
            item: modules::read_delete(caller, &request)
                .map(|delete| Item::Delete(Box::new(delete))),
            raw: Raw::DeleteModule(request),
        };
        let items = request.requests.into_iter().map(named).collect();
        self.batch(origin, items).await.map(modules_of)
    }

    async fn batch(&self, origin: &Origin, items: Vec<Named>) -> Result<Vec<Done>, Error> {
        let count = items.len();
        if !(1..=ITEMS_MAX).contains(&count) {
            let problem = format!("has {count} items; allowed are 1 to {ITEMS_MAX}");
            return Err(InvalidField::new("requests", problem).into());
        }
        let (own, others) = self.share_out(origin, refuse_repeated(items));
        // Ours first: it may be refused as a whole, and then nothing must have been done.
        let mut results = self.decide_items(own).await?;
        let parts = others
            .into_values()
            .map(|(owner, items)| pass_on(origin, owner, items));
        for part in futures::future::join_all(parts).await {
            results.extend(part);
        }
        results.sort_by_key(|(place, _)| *place);
        Ok(results.into_iter().map(|(_, done)| done).collect())
    }

    /// What we do ourselves, and what each other replica does.
    fn share_out(&self, origin: &Origin, items: Vec<Named>) -> (Placed<Named>, Parts) {
        let shares = self.shares(origin);
        let (mut own, mut others) = (Vec::new(), Parts::new());
        for (place, named) in items.into_iter().enumerate() {
            let key = named.key.as_ref().filter(|_| named.item.is_ok());
            match key.and_then(|key| self.other(&shares, key)) {
                None => own.push((place, named)),
                Some(owner) => {
                    let address = owner.address.clone();
                    let (_, part) = others.entry(address).or_insert((owner, Vec::new()));
                    part.push((place, named));
                }
            }
        }
        (own, others)
    }

    /// Decides on our part, in one commit.
    async fn decide_items(&self, items: Placed<Named>) -> Result<Placed<Done>, Error> {
        let mut selections = BTreeSet::new();
        for (_, named) in &items {
            if let (Some(key), Ok(item)) = (&named.key, &named.item) {
                selections.insert(Selection::Family(key.device.clone()));
                selections.extend(item.repeatable().map(Repeatable::selection));
            }
        }
        if selections.is_empty() {
            let unchanged = |(place, named): (usize, Named)| (place, named.unchanged());
            return Ok(items.into_iter().map(unchanged).collect());
        }
        let sealer = self.sealer.clone();
        let selections: Vec<_> = selections.into_iter().collect();
        self.engine
            .decide(selections, move |overlay, now| {
                let mut results = Vec::with_capacity(items.len());
                for (place, named) in items {
                    overlay.begin();
                    let name = named.name;
                    let decided = named
                        .item
                        .and_then(|item| item.decide(&sealer, overlay, now));
                    results.push((place, Done::of(name, decided)));
                }
                Ok(results)
            })
            .await
    }
}

/// An identity that is named twice is refused each time: which of the items should hold?
fn refuse_repeated(mut items: Vec<Named>) -> Vec<Named> {
    let mut counts: BTreeMap<IdentityKey, usize> = BTreeMap::new();
    for key in items.iter().filter_map(|named| named.key.as_ref()) {
        *counts.entry(key.clone()).or_default() += 1;
    }
    for named in &mut items {
        let Some(key) = &named.key else {
            continue;
        };
        if counts.get(key).is_some_and(|count| *count > 1) {
            named.item = Err(Error::DefinedTwice(key.clone()));
        }
    }
    items
}

/// Reads a request to remove a device.
pub(super) fn read_delete(
    caller: &Caller,
    request: &proto::DeleteDeviceRequest,
) -> Result<Delete, Error> {
    let key = IdentityKey::new_device(device("name", &request.name)?);
    let repeatable = Repeatable::read("DeleteDevice", caller, &request.request_id, request)?;
    let mode = Mode::new(request.validate_only);
    Ok(Delete {
        key,
        etag: etag(&request.etag),
        only_if: only_if(&request.only_if)?,
        mode,
        cause: caller.cause(&request.request_id),
        repeatable: repeatable.filter(|_| mode == Mode::Write),
    })
}

impl Named {
    /// The result of an item that was refused before anything was decided.
    fn unchanged(self) -> Done {
        Done::of(self.name, self.item.map(|_| None))
    }
}

impl Done {
    fn of(name: String, decided: Result<Option<Made>, Error>) -> Done {
        match decided {
            Ok(made) => Done {
                name,
                made,
                error: None,
            },
            Err(error) => Done {
                name,
                made: None,
                error: Some(batch_error(error)),
            },
        }
    }
}

fn batch_error(error: Error) -> proto::BatchError {
    let reason = error.reason().to_owned();
    let number = error.iot_hub().number();
    // As the call alone would be answered: logged here if the caller may not know it.
    let status = refuse(error);
    proto::BatchError {
        code: status.code().into(),
        reason,
        message: status.message().to_owned(),
        iot_hub_code: i32::try_from(number).unwrap_or_default(),
    }
}

/// A device with which something could not be done.
pub(super) fn device_refused(name: String, error: Error) -> proto::BatchDeviceResult {
    proto::BatchDeviceResult {
        name,
        device: None,
        error: Some(batch_error(error)),
    }
}

fn devices(results: Vec<Done>) -> proto::BatchDevicesResponse {
    let result = |done: Done| proto::BatchDeviceResult {
        name: done.name,
        device: done.made.and_then(Made::device),
        error: done.error,
    };
    proto::BatchDevicesResponse {
        results: results.into_iter().map(result).collect(),
    }
}

fn modules_of(results: Vec<Done>) -> proto::BatchModulesResponse {
    let result = |done: Done| proto::BatchModuleResult {
        name: done.name,
        module: done.made.and_then(Made::module),
        error: done.error,
    };
    proto::BatchModulesResponse {
        results: results.into_iter().map(result).collect(),
    }
}
