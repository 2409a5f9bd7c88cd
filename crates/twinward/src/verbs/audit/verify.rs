//! `twinward audit verify`: walks the chains a piece at a time, so that a log of any length is walked to
//! its end, and says how far it is.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use wire::registry::v1 as api;

use super::against::{self, Head};
use super::view::Verified;
use super::{Connection, Failure, Output, VerifyArgs};
use crate::exit::Kind;
use crate::output::progress::Progress;
use crate::whole_file::WholeFile;

/// What all pieces together found.
#[derive(Default)]
struct Walked {
    chains: BTreeMap<u32, api::AuditChain>,
    /// Entries that were walked before this command.
    before: u64,
}

impl Walked {
    /// Takes what a piece found.
    fn add(&mut self, chains: Vec<api::AuditChain>) {
        for mut chain in chains {
            let earlier = self.chains.get(&chain.partition);
            chain.entries += earlier.map_or(0, |earlier| earlier.entries);
            self.chains.insert(chain.partition, chain);
        }
    }

    fn done(&self) -> u64 {
        self.before + self.chains.values().map(|chain| chain.entries).sum::<u64>()
    }

    fn total(&self) -> u64 {
        self.chains.values().map(|chain| chain.head_sequence).sum()
    }

    /// Where the next piece begins.
    fn after(&self, began: &BTreeMap<u32, Head>) -> Vec<api::AuditPlace> {
        let mut places = began.clone();
        for chain in self.chains.values() {
            let head = Head {
                partition: chain.partition,
                sequence: chain.reached_sequence,
                hash: chain.reached_hash.clone(),
            };
            places.insert(chain.partition, head);
        }
        let place = |head: Head| api::AuditPlace {
            partition: head.partition,
            sequence: head.sequence,
            hash: head.hash,
        };
        places.into_values().map(place).collect()
    }
}

/// Walks all chains, and looks for heads that were kept.
pub(super) async fn run(
    args: &VerifyArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    // Read first: a file that is not there should not cost a walk.
    let kept = args.against.as_deref().map(against::read).transpose()?;
    let began = match &args.state {
        Some(path) if path.exists() => against::read(path)?,
        Some(_) | None => Vec::new(),
    };
    let walked = walk(&began, args.state.as_deref(), connection, output).await?;
    let chains: Vec<_> = walked.chains.into_values().collect();
    let whole = chains.iter().all(|chain| chain.broken_at == 0);
    let mut failure = None;
    if !whole {
        failure = Some(Failure::new(Kind::Failed, "the audit log is not whole"));
    }
    let missing = missing(&kept.unwrap_or_default(), connection).await?;
    if !missing.is_empty() {
        let mut told = failure.unwrap_or_else(|| {
            Failure::new(Kind::Failed, "what was kept is no longer in the audit log")
        });
        for line in missing {
            told = told.detail(line);
        }
        failure = Some(told);
    }
    output.show(&Verified(api::VerifyAuditResponse {
        chains,
        whole,
        more: false,
    }))?;
    failure.map_or(Ok(()), Err)
}

async fn walk(
    began: &[Head],
    state: Option<&Path>,
    connection: &Connection,
    output: &Output,
) -> Result<Walked, Failure> {
    let began: BTreeMap<u32, Head> = began
        .iter()
        .map(|head| (head.partition, head.clone()))
        .collect();
    let mut walked = Walked {
        before: began.values().map(|head| head.sequence).sum(),
        ..Walked::default()
    };
    let mut progress = Progress::begin("verifying", None, output.format());
    loop {
        let request = api::VerifyAuditRequest {
            after: walked.after(&began),
            max_entries: 0,
        };
        let answer = connection
            .audits()?
            .verify_audit(request)
            .await
            .map_err(|status| connection.refused("cannot verify the audit log", status))?
            .into_inner();
        walked.add(answer.chains);
        progress.at(walked.done(), Some(walked.total()), "");
        if let Some(path) = state {
            keep(path, &walked.after(&began))?;
        }
        if !answer.more {
            return Ok(walked);
        }
    }
}

/// Writes how far the chains were walked, whole or not at all.
fn keep(path: &Path, reached: &[api::AuditPlace]) -> Result<(), Failure> {
    let heads = reached
        .iter()
        .filter(|place| place.sequence > 0)
        .map(|place| Head {
            partition: place.partition,
            sequence: place.sequence,
            hash: place.hash.clone(),
        });
    let mut file = WholeFile::begin(path)?;
    file.write_all(against::text(heads.collect()).as_bytes())
        .map_err(|error| file.failed(&error))?;
    file.finish()
}

/// Which heads are not in the log as they were, a line each. Each is looked up at its place.
async fn missing(kept: &[Head], connection: &Connection) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for head in kept.iter().filter(|head| head.sequence > 0) {
        let request = api::ListAuditEntriesRequest {
            page_size: 1,
            order: api::AuditOrder::Chain.into(),
            partition: Some(head.partition),
            after_sequence: head.sequence - 1,
            ..Default::default()
        };
        let page = connection
            .audits()?
            .list_audit_entries(request)
            .await
            .map_err(|status| connection.refused("cannot read the audit log", status))?
            .into_inner();
        lines.extend(head.missing_in(page.entries.first()));
    }
    Ok(lines)
}
