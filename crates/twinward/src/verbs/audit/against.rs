//! Heads of chains that were kept elsewhere: they must still be in the log, as they were.

use std::path::Path;

use serde::{Deserialize, Serialize};
use wire::registry::v1 as api;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;

/// What is read of an earlier `audit verify -o json`.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    chains: Vec<Head>,
}

/// The end of a chain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) partition: u32,
    #[serde(rename = "headSequence")]
    pub(super) sequence: u64,
    #[serde(rename = "headHash")]
    pub(super) hash: String,
}

/// Reads a file of heads.
pub(super) fn read(path: &Path) -> Result<Vec<Head>, Failure> {
    let text = files::read(path)?;
    let kept: Kept = serde_json::from_str(&text).map_err(|error| {
        let what = format!("{} holds no heads of an audit log", path.display());
        Failure::new(Kind::Invalid, what)
            .because(error)
            .advise("`twinward audit verify -o json` prints such a file")
    })?;
    Ok(kept.chains)
}

/// Prints such a file.
pub(super) fn text(chains: Vec<Head>) -> String {
    // Numbers and texts are always printed.
    serde_json::to_string_pretty(&Kept { chains }).unwrap_or_default() + "\n"
}

impl Head {
    /// What is not as it was, given the first entry that is at its place or behind it.
    pub(super) fn missing_in(&self, entry: Option<&api::AuditEntry>) -> Option<String> {
        let place = format!("partition {}, entry {}", self.partition, self.sequence);
        match entry.filter(|entry| entry.sequence == self.sequence) {
            None => Some(format!("{place}: is not there any more")),
            Some(entry) if entry.hash != self.hash => Some(format!(
                "{place}: its hash was {} and is {}",
                self.hash, entry.hash
            )),
            Some(_) => None,
        }
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
        let head = |sequence, hash: &str| Head {
            partition: 1,
            sequence,
            hash: hash.to_owned(),
        };
        assert_eq!(head(2, "aa").missing_in(Some(&entry(1, 2, "aa"))), None);
        assert_eq!(
            head(1, "cc").missing_in(Some(&entry(1, 1, "other"))),
            Some("partition 1, entry 1: its hash was cc and is other".to_owned())
        );
        let gone = Some("partition 1, entry 9: is not there any more".to_owned());
        assert_eq!(head(9, "bb").missing_in(None), gone);
        assert_eq!(head(9, "bb").missing_in(Some(&entry(1, 10, "bb"))), gone);
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_as_verify_prints_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heads.json");
        let head = Head {
            partition: 3,
            sequence: 7,
            hash: "ab".to_owned(),
        };
        std::fs::write(&path, text(vec![head])).unwrap();
        let read_back = read(&path).unwrap();
        assert_eq!(read_back[0].sequence, 7);
        let printed = r#"{"whole": true, "chains": [
            {"partition": 0, "entries": 2, "headSequence": 2, "headHash": "aa"}]}"#;
        std::fs::write(&path, printed).unwrap();
        assert_eq!(read(&path).unwrap()[0].hash, "aa");
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
