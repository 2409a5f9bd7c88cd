//! Batches: up to 100 devices in one commit, each item succeeding or failing for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use service_kit::error::Classified as _;
use twin::{DeviceId, IdentityKey};
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;

use super::super::caller::Caller;
use super::super::repeatable::{Repeatable, once};
use super::super::{Api, device, device_id, refuse};
use super::devices::{CreateDevice, Delete, UpdateDevice};
use crate::apply::Overlay;
use crate::error::Error;
use crate::secrets::Sealer;
use crate::store::Selection;

/// Items of a batch (spec iot-hub-twins §2.6).
const ITEMS_MAX: usize = 100;

/// What one item of a batch asks for.
enum Item {
    Create(Box<CreateDevice>),
    Update(Box<UpdateDevice>),
    Delete(Box<Delete>),
}

/// An item under the name its result has, checked as the call alone would be.
struct Named {
    name: String,
    device: Option<DeviceId>,
    item: Result<Item, Error>,
}

impl Api {
    pub(super) async fn batch_create(
        &self,
        caller: &Caller,
        request: proto::BatchCreateDevicesRequest,
    ) -> Result<proto::BatchDevicesResponse, Error> {
        let named = |request: proto::CreateDeviceRequest| {
            let device = device_id(&request.device_id).ok();
            Named {
                name: device.as_ref().map_or_else(
                    || format!("devices/{}", request.device_id),
                    |id| identity_name(&IdentityKey::new_device(id.clone())),
                ),
                device,
                item: self
                    .read_create(caller, request)
                    .map(|create| Item::Create(Box::new(create))),
            }
        };
        self.batch(request.requests.into_iter().map(named).collect())
            .await
    }

    pub(super) async fn batch_update(
        &self,
        caller: &Caller,
        request: proto::BatchUpdateDevicesRequest,
    ) -> Result<proto::BatchDevicesResponse, Error> {
        let named = |request: proto::UpdateDeviceRequest| Named {
            name: request.name.clone(),
            device: device("name", &request.name).ok(),
            item: self
                .read_update(caller, request)
                .map(|update| Item::Update(Box::new(update))),
        };
        self.batch(request.requests.into_iter().map(named).collect())
            .await
    }

    pub(super) async fn batch_delete(
        &self,
        caller: &Caller,
        request: proto::BatchDeleteDevicesRequest,
    ) -> Result<proto::BatchDevicesResponse, Error> {
        let named = |request: proto::DeleteDeviceRequest| Named {
            name: request.name.clone(),
            device: device("name", &request.name).ok(),
            item: read_delete(caller, &request).map(|delete| Item::Delete(Box::new(delete))),
        };
        self.batch(request.requests.into_iter().map(named).collect())
            .await
    }

    async fn batch(&self, items: Vec<Named>) -> Result<proto::BatchDevicesResponse, Error> {
        if !(1..=ITEMS_MAX).contains(&items.len()) {
            let problem = format!("has {} items; allowed are 1 to {ITEMS_MAX}", items.len());
            return Err(InvalidField::new("requests", problem).into());
        }
        let items = refuse_repeated(items);
        let mut selections = BTreeSet::new();
        for named in &items {
            if let (Some(device), Ok(item)) = (&named.device, &named.item) {
                selections.insert(Selection::Family(device.clone()));
                selections.extend(item.repeatable().map(Repeatable::selection));
            }
        }
        if selections.is_empty() {
            let results = items.into_iter().map(Named::result_unchanged).collect();
            return Ok(proto::BatchDevicesResponse { results });
        }
        let sealer = self.sealer.clone();
        let selections: Vec<_> = selections.into_iter().collect();
        self.engine
            .decide(selections, move |overlay, now| {
                let decide = |named: Named| named.decide(&sealer, overlay, now);
                let results = items.into_iter().map(decide).collect();
                Ok(proto::BatchDevicesResponse { results })
            })
            .await
    }
}

/// A device that is named twice is refused each time: which of the items should hold?
fn refuse_repeated(mut items: Vec<Named>) -> Vec<Named> {
    let mut counts: BTreeMap<DeviceId, usize> = BTreeMap::new();
    for device in items.iter().filter_map(|named| named.device.as_ref()) {
        *counts.entry(device.clone()).or_default() += 1;
    }
    for named in &mut items {
        let Some(device) = &named.device else {
            continue;
        };
        if counts.get(device).is_some_and(|count| *count > 1) {
            let key = IdentityKey::new_device(device.clone());
            named.item = Err(Error::DefinedTwice(key));
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
    Ok(Delete::read(
        caller,
        key,
        &request.etag,
        &request.request_id,
        repeatable,
    ))
}

impl Item {
    fn repeatable(&self) -> Option<&Repeatable> {
        match self {
            Item::Create(create) => create.repeatable.as_ref(),
            Item::Update(update) => update.repeatable.as_ref(),
            Item::Delete(delete) => delete.repeatable.as_ref(),
        }
    }

    fn decide(
        self,
        sealer: &Sealer,
        overlay: &mut Overlay,
        now: Timestamp,
    ) -> Result<Option<proto::Device>, Error> {
        let repeatable = self.repeatable().cloned();
        let repeatable = repeatable.as_ref();
        match self {
            Item::Create(create) => {
                let decide = |overlay: &mut Overlay, now| create.decide(sealer, overlay, now);
                once(repeatable, sealer, overlay, now, decide).map(Some)
            }
            Item::Update(update) => {
                let decide = |overlay: &mut Overlay, now| update.decide(sealer, overlay, now);
                once(repeatable, sealer, overlay, now, decide).map(Some)
            }
            Item::Delete(delete) => {
                let decide = |overlay: &mut Overlay, _| delete.decide(overlay);
                once(repeatable, sealer, overlay, now, decide).map(|()| None)
            }
        }
    }
}

impl Named {
    fn decide(
        self,
        sealer: &Arc<Sealer>,
        overlay: &mut Overlay,
        now: Timestamp,
    ) -> proto::BatchDeviceResult {
        overlay.begin();
        let decided = self.item.and_then(|item| item.decide(sealer, overlay, now));
        result(self.name, decided)
    }

    /// The result of an item that was refused before anything was decided.
    fn result_unchanged(self) -> proto::BatchDeviceResult {
        result(self.name, self.item.map(|_| None))
    }
}

/// What became of one item.
pub(super) fn result(
    name: String,
    decided: Result<Option<proto::Device>, Error>,
) -> proto::BatchDeviceResult {
    match decided {
        Ok(device) => proto::BatchDeviceResult {
            name,
            device,
            error: None,
        },
        Err(error) => {
            let reason = error.reason().to_owned();
            let number = error.iot_hub().number();
            // As the call alone would be answered: logged here if the caller may not know it.
            let status = refuse(error);
            proto::BatchDeviceResult {
                name,
                device: None,
                error: Some(proto::BatchError {
                    code: status.code().into(),
                    reason,
                    message: status.message().to_owned(),
                    iot_hub_code: i32::try_from(number).unwrap_or_default(),
                }),
            }
        }
    }
}
