//! What the plain store holds, and what is done with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use twin::{IdentityKey, Partition, Revision};

use crate::history;
use crate::record::{Damaged, Record};
use crate::store::row::history::nanoseconds;
use crate::store::thin::{Light, Spans};
use crate::store::{
    AuditEntry, AuditHead, Claims, Commit, EnrollmentState, EnrollmentToken, Epoch, Error,
    HistoryEntry, IndexEntry, Loaded, OperationId, OperationResultRow, OperationRow, Page,
    PartitionState, ProvisioningKey, ProvisioningKind, ProvisioningRow, ProvisioningWrite, Replica,
    ReplicaId, RequestAnswer, RequestId, Retention, Search, Selection, Source, TokenHash, Trimmed,
};

#[derive(Default, Clone)]
pub(super) struct State {
    pub(super) records: BTreeMap<IdentityKey, Record>,
    pub(super) index: BTreeMap<IdentityKey, BTreeSet<IndexEntry>>,
    pub(super) partitions: BTreeMap<Partition, PartitionState>,
    pub(super) owners: BTreeMap<Partition, Replica>,
    pub(super) claimed: BTreeSet<ReplicaId>,
    pub(super) log: BTreeMap<(Partition, Revision), Vec<u8>>,
    pub(super) floors: BTreeMap<Partition, Revision>,
    pub(super) history: BTreeMap<(IdentityKey, Revision), HistoryEntry>,
    pub(super) audit: BTreeMap<(Partition, u64), AuditEntry>,
    pub(super) requests: BTreeMap<RequestId, RequestAnswer>,
    pub(super) tokens: BTreeMap<TokenHash, EnrollmentToken>,
    pub(super) uses: BTreeMap<(TokenHash, String), String>,
    pub(super) operations: BTreeMap<OperationId, OperationRow>,
    pub(super) results: BTreeMap<(OperationId, IdentityKey), OperationResultRow>,
    pub(super) provisioning: BTreeMap<ProvisioningKey, ProvisioningRow>,
    pub(super) commits: usize,
    pub(super) fails: bool,
    pub(super) failing_loads: usize,
    pub(super) damaged: Vec<Selection>,
}

impl State {
    pub(super) fn claim(&mut self, replica: &Replica) -> Result<Claims, Error> {
        let stored = u16::try_from(self.partitions.len()).unwrap();
        let asked = replica.count.get();
        if stored != 0 && stored != asked {
            return Err(Error::PartitionCount { stored, asked });
        }
        let newcomer = self.claimed.insert(replica.id.clone());
        let mut claims = Claims::default();
        for partition in replica.count.partitions() {
            let state = self.partitions.entry(partition).or_insert(PartitionState {
                partition,
                epoch: Epoch(0),
                position: 0,
                revision: Revision::ZERO,
                published: Revision::ZERO,
                audit: AuditHead::default(),
            });
            match self.owners.get(&partition) {
                Some(owner) if owner.id == replica.id => {}
                Some(owner) if !newcomer => {
                    claims.elsewhere.insert(partition, owner.address.clone());
                    continue;
                }
                Some(_) | None => {
                    self.owners.insert(partition, replica.clone());
                    state.epoch.0 += 1;
                }
            }
            claims.owned.push(*state);
        }
        Ok(claims)
    }

    pub(super) fn commit(&mut self, commit: Commit) -> Result<(), Error> {
        if self.fails {
            return Err(Error::Engine {
                action: "commit",
                source: "no space left".into(),
            });
        }
        for state in &commit.partitions {
            let partition = state.partition;
            let owned = self.partitions.get(&partition);
            if owned.is_none_or(|owned| owned.epoch != state.epoch) {
                return Err(Error::Fenced { partition });
            }
        }
        for use_of in &commit.enrollments {
            let known = self.uses.keys();
            let mut users: BTreeSet<_> = known.filter(|(of, _)| *of == use_of.hash).collect();
            let asked = commit.enrollments.iter();
            let asked: Vec<_> = asked
                .map(|one| (one.hash, one.device.to_string()))
                .filter(|(of, _)| *of == use_of.hash)
                .collect();
            users.extend(&asked);
            let token = self.tokens.get(&use_of.hash);
            if token.is_some_and(|token| users.len() > token.uses_max as usize) {
                return Err(Error::TokenUsedUp);
            }
        }
        self.commits += 1;
        for state in commit.partitions {
            self.partitions.insert(state.partition, state);
        }
        for written in commit.upserts {
            let index = self.index.entry(written.record.key.clone()).or_default();
            index.retain(|entry| !written.index_remove.contains(entry));
            index.extend(written.index_add);
            self.records
                .insert(written.record.key.clone(), (*written.record).clone());
        }
        for key in commit.deletes {
            self.records.remove(&key);
            self.index.remove(&key);
        }
        for entry in commit.log {
            self.log
                .insert((entry.partition, entry.revision), entry.change);
        }
        for (partition, through) in commit.trim_log {
            let head = self.partitions.get(&partition).map(|state| state.revision);
            let floor = self.floors.entry(partition).or_default();
            *floor = (*floor).max(through.min(head.unwrap_or_default()));
            self.log
                .retain(|(of, revision), _| *of != partition || *revision > through);
        }
        for entry in commit.history {
            self.keep(entry, commit.coalesce_within);
        }
        for entry in commit.audit {
            self.audit.insert((entry.partition, entry.sequence), entry);
        }
        for answer in commit.requests {
            self.requests.insert(answer.id.clone(), answer);
        }
        for token in commit.tokens {
            self.tokens.insert(token.hash, token);
        }
        for use_of in commit.enrollments {
            self.uses
                .entry((use_of.hash, use_of.device.to_string()))
                .or_insert(use_of.nonce);
        }
        for operation in commit.operations {
            self.operations.insert(operation.id.clone(), operation);
        }
        for result in commit.results {
            let key = (result.operation.clone(), result.key.clone());
            self.results.insert(key, result);
        }
        for write in commit.provisioning {
            match write {
                ProvisioningWrite::Put(row) => {
                    self.provisioning.insert(row.key.clone(), row);
                }
                ProvisioningWrite::Remove(key) => {
                    self.provisioning.remove(&key);
                }
            }
        }
        Ok(())
    }

