//! Applying a policy, and reading what it was: revisions are only added, never changed.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Row, Transaction, params};

use super::audit::{self, By};
use super::content;
use super::deletion;
use super::frozen;
use super::rollouts::{self, StoredRollout};
use super::row::{PolicyRow, instant, number, read_policy, stored, write_policy};
use super::sqlite::{Engine, check_room, next_created_order, raise_sweep};
use super::strays;
use super::{Error, Outcome, Store, StoredPolicy, SweepNumber, etag};
use crate::policy_doc::{Policy, PolicyId, PolicySpec};
use crate::rollout::{Guarded, Phase, Rollout};

/// Who changes a policy, when and why.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// Who.
    pub(crate) by: By,
    /// When.
    pub(crate) at: Timestamp,
    /// Why, in the author's words.
    pub(crate) note: String,
    /// What the mass-change guard has to say; heeded if the policy has no strategy.
    pub(crate) guarded: Option<Guarded>,
    /// Only if the policy is there with this etag; none: whatever it is.
    pub(crate) expected: Option<String>,
}

/// What applying a policy does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Applied {
    /// The policy as it is then.
    pub(crate) stored: StoredPolicy,
    /// What it said before, if it was there.
    pub(crate) before: Option<PolicySpec>,
    /// Whether a revision is given for it.
    pub(crate) is_new: bool,
}

impl Applied {
    /// The kind of it.
    pub(crate) fn outcome(&self) -> Outcome {
        match &self.before {
            None => Outcome::Created,
            Some(_) if self.is_new => Outcome::Updated,
            Some(_) => Outcome::Unchanged,
        }
    }
}

/// A revision as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredRevision {
    /// Its number.
    pub(crate) revision: u64,
    /// `operator:<name>`; empty: not kept.
    pub(crate) author: String,
    /// Why, in the author's words.
    pub(crate) note: String,
    /// When it was made.
    pub(crate) created_at: Timestamp,
    /// What it says.
    pub(crate) spec: PolicySpec,
    /// What the revision before says, if there is one.
    pub(crate) before: Option<PolicySpec>,
}

impl Store {
    /// Creates the policy or replaces its content; the same content again writes nothing.
    ///
    /// `then` runs when the change is durable, before anybody else may change a policy. It runs
    /// also when the caller has gone away meanwhile, so that memory never lags behind the store.
    pub(crate) async fn apply(
        &self,
        policy: Policy,
        change: Change,
        then: impl FnOnce(&StoredPolicy) + Send + 'static,
    ) -> Result<Applied, Error> {
        self.run(move |engine| {
            let applied = engine.apply(policy, &change)?;
            then(&applied.stored);
            Ok(applied)
        })
        .await
    }

    /// What [`Store::apply`] would do now; nothing is written.
    pub(crate) async fn rehearse(
        &self,
        policy: Policy,
        expected: Option<String>,
        at: Timestamp,
    ) -> Result<Applied, Error> {
        self.run(move |engine| engine.rehearse(policy, expected.as_deref(), at))
            .await
    }

    /// At most `limit` revisions, the newest first, of those below `before`.
    pub(crate) async fn revisions(
        &self,
        id: PolicyId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredRevision>, Error> {
        self.run(move |engine| engine.revisions(&id, before, limit))
            .await
    }
}

impl Engine {
    fn apply(&mut self, policy: Policy, change: &Change) -> Result<Applied, Error> {
        const ACTION: &str = "write a policy";
        let transaction = self.begin(ACTION)?;
        let (applied, ended) = plan(
            &transaction,
            (policy, change.expected.as_deref()),
            (&change.by.actor, change.at),
            change.guarded.as_ref(),
        )?;
        let action = match applied.outcome() {
            Outcome::Unchanged => return Ok(applied),
            Outcome::Updated => "policy.update",
            Outcome::Created => "policy.create",
        };
        let stored = &applied.stored;
        write_policy(&transaction, stored, (&change.by.actor, &change.note))?;
        if stored.effective_revision == stored.revision {
            frozen::thaw_of(&transaction, stored.policy.id().as_str())?;
        }
        if let Some(ended) = ended {
            let reason = format!("revision {} took its place", stored.revision);
            let id = stored.policy.id().as_str();
            rollouts::supersede(&transaction, id, &ended, &reason, change.at)?;
        }
        if let Some(rollout) = &stored.rollout
            && stored.effective_revision == stored.revision
        {
            rollouts::write(&transaction, stored.policy.id().as_str(), rollout)?;
        }
        let content = content::print(stored.policy.spec())?;
        let id = stored.policy.id().as_str();
        let what = (stored.revision, Some(&*content));
        let when = (change.at, &change.by);
        audit::note_why(&transaction, action, id, what, &change.note, when)?;
        transaction.commit().map_err(|source| Error::Engine {
            action: ACTION,
            source,
        })?;
        Ok(applied)
    }

