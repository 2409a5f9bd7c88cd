//! Lines whose identity exists: what differs, and making it what the line says.

use std::collections::HashMap;

use futures::StreamExt as _;
use serde_json::Value;
use wire::registry::v1 as api;
use wire::twin::v1 as twins;

use super::view::Outcome;
use super::{OnExisting, Settings};
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::patience;
use crate::verbs::device::line::Item;
use crate::verbs::device::{authentication, batch};

/// Calls about single identities that go on at the same time.
const CALLS_MAX: usize = 16;

/// What is compared, and what an update is conditional on.
const COMPARED: [&str; 9] = [
    "status",
    "status_reason",
    "authentication_type",
    "primary_thumbprint",
    "secondary_thumbprint",
    "iot_edge",
    "tags_json",
    "desired_json",
    "device_etag",
];

/// Compares, and updates if that is wanted.
pub(super) struct Existing<'a> {
    pub(super) connection: &'a Connection,
    pub(super) settings: &'a Settings,
}

/// What twins do not tell of an identity, as far as a line asks for it.
#[derive(Default)]
struct Rest {
    keys: Option<api::SymmetricKeys>,
    managed_by: String,
}

/// What differs.
#[derive(Debug, Default)]
struct Differences {
    registry: Vec<&'static str>,
    twin: Vec<&'static str>,
}

impl Differences {
    fn names(&self) -> Vec<&'static str> {
        self.registry.iter().chain(&self.twin).copied().collect()
    }
}

