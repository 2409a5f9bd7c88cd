//! The chain of administrative changes: each entry's hash covers the one before, so that nobody
//! can change, remove, insert or swap an entry without every later hash telling.
//!
//! Pure: entries in, hashes and verdicts out. Whoever may write the store can make a whole new
//! chain, of course; against that, the head is to be kept elsewhere (`VerifyAudit` answers it).

use ring::digest;

use crate::store::{AuditEntry, AuditHead};

/// What the first bytes of a hash's input say, so that no other hash of ours can be taken for it.
const DOMAIN: &[u8] = b"twinward audit 1";

/// The hash of an entry behind the entry with hash `previous`: SHA-256 over that and every field,
/// each with its length, so that no two entries have the same input.
pub fn hash(previous: &[u8; 32], entry: &AuditEntry) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut field = |bytes: &[u8]| {
        context.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(bytes);
    };
    field(DOMAIN);
    field(previous);
    field(&entry.partition.get().to_be_bytes());
    field(&entry.sequence.to_be_bytes());
    field(entry.at.to_string().as_bytes());
    field(entry.actor.as_bytes());
    field(entry.action.as_bytes());
    field(entry.resource.as_bytes());
    field(entry.detail.as_bytes());
    // A trace that is absent is not one that is empty.
    field(&[u8::from(entry.trace_parent.is_some())]);
    field(entry.trace_parent.as_deref().unwrap_or_default().as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Puts an entry at the end of a chain: numbers it, hashes it, and moves the head.
pub fn append(head: &mut AuditHead, mut entry: AuditEntry) -> AuditEntry {
    entry.sequence = head.sequence + 1;
    entry.hash = hash(&head.hash, &entry);
    *head = AuditHead {
        sequence: entry.sequence,
        hash: entry.hash,
    };
    entry
}

/// Where a chain is broken, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {sequence} of the chain: {problem}")]
pub struct Broken {
    /// The first entry that is wrong.
    pub sequence: u64,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Walks a chain, from its first entry or behind one that was found to be right.
#[derive(Debug, Clone, Default)]
pub struct Walk {
    reached: AuditHead,
}

impl Walk {
    /// Goes on behind an entry that was found to be right before.
    pub fn behind(reached: AuditHead) -> Walk {
        Walk { reached }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// It is not the one that follows, or was changed.
    pub fn step(&mut self, entry: &AuditEntry) -> Result<(), Broken> {
        let sequence = self.reached.sequence + 1;
        let broken = |problem| Broken { sequence, problem };
        if entry.sequence != sequence {
            return Err(broken("it is missing, or entries changed places"));
        }
        if entry.hash != hash(&self.reached.hash, entry) {
            return Err(broken("its content is not what its hash was made of"));
        }
        self.reached = AuditHead {
            sequence,
            hash: entry.hash,
        };
        Ok(())
    }

    /// What the next entry is, if it cannot be read.
    pub fn unreadable(&self) -> Broken {
        Broken {
            sequence: self.reached.sequence + 1,
            problem: "it cannot be read",
        }
    }

    /// How far the walk has come.
    pub fn reached(&self) -> AuditHead {
        self.reached
    }

    /// Checks that the chain ends where it should.
    ///
    /// # Errors
    /// Entries were cut off, or the last is another one.
    pub fn end(&self, head: AuditHead) -> Result<(), Broken> {
        if self.reached.sequence < head.sequence {
            return Err(Broken {
                sequence: self.reached.sequence + 1,
                problem: "the chain ends before it; entries were cut off",
            });
        }
        if self.reached.sequence > head.sequence {
            return Err(Broken {
                sequence: head.sequence + 1,
                problem: "it was there when the chain was walked before; entries were cut off",
            });
        }
        if self.reached != head {
            return Err(Broken {
                sequence: head.sequence.max(1),
                problem: "the end of the chain is not the one that was committed",
            });
        }
        Ok(())
    }
}

/// Checks a whole chain against its head.
///
/// # Errors
/// The first entry that is wrong.
pub fn verify<'e>(
    entries: impl IntoIterator<Item = &'e AuditEntry>,
    head: AuditHead,
) -> Result<(), Broken> {
    let mut walk = Walk::default();
    for entry in entries {
        walk.step(entry)?;
    }
    walk.end(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twin::PartitionCount;

    use super::*;

    fn partitions() -> Vec<twin::Partition> {
        PartitionCount::new(2).unwrap().partitions().collect()
    }

    fn entry(text: &str, trace: Option<&str>) -> AuditEntry {
        AuditEntry {
            partition: partitions()[0],
            sequence: 0,
            at: "2026-01-02T03:04:05.123456Z".parse().unwrap(),
            actor: "operator:root".to_owned(),
            action: "device.create".to_owned(),
            resource: format!("devices/{text}"),
            detail: "{}".to_owned(),
            trace_parent: trace.map(str::to_owned),
            hash: [0; 32],
        }
    }

    fn chain(texts: &[String]) -> (Vec<AuditEntry>, AuditHead) {
        let mut head = AuditHead::default();
        let entries = texts
            .iter()
            .map(|text| append(&mut head, entry(text, None)))
            .collect();
        (entries, head)
    }

    #[test]
    fn every_field_is_covered() {
        let original = entry("d", Some("00-1"));
        let alterations: [fn(&mut AuditEntry); 9] = [
            |entry| entry.partition = partitions()[1],
            |entry| entry.sequence += 1,
            |entry| entry.at += jiff::SignedDuration::from_nanos(1),
            |entry| entry.actor.push('x'),
            |entry| entry.action.push('x'),
            |entry| entry.resource.push('x'),
            |entry| entry.detail.push(' '),
            |entry| entry.trace_parent = Some(String::new()),
            |entry| entry.trace_parent = None,
        ];
        let mut hashes = vec![hash(&[0; 32], &original), hash(&[1; 32], &original)];
        for alter in alterations {
            let mut changed = original.clone();
            alter(&mut changed);
            hashes.push(hash(&[0; 32], &changed));
        }
        // Moving a byte from one field to the next must tell, too.
        let mut moved = original.clone();
        moved.actor.pop();
        moved.action.insert(0, 't');
        hashes.push(hash(&[0; 32], &moved));
        let different: std::collections::BTreeSet<_> = hashes.iter().collect();
        assert_eq!(different.len(), hashes.len());
    }

    #[test]
    fn the_hash_is_the_one_that_stored_chains_were_made_with() {
        let text = crate::hex::text(&hash(&[7; 32], &entry("d", None)));
        assert_eq!(
            text,
            "dfcf98d0a37de9636e2aba839c457feec63f6241802b4ab1deba466c39184a5e"
        );
    }

    #[test]
    fn a_walk_goes_on_where_it_was_and_notices_what_was_done_meanwhile() {
        let texts = ["a", "b", "c", "d"].map(str::to_owned);
        let (entries, head) = chain(&texts);
        let through = |count: usize| {
            let mut walk = Walk::default();
            for entry in &entries[..count] {
                walk.step(entry).unwrap();
            }
            walk.reached()
        };
        let mut walk = Walk::behind(through(2));
        for entry in &entries[2..] {
            walk.step(entry).unwrap();
        }
        assert_eq!(walk.end(head), Ok(()));

        // Cut off behind what was walked, or to the end of it.
        let broken = Walk::behind(through(4)).end(through(3)).unwrap_err();
        assert_eq!(broken.sequence, 4);
        // Made anew from the second entry on.
        let (forged, forged_head) = chain(&["a", "x", "c", "d"].map(str::to_owned));
        let mut walk = Walk::behind(through(2));
        assert_eq!(walk.step(&forged[2]).unwrap_err().sequence, 3);
        let broken = Walk::behind(through(4)).end(forged_head).unwrap_err();
        assert_eq!(broken.sequence, 4);
    }

    proptest! {
        #[test]
        fn a_whole_chain_is_whole_and_any_change_cut_or_swap_is_found(
            texts in prop::collection::vec("[a-c]{1,3}", 2..8),
            at in any::<prop::sample::Index>(),
            other in any::<prop::sample::Index>(),
        ) {
            let (entries, head) = chain(&texts);
            prop_assert_eq!(verify(&entries, head), Ok(()));
            let (at, other) = (at.index(entries.len()), other.index(entries.len()));

            let mut changed = entries.clone();
            changed[at].detail = r#"{"x":1}"#.to_owned();
            prop_assert_eq!(verify(&changed, head).unwrap_err().sequence, entries[at].sequence);

            let mut cut = entries.clone();
            cut.remove(at);
            prop_assert_eq!(verify(&cut, head).unwrap_err().sequence, entries[at].sequence);

            if at != other {
                let mut swapped = entries.clone();
                swapped.swap(at, other);
                let first = entries[at.min(other)].sequence;
                prop_assert_eq!(verify(&swapped, head).unwrap_err().sequence, first);
            }

            // Made anew from a change on, the chain holds in itself, and its head tells.
            let mut forged = texts.clone();
            forged[at].push('!');
            let (forged, _) = chain(&forged);
            prop_assert!(verify(&forged, head).is_err());
        }
    }
}
