//! Batches: up to 100 devices in one commit, each item succeeding or failing for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use service_kit::error::Classified as _;
use service_kit::status::RemoteError;
use twin::{DeviceId, IdentityKey};
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;
use wire::registry::v1::registry_service_client::RegistryServiceClient;

use super::super::caller::Caller;
use super::super::peers::{Origin, Owner};
use super::super::repeatable::{Repeatable, once};
use super::super::{Api, device, device_id, etag, refuse};
use super::devices::{CreateDevice, Delete, UpdateDevice};
use super::only_if;
use crate::apply::{Mode, Overlay};
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

/// An item as it came, to be passed on.
enum Raw {
    Create(proto::CreateDeviceRequest),
    Update(proto::UpdateDeviceRequest),
    Delete(proto::DeleteDeviceRequest),
}

/// An item under the name its result has, checked as the call alone would be.
struct Named {
    name: String,
    device: Option<DeviceId>,
    item: Result<Item, Error>,
    raw: Raw,
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
            let device = device_id(&request.device_id).ok();
            Named {
                name: device.as_ref().map_or_else(
                    || format!("devices/{}", request.device_id),
                    |id| identity_name(&IdentityKey::new_device(id.clone())),
                ),
                device,
                item: self
                    .read_create(caller, request.clone())
                    .map(|create| Item::Create(Box::new(create))),
                raw: Raw::Create(request),
            }
        };
        let items = request.requests.into_iter().map(named).collect();
        self.batch(origin, items).await
    }

    pub(super) async fn batch_update(
        &self,
        caller: &Caller,
        origin: &Origin,
        request: proto::BatchUpdateDevicesRequest,
    ) -> Result<proto::BatchDevicesResponse, Error> {
        let named = |request: proto::UpdateDeviceRequest| Named {
            name: request.name.clone(),
            device: device("name", &request.name).ok(),
            item: self
                .read_update(caller, request.clone())
                .map(|update| Item::Update(Box::new(update))),
            raw: Raw::Update(request),
        };
        let items = request.requests.into_iter().map(named).collect();
        self.batch(origin, items).await
    }

    pub(super) async fn batch_delete(
        &self,
        caller: &Caller,
        origin: &Origin,
        request: proto::BatchDeleteDevicesRequest,
    ) -> Result<proto::BatchDevicesResponse, Error> {
        let named = |request: proto::DeleteDeviceRequest| Named {
            name: request.name.clone(),
            device: device("name", &request.name).ok(),
            item: read_delete(caller, &request).map(|delete| Item::Delete(Box::new(delete))),
            raw: Raw::Delete(request),
        };
        let items = request.requests.into_iter().map(named).collect();
        self.batch(origin, items).await
    }

    async fn batch(
        &self,
        origin: &Origin,
        items: Vec<Named>,
    ) -> Result<proto::BatchDevicesResponse, Error> {
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
        let results = results.into_iter().map(|(_, result)| result).collect();
        Ok(proto::BatchDevicesResponse { results })
    }

    /// What we do ourselves, and what each other replica does.
    fn share_out(&self, origin: &Origin, items: Vec<Named>) -> (Placed<Named>, Parts) {
        let shares = self.shares(origin);
        let (mut own, mut others) = (Vec::new(), Parts::new());
        for (place, named) in items.into_iter().enumerate() {
            let device = named.device.clone().filter(|_| named.item.is_ok());
            let other = device
                .map(IdentityKey::new_device)
                .and_then(|key| self.other(&shares, &key));
            match other {
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
    async fn decide_items(
        &self,
        items: Placed<Named>,
    ) -> Result<Placed<proto::BatchDeviceResult>, Error> {
        let mut selections = BTreeSet::new();
        for (_, named) in &items {
            if let (Some(device), Ok(item)) = (&named.device, &named.item) {
                selections.insert(Selection::Family(device.clone()));
                selections.extend(item.repeatable().map(Repeatable::selection));
            }
        }
        if selections.is_empty() {
            let unchanged = |(place, named): (usize, Named)| (place, named.result_unchanged());
            return Ok(items.into_iter().map(unchanged).collect());
        }
        let sealer = self.sealer.clone();
        let selections: Vec<_> = selections.into_iter().collect();
        self.engine
            .decide(selections, move |overlay, now| {
                let mut results = Vec::with_capacity(items.len());
                for (place, named) in items {
                    results.push((place, named.decide(&sealer, overlay, now)));
                }
                Ok(results)
            })
            .await
    }
}

/// Has another replica do its part. If it cannot be asked, each of the items says so.
async fn pass_on(
    origin: &Origin,
    owner: Owner,
    items: Placed<Named>,
) -> Placed<proto::BatchDeviceResult> {
    let mut client = RegistryServiceClient::new(owner.channel);
    let (mut names, mut creates, mut updates, mut deletes) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (place, named) in items {
        names.push((place, named.name));
        match named.raw {
            Raw::Create(request) => creates.push(request),
            Raw::Update(request) => updates.push(request),
            Raw::Delete(request) => deletes.push(request),
        }
    }
    // A batch is of one kind.
    let answered = if !creates.is_empty() {
        let batch = proto::BatchCreateDevicesRequest { requests: creates };
        client.batch_create_devices(origin.request(batch)).await
    } else if !updates.is_empty() {
        let batch = proto::BatchUpdateDevicesRequest { requests: updates };
        client.batch_update_devices(origin.request(batch)).await
    } else {
        let batch = proto::BatchDeleteDevicesRequest { requests: deletes };
        client.batch_delete_devices(origin.request(batch)).await
    };
    match answered {
        Ok(answer) => {
            let results = answer.into_inner().results;
            names
                .into_iter()
                .zip(results)
                .map(|((place, _), result)| (place, result))
                .collect()
        }
        Err(status) => names
            .into_iter()
            .map(|(place, name)| (place, refused(name, &status)))
            .collect(),
    }
}

/// The result of an item whose call was refused as a whole.
fn refused(name: String, status: &tonic::Status) -> proto::BatchDeviceResult {
    let error = RemoteError::from(status.clone());
    proto::BatchDeviceResult {
        name,
        device: None,
        error: Some(proto::BatchError {
            code: status.code().into(),
            reason: error.reason().to_owned(),
            message: status.message().to_owned(),
            iot_hub_code: i32::try_from(error.iot_hub().number()).unwrap_or_default(),
        }),
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
                let decide = |overlay: &mut Overlay, now| delete.decide(overlay, now);
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