    /// The same steps in a transaction that is rolled back, so that it cannot say anything else
    /// than what [`Engine::apply`] does.
    fn rehearse(
        &mut self,
        policy: Policy,
        expected: Option<&str>,
        at: Timestamp,
    ) -> Result<Applied, Error> {
        let transaction = self.begin("check a policy")?;
        let (applied, _) = plan(&transaction, (policy, expected), ("", at), None)?;
        Ok(applied)
    }

    fn revisions(
        &mut self,
        id: &PolicyId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredRevision>, Error> {
        let failed = |source| Error::Engine {
            action: "read revisions",
            source,
        };
        // With each comes the next older one, also that behind the page.
        let statement = "SELECT r.revision, r.author, r.note, r.create_time, r.content,
                 (SELECT o.content FROM revisions o
                  WHERE o.policy_id = r.policy_id AND o.revision < r.revision
                  ORDER BY o.revision DESC LIMIT 1)
             FROM revisions r WHERE r.policy_id = ?1 AND r.revision < ?2
             ORDER BY r.revision DESC LIMIT ?3";
        let mut rows = self.connection().prepare(statement).map_err(failed)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let below = before.map_or(i64::MAX, stored);
        let rows = rows
            .query_map(params![id.as_str(), below, limit], RevisionRow::read)
            .map_err(failed)?;
        rows.map(|row| row.map_err(failed)?.into_revision(id.as_str()))
            .collect()
    }
}

struct RevisionRow {
    revision: i64,
    author: String,
    note: String,
    create_time: String,
    content: String,
    before: Option<String>,
}

impl RevisionRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<RevisionRow> {
        Ok(RevisionRow {
            revision: row.get(0)?,
            author: row.get(1)?,
            note: row.get(2)?,
            create_time: row.get(3)?,
            content: row.get(4)?,
            before: row.get(5)?,
        })
    }

