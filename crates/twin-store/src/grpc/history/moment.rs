//! Finding what a twin was: from the present back, or from its deletion.
//!
//! The present and the newest entries are read one after the other; if a write came between, both
//! are read again. What lies behind a page may change between two readings: the oldest entries go, and
//! routine ones are put together, so that an entry no longer follows the one that named it. Then the walk
//! begins anew, from the present. What it had read stays true: entries in a row and the one that is made of
//! them lead to the same document.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use twin::{IdentityKey, Partition, Revision};
use wire::InvalidField;
use wire::time;
use wire::twin::v1 as proto;

use super::super::filter::show;
use super::super::read_mask::ReadMask;
use crate::error::{Error, ReadError};
use crate::history::{self, GONE, Registry};
use crate::record::{Authentication, Damaged, Identity, IdentityEtag, Record, Status};
use crate::store::{HistoryEntry, HistoryRead, OrHole, Store};

mod link;

use link::{Ended, Link};

/// Entries read at once: their patches may be large.
const PAGE: u32 = 64;
/// Times that the present and its newest entry are read until they fit.
const TRIES: u32 = 20;
/// How far the clocks of callers may be ahead of ours: what is now for one is no future.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(1);

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Now,
    Revision(Revision),
    Time(Timestamp),
}

impl Moment {
    pub(super) fn read(
        field: &str,
        moment: Option<&proto::Moment>,
    ) -> Result<Option<Moment>, Error> {
        let Some(at) = moment.and_then(|moment| moment.at.as_ref()) else {
            return Ok(None);
        };
        Ok(Some(match at {
            proto::moment::At::Revision(0) => {
                let problem = "is 0; revisions begin at 1";
                return Err(InvalidField::new(format!("{field}.revision"), problem).into());
            }
            proto::moment::At::Revision(number) => Moment::Revision(Revision::new(*number)),
            proto::moment::At::Time(at) => {
                let at = time::optional(&format!("{field}.time"), Some(*at))?;
                at.map_or(Moment::Now, Moment::Time)
            }
        }))
    }

    /// Whether what an entry tells had happened by then. One that holds several revisions has
    /// happened when its last has: what was between is not kept.
    fn has_seen(self, entry: &HistoryEntry) -> bool {
        match self {
            Moment::Now => true,
            Moment::Revision(revision) => entry.revision <= revision,
            Moment::Time(at) => entry.at <= at,
        }
    }
}

/// What a twin was.
pub(super) struct Then {
    /// Its document, as `history` makes it.
    pub(super) document: Value,
    /// The entry that made it so; none if that one is no longer kept.
    pub(super) entry: Option<HistoryEntry>,
    /// The twin as it is now, if it is there.
    present: Option<Record>,
    key: IdentityKey,
}

impl Then {
    /// Its revision.
    pub(super) fn revision(&self) -> Revision {
        match (&self.entry, &self.present) {
            (Some(entry), _) => entry.revision,
            (None, Some(present)) => present.revision,
            (None, None) => Revision::ZERO,
        }
    }

    /// The twin as it was. What the registry said then is empty if nobody knows it any more.
    pub(super) fn twin(&self) -> Result<proto::Twin, Damaged> {
        let registry = Registry::read(&self.document);
        let registry = registry.map_err(|problem| self.damaged("identity", problem))?;
        let mut twin = show(&self.record()?, &ReadMask::default())?;
        twin.authentication_type.clear();
        twin.device_etag.clear();
        let Some(registry) = registry else {
            return Ok(twin);
        };
        let updated_at = registry.status_updated_at();
        let updated_at = updated_at.map_err(|problem| self.damaged("statusUpdateTime", problem))?;
        twin.status_update_time = updated_at.map(time::to_wire);
        twin.authentication_type = registry.authentication_type;
        if let Some(thumbprints) = registry.x509_thumbprint {
            twin.primary_thumbprint = thumbprints.primary_thumbprint;
            twin.secondary_thumbprint = thumbprints.secondary_thumbprint;
        }
        twin.model_id = registry.model_id;
        twin.iot_edge = registry.capabilities.iot_edge;
        twin.device_etag = IdentityEtag::from_number(registry.device_etag).to_string();
        Ok(twin)
    }

