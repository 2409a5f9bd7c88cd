//! Verifies the chains a piece at a time: who asks says how far each was found to be right, so that
//! a walk over millions of entries can be watched, ended and gone on with.

use std::collections::BTreeMap;

use twin::Partition;
use wire::InvalidField;
use wire::registry::v1 as proto;

use super::super::Api;
use super::CHUNK;
use crate::audit::Walk;
use crate::error::Error;
use crate::hex;
use crate::store::AuditHead;

/// Entries that a call walks if it does not say: a fraction of a second.
const ENTRIES_DEFAULT: u32 = 20_000;
/// Entries that a call may walk.
const ENTRIES_MAX: u32 = 100_000;

impl Api {
    pub(super) async fn verified(
        &self,
        request: proto::VerifyAuditRequest,
    ) -> Result<proto::VerifyAuditResponse, Error> {
        let mut left = entries_max(request.max_entries)?;
        let partitions = self.partitions().await?;
        let mut begins = begins(&request.after, &partitions)?;
        let mut answer = proto::VerifyAuditResponse {
            chains: Vec::new(),
            whole: true,
            more: false,
        };
        for partition in partitions {
            let begin = begins.remove(&partition).unwrap_or_default();
            let chain = self.chain(partition, begin, &mut left).await?;
            let has_ended = chain.broken_at > 0 || chain.reached_sequence == chain.head_sequence;
            answer.more |= !has_ended;
            answer.whole &= chain.broken_at == 0;
            if chain.head_sequence > 0 || chain.broken_at > 0 {
                answer.chains.push(chain);
            }
        }
        Ok(answer)
    }

    /// Walks a chain, as long as entries are left to be walked.
    async fn chain(
        &self,
        partition: Partition,
        begin: AuditHead,
        left: &mut u32,
    ) -> Result<proto::AuditChain, Error> {
        let mut walk = Walk::behind(begin);
        loop {
            let after = walk.reached().sequence;
            // Also with nothing left the end is looked at: it says how far there is to go.
            let limit = CHUNK.min(*left);
            let page = self.store.audit(partition, after, limit).await?;
            let read = u32::try_from(page.entries.len()).unwrap_or(u32::MAX);
            *left = left.saturating_sub(read);
            let mut broken = page.entries.iter().try_for_each(|entry| match entry {
                Ok(entry) => walk.step(entry),
                Err(_) => Err(walk.unreadable()),
            });
            let reached = walk.reached();
            let has_ended = reached.sequence >= page.head.sequence || read < limit;
            if broken.is_ok() && !has_ended && *left > 0 {
                continue;
            }
            if broken.is_ok() && has_ended {
                broken = walk.end(page.head);
            }
            let (broken_at, problem) = match broken {
                Ok(()) => (0, String::new()),
                Err(broken) => (broken.sequence, broken.problem.to_owned()),
            };
            return Ok(proto::AuditChain {
                partition: partition.get().into(),
                entries: reached.sequence - begin.sequence,
                head_sequence: page.head.sequence,
                head_hash: hex::text(&page.head.hash),
                broken_at,
                problem,
                reached_sequence: reached.sequence,
                reached_hash: hash_text(&reached),
            });
        }
    }
}

/// Before the first entry there is none to have a hash.
fn hash_text(reached: &AuditHead) -> String {
    match reached.sequence {
        0 => String::new(),
        _ => hex::text(&reached.hash),
    }
}

fn entries_max(asked: i32) -> Result<u32, Error> {
    match u32::try_from(asked) {
        Ok(0) => Ok(ENTRIES_DEFAULT),
        Ok(entries) if entries <= ENTRIES_MAX => Ok(entries),
        Ok(_) | Err(_) => {
            let problem =
                format!("is {asked}; allowed are 1 to {ENTRIES_MAX}, and 0 for {ENTRIES_DEFAULT}");
            Err(InvalidField::new("max_entries", problem).into())
        }
    }
}

/// Where each chain begins.
fn begins(
    after: &[proto::AuditPlace],
    partitions: &[Partition],
) -> Result<BTreeMap<Partition, AuditHead>, Error> {
    let mut begins = BTreeMap::new();
    for (index, place) in after.iter().enumerate() {
        let invalid = |field: &str, problem: String| {
            InvalidField::new(format!("after[{index}].{field}"), problem)
        };
        let mut known = partitions.iter();
        let Some(partition) = known.find(|known| u32::from(known.get()) == place.partition) else {
            let problem = format!("is {}; the hub has no such partition", place.partition);
            return Err(invalid("partition", problem).into());
        };
        let hash = match (place.sequence, place.hash.as_str()) {
            (0, "") => [0; 32],
            (0, _) => {
                let problem = "is given, but before the first entry there is none to have it";
                return Err(invalid("hash", problem.to_owned()).into());
            }
            (_, text) => hex::bytes(text)
                .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
                .ok_or_else(|| {
                    let problem = "is not the 64 hexadecimal digits of a hash".to_owned();
                    invalid("hash", problem)
                })?,
        };
        let begin = AuditHead {
            sequence: place.sequence,
            hash,
        };
        if begins.insert(*partition, begin).is_some() {
            let problem = format!("is {} for the second time", place.partition);
            return Err(invalid("partition", problem).into());
        }
    }
    Ok(begins)
}
