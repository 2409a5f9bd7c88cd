//! One call's worth of an import: devices first, then modules, each line with a result of its own.

use std::collections::HashMap;

use tonic::Code;
use twin::IdentityKey;
use uuid::Uuid;
use wire::registry::v1 as api;

use super::existing::Existing;
use super::view::{Outcome, Results};
use super::{OnExisting, Settings};
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::patience;
use crate::verbs::device::line::Item;

/// Some lines on their way.
pub(super) struct Batch<'a> {
    pub(super) connection: &'a Connection,
    pub(super) settings: &'a Settings,
    pub(super) seen: &'a HashMap<String, u64>,
    pub(super) results: Results,
}

/// What the attempt to create something came to.
enum Attempted {
    Created,
    Exists,
    Failed(String),
}

impl Batch<'_> {
    /// Does it all. An error is about the whole (the service is away); what is wrong with a line is
    /// a result.
    pub(super) async fn run(&mut self, items: &[Item]) -> Result<(), Failure> {
        let (devices, modules): (Vec<_>, Vec<_>) =
            items.iter().partition(|item| item.key.module.is_none());
        let mut existing = Vec::new();
        if !devices.is_empty() {
            let attempted = self.create_devices(&devices).await?;
            self.sort(&devices, attempted, &mut existing);
        }
        if !modules.is_empty() {
            let attempted = self.create_modules(&modules).await?;
            self.sort(&modules, attempted, &mut existing);
        }
        if existing.is_empty() {
            return Ok(());
        }
        let compare = Existing {
            connection: self.connection,
            settings: self.settings,
        };
        for (item, outcome) in compare.all(&existing).await? {
            self.add(item, outcome);
        }
        Ok(())
    }

    fn sort<'i>(
        &mut self,
        items: &[&'i Item],
        attempted: Vec<Attempted>,
        existing: &mut Vec<&'i Item>,
    ) {
        for (item, attempted) in items.iter().zip(attempted) {
            match (attempted, self.settings.on_existing) {
                (Attempted::Created, _) => self.add(item, Outcome::Created),
                (Attempted::Failed(why), _) => self.add(item, Outcome::Failed(why)),
                (Attempted::Exists, OnExisting::Fail) => {
                    self.add(item, Outcome::Failed("exists already".to_owned()));
                }
                (Attempted::Exists, OnExisting::Skip | OnExisting::Update) => existing.push(item),
            }
        }
    }

    fn add(&mut self, item: &Item, outcome: Outcome) {
        self.results
            .add(item.number, Some(item.key.to_string()), outcome);
    }

    async fn create_devices(&self, items: &[&Item]) -> Result<Vec<Attempted>, Failure> {
        let requests: Vec<_> = items.iter().map(|item| self.device(item)).collect();
        let answer = patience::call(self.connection, "cannot create devices", async || {
            let request = api::BatchCreateDevicesRequest {
                requests: requests.clone(),
            };
            let answer = self
                .connection
                .registry()?
                .batch_create_devices(request)
                .await;
            answer.map_err(Into::into)
        })
        .await?;
        if answer.results.len() != items.len() {
            return Err(Failure::new(Kind::Internal, "cannot create devices")
                .because("the answer has another number of results than there were devices"));
        }
        let results = answer.results.into_iter().map(|result| match result.error {
            None => Attempted::Created,
            Some(error) if error.code == i32::from(Code::AlreadyExists) => Attempted::Exists,
            Some(error) => Attempted::Failed(error.message),
        });
        Ok(results.collect())
    }

    fn device(&self, item: &Item) -> api::CreateDeviceRequest {
        let line = &item.line;
        api::CreateDeviceRequest {
            device_id: item.key.device.to_string(),
            status: line.status().into(),
            status_reason: line.status_reason.clone().unwrap_or_default(),
            keys: line.keys().filter(|_| self.settings.with_keys),
            create_security_module: self.settings.security_modules,
            authentication_type: line.authentication_type().into(),
            thumbprints: line.thumbprints(),
            iot_edge: line
                .capabilities
                .is_some_and(|capabilities| capabilities.iot_edge),
            tags_json: line.tags_json(),
            desired_json: line.desired_json(),
            validate_only: self.settings.dry_run,
            request_id: self.request_id(),
            read_mask: None,
        }
    }

    /// A call that is repeated after a lost answer must not find its own work and call it another's.
    fn request_id(&self) -> String {
        if self.settings.dry_run {
            return String::new();
        }
        Uuid::new_v4().to_string()
    }

    async fn create_modules(&self, items: &[&Item]) -> Result<Vec<Attempted>, Failure> {
        let requests: Vec<_> = items.iter().map(|item| self.module(item)).collect();
        let answer = patience::call(self.connection, "cannot create modules", async || {
            let request = api::BatchCreateModulesRequest {
                requests: requests.clone(),
            };
            let answer = self
                .connection
                .registry()?
                .batch_create_modules(request)
                .await;
            answer.map_err(Into::into)
        })
        .await?;
        if answer.results.len() != items.len() {
            return Err(Failure::new(Kind::Internal, "cannot create modules")
                .because("the answer has another number of results than there were modules"));
        }
        let results = items.iter().zip(answer.results);
        let attempted = results.map(|(item, result)| match result.error {
            None => Attempted::Created,
            Some(error) if error.code == i32::from(Code::AlreadyExists) => Attempted::Exists,
            // In a dry run the device of an earlier line is not there.
            Some(error) if error.code == i32::from(Code::NotFound) && self.is_to_come(item) => {
                Attempted::Created
            }
            Some(error) => Attempted::Failed(error.message),
        });
        Ok(attempted.collect())
    }

    /// Whether the device of a module would have been made by this import.
    fn is_to_come(&self, item: &Item) -> bool {
        let parent = IdentityKey::new_device(item.key.device.clone());
        self.settings.dry_run && self.seen.contains_key(&parent.to_string())
    }

    fn module(&self, item: &Item) -> api::CreateModuleRequest {
        let line = &item.line;
        let parent = IdentityKey::new_device(item.key.device.clone());
        let id = item.key.module.as_ref();
        api::CreateModuleRequest {
            parent: wire::names::identity_name(&parent),
            module_id: id.map(ToString::to_string).unwrap_or_default(),
            keys: line.keys().filter(|_| self.settings.with_keys),
            authentication_type: line.authentication_type().into(),
            thumbprints: line.thumbprints(),
            managed_by: line.managed_by.clone().unwrap_or_default(),
            tags_json: line.tags_json(),
            desired_json: line.desired_json(),
            validate_only: self.settings.dry_run,
            request_id: self.request_id(),
            read_mask: None,
        }
    }
}
