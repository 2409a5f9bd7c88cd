//! Upkeep of the registry, a page at a time: security modules for all, keys sealed anew, counts.
//!
//! A call with a request id is answered the same when it is repeated. On several replicas the answer is
//! kept with the part of the one that was asked; if it dies before, the repetition finds done what the
//! others did, and counts it so.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use serde_json::json;
use twin::query::Scope;
use twin::{Condition, IdentityKey, ModuleId};
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;
use wire::registry::v1::registry_service_client::RegistryServiceClient;

use super::super::authentication::resealed;
use super::super::caller::Caller;
use super::super::identity::plain_identity;
use super::super::peers::{Origin, Owner};
use super::super::repeatable::Repeatable;
use super::super::{Api, damaged_name, device, identity, page_size, page_start, page_token};
use super::batch;
use super::read::named;
use crate::apply::{AuditEvent, Cause, Mode, credentials, devices};
use crate::error::Error;
use crate::record::{Authentication, Record, Status};
use crate::store::{Loaded, Page, Search, Selection, Source, everything};

/// Other replicas by their addresses, with the names of the identities that are theirs.
type Others = BTreeMap<String, (Owner, Vec<String>)>;

/// Records read at once where a store cannot count them.
const COUNTED_AT_ONCE: u32 = 1000;

/// What an upkeep call looks at: a page, or the identities that it names. The replica that was asked
/// reads the page and tells the others by name what is theirs: a page that each read for itself would
/// end elsewhere when something was created in between, and what was behind that end passed over.
struct Asked {
    source: Source,
    page_size: i32,
    page_token: String,
    names: Vec<String>,
}

impl Api {
    async fn looked_at(&self, asked: &Asked) -> Result<Page, Error> {
        if asked.names.is_empty() {
            let after = page_start(&asked.page_token)?;
            let limit = page_size(asked.page_size)?;
            let search = everything(asked.source, after, limit, self.clock.now());
            return Ok(self.store.search(search).await?);
        }
        if asked.page_size != 0 || !asked.page_token.is_empty() {
            let problem = "cannot be given together with page_size or page_token";
            return Err(InvalidField::new("names", problem).into());
        }
        let keys = named(&asked.names, |(index, name)| {
            let field = format!("names[{index}]");
            match asked.source {
                Source::Devices => Ok(IdentityKey::new_device(device(&field, name)?)),
                Source::All | Source::Modules => identity(&field, name),
            }
        })?;
        let keys: BTreeSet<_> = keys.into_iter().collect();
        let mut page = Page::default();
        let selections = keys.into_iter().map(Selection::One).collect();
        for loaded in self.store.load(selections).await? {
            match loaded {
                Loaded::Whole(record) => page.records.push(*record),
                Loaded::Damaged(_, damaged) => page.damaged.push(damaged),
                Loaded::Token(..)
                | Loaded::Request(_)
                | Loaded::Operation(_)
                | Loaded::Provisioning(_) => {}
            }
        }
        Ok(page)
    }

    /// Makes missing security modules on some devices; each replica on its own.
    pub(super) async fn ensure_modules(
        &self,
        caller: &Caller,
        origin: &Origin,
        request: proto::EnsureSecurityModulesRequest,
    ) -> Result<proto::EnsureSecurityModulesResponse, Error> {
        let id = &request.request_id;
        let repeatable = Repeatable::read("EnsureSecurityModules", caller, id, &request)?;
        let repeatable = repeatable.filter(|_| !request.validate_only);
        if let Some(answer) = self.answered(repeatable.as_ref()).await? {
            return Ok(answer);
        }
        let validate_only = request.validate_only;
        let asked = Asked {
            source: Source::Devices,
            page_size: request.page_size,
            page_token: request.page_token,
            names: request.names,
        };
        let mut page = self.looked_at(&asked).await?;
        let damaged = page.damaged.iter();
        let mut answer = proto::EnsureSecurityModulesResponse {
            next_page_token: page_token(page.next.as_ref()),
            damaged: damaged.map(|damaged| damaged_name(&damaged.key)).collect(),
            ..proto::EnsureSecurityModulesResponse::default()
        };
        // The others first: our commit remembers the answer, so it has to be whole.
        for (owner, names) in self.keep_own(origin, &mut page).into_values() {
            let request = proto::EnsureSecurityModulesRequest {
                names,
                validate_only,
                ..proto::EnsureSecurityModulesRequest::default()
            };
            let mut client = RegistryServiceClient::new(owner.channel);
            let part = client
                .ensure_security_modules(origin.request(request))
                .await
                .map_err(elsewhere)?
                .into_inner();
            answer.created += part.created;
            answer.existing += part.existing;
            answer.failed.extend(part.failed);
            answer.damaged.extend(part.damaged);
        }
        let mode = Mode::new(validate_only);
        let cause = caller.cause(&request.request_id);
        self.ensure_own(page, answer, mode, cause, repeatable).await
    }