    pub(super) fn keep(&mut self, mut entry: HistoryEntry, coalesce_within: Duration) {
        let of = self.history.keys().rev().find(|(key, _)| *key == entry.key);
        if let Some(of) = of.cloned()
            && let Some(last) = self.history.get(&of)
            && history::may_merge(last, &entry, coalesce_within)
        {
            entry = history::merge(last, &entry).expect("patches can be read");
            self.history.remove(&of);
        }
        self.history
            .insert((entry.key.clone(), entry.revision), entry);
    }

    /// Of each identity, oldest first, as long as they are too old or too many.
    pub(super) fn trim_history(
        &mut self,
        retention: &Retention,
        before: Timestamp,
    ) -> (usize, bool) {
        let mut due = Vec::new();
        for key in self
            .history
            .keys()
            .map(|(key, _)| key)
            .collect::<BTreeSet<_>>()
        {
            let entries = self.history.values().filter(|entry| entry.key == *key);
            let entries: Vec<_> = entries.collect();
            let kept = retention.history_count as usize;
            let young = Spans::young(retention);
            let is_young = |entry: &HistoryEntry| {
                entry.routine && nanoseconds(entry.at).expect("near") >= young
            };
            let counted: Vec<usize> = (0..entries.len())
                .filter(|place| !is_young(entries[*place]))
                .collect();
            let last = counted.len().checked_sub(kept.saturating_add(1));
            let surplus = last.map_or(0, |last| counted[last] + 1);
            let old = entries.iter().take_while(|entry| entry.at < before).count();
            let gone = entries.iter().take(surplus.max(old));
            due.extend(gone.map(|entry| (key.clone(), entry.revision)));
        }
        let more = due.len() > retention.batch as usize;
        due.truncate(retention.batch as usize);
        for of in &due {
            self.history.remove(of);
        }
        (due.len(), more)
    }

    /// Puts routine revisions together; answers how many are part of another one now.
    fn thin(&mut self, retention: &Retention) -> (u64, u64) {
        let Some(spans) = Spans::of(retention) else {
            return (0, 0);
        };
        let nanoseconds = |at| nanoseconds(at).expect("near");
        let keys: BTreeSet<_> = self.history.keys().map(|(key, _)| key.clone()).collect();
        let (mut joined, mut written) = (0, 0);
        for key in keys {
            let entries = self.history.values().filter(|entry| entry.key == key);
            let entries: Vec<_> = entries.cloned().collect();
            let lights = entries.iter().map(|entry| Light {
                revision: entry.revision.get().cast_signed(),
                first_at: nanoseconds(entry.first_at),
                at: nanoseconds(entry.at),
                routine: entry.routine,
                bytes: 0,
            });
            let lights: Vec<_> = lights.collect();
            for run in spans.runs(&lights) {
                let (first, last) = (run[0].revision, run[run.len() - 1].revision);
                let count = run.len();
                let within = |entry: &&HistoryEntry| {
                    (first..=last).contains(&entry.revision.get().cast_signed())
                };
                let run: Vec<_> = entries.iter().filter(within).cloned().collect();
                assert_eq!(run.len(), count);
                for whole in run.chunk_by(history::follows).filter(|one| one.len() > 1) {
                    for entry in whole {
                        self.history.remove(&(key.clone(), entry.revision));
                    }
                    let merged = history::merge_all(whole).expect("patches can be read");
                    let merged = merged.expect("there are some");
                    self.history.insert((key.clone(), merged.revision), merged);
                    joined += whole.len() as u64 - 1;
                    written += 1;
                }
            }
        }
        (joined, written)
    }

