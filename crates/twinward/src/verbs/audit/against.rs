//! Heads of chains that were kept elsewhere: they must still be in the log, as they were.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use wire::registry::v1 as api;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;

/// What is read of an earlier `audit verify -o json`.
#[derive(Debug, Deserialize)]
pub(super) struct Kept {
    chains: Vec<KeptChain>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptChain {
    partition: u32,
    head_sequence: u64,
    head_hash: String,
}

/// Reads a file of heads.
pub(super) fn read(path: &Path) -> Result<Kept, Failure> {
    let text = files::read(path)?;
    serde_json::from_str(&text).map_err(|error| {
        let what = format!("{} holds no heads of an audit log", path.display());
        Failure::new(Kind::Invalid, what)
            .because(error)
            .advise("`twinward audit verify -o json` prints such a file")
    })
}

/// What is still to be found.
#[derive(Debug)]
pub(super) struct Search {
    wanted: BTreeMap<(u32, u64), String>,
    other: Vec<String>,
}

impl Search {
    /// Nothing found yet.
    pub(super) fn new(kept: &Kept) -> Self {
        let wanted = kept
            .chains
            .iter()
            .filter(|chain| chain.head_sequence > 0)
            .map(|chain| {
                (
                    (chain.partition, chain.head_sequence),
                    chain.head_hash.clone(),
                )
            });
        Self {
            wanted: wanted.collect(),
            other: Vec::new(),
        }
    }

    /// Takes an entry of the log.
    pub(super) fn see(&mut self, entry: &api::AuditEntry) {
        let Some(hash) = self.wanted.remove(&(entry.partition, entry.sequence)) else {
            return;
        };
        if hash != entry.hash {
            self.other.push(format!(
                "partition {}, entry {}: its hash was {hash} and is {}",
                entry.partition, entry.sequence, entry.hash
            ));
        }
    }

    /// What is not as it was, a line each.
    pub(super) fn missing(self) -> Vec<String> {
        let mut lines = self.other;
        for (partition, sequence) in self.wanted.into_keys() {
            lines.push(format!(
                "partition {partition}, entry {sequence}: is not there any more"
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(partition: u32, sequence: u64, hash: &str) -> api::AuditEntry {
        api::AuditEntry {
            partition,
            sequence,
            hash: hash.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn a_chain_that_was_cut_or_rewritten_is_noticed() {
        let kept: Kept = serde_json::from_str(
            r#"{"whole": true, "chains": [
                {"partition": 0, "headSequence": 2, "headHash": "aa"},
                {"partition": 1, "headSequence": 9, "headHash": "bb"},
                {"partition": 2, "headSequence": 1, "headHash": "cc"},
                {"partition": 3, "headSequence": 0, "headHash": ""}]}"#,
        )
        .unwrap();
        let mut search = Search::new(&kept);
        for entry in [
            entry(0, 1, "x"),
            entry(0, 2, "aa"),
            entry(0, 3, "y"),
            entry(1, 8, "z"),
            entry(2, 1, "other"),
        ] {
            search.see(&entry);
        }
        assert_eq!(
            search.missing(),
            [
                "partition 2, entry 1: its hash was cc and is other",
                "partition 1, entry 9: is not there any more"
            ]
        );
    }

    #[test]
    fn a_file_without_heads_says_how_to_get_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heads.json");
        std::fs::write(&path, "[]").unwrap();
        let failure = read(&path).unwrap_err();
        assert!(
            failure.render().contains("audit verify -o json"),
            "{}",
            failure.render()
        );
    }
}
