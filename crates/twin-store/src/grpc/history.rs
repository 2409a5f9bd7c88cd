//! `TwinHistoryService`: what twins were, who changed them and why, and back again.

use std::collections::BTreeSet;

use prost::Message as _;
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status};
use twin::{IdentityKey, Revision, TwinPatch};
use wire::InvalidField;
use wire::names::identity_name;
use wire::time::{optional, to_wire};
use wire::twin::v1 as proto;
use wire::twin::v1::twin_history_service_server::TwinHistoryService;

use super::caller::Caller;
use super::filter::show;
use super::read_mask::ReadMask;
use super::repeatable::Repeatable;
use super::token::{self, Kind};
use super::twin_writes::conditions;
use super::{Api, identity, page_size, refuse};
use crate::apply::twins::{self, Form, OperatorWrite};
use crate::apply::{Cause, Mode, Overlay};
use crate::encode;
use crate::error::Error;
use crate::store::{HistoryEntry, HistoryRead, Hole, Selection};

mod diff;
mod moment;

use moment::{Moment, Then};

/// Revisions read at once.
const CHUNK: u32 = 256;
/// Revisions looked at for one page, so that a call ends in time whatever is asked for; a page may
/// then be short, or empty with a token.
const SCAN_MAX: usize = 5000;
/// Bytes after which a page ends early; see `ListTwins`.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Where the next page of a list starts.
#[derive(Serialize, Deserialize)]
struct Place {
    /// Of what the list was asked for.
    list: String,
    /// Below which revision.
    before: u64,
}

impl Api {
    async fn revisions(
        &self,
        request: proto::ListTwinRevisionsRequest,
    ) -> Result<proto::ListTwinRevisionsResponse, Error> {
        let key = identity("name", &request.name)?;
        let size = page_size(request.page_size)? as usize;
        let wanted = wanted_changes(&request.changes)?;
        let list = token::fingerprint([
            "ListTwinRevisions",
            &request.name,
            &format!("{wanted:?}"),
            &format!("{:?} {:?}", request.start_time, request.end_time),
        ]);
        let mut read = HistoryRead {
            key: key.clone(),
            before: place(&request.page_token, &list)?,
            from: optional("start_time", request.start_time)?,
            to: optional("end_time", request.end_time)?,
            limit: CHUNK,
        };
        let mut answer = proto::ListTwinRevisionsResponse::default();
        let (mut scanned, mut bytes, mut found) = (0, 0, read.before.is_some());
        loop {
            let entries = self.store.history(read.clone()).await?;
            found |= !entries.is_empty();
            scanned += entries.len();
            let last_page = entries.len() < CHUNK as usize;
            let asked = read.before;
            for entry in &entries {
                let (revision, first) = match entry {
                    Ok(entry) => (revision(entry), entry.first_revision),
                    Err(hole) => (unreadable(&key, hole), hole.at),
                };
                // A damaged number leads no way back up.
                let below = read.before.map_or(first, |before| before.min(first));
                read.before = Some(below);
                // Of one that cannot be read nobody knows what it changed.
                let is_wanted = wanted.is_empty() || !revision.problem.is_empty();
                if !is_wanted && !revision.changes.iter().any(|kind| wanted.contains(kind)) {
                    continue;
                }
                bytes += revision.encoded_len();
                answer.revisions.push(revision);
                if answer.revisions.len() >= size || bytes >= PAGE_BYTES {
                    answer.next_page_token = page_token(&list, below);
                    return Ok(answer);
                }
            }
            if last_page || read.before == asked {
                break;
            }
            if let Some(before) = read.before.filter(|_| scanned >= SCAN_MAX) {
                answer.next_page_token = page_token(&list, before);
                return Ok(answer);
            }
        }
        if !found {
            self.must_have_been(key).await?;
        }
        Ok(answer)
    }