    pub(super) fn load(&self, selection: &Selection) -> Vec<Loaded> {
        if self.damaged.contains(selection) {
            let damaged = Damaged {
                key: format!("{selection:?}"),
                part: "row",
                problem: "its checksum does not match".to_owned(),
            };
            return vec![Loaded::Damaged(selection.clone(), damaged)];
        }
        let whole = |record: &Record| Loaded::Whole(Box::new(record.clone()));
        let found = match selection {
            Selection::One(key) => self.records.get(key).map(whole),
            Selection::Family(device) => {
                let family = self.records.values();
                let family = family.filter(|record| record.key.device == *device);
                return family.map(whole).collect();
            }
            Selection::Token(hash, device) => {
                let uses = self.uses.keys().filter(|(of, _)| of == hash).count();
                let state = self.tokens.get(hash).map(|token| EnrollmentState {
                    token: token.clone(),
                    uses: u32::try_from(uses).unwrap(),
                    nonce: self.uses.get(&(*hash, device.to_string())).cloned(),
                });
                state.map(|state| Loaded::Token(device.clone(), state))
            }
            Selection::Request(id) => self.requests.get(id).cloned().map(Loaded::Request),
            Selection::Operation(id) => self.operations.get(id).cloned().map(Loaded::Operation),
            Selection::Running => {
                let running = self.operations.values().filter(|one| !one.ended);
                return running.cloned().map(Loaded::Operation).collect();
            }
            Selection::Provisioning(key) => {
                let row = self.provisioning.get(key).cloned();
                row.map(Loaded::Provisioning)
            }
            Selection::Groups => {
                let rows = self.provisioning.values();
                let groups = rows.filter(|row| row.key.kind == ProvisioningKind::Group);
                return groups.cloned().map(Loaded::Provisioning).collect();
            }
        };
        found.into_iter().collect()
    }

    pub(super) fn search(&self, search: &Search) -> Page {
        let after = search.after.as_ref();
        let limit = search.limit as usize;
        let matching: Vec<_> = self
            .records
            .values()
            .filter(|record| after.is_none_or(|after| record.key > *after))
            .filter(|record| match search.source {
                Source::All => true,
                Source::Devices => record.key.module.is_none(),
                Source::Modules => record.key.module.is_some(),
            })
            .collect();
        let records: Vec<_> = matching.iter().take(limit).copied().cloned().collect();
        let last = records.last().map(|record| record.key.clone());
        Page {
            next: last.filter(|_| matching.len() > limit),
            records,
            damaged: Vec::new(),
        }
    }

    pub(super) fn trim(&mut self, retention: &Retention) -> Trimmed {
        let before = |age: Duration| {
            let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
            retention.now.saturating_sub(age).unwrap_or(Timestamp::MIN)
        };
        let batch = retention.batch as usize;
        let (joined, written) = self.thin(retention);
        let (revisions, more) = self.trim_history(retention, before(retention.history_age));
        let mut trimmed = Trimmed {
            revisions: revisions as u64,
            joined,
            written,
            more,
            ..Trimmed::default()
        };
        let old: Vec<_> = self
            .requests
            .values()
            .filter(|answer| answer.at < before(retention.request_age))
            .map(|answer| answer.id.clone())
            .collect();
        for id in old.iter().take(batch) {
            self.requests.remove(id);
            trimmed.requests += 1;
        }
        trimmed.more |= old.len() > batch;
        let old: Vec<_> = self
            .operations
            .values()
            .filter(|one| one.ended && one.at < before(retention.operation_age))
            .map(|one| one.id.clone())
            .collect();
        let due = self.results.keys().filter(|(of, _)| old.contains(of));
        let due: Vec<_> = due.cloned().collect();
        for key in due.iter().take(batch) {
            self.results.remove(key);
        }
        trimmed.more |= due.len() > batch;
        let is_empty = |id: &OperationId| !self.results.keys().any(|(of, _)| of == id);
        let bare: Vec<_> = old.iter().filter(|id| is_empty(id)).collect();
        for id in bare.iter().take(batch) {
            self.operations.remove(*id);
            trimmed.operations += 1;
        }
        trimmed.more |= bare.len() > batch;
        let expired: Timestamp = retention.now - SignedDuration::from_hours(1);
        let old: Vec<_> = self
            .tokens
            .values()
            .filter(|token| token.expires_at.as_second() < expired.as_second())
            .map(|token| token.hash)
            .collect();
        for hash in old.iter().take(batch) {
            self.tokens.remove(hash);
            self.uses.retain(|(of, _), _| of != hash);
        }
        trimmed.more |= old.len() > batch;
        trimmed
    }
}
