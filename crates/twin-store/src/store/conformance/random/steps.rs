//! What may be done to a store, at random.

use proptest::prelude::*;

use super::KEYS;

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// Write with another value.
    Put(usize, u8),
    /// Write with a routine revision.
    Touch(usize),
    Delete(usize),
    Token(u8),
    Use(u8, usize),
    Answer(u8, u8),
    Operation(u8, bool),
    Result(u8, usize, u8),
    Audit(usize),
    /// The log of a partition was published.
    Publish(usize),
    /// Its log is forgotten but for so many changes.
    TrimLog(usize, u64),
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Commit(Vec<Op>),
    /// By the owner before.
    Stale(Vec<Op>),
    /// Another process takes the partitions.
    Takeover,
    Restart,
    Trim(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let of = 0..KEYS.len();
    prop_oneof![
        6 => (of.clone(), 0..4_u8).prop_map(|(of, value)| Op::Put(of, value)),
        6 => of.clone().prop_map(Op::Touch),
        2 => of.clone().prop_map(Op::Delete),
        1 => (0..4_u8).prop_map(Op::Token),
        1 => (0..4_u8, of.clone()).prop_map(|(hash, of)| Op::Use(hash, of)),
        1 => (0..4_u8, 0..4_u8).prop_map(|(id, value)| Op::Answer(id, value)),
        1 => (0..4_u8, any::<bool>()).prop_map(|(id, ended)| Op::Operation(id, ended)),
        1 => (0..4_u8, of.clone(), 0..4_u8).prop_map(|(id, of, value)| Op::Result(id, of, value)),
        2 => of.clone().prop_map(Op::Audit),
        2 => of.clone().prop_map(Op::Publish),
        2 => (of, 0..4_u64).prop_map(|(of, kept)| Op::TrimLog(of, kept)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let ops = || proptest::collection::vec(op(), 0..6);
    prop_oneof![
        20 => ops().prop_map(Step::Commit),
        2 => ops().prop_map(Step::Stale),
        1 => Just(Step::Takeover),
        1 => Just(Step::Restart),
        2 => (1..5_u32).prop_map(Step::Trim),
    ]
}

pub(super) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..=count)
}
