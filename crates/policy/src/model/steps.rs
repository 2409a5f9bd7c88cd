//! What may happen, drawn at random.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use serde_json::{Value, json};
use twin::Map;

use super::double::{PARTITIONS, TWINS};
use super::plain::{Cond, Content, Hours, Path, Place, Wave};
use crate::rollout::Order;

/// Policies that there may be.
pub(super) const POLICIES: usize = 4;

/// One thing that happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Create(usize),
    Delete(usize),
    Tag(usize, usize, Option<i64>),
    Report(usize, usize, Option<i64>),
    Fold(usize, usize, Option<i64>),
    Disable(usize, bool),
    Operate(usize, Path, Option<i64>),
    /// An operator writes in the middle of the next write of the service.
    Interfere(Path, Option<i64>),
    Apply(usize, Content),
    /// The content as it is, in other words.
    Reword(usize, u8),
    DeletePolicy(usize),
    /// The waves of a new rollout are planned.
    Plan(usize),
    /// What is seen of a rollout.
    See(usize, Sight),
    Order(usize, Order),
    /// Somebody freezes one policy, or all.
    Freeze(Option<usize>),
    /// Somebody ends the oldest freeze.
    Unfreeze,
    /// So many hours pass.
    Clock(u32),
    /// The service reads so many messages, from so many before where it is.
    Deliver {
        partition: usize,
        count: usize,
        again: u64,
    },
    /// So many messages are gone before they were read.
    Lose(usize, u64),
    Sweep,
    /// All changes are read while all twins are looked at.
    SweepAndDeliver,
    /// The service is killed after so many calls of a sweep.
    KillInSweep(u64),
    Restart,
    Kill,
    /// Everything is worked off; then it must be as the model has it.
    Settle,
}

/// What is seen of every wave of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    Applied,
    Rejected,
    /// Its twins lost what they had, as they were to.
    Left,
    /// They lost it because their settings cannot be worked out.
    Incomplete,
    /// They applied it and are gone.
    Lost,
    /// Nobody is left of it.
    Nobody,
    /// The policy is closed, and nothing is known to have failed.
    ClosedAndWell,
    /// The policy is closed, and they rejected it.
    ClosedAndRejected,
}

fn sight() -> impl Strategy<Value = Sight> {
    prop_oneof![
        8 => Just(Sight::Applied),
        1 => Just(Sight::Left),
        1 => Just(Sight::Rejected),
        1 => Just(Sight::Incomplete),
        1 => Just(Sight::Lost),
        1 => Just(Sight::Nobody),
        1 => Just(Sight::ClosedAndWell),
        1 => Just(Sight::ClosedAndRejected),
    ]
}

/// Twins and policies, then anything; when all of that is worked off, a time in which only rollouts go on,
/// and one in which only twins change: so that no look at all twins that something else has wanted puts
/// right what they alone did not.
pub(super) fn story() -> impl Strategy<Value = Vec<Step>> {
    let twins = vec(0..TWINS, 1..TWINS).prop_map(|twins| twins.into_iter().map(Step::Create));
    let begin = (twins, vec(apply(), 1..4));
    let loud = prop_oneof![4 => of_twins(), 6 => of_policies(), 5 => of_the_service()];
    let quiet = prop_oneof![5 => of_twins(), 2 => reading()];
    let times = (
        vec(loud, 5..30),
        vec(of_rollouts(), 2..8),
        vec(quiet, 3..15),
    );
    (begin, times).prop_map(|((twins, policies), (loud, rollouts, quiet))| {
        let first = twins.chain(policies).chain(loud).chain([Step::Settle]);
        first
            .chain(rollouts)
            .chain([Step::Settle])
            .chain(quiet)
            .collect()
    })
}

fn number() -> impl Strategy<Value = Option<i64>> {
    weighted(0.8, 0..3_i64)
}

fn of_twins() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..TWINS).prop_map(Step::Create),
        1 => (0..TWINS).prop_map(Step::Delete),
        4 => (0..TWINS, 0..2_usize, number()).prop_map(|(t, k, v)| Step::Tag(t, k, v)),
        2 => (0..TWINS, 0..2_usize, number()).prop_map(|(t, k, v)| Step::Report(t, k, v)),
        2 => (0..TWINS, 0..2_usize, number()).prop_map(|(t, k, v)| Step::Fold(t, k, v)),
        1 => (0..TWINS, any::<bool>()).prop_map(|(t, off)| Step::Disable(t, off)),
        4 => (0..TWINS, path(), number()).prop_map(|(t, p, v)| Step::Operate(t, p, v)),
        1 => (path(), number()).prop_map(|(p, v)| Step::Interfere(p, v)),
    ]
}

fn of_policies() -> impl Strategy<Value = Step> {
    let policy = 0..POLICIES;
    prop_oneof![
        4 => apply(),
        1 => (policy.clone(), 0..9_u8).prop_map(|(p, words)| Step::Reword(p, words)),
        1 => policy.prop_map(Step::DeletePolicy),
        10 => of_rollouts(),
        1 => weighted(0.7, 0..POLICIES).prop_map(Step::Freeze),
        2 => Just(Step::Unfreeze),
        2 => prop_oneof![3 => 1..9_u32, 1 => Just(24_u32)].prop_map(Step::Clock),
    ]
}

fn of_rollouts() -> impl Strategy<Value = Step> {
    let policy = 0..POLICIES;
    let orders = prop::sample::select(vec![
        Order::Approve,
        Order::Pause,
        Order::Resume,
        Order::Skip,
        Order::Abort,
        Order::Retry,
    ]);
    prop_oneof![
        4 => policy.clone().prop_map(Step::Plan),
        4 => (policy.clone(), sight()).prop_map(|(p, sight)| Step::See(p, sight)),
        2 => (policy, orders).prop_map(|(p, order)| Step::Order(p, order)),
        1 => Just(Step::Settle),
    ]
}