    async fn ensure_own(
        &self,
        page: Page,
        mut answer: proto::EnsureSecurityModulesResponse,
        mode: Mode,
        cause: Cause,
        repeatable: Option<Repeatable>,
    ) -> Result<proto::EnsureSecurityModulesResponse, Error> {
        let key_of = |record: &Record| {
            IdentityKey::new_module(record.key.device.clone(), ModuleId::security())
        };
        let wanted: Vec<_> = page.records.iter().map(key_of).collect();
        let selections = wanted.iter().cloned().map(Selection::One).collect();
        let present: BTreeSet<_> = self
            .store
            .load(selections)
            .await?
            .into_iter()
            .filter_map(present_key)
            .collect();
        let missing: Vec<_> = wanted
            .into_iter()
            .filter(|key| !present.contains(key))
            .collect();
        answer.existing += u32::try_from(present.len()).unwrap_or(u32::MAX);
        if missing.is_empty() && repeatable.is_none() {
            return Ok(answer);
        }
        let new = missing
            .into_iter()
            .map(|key| {
                let identity = plain_identity(&self.sealer, &key)?;
                Ok((key, identity))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let selections: Vec<_> = new
            .iter()
            .map(|(key, _)| Selection::Family(key.device.clone()))
            .collect();
        self.decide_once(repeatable, selections, move |overlay, now| {
            for (key, identity) in new {
                overlay.begin();
                match devices::create_module(overlay, &key, identity, mode, now, &cause) {
                    Ok(_) => answer.created += 1,
                    // Somebody made it meanwhile, or removed its device: nothing is missing.
                    Err(Error::AlreadyExists(_)) => answer.existing += 1,
                    Err(Error::NotFound(_)) => {}
                    Err(error) => {
                        let name = identity_name(&IdentityKey::new_device(key.device));
                        answer.failed.push(batch::device_refused(name, error));
                    }
                }
            }
            Ok(answer)
        })
        .await
    }

    /// What a call with this id was answered before. It is asked again when the answer is decided on;
    /// here it keeps a repetition from looking at a page that is another by now.
    async fn answered<A: Message + Default + 'static>(
        &self,
        repeatable: Option<&Repeatable>,
    ) -> Result<Option<A>, Error> {
        let Some(repeatable) = repeatable.cloned() else {
            return Ok(None);
        };
        let selection = repeatable.selection();
        let sealer = self.sealer.clone();
        self.engine
            .decide(selection, move |overlay, _| {
                repeatable.known(&sealer, overlay)
            })
            .await
    }

    /// Seals the keys of some identities anew; each replica its own.
    pub(super) async fn reseal(
        &self,
        caller: &Caller,
        origin: &Origin,
        request: proto::ResealSecretsRequest,
    ) -> Result<proto::ResealSecretsResponse, Error> {
        let id = &request.request_id;
        let repeatable = Repeatable::read("ResealSecrets", caller, id, &request)?;
        if let Some(answer) = self.answered(repeatable.as_ref()).await? {
            return Ok(answer);
        }
        let asked = Asked {
            source: Source::All,
            page_size: request.page_size,
            page_token: request.page_token,
            names: request.names,
        };
        let mut page = self.looked_at(&asked).await?;
        let damaged = page.damaged.iter();
        let mut answer = proto::ResealSecretsResponse {
            next_page_token: page_token(page.next.as_ref()),
            failed: damaged.map(|damaged| damaged_name(&damaged.key)).collect(),
            ..proto::ResealSecretsResponse::default()
        };
        for (owner, names) in self.keep_own(origin, &mut page).into_values() {
            let request = proto::ResealSecretsRequest {
                names,
                ..proto::ResealSecretsRequest::default()
            };
            let mut client = RegistryServiceClient::new(owner.channel);
            let part = client
                .reseal_secrets(origin.request(request))
                .await
                .map_err(elsewhere)?
                .into_inner();
            answer.resealed += part.resealed;
            answer.current += part.current;
            answer.failed.extend(part.failed);
        }
        let cause = caller.cause(&request.request_id);
        self.reseal_own(page, answer, cause, repeatable).await
    }

    async fn reseal_own(
        &self,
        page: Page,
        mut answer: proto::ResealSecretsResponse,
        cause: Cause,
        repeatable: Option<Repeatable>,
    ) -> Result<proto::ResealSecretsResponse, Error> {
        let mut stale = Vec::new();
        for record in page.records {
            match resealed(&self.sealer, &record) {
                Ok(Some(anew)) => stale.push((record.key, record.identity.authentication, anew)),
                Ok(None) => {
                    let keys = matches!(record.identity.authentication, Authentication::Sas { .. });
                    answer.current += u32::from(keys);
                }
                Err(_) => answer.failed.push(identity_name(&record.key)),
            }
        }
        if stale.is_empty() && repeatable.is_none() {
            return Ok(answer);
        }
        let selections: Vec<_> = stale
            .iter()
            .map(|(key, ..)| Selection::One(key.clone()))
            .collect();
        self.decide_once(repeatable, selections, move |overlay, _| {
            for (key, old, anew) in stale {
                if credentials::reseal(overlay, &key, &old, anew, &cause) {
                    let detail = json!({});
                    overlay.audit(AuditEvent::on(&key, "keys.reseal", detail, &cause));
                    answer.resealed += 1;
                }
            }
            Ok(answer)
        })
        .await
    }

    /// Leaves in a page what is for us to do, and answers who does the rest. Asked by another
    /// replica, we do all of it, or the engine says that a partition is not ours any more.
    fn keep_own(&self, origin: &Origin, page: &mut Page) -> Others {
        let shares = self.shares(origin);
        let mut others = Others::new();
        page.records.retain(|record| {
            let Some(owner) = self.other(&shares, &record.key) else {
                return true;
            };
            let address = owner.address.clone();
            let (_, names) = others.entry(address).or_insert((owner, Vec::new()));
            names.push(identity_name(&record.key));
            false
        });
        others
    }

    pub(super) async fn statistics(&self) -> Result<proto::RegistryStatistics, Error> {
        let devices = self
            .count(Source::Devices, Scope::Everything, |_| true)
            .await?;
        let disabled = |record: &Record| record.identity.status == Status::Disabled;
        let condition = Condition::parse("status = 'disabled'")
            .map_err(|error| InvalidField::new("status", error))?;
        let disabled_devices = self
            .count(Source::Devices, condition.scope().clone(), disabled)
            .await?;
        let modules = self
            .count(Source::Modules, Scope::Everything, |_| true)
            .await?;
        Ok(proto::RegistryStatistics {
            devices,
            enabled_devices: devices.saturating_sub(disabled_devices),
            disabled_devices,
            modules,
        })
    }

    /// Counts records for which a condition holds; `holds` says the same of one that the store
    /// could not decide on. What cannot be read at all is counted as far as the store counts it.
    async fn count(
        &self,
        source: Source,
        condition: Scope,
        holds: impl Fn(&Record) -> bool,
    ) -> Result<u64, Error> {
        let mut search = Search {
            condition,
            ..everything(source, None, COUNTED_AT_ONCE, self.clock.now())
        };
        let matching = |page: &Page| page.records.iter().filter(|record| holds(record)).count();
        if let Some(counted) = self.store.count(search.clone()).await? {
            return Ok(counted.decided + matching(&counted.undecided) as u64);
        }
        let mut count = 0;
        loop {
            let page = self.store.search(search.clone()).await?;
            count += matching(&page) as u64;
            search.after.clone_from(&page.next);
            if search.after.is_none() {
                return Ok(count);
            }
        }
    }
}

/// Another replica did not do its part; doing all of it again is harmless.
fn elsewhere(status: tonic::Status) -> Error {
    Error::Replica(Box::new(status.into()))
}

/// What is there is not made again, also if it cannot be read.
fn present_key(item: Loaded) -> Option<IdentityKey> {
    match item {
        Loaded::Whole(record) => Some(record.key),
        Loaded::Damaged(Selection::One(key), _) => Some(key),
        Loaded::Damaged(..)
        | Loaded::Token(..)
        | Loaded::Request(_)
        | Loaded::Operation(_)
        | Loaded::Provisioning(_) => None,
    }
}
