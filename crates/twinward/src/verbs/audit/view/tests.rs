use super::*;
use crate::output::golden::{json, text};

fn entry(partition: u32, sequence: u64, seconds: i64) -> api::AuditEntry {
    api::AuditEntry {
        partition,
        sequence,
        time: Some(prost_types::Timestamp {
            seconds: 1_789_990_000 + seconds,
            nanos: 0,
        }),
        actor: "operator:eve".to_owned(),
        action: "device.create".to_owned(),
        resource: format!("devices/cam-{sequence}"),
        detail_json: r#"{"status":"enabled","tags":{"site":"hall-3"}}"#.to_owned(),
        trace_parent: String::new(),
        hash: "5f".repeat(32),
        problem: String::new(),
    }
}

#[test]
fn entries_are_listed_as_a_log() {
    insta::assert_snapshot!(
        "entries",
        text(&Entries(vec![entry(0, 1, 0), entry(3, 7, 60)]))
    );
    insta::assert_snapshot!("entry_json", json(&EntryView(entry(3, 7, 60))));
    assert_eq!(text(&Entries(Vec::new())), "no entries\n");
}

#[test]
fn a_broken_chain_says_where() {
    let chain = |partition, broken_at, problem: &str| api::AuditChain {
        partition,
        entries: 12,
        head_sequence: 12,
        head_hash: "5f".repeat(32),
        broken_at,
        problem: problem.to_owned(),
        reached_sequence: 12,
        reached_hash: "5f".repeat(32),
    };
    let mut answer = api::VerifyAuditResponse {
        chains: vec![chain(0, 0, ""), chain(1, 7, "the hash is another")],
        whole: false,
        more: false,
    };
    insta::assert_snapshot!("broken", text(&Verified(answer.clone())));
    insta::assert_snapshot!("broken_json", json(&Verified(answer.clone())));
    answer.chains.pop();
    answer.whole = true;
    insta::assert_snapshot!("whole", text(&Verified(answer)));
}