    /// Whether it is known what the registry said then.
    pub(super) fn has_registry(&self) -> bool {
        !matches!(Registry::read(&self.document), Ok(None))
    }

    /// Takes out what the registry said then.
    pub(super) fn forget_registry(&mut self) {
        history::forget_registry(&mut self.document);
    }

    /// The sections as they were.
    pub(super) fn sections(&self) -> Result<twin::Twin, Damaged> {
        history::twin_text(&self.key, &self.document)?.parse(&self.key)
    }

    fn damaged(&self, part: &'static str, problem: String) -> Damaged {
        Damaged {
            key: self.key.to_string(),
            part,
            problem,
        }
    }

    /// The record as it was, but for what only [`Registry`] tells.
    fn record(&self) -> Result<Record, Damaged> {
        let text = |part: &'static str| {
            let value = self.document.get(part).and_then(Value::as_str);
            value.ok_or_else(|| self.damaged(part, "it is not in the history".to_owned()))
        };
        let posture = self.document.get("posture").cloned().unwrap_or_default();
        let posture = serde_json::from_value(posture)
            .map_err(|error| self.damaged("posture", error.to_string()))?;
        let status = Status::parse(text("status")?)
            .ok_or_else(|| self.damaged("status", "it is none that is known".to_owned()))?;
        let at = self.time();
        let identity = Identity {
            generation_id: text("generation")?.to_owned(),
            status,
            status_reason: text("statusReason")?.to_owned(),
            ..unknown_identity(at)
        };
        Ok(Record {
            key: self.key.clone(),
            identity,
            twin: history::twin_text(&self.key, &self.document)?,
            posture,
            configurations: history::configurations(&self.key, &self.document)?,
            // What a device's tags were is in its own history.
            device_tags: None,
            revision: self.revision(),
            updated_at: at,
        })
    }

    /// When it became so.
    pub(super) fn time(&self) -> Timestamp {
        match (&self.entry, &self.present) {
            (Some(entry), _) => entry.at,
            (None, Some(present)) => present.updated_at,
            (None, None) => Timestamp::UNIX_EPOCH,
        }
    }
}

/// What a record needs and a history does not have: keys, for one.
fn unknown_identity(at: Timestamp) -> Identity {
    Identity {
        generation_id: String::new(),
        etag: IdentityEtag::from_number(0),
        status: Status::Disabled,
        status_reason: String::new(),
        status_updated_at: None,
        authentication: Authentication::None,
        iot_edge: false,
        managed_by: String::new(),
        model_id: String::new(),
        provisioned: None,
        created_at: at,
        updated_at: at,
    }
}

/// Refuses a moment that has not come: to answer it with the present would make a typing error look
/// like a success.
pub(super) async fn must_have_come(
    store: &Arc<dyn Store>,
    key: &IdentityKey,
    moment: Moment,
    partition: Partition,
    now: Timestamp,
) -> Result<(), Error> {
    match moment {
        // Revisions are counted for all twins of a partition, so one between two of this twin's is
        // a place in its history, and one above all is none.
        Moment::Revision(asked) => {
            let heads = store.heads().await?;
            let newest = heads.get(&partition).copied().unwrap_or(Revision::ZERO);
            if asked <= newest {
                return Ok(());
            }
            Err(ReadError::RevisionNotYet {
                key: key.clone(),
                asked: asked.get(),
                newest: newest.get(),
            }
            .into())
        }
        Moment::Time(asked) if asked.duration_since(now) > CLOCK_SKEW => {
            Err(ReadError::TimeNotYet { asked, now }.into())
        }
        Moment::Now | Moment::Time(_) => Ok(()),
    }
}

/// Reads what a twin was.
pub(super) async fn find(
    store: &Arc<dyn Store>,
    key: &IdentityKey,
    moment: Moment,
) -> Result<Then, Error> {
    let mut tries = 1..=TRIES;
    loop {
        match walk(store, key, moment).await {
            Ok(then) => return Ok(then),
            Err(Ended::Here(error)) => return Err(error),
            Err(Ended::Gap(damaged)) => {
                tries.next();
                if tries.is_empty() {
                    return Err(damaged.into());
                }
            }
        }
    }
}