    /// An identity of which nothing is known is told from one without revisions in the time asked.
    async fn must_have_been(&self, key: IdentityKey) -> Result<(), Error> {
        let any = HistoryRead {
            key: key.clone(),
            before: None,
            from: None,
            to: None,
            limit: 1,
        };
        if self.store.history(any).await?.is_empty() && self.store.get(key.clone()).await?.is_none()
        {
            return Err(Error::NotFound(key));
        }
        Ok(())
    }

    async fn then(&self, key: &IdentityKey, moment: Moment) -> Result<Then, Error> {
        let found = moment::find(&self.store, key, moment).await;
        // What never was has no future either.
        if !matches!(found, Err(Error::NotFound(_))) {
            let (partition, now) = (self.engine.partition(key), self.clock.now());
            moment::must_have_come(&self.store, key, moment, partition, now).await?;
        }
        found
    }

    async fn snapshot(
        &self,
        request: proto::GetTwinRevisionRequest,
    ) -> Result<proto::TwinRevisionSnapshot, Error> {
        let key = identity("name", &request.name)?;
        let mask = ReadMask::parse(request.read_mask.as_ref())?;
        let then = self
            .then(&key, required("moment", request.moment.as_ref())?)
            .await?;
        let revision = match &then.entry {
            Some(entry) => proto::TwinRevision {
                patch_json: String::new(),
                ..revision(entry)
            },
            None => proto::TwinRevision {
                name: identity_name(&key),
                revision: then.revision().get(),
                first_revision: then.revision().get(),
                commit_time: Some(to_wire(then.time())),
                ..proto::TwinRevision::default()
            },
        };
        let mut twin = then.twin()?;
        mask.apply(&mut twin);
        Ok(proto::TwinRevisionSnapshot {
            revision: Some(revision),
            twin: Some(twin),
        })
    }

    async fn compare(
        &self,
        request: proto::DiffTwinRevisionsRequest,
    ) -> Result<proto::DiffTwinRevisionsResponse, Error> {
        let key = identity("name", &request.name)?;
        let from = required("from", request.from.as_ref())?;
        let to = Moment::read("to", request.to.as_ref())?.unwrap_or(Moment::Now);
        let mut before = self.then(&key, from).await?;
        let mut after = self.then(&key, to).await?;
        // What is not known of one side is no difference.
        if !before.has_registry() || !after.has_registry() {
            before.forget_registry();
            after.forget_registry();
        }
        Ok(proto::DiffTwinRevisionsResponse {
            from_revision: before.revision().get(),
            to_revision: after.revision().get(),
            differences: diff::differences(&before.document, &after.document),
        })
    }

    async fn revert(
        &self,
        caller: &Caller,
        request: proto::RevertTwinRequest,
    ) -> Result<proto::Twin, Error> {
        let key = identity("name", &request.name)?;
        let moment = required("moment", request.moment.as_ref())?;
        let id = &request.request_id;
        let mode = Mode::new(request.validate_only);
        let repeatable =
            Repeatable::read("RevertTwin", caller, id, &request)?.filter(|_| mode == Mode::Write);
        let operator = caller.operator(&request.operator)?;
        let mask = ReadMask::parse(request.read_mask.as_ref())?;
        let conditions = conditions(
            &request.etag,
            request.expected_desired_version,
            &request.only_if,
        )?;
        let then = self.then(&key, moment).await?;
        let was = then.sections()?;
        let cause = Cause {
            cause: format!("revert:{}", then.revision()),
            ..caller.cause_as(operator, id)
        };
        let selection = Selection::One(key.clone());
        self.decide_once(repeatable, selection, move |overlay: &mut Overlay, now| {
            let present = overlay.get(&key)?;
            let is = present.twin.parse(&key)?;
            // Only what differs is written: leaves that stayed keep their writers, so that a
            // policy still owns what it set.
            let write = OperatorWrite {
                form: Form::Patch,
                sections: TwinPatch {
                    tags: Some(twin::patch::diff_objects(
                        is.tags.document(),
                        was.tags.document(),
                    )),
                    desired: Some(twin::patch::diff_objects(
                        is.desired.document(),
                        was.desired.document(),
                    )),
                },
                conditions,
                mode,
                action: "twin.revert",
            };
            let record = twins::write(overlay, &key, &write, now, &cause)?;
            Ok(show(&record, &mask)?)
        })
        .await
    }
}