    fn into_revision(self, id: &str) -> Result<StoredRevision, Error> {
        let before = self.before.map(|text| content::read(id, &text));
        Ok(StoredRevision {
            revision: number("a revision", self.revision)?,
            created_at: instant(&self.create_time)?,
            spec: content::read(id, &self.content)?,
            before: before.transpose()?,
            author: self.author,
            note: self.note,
        })
    }
}

/// The policy as it is when this is applied, and the rollout that it ends. Counters are raised in the
/// transaction; nothing else is written.
fn plan(
    transaction: &Transaction<'_>,
    (policy, expected): (Policy, Option<&str>),
    (author, at): (&str, Timestamp),
    guarded: Option<&Guarded>,
) -> Result<(Applied, Option<Arc<StoredRollout>>), Error> {
    let mut ended = None;
    let before = read_policy(transaction, policy.id())?;
    let alive = before.as_ref().filter(|row| !row.deleted);
    if let Some(expected) = expected {
        check_etag(policy.id(), alive, expected)?;
    }
    let old_spec = alive.map(PolicyRow::spec).transpose()?;
    let revision = match &before {
        Some(row) => number("a revision", row.revision)? + 1,
        None if deletion::newest_revision(transaction, policy.id())?.is_some() => {
            return Err(deletion::lost_row(policy.id()));
        }
        None => 1,
    };
    // Twins have newer ones that this file never gave: whoever applies the policy now takes them over.
    let stray = strays::newest(transaction, policy.id())?;
    let revision = revision.max(stray.saturating_add(1));
    let mut is_new = true;
    let stored = if let (Some(row), Some(old)) = (alive, &old_spec) {
        let old_policy = row.clone().into_policy(transaction)?;
        let is_behind = old_policy.effective_revision < stray;
        if *old == *policy.spec() && !is_behind {
            is_new = false;
            old_policy
        } else {
            let updated = StoredPolicy {
                revision,
                updated_at: at,
                ..old_policy.clone()
            };
            if is_same_but_for_words(old, policy.spec()) && !is_behind {
                // Other times let through what waited, or end it; the leaves stay as they are.
                let sweep = if old.schedule == policy.spec().schedule {
                    updated.sweep
                } else {
                    raise_sweep(transaction)?
                };
                StoredPolicy {
                    policy,
                    sweep,
                    ..updated
                }
            } else {
                let sweep = raise_sweep(transaction)?;
                let before = rollouts::last_good(&old_policy);
                let before = before.map(|revision| {
                    let content = rollouts::content_at(transaction, policy.id().as_str(), revision);
                    content.map(|content| (revision, content))
                });
                let before = before.transpose()?;
                let rollout = begin(&policy, guarded, (revision, before), (author, at), sweep);
                ended = old_policy.rollout;
                check_not_under_way(policy.id(), ended.as_deref())?;
                StoredPolicy {
                    policy,
                    effective_revision: revision,
                    sweep,
                    rollout,
                    ..updated
                }
            }
        }
    } else {
        check_room(transaction)?;
        let sweep = raise_sweep(transaction)?;
        let rollout = begin(&policy, guarded, (revision, None), (author, at), sweep);
        StoredPolicy {
            policy,
            revision,
            effective_revision: revision,
            created_order: next_created_order(transaction)?,
            sweep,
            rollout,
            created_at: at,
            updated_at: at,
        }
    };
    let applied = Applied {
        stored,
        before: old_spec,
        is_new,
    };
    Ok((applied, ended))
}

/// Nobody's change is to be undone by the way.
fn check_etag(id: &PolicyId, alive: Option<&PolicyRow>, expected: &str) -> Result<(), Error> {
    let row = alive.ok_or_else(|| Error::NotFound { id: id.clone() })?;
    let found = etag(number("a revision", row.revision)?);
    if found == expected {
        return Ok(());
    }
    Err(Error::Etag {
        id: id.clone(),
        found,
        expected: expected.to_owned(),
    })
}

/// A revision that goes on well is not taken back from twins by the way, only because there is a newer one: whoever wants
/// that says so first, by pausing or aborting its rollout.
fn check_not_under_way(id: &PolicyId, ended: Option<&StoredRollout>) -> Result<(), Error> {
    let Some(stored) = ended else {
        return Ok(());
    };
    let rollout = &stored.rollout;
    if !matches!(rollout.phase, Phase::Rolling | Phase::Soaking) {
        return Ok(());
    }
    let begun = rollout.waves.iter().take(rollout.in_force());
    Err(Error::UnderWay {
        id: id.clone(),
        revision: stored.revision,
        released: rollout.in_force(),
        waves: rollout.waves.len(),
        twins: begun.map(|wave| wave.twins).sum(),
    })
}

/// The rollout of a new revision, if it is to spread in waves.
fn begin(
    policy: &Policy,
    guarded: Option<&Guarded>,
    (revision, before): (u64, Option<(u64, Policy)>),
    (author, at): (&str, Timestamp),
    sweep: SweepNumber,
) -> Option<Arc<StoredRollout>> {
    let (from, before) = before.unzip();
    let author = author.to_owned();
    let rollout = match (policy.strategy(), guarded) {
        (Some(strategy), _) => Rollout::begin(strategy.spec().clone(), from, author, at),
        (None, Some(guarded)) => Rollout::begin_guarded(guarded.clone(), from, author, at),
        (None, None) => return None,
    };
    Some(Arc::new(StoredRollout {
        revision,
        version: 1,
        sweep,
        rollout,
        before,
    }))
}

/// Whether two contents differ in nothing that has an effect on twins.
fn is_same_but_for_words(old: &PolicySpec, new: &PolicySpec) -> bool {
    let worded = PolicySpec {
        description: new.description.clone(),
        labels: new.labels.clone(),
        // How it spreads counts when the next revision does.
        rollout: new.rollout.clone(),
        // When it may change twins says nothing of what it changes.
        schedule: new.schedule.clone(),
        ..old.clone()
    };
    worded == *new
}
