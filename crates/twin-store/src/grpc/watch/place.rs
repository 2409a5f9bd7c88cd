//! Where a watch is, and the token that says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twin::{IdentityKey, Partition, PartitionCount, Revision};
use wire::names::{identity_name, parse_identity};

use super::feed::Heads;
use crate::error::ReadError;
use crate::grpc::token::{self, Kind};

/// Where a watch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Of each partition, up to where its changes were passed on.
    pub(super) passed: Heads,
    /// Where the snapshot is; none once it is complete.
    pub(super) snapshot: Option<Snapshot>,
}

/// Where a snapshot is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// The last twin that was looked at; none before the first.
    pub(super) after: Option<IdentityKey>,
    /// Twins shown so far.
    pub(super) count: u64,
}

/// What a token is bound to: the store, and what is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bond {
    /// Identity of the store.
    pub(super) store: String,
    /// Fingerprint of name and filter.
    pub(super) watch: String,
}

#[derive(Serialize, Deserialize)]
struct Content {
    store: String,
    watch: String,
    passed: Vec<(u16, u64)>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    snapshot: Option<SnapshotContent>,
}

#[derive(Serialize, Deserialize)]
struct SnapshotContent {
    after: Option<String>,
    count: u64,
}

impl Place {
    /// The token for this place.
    pub(super) fn token(&self, bond: &Bond) -> String {
        let content = Content {
            store: bond.store.clone(),
            watch: bond.watch.clone(),
            passed: self
                .passed
                .iter()
                .map(|(partition, revision)| (partition.get(), revision.get()))
                .collect(),
            snapshot: self.snapshot.as_ref().map(|snapshot| SnapshotContent {
                after: snapshot.after.as_ref().map(identity_name),
                count: snapshot.count,
            }),
        };
        token::seal(Kind::Watch, &content)
    }

    /// Reads a token. The heads are those of now: no place can be ahead of them.
    pub(super) fn of_token(
        text: &str,
        bond: &Bond,
        count: PartitionCount,
        heads: &Heads,
    ) -> Result<Place, ReadError> {
        let refuse = |why| ReadError::WatchToken { why };
        let content: Content = token::open(Kind::Watch, text)
            .ok_or(refuse("is none that this version of the service gave"))?;
        if content.store != bond.store {
            return Err(refuse("is of another store"));
        }
        if content.watch != bond.watch {
            return Err(refuse("is of a watch with another name or filter"));
        }
        let numbers: BTreeMap<u16, u64> = content.passed.into_iter().collect();
        let passed: Heads = count
            .partitions()
            .filter_map(|partition| {
                let number = numbers.get(&partition.get())?;
                Some((partition, Revision::new(*number)))
            })
            .collect();
        let is_ahead = |(partition, passed): (&Partition, &Revision)| {
            heads.get(partition).copied().unwrap_or_default() < *passed
        };
        if passed.len() != numbers.len() || passed.iter().any(is_ahead) {
            return Err(refuse("is of a place that this store never had"));
        }
        let snapshot = match content.snapshot {
            None => None,
            Some(snapshot) => Some(Snapshot {
                after: snapshot
                    .after
                    .map(|name| parse_identity("resume_token", &name))
                    .transpose()
                    .map_err(|_| refuse("names no identity"))?,
                count: snapshot.count,
            }),
        };
        Ok(Place { passed, snapshot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    fn count() -> PartitionCount {
        PartitionCount::new(3).expect("a count")
    }

    fn heads(numbers: [u64; 3]) -> Heads {
        let numbers = numbers.into_iter().map(Revision::new);
        count().partitions().zip(numbers).collect()
    }

    fn bond(store: &str, watch: &str) -> Bond {
        Bond {
            store: store.to_owned(),
            watch: watch.to_owned(),
        }
    }

    fn place() -> Place {
        Place {
            passed: heads([1, 2, 3]),
            snapshot: Some(Snapshot {
                after: Some(key("d/m")),
                count: 7,
            }),
        }
    }

    #[test]
    fn a_token_leads_back_to_its_place() {
        let bond = bond("s", "w");
        for place in [
            place(),
            Place {
                snapshot: None,
                ..place()
            },
            Place {
                passed: Heads::new(),
                snapshot: Some(Snapshot::default()),
            },
        ] {
            let token = place.token(&bond);
            let read = Place::of_token(&token, &bond, count(), &heads([1, 2, 3]));
            assert_eq!(read.expect("it is good"), place);
        }
    }

    #[test]
    fn a_token_of_something_else_is_refused_with_what_it_is() {
        let token = place().token(&bond("s", "w"));
        let read = |text: &str, bond: &Bond, now| {
            let refused = Place::of_token(text, bond, count(), &heads(now));
            refused.expect_err("refused").to_string()
        };
        let now = [9, 9, 9];
        assert!(read("abc", &bond("s", "w"), now).contains("none that this version"));
        assert!(read(&token, &bond("t", "w"), now).contains("another store"));
        assert!(read(&token, &bond("s", "v"), now).contains("another name or filter"));
        assert!(read(&token, &bond("s", "w"), [1, 2, 2]).contains("never had"));
        let few = PartitionCount::new(2).expect("a count");
        let refused = Place::of_token(&token, &bond("s", "w"), few, &heads(now));
        assert!(refused.is_err(), "of a store with other partitions");
    }
}