fn required(field: &str, moment: Option<&proto::Moment>) -> Result<Moment, Error> {
    let moment = Moment::read(field, moment)?;
    let problem = "must be given: a revision or a time";
    Ok(moment.ok_or_else(|| InvalidField::new(field, problem))?)
}

fn wanted_changes(changes: &[i32]) -> Result<BTreeSet<i32>, Error> {
    for (index, change) in changes.iter().enumerate() {
        match proto::Change::try_from(*change) {
            Ok(proto::Change::Unspecified) | Err(_) => {
                let field = format!("changes[{index}]");
                let problem = format!("{change} is no kind of change; see the enum Change");
                return Err(InvalidField::new(field, problem).into());
            }
            Ok(_) => {}
        }
    }
    Ok(changes.iter().copied().collect())
}

fn kind_to_wire(kind: crate::apply::ChangeKind) -> i32 {
    encode::change_kind(kind).into()
}

fn revision(entry: &HistoryEntry) -> proto::TwinRevision {
    proto::TwinRevision {
        name: identity_name(&entry.key),
        revision: entry.revision.get(),
        first_revision: entry.first_revision.get(),
        commit_time: Some(to_wire(entry.at)),
        first_commit_time: Some(to_wire(entry.first_at)),
        actor: entry.actor.clone(),
        cause: entry.cause.clone(),
        changes: entry
            .changes
            .iter()
            .map(|kind| kind_to_wire(*kind))
            .collect(),
        patch_json: entry.patch.clone(),
        trace_parent: entry.trace_parent.clone().unwrap_or_default(),
        problem: String::new(),
    }
}

/// A revision of which only the place is known.
fn unreadable(key: &IdentityKey, hole: &Hole<Revision>) -> proto::TwinRevision {
    proto::TwinRevision {
        name: identity_name(key),
        revision: hole.at.get(),
        first_revision: hole.at.get(),
        problem: hole.damaged.problem.clone(),
        ..proto::TwinRevision::default()
    }
}

fn page_token(list: &str, before: Revision) -> String {
    let place = Place {
        list: list.to_owned(),
        before: before.get(),
    };
    token::seal(Kind::Page, &place)
}

fn place(token: &str, list: &str) -> Result<Option<Revision>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let place: Place = token::open(Kind::Page, token)
        .ok_or_else(|| InvalidField::new("page_token", "is not one that this service gave"))?;
    if place.list != list {
        let problem = "is of a list that was asked for otherwise; start again without it";
        return Err(InvalidField::new("page_token", problem).into());
    }
    Ok(Some(Revision::new(place.before)))
}

#[tonic::async_trait]
impl TwinHistoryService for Api {
    async fn list_twin_revisions(
        &self,
        request: Request<proto::ListTwinRevisionsRequest>,
    ) -> Result<Response<proto::ListTwinRevisionsResponse>, Status> {
        self.revisions(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn get_twin_revision(
        &self,
        request: Request<proto::GetTwinRevisionRequest>,
    ) -> Result<Response<proto::TwinRevisionSnapshot>, Status> {
        self.snapshot(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn diff_twin_revisions(
        &self,
        request: Request<proto::DiffTwinRevisionsRequest>,
    ) -> Result<Response<proto::DiffTwinRevisionsResponse>, Status> {
        self.compare(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn revert_twin(
        &self,
        request: Request<proto::RevertTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        let caller = Caller::of(&request);
        self.revert(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }
}