async fn walk(store: &Arc<dyn Store>, key: &IdentityKey, moment: Moment) -> Result<Then, Ended> {
    let (present, mut page) = newest(store, key).await?;
    let mut document = match &present {
        Some(record) => history::document(record)?,
        None => Value::Null,
    };
    // Older versions of ours kept no entry of what changed nothing but the registry's part.
    let untouched = present.as_ref().filter(|present| match moment {
        Moment::Now => true,
        Moment::Revision(revision) => present.revision <= revision,
        Moment::Time(at) => present.updated_at <= at,
    });
    // Nor is the way back needed, if its first step cannot be read.
    if untouched.is_some() && page.first().is_none_or(Result::is_err) {
        return Ok(Then {
            document,
            entry: None,
            present,
            key: key.clone(),
        });
    }
    let mut oldest: Option<(Revision, bool)> = None;
    let mut registry_is_known = true;
    let mut link = Link(present.as_ref().map(|present| present.revision));
    loop {
        let mut undone = Vec::new();
        for entry in page {
            // A document rewound without it would be wrong.
            let entry = entry.map_err(|hole| hole.damaged)?;
            link.follow(&entry)?;
            if moment.has_seen(&entry) {
                document = history::rewind(document, &undone).map_err(ReadError::from)?;
                registry_is_known &= entry.has_registry;
                if untouched.is_none() && !registry_is_known {
                    history::forget_registry(&mut document);
                }
                return if document.is_null() {
                    Err(ReadError::NotThen(key.clone()).into())
                } else {
                    Ok(Then {
                        document,
                        entry: Some(entry),
                        present,
                        key: key.clone(),
                    })
                };
            }
            // A deletion says what there was, however little is known of what came after.
            registry_is_known |= entry.patch == GONE;
            registry_is_known &= entry.has_registry;
            undone.push(entry);
        }
        let Some(last) = undone.last() else {
            break;
        };
        let before = last.first_revision.min(last.revision);
        oldest = Some((last.revision, last.undo == GONE));
        document = history::rewind(document, &undone).map_err(ReadError::from)?;
        page = entries(store, key, Some(before)).await?;
        // Much of this may be parsing; others get their turn in between.
        tokio::task::yield_now().await;
    }
    match oldest {
        Some((_, true)) => Err(ReadError::NotThen(key.clone()).into()),
        Some((revision, false)) => Err(ReadError::Trimmed {
            key: key.clone(),
            oldest: revision.get(),
        }
        .into()),
        // It is there, and all that it ever was before is forgotten; or it never was.
        None => match present {
            Some(present) => Err(ReadError::Trimmed {
                key: key.clone(),
                oldest: present.revision.get(),
            }
            .into()),
            None => Err(Error::NotFound(key.clone()).into()),
        },
    }
}

/// Revisions, each of which can be read or not.
type Entries = Vec<OrHole<HistoryEntry, Revision>>;

/// The present and the newest entries, as of one moment.
async fn newest(
    store: &Arc<dyn Store>,
    key: &IdentityKey,
) -> Result<(Option<Record>, Entries), Error> {
    for _ in 0..TRIES {
        let present = store.get(key.clone()).await?;
        let page = entries(store, key, None).await?;
        let fits = match (&present, page.first()) {
            (Some(present), Some(Ok(entry))) => {
                entry.revision <= present.revision && entry.patch != GONE
            }
            (None, Some(Ok(entry))) => entry.patch == GONE,
            (_, Some(Err(_)) | None) => true,
        };
        if fits {
            return Ok((present, page));
        }
        tokio::task::yield_now().await;
    }
    Err(ReadError::TooFast(key.clone()).into())
}

async fn entries(
    store: &Arc<dyn Store>,
    key: &IdentityKey,
    before: Option<Revision>,
) -> Result<Entries, Error> {
    let read = HistoryRead {
        key: key.clone(),
        before,
        from: None,
        to: None,
        limit: PAGE,
    };
    Ok(store.history(read).await?)
}

#[cfg(test)]
mod tests;
