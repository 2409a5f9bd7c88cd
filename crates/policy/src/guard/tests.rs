use serde_json::json;
use twin::{PolicyChange, PolicyWrite, SectionKind, Stamp, Writer, apply_policy_settings};

use super::*;

const LIMIT: Limit = Limit {
    returns: 3,
    window: SignedDuration::from_mins(10),
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn twin(id: &str) -> IdentityKey {
    IdentityKey::parse_path(id).unwrap()
}

fn empty() -> Section {
    Section::new(&Stamp {
        at: at(0),
        by: Writer::System,
    })
}

/// The section once these policies have set this.
fn with(section: &Section, writes: &[(&str, u64, Value)]) -> Section {
    let writes: Vec<PolicyWrite> = writes
        .iter()
        .map(|(policy, revision, settings)| PolicyWrite {
            policy: (*policy).to_owned(),
            revision: *revision,
            settings: settings.as_object().unwrap().clone(),
        })
        .collect();
    match apply_policy_settings(section, &writes, at(0))
        .unwrap()
        .change
    {
        PolicyChange::Unchanged => section.clone(),
        PolicyChange::Changed { section, .. } => *section,
    }
}

/// Has two policies write in turns, `every` so many seconds; says at which write it was found.
fn turns(guard: &Guard, every: i64, times: i64) -> Option<(i64, Vec<Found>)> {
    let mut section = empty();
    for turn in 0..times {
        let (policy, value) = if turn % 2 == 0 { ("a", 1) } else { ("b", 2) };
        let next = with(&section, &[(policy, 1, json!({"x": {"y": value}}))]);
        let found = guard.note(&twin("d"), &section, &next, at(turn * every));
        if !found.is_empty() {
            return Some((turn, found));
        }
        section = next;
    }
    None
}

#[test]
fn two_policies_in_turns_are_found_after_so_many_returns_and_both_are_named() {
    let (turn, found) = turns(&Guard::new(LIMIT), 1, 20).unwrap();
    // The first two writes are new; the third is the first return.
    assert_eq!(turn, 2 + i64::from(LIMIT.returns));
    let expected = Found {
        path: vec!["x".to_owned(), "y".to_owned()],
        writers: vec!["policy:a@1".to_owned(), "policy:b@1".to_owned()],
        others: false,
    };
    assert_eq!(found, [expected]);
}

#[test]
fn what_returns_seldom_is_no_fight() {
    assert_eq!(turns(&Guard::new(LIMIT), 250, 50), None);
    let off = Limit {
        returns: 0,
        ..LIMIT
    };
    assert_eq!(turns(&Guard::new(off), 1, 50), None);
}

#[test]
fn a_twin_that_is_created_again_begins_anew() {
    let guard = Guard::new(LIMIT);
    for turn in 0..50 {
        let first = empty();
        let next = with(&first, &[("a", 1, json!({"x": 1}))]);
        assert_eq!(guard.note(&twin("d"), &first, &next, at(turn)), []);
    }
}

#[test]
fn new_revisions_never_return_however_fast_they_come() {
    let guard = Guard::new(LIMIT);
    let mut section = empty();
    for revision in 1..50 {
        let next = with(&section, &[("a", revision, json!({"x": revision % 2}))]);
        assert_eq!(guard.note(&twin("d"), &section, &next, at(0)), []);
        section = next;
    }
}

#[test]
fn one_who_takes_out_what_a_policy_sets_is_told_of() {
    let guard = Guard::new(LIMIT);
    let operator = Stamp {
        at: at(0),
        by: Writer::Operator("cron".to_owned()),
    };
    let mut section = empty();
    let found = (0..20).find_map(|turn| {
        let next = with(&section, &[("a", 1, json!({"x": 1}))]);
        let found = guard.note(&twin("d"), &section, &next, at(turn));
        let patch = json!({"x": null});
        let patch = patch.as_object().unwrap();
        section = next.merge(patch, &operator, SectionKind::Desired).unwrap();
        (!found.is_empty()).then_some(found)
    });
    let found = found.unwrap();
    assert_eq!(found[0].writers, ["policy:a@1"]);
    assert!(found[0].others);
}

#[test]
fn policies_that_switch_each_other_off_are_named_with_each_other() {
    let guard = Guard::new(LIMIT);
    let mut section = empty();
    let found = (0..20).find_map(|turn| {
        let one = if turn % 2 == 0 {
            ("a", 1, json!({"x": 1}))
        } else {
            ("b", 1, json!({"y": 1}))
        };
        let next = with(&section, &[one]);
        let found = guard.note(&twin("d"), &section, &next, at(turn));
        section = next;
        (!found.is_empty()).then_some(found)
    });
    for found in found.unwrap() {
        let mut writers = found.writers.clone();
        writers.sort();
        assert_eq!(writers, ["policy:a@1", "policy:b@1"], "{found:?}");
    }
}

#[test]
fn the_second_leaf_of_a_fight_names_who_fought_for_the_first() {
    let guard = Guard::new(LIMIT);
    let mut section = empty();
    let mut found = Vec::new();
    // `a` sets x and takes it out, `b` does so with y, one write behind: x is over the limit first.
    for turn in 0..40 {
        let x = json!({"x": 1});
        let y = json!({"y": 1});
        let writes = match turn % 4 {
            0 => vec![("a", 1, x)],
            1 => vec![("a", 1, x), ("b", 1, y)],
            2 => vec![("b", 1, y)],
            _ => vec![],
        };
        let next = with(&section, &writes);
        found.extend(guard.note(&twin("d"), &section, &next, at(turn)));
        section = next;
    }
    let named: Vec<_> = found
        .iter()
        .take(2)
        .map(|one| (&*one.path[0], &one.writers))
        .collect();
    let (a, b) = ("policy:a@1".to_owned(), "policy:b@1".to_owned());
    assert_eq!(named[0], ("x", &vec![a.clone(), b.clone()]));
    assert_eq!(named[1], ("y", &vec![b, a]));
}

#[test]
fn memory_is_bounded() {
    let guard = Guard::new(LIMIT);
    let (before, after) = (empty(), with(&empty(), &[("a", 1, json!({"x": 1}))]));
    for number in 0..TWINS_MAX + 10 {
        guard.note(&twin(&format!("d{number}")), &before, &after, at(0));
    }
    assert!(guard.twins.lock().unwrap().len() <= TWINS_MAX);
    let many: Map = (0..200).map(|key| (format!("k{key}"), json!(1))).collect();
    let wide = with(&empty(), &[("a", 1, Value::Object(many))]);
    guard.note(&twin("wide"), &before, &wide, at(0));
    let twins = guard.twins.lock().unwrap();
    assert_eq!(twins[&twin("wide")].leaves.len(), LEAVES_MAX);
}