impl Existing<'_> {
    /// Goes through all lines.
    pub(super) async fn all<'i>(
        &self,
        items: &[&'i Item],
    ) -> Result<Vec<(&'i Item, Outcome)>, Failure> {
        let names = items
            .iter()
            .map(|item| wire::names::identity_name(&item.key))
            .collect();
        let twins = batch::twins(self.connection, names, &COMPARED).await?;
        let rests = self.rests(items).await?;
        let calls = items.iter().map(|item| self.one(item, &twins, &rests));
        let outcomes: Vec<_> = futures::stream::iter(calls)
            .buffered(CALLS_MAX)
            .collect()
            .await;
        let mut done = Vec::new();
        for (item, outcome) in items.iter().zip(outcomes) {
            done.push((*item, outcome?));
        }
        Ok(done)
    }

    async fn one(
        &self,
        item: &Item,
        twins: &HashMap<String, twins::Twin>,
        rests: &HashMap<String, Rest>,
    ) -> Result<Outcome, Failure> {
        let name = wire::names::identity_name(&item.key);
        let Some(twin) = twins.get(&name) else {
            let why = "it was deleted meanwhile, or what is stored of it is damaged";
            return Ok(Outcome::Failed(why.to_owned()));
        };
        let unasked = Rest::default();
        let rest = rests.get(&name).unwrap_or(&unasked);
        let differences = match self.compare(item, twin, rest) {
            Ok(differences) => differences,
            Err(problem) => return Ok(Outcome::Failed(problem)),
        };
        let names = differences.names();
        if names.is_empty() {
            return Ok(Outcome::Unchanged);
        }
        match self.settings.on_existing {
            OnExisting::Skip | OnExisting::Fail => return Ok(Outcome::Different(names)),
            OnExisting::Update => {}
        }
        if !differences.registry.is_empty()
            && let Err(failure) = self.update_identity(item, &name, twin).await
        {
            return about_a_line(failure);
        }
        if !differences.twin.is_empty()
            && let Err(failure) = self.update_twin(item, &name).await
        {
            return about_a_line(failure);
        }
        Ok(Outcome::Updated(names))
    }

    /// What the lines that ask for it are compared with, by name; read in a call for all devices and one
    /// for all modules.
    async fn rests(&self, items: &[&Item]) -> Result<HashMap<String, Rest>, Failure> {
        let with_keys = |item: &Item| self.settings.with_keys && item.line.has_keys();
        let (mut devices, mut modules) = (Vec::new(), Vec::new());
        for item in items {
            let name = wire::names::identity_name(&item.key);
            if item.key.module.is_none() {
                devices.extend(with_keys(item).then_some(name));
            } else {
                let asks = with_keys(item) || item.line.managed_by.is_some();
                modules.extend(asks.then_some(name));
            }
        }
        let view = if self.settings.with_keys {
            api::IdentityView::Full
        } else {
            api::IdentityView::Basic
        };
        let mut rests = HashMap::new();
        let what = "cannot read identities";
        if !devices.is_empty() {
            let answer = patience::call(self.connection, what, async || {
                let request = api::BatchGetDevicesRequest {
                    names: devices.clone(),
                    view: view.into(),
                    read_mask: None,
                };
                let answer = self.connection.registry()?.batch_get_devices(request).await;
                answer.map_err(Into::into)
            })
            .await?;
            rests.extend(answer.devices.into_iter().map(|device| {
                let rest = Rest {
                    keys: device.keys,
                    managed_by: String::new(),
                };
                (device.name, rest)
            }));
        }
        if !modules.is_empty() {
            let answer = patience::call(self.connection, what, async || {
                let request = api::BatchGetModulesRequest {
                    names: modules.clone(),
                    view: view.into(),
                    read_mask: None,
                };
                let answer = self.connection.registry()?.batch_get_modules(request).await;
                answer.map_err(Into::into)
            })
            .await?;
            rests.extend(answer.modules.into_iter().map(|module| {
                let rest = Rest {
                    keys: module.keys,
                    managed_by: module.managed_by,
                };
                (module.name, rest)
            }));
        }
        Ok(rests)
    }

    /// What a line does not say is as it should be.
    fn compare(&self, item: &Item, twin: &twins::Twin, rest: &Rest) -> Result<Differences, String> {
        let line = &item.line;
        let mut differences = Differences::default();
        let mut differs = |name, different: bool| {
            if different {
                differences.registry.push(name);
            }
        };
        let asked = line.status();
        differs(
            "status",
            // A module has none of its own.
            item.key.module.is_none() && asked != api::Status::Unspecified && asked != status(twin),
        );
        let reason = line.status_reason.as_ref();
        differs(
            "statusReason",
            reason.is_some_and(|asked| *asked != twin.status_reason),
        );
        let kind = line.authentication_type();
        differs(
            "authentication",
            kind != api::AuthenticationType::Unspecified
                && authentication::name(kind) != twin.authentication_type,
        );
        let same = |asked: api::Thumbprints| {
            asked.primary.eq_ignore_ascii_case(&twin.primary_thumbprint)
                && asked
                    .secondary
                    .eq_ignore_ascii_case(&twin.secondary_thumbprint)
        };
        differs(
            "thumbprints",
            line.thumbprints().is_some_and(|asked| !same(asked)),
        );
        let keys = line.keys().filter(|_| self.settings.with_keys);
        differs("keys", keys.is_some() && keys != rest.keys);
        let edge = line.capabilities.map(|capabilities| capabilities.iot_edge);
        differs("iotEdge", edge.is_some_and(|edge| edge != twin.iot_edge));
        let managed = line.managed_by.as_ref();
        differs(
            "managedBy",
            managed.is_some_and(|by| *by != rest.managed_by),
        );
        for (name, asked, present) in [
            ("tags", line.tags.as_ref(), &twin.tags_json),
            ("desired", line.desired(), &twin.desired_json),
        ] {
            let Some(asked) = asked else { continue };
            let present: Value = serde_json::from_str(present)
                .map_err(|error| format!("the answer of the service is damaged: {error}"))?;
            if present.as_object() != Some(asked) {
                differences.twin.push(name);
            }
        }
        Ok(differences)
    }

    async fn update_identity(
        &self,
        item: &Item,
        name: &str,
        twin: &twins::Twin,
    ) -> Result<(), Failure> {
        let line = &item.line;
        let keys = line.keys().filter(|_| self.settings.with_keys);
        let what = "cannot update an identity";
        if item.key.module.is_some() {
            let request = api::UpdateModuleRequest {
                name: name.to_owned(),
                authentication_type: line.authentication_type().into(),
                keys,
                thumbprints: line.thumbprints(),
                managed_by: line.managed_by.clone(),
                validate_only: self.settings.dry_run,
                ..Default::default()
            };
            patience::call(self.connection, what, async || {
                let answer = self
                    .connection
                    .registry()?
                    .update_module(request.clone())
                    .await;
                answer.map_err(Into::into)
            })
            .await?;
            return Ok(());
        }
        // A reason is written with its status only, so both go, each as asked or as it is.
        let status = match line.status() {
            api::Status::Unspecified => status(twin),
            asked @ (api::Status::Enabled | api::Status::Disabled) => asked,
        };
        let reason = line.status_reason.as_ref().unwrap_or(&twin.status_reason);
        let request = api::UpdateDeviceRequest {
            name: name.to_owned(),
            status: status.into(),
            status_reason: reason.clone(),
            authentication_type: line.authentication_type().into(),
            keys,
            thumbprints: line.thumbprints(),
            iot_edge: line.capabilities.map(|capabilities| capabilities.iot_edge),
            validate_only: self.settings.dry_run,
            ..Default::default()
        };
        patience::call(self.connection, what, async || {
            let answer = self
                .connection
                .registry()?
                .update_device(request.clone())
                .await;
            answer.map_err(Into::into)
        })
        .await?;
        Ok(())
    }

    async fn update_twin(&self, item: &Item, name: &str) -> Result<(), Failure> {
        let request = twins::ReplaceTwinRequest {
            name: name.to_owned(),
            tags_json: item.line.tags_json(),
            desired_json: item.line.desired_json(),
            operator: self.settings.operator.clone(),
            validate_only: self.settings.dry_run,
            ..Default::default()
        };
        patience::call(self.connection, "cannot write a twin", async || {
            let answer = self.connection.twins()?.replace_twin(request.clone()).await;
            answer.map_err(Into::into)
        })
        .await?;
        Ok(())
    }
}

/// Whether a failure is about one line, or about everything.
fn about_a_line(failure: Failure) -> Result<Outcome, Failure> {
    match failure.kind() {
        Kind::NotFound | Kind::Conflict | Kind::Invalid | Kind::Precondition => {
            Ok(Outcome::Failed(failure.details_on_one_line()))
        }
        Kind::Failed
        | Kind::Usage
        | Kind::Unavailable
        | Kind::Denied
        | Kind::Internal
        | Kind::Interrupted(_) => Err(failure),
    }
}

/// The status of the device, as the twin has it.
fn status(twin: &twins::Twin) -> api::Status {
    match twin.status.as_str() {
        "disabled" => api::Status::Disabled,
        _ => api::Status::Enabled,
    }
}
