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

/// Calls about single identities that go on at the same time.
const CALLS_MAX: usize = 16;

/// Compares, and updates if that is wanted.
pub(super) struct Existing<'a> {
    pub(super) connection: &'a Connection,
    pub(super) settings: &'a Settings,
}

/// What is there of an identity, device or module.
struct Present {
    status: Option<(api::Status, String)>,
    kind: api::AuthenticationType,
    keys: Option<api::SymmetricKeys>,
    thumbprints: Option<api::Thumbprints>,
    iot_edge: bool,
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
        let twins = self.twins(items).await?;
        let calls = items.iter().map(|item| self.one(item, &twins));
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

    async fn twins(&self, items: &[&Item]) -> Result<HashMap<String, twins::Twin>, Failure> {
        let names: Vec<_> = items
            .iter()
            .map(|item| wire::names::identity_name(&item.key))
            .collect();
        let answer = patience::call(self.connection, "cannot read twins", async || {
            let request = twins::BatchGetTwinsRequest {
                names: names.clone(),
                read_mask: None,
            };
            self.connection
                .twins()?
                .batch_get_twins(request)
                .await
                .map_err(Into::into)
        })
        .await?;
        let twins = answer.twins.into_iter();
        Ok(twins.map(|twin| (twin.name.clone(), twin)).collect())
    }

    async fn one(
        &self,
        item: &Item,
        twins: &HashMap<String, twins::Twin>,
    ) -> Result<Outcome, Failure> {
        let name = wire::names::identity_name(&item.key);
        let Some(twin) = twins.get(&name) else {
            let why = "it was deleted meanwhile, or what is stored of it is damaged";
            return Ok(Outcome::Failed(why.to_owned()));
        };
        let present = match self.present(item, &name).await {
            Ok(present) => present,
            Err(failure) => return about_a_line(failure),
        };
        let differences = match self.compare(item, &present, twin) {
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
            && let Err(failure) = self.update_identity(item, &name, &present).await
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

    async fn present(&self, item: &Item, name: &str) -> Result<Present, Failure> {
        let view = if self.settings.with_keys && item.line.has_keys() {
            api::IdentityView::Full
        } else {
            api::IdentityView::Basic
        };
        let what = "cannot read an identity";
        if item.key.module.is_some() {
            let module = patience::call(self.connection, what, async || {
                let request = api::GetModuleRequest {
                    name: name.to_owned(),
                    view: view.into(),
                };
                self.connection
                    .registry()?
                    .get_module(request)
                    .await
                    .map_err(Into::into)
            })
            .await?;
            return Ok(Present {
                status: None,
                kind: module.authentication_type(),
                keys: module.keys,
                thumbprints: module.thumbprints,
                iot_edge: false,
                managed_by: module.managed_by,
            });
        }
        let device = patience::call(self.connection, what, async || {
            let request = api::GetDeviceRequest {
                name: name.to_owned(),
                view: view.into(),
            };
            self.connection
                .registry()?
                .get_device(request)
                .await
                .map_err(Into::into)
        })
        .await?;
        Ok(Present {
            status: Some((device.status(), device.status_reason.clone())),
            kind: device.authentication_type(),
            keys: device.keys,
            thumbprints: device.thumbprints,
            iot_edge: device.iot_edge,
            managed_by: String::new(),
        })
    }

    /// What a line does not say is as it should be.
    fn compare(
        &self,
        item: &Item,
        present: &Present,
        twin: &twins::Twin,
    ) -> Result<Differences, String> {
        let line = &item.line;
        let mut differences = Differences::default();
        let mut differs = |name, different: bool| {
            if different {
                differences.registry.push(name);
            }
        };
        if let Some((status, reason)) = &present.status {
            let asked = line.status();
            differs(
                "status",
                asked != api::Status::Unspecified && asked != *status,
            );
            let other = |asked: &String| asked != reason;
            differs(
                "statusReason",
                line.status_reason.as_ref().is_some_and(other),
            );
        }
        let kind = line.authentication_type();
        differs(
            "authentication",
            kind != api::AuthenticationType::Unspecified && kind != present.kind,
        );
        let thumbprints = line.thumbprints();
        differs(
            "thumbprints",
            thumbprints.is_some()
                && !same_thumbprints(thumbprints.as_ref(), present.thumbprints.as_ref()),
        );
        let keys = line.keys().filter(|_| self.settings.with_keys);
        differs("keys", keys.is_some() && keys != present.keys);
        let edge = line.capabilities.map(|capabilities| capabilities.iot_edge);
        differs("iotEdge", edge.is_some_and(|edge| edge != present.iot_edge));
        let managed = line.managed_by.as_ref();
        differs(
            "managedBy",
            managed.is_some_and(|by| *by != present.managed_by),
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
        present: &Present,
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
        let (status, reason) = match (&present.status, line.status()) {
            (Some((status, reason)), api::Status::Unspecified) => (*status, reason.clone()),
            (Some((_, reason)), asked) => (asked, reason.clone()),
            (None, asked) => (asked, String::new()),
        };
        let request = api::UpdateDeviceRequest {
            name: name.to_owned(),
            status: status.into(),
            status_reason: line.status_reason.clone().unwrap_or(reason),
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
        let object = |object: Option<&serde_json::Map<String, Value>>| {
            object
                .map(|object| Value::Object(object.clone()).to_string())
                .unwrap_or_default()
        };
        let request = twins::ReplaceTwinRequest {
            name: name.to_owned(),
            tags_json: object(item.line.tags.as_ref()),
            desired_json: object(item.line.desired()),
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

/// Thumbprints are hex, in whatever case.
fn same_thumbprints(one: Option<&api::Thumbprints>, other: Option<&api::Thumbprints>) -> bool {
    let normal = |thumbprints: &api::Thumbprints| {
        (
            thumbprints.primary.to_ascii_uppercase(),
            thumbprints.secondary.to_ascii_uppercase(),
        )
    };
    one.map(normal) == other.map(normal)
}