/// What loses nothing, and may read again what was read before.
fn reading() -> impl Strategy<Value = Step> {
    let again = prop_oneof![4 => Just(0_u64), 1 => 0..6_u64];
    let deliver = (0..PARTITIONS, 1..9_usize, again);
    prop_oneof![
        6 => deliver.prop_map(|(partition, count, again)| Step::Deliver { partition, count, again }),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

fn of_the_service() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => reading(),
        1 => (0..PARTITIONS, 1..5_u64).prop_map(|(partition, count)| Step::Lose(partition, count)),
        2 => Just(Step::Sweep),
        2 => Just(Step::SweepAndDeliver),
        1 => (0..6_u64).prop_map(Step::KillInSweep),
        1 => Just(Step::Settle),
    ]
}

/// Where operators write: where policies do as well.
fn path() -> impl Strategy<Value = Path> {
    let paths = ["k0", "k1", "k2", "k1.x", "k2.x", "s", "s.a", "s.b", "s.b.c"];
    let split = |text: &str| text.split('.').map(str::to_owned).collect::<Path>();
    prop::sample::select(paths.map(split).to_vec())
}

fn apply() -> impl Strategy<Value = Step> {
    (0..POLICIES, content()).prop_map(|(policy, content)| Step::Apply(policy, content))
}

/// A policy of a layer looks at desired keys of lower layers alone: what looks at each other may have
/// no end.
fn content() -> impl Strategy<Value = Content> {
    (0..3_usize).prop_flat_map(|layer| {
        let waves = vec(
            prop_oneof![
                2 => (1..3_u64).prop_map(Wave::Count),
                // Of a wave only what devices do not move by themselves may be asked.
                1 => simple((0..2_usize).prop_map(Place::Tag)).prop_map(Wave::Where),
            ],
            0..3,
        );
        let waves = weighted(0.4, waves);
        let hours = prop_oneof![
            Just(Hours::Window(8, 16)),
            Just(Hours::Window(22, 12)),
            (5..8_i8).prop_map(Hours::Expires),
        ];
        (
            prop::bool::weighted(0.3),
            0..2_i32,
            condition(layer),
            weighted(0.4, condition(layer)),
            settings(layer),
            waves,
            weighted(0.2, hours),
        )
            .prop_map(
                |(modules, priority, target, when, settings, waves, hours)| Content {
                    modules,
                    priority,
                    target,
                    when,
                    settings,
                    waves,
                    hours,
                    words: 0,
                },
            )
    })
}

fn settings(layer: usize) -> impl Strategy<Value = Map> {
    let own = weighted(0.8, value());
    let upper = weighted(0.3, value());
    let shared = weighted(0.7, value());
    (own, upper, shared).prop_map(move |(own, upper, shared)| {
        let mut settings = Map::new();
        let keys = [
            format!("k{layer}"),
            format!("k{}", layer.max(2)),
            "s".to_owned(),
        ];
        for (key, value) in keys.into_iter().zip([own, upper, shared]) {
            if let Some(value) = value {
                settings.insert(key, value);
            }
        }
        if settings.is_empty() {
            settings.insert("s".to_owned(), json!(7));
        }
        settings
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0..3_i64).prop_map(Value::from),
        1 => Just(json!({})),
        1 => (0..3_i64).prop_map(|n| json!({"a": n})),
        1 => (0..3_i64).prop_map(|n| json!({"a": n, "b": {"c": n}})),
        1 => (0..3_i64).prop_map(|n| json!({"b": n, "x": {}})),
        1 => Just(json!({"b": {}})),
        1 => Just(json!([1, {"a": 2}])),
        1 => template(),
        1 => template().prop_map(|text| json!({"a": text})),
    ]
}

/// A text that names a value of the twin, alone or within others.
fn template() -> impl Strategy<Value = Value> {
    let texts = [
        "{{tags.t0}}",
        "{{tags.t1}}",
        "{{reported.r0}}",
        "v{{tags.t0}}-{{reported.r1}}",
    ];
    prop::sample::select(texts.map(Value::from).to_vec())
}

fn fact_place() -> impl Strategy<Value = Place> {
    prop_oneof![
        3 => (0..2_usize).prop_map(Place::Tag),
        1 => (0..2_usize).prop_map(Place::Reported),
        1 => (0..2_usize).prop_map(Place::Posture),
    ]
}

fn simple(place: impl Strategy<Value = Place>) -> impl Strategy<Value = Cond> {
    (place, 0..4, 0..3_i64).prop_map(|(place, kind, n)| match kind {
        0 => Cond::Is(place, n),
        1 => Cond::Above(place, n),
        2 => Cond::There(place),
        _ => Cond::Missing(place),
    })
}

/// A condition over what is beside desired.
fn fact() -> impl Strategy<Value = Cond> {
    simple(fact_place())
}

fn condition(layer: usize) -> impl Strategy<Value = Cond> {
    let off = (0..2_i64).prop_map(|off| Cond::Is(Place::Enabled, off));
    let below = if layer == 0 {
        fact().boxed()
    } else {
        simple((0..layer).prop_map(Place::Desired)).boxed()
    };
    let leaf = prop_oneof![
        4 => Just(Cond::Always),
        4 => fact(),
        2 => below,
        1 => off,
    ];
    leaf.prop_recursive(2, 4, 2, |inner| {
        (inner.clone(), inner, any::<bool>()).prop_map(|(a, b, both)| {
            if both {
                Cond::Both(Box::new(a), Box::new(b))
            } else {
                Cond::Either(Box::new(a), Box::new(b))
            }
        })
    })
}
