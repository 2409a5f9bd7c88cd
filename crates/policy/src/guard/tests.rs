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
    let wide = |value: u32| {
        let many: Map = (0..300)
            .map(|key| (format!("k{key}"), json!(value)))
            .collect();
        with(&empty(), &[("a", 1, Value::Object(many))])
    };
    guard.note(&twin("wide"), &before, &wide(1), at(0));
    let held = || {
        let twins = guard.twins.lock().unwrap();
        let wide = &twins[&twin("wide")];
        (wide.once.len(), wide.leaves.len())
    };
    assert_eq!(held(), (ONCE_MAX, 0));
    guard.note(&twin("wide"), &wide(1), &wide(2), at(1));
    assert_eq!(held().1, LEAVES_MAX);
    assert!(held().0 <= ONCE_MAX);
}

/// A section with as many leaves, and one of them as it is to be.
fn many(leaves: usize, fought: usize, by: &str, value: u32) -> Vec<(String, u64, Value)> {
    let all: Map = (0..leaves)
        .filter(|leaf| *leaf != fought)
        .map(|leaf| (format!("k{leaf:04}"), json!(0)))
        .collect();
    let mut settings = Map::new();
    settings.insert(format!("k{fought:04}"), json!(value));
    vec![
        ("all".to_owned(), 1, Value::Object(all)),
        (by.to_owned(), 1, Value::Object(settings)),
    ]
}

fn set(section: &Section, writes: &[(String, u64, Value)]) -> Section {
    let writes: Vec<_> = writes
        .iter()
        .map(|(policy, revision, settings)| (&**policy, *revision, settings.clone()))
        .collect();
    with(section, &writes)
}

#[test]
fn a_fight_over_any_of_many_leaves_is_found() {
    // Of more leaves than are remembered the last ones are noticed when the first write is long ago.
    for (leaves, fought, begin) in [(100, 99, 1), (300, 299, 601)] {
        let guard = Guard::new(LIMIT);
        let mut section = set(&empty(), &many(leaves, fought, "a", 1));
        guard.note(&twin("d"), &empty(), &section, at(0));
        let mut found = Vec::new();
        for turn in 0..10 {
            let (by, value) = if turn % 2 == 0 { ("b", 2) } else { ("a", 1) };
            let next = set(&section, &many(leaves, fought, by, value));
            found.extend(guard.note(&twin("d"), &section, &next, at(begin + turn)));
            section = next;
        }
        let paths: Vec<_> = found.iter().map(|one| one.path.join(".")).collect();
        assert_eq!(paths.first(), Some(&format!("k{fought:04}")), "{leaves}");
    }
}

#[test]
fn what_is_written_once_takes_little_room_and_drives_out_no_fight() {
    let guard = Guard::new(LIMIT);
    let mut fight = empty();
    for turn in 0..3 {
        let (policy, value) = if turn % 2 == 0 { ("a", 1) } else { ("b", 2) };
        let next = with(&fight, &[(policy, 1, json!({"x": value}))]);
        assert_eq!(guard.note(&twin("fight"), &fight, &next, at(turn)), []);
        fight = next;
    }
    let once = with(&empty(), &[("a", 1, json!({"x": 1, "y": 2}))]);
    for number in 0..2 * TWINS_MAX {
        guard.note(&twin(&format!("d{number}")), &empty(), &once, at(10));
    }
    {
        let twins = guard.twins.lock().unwrap();
        assert!(twins.len() <= TWINS_MAX, "{}", twins.len());
        assert!(twins.values().filter(|one| !one.leaves.is_empty()).count() == 1);
    }
    let mut found = Vec::new();
    for turn in 3..12 {
        let (policy, value) = if turn % 2 == 0 { ("a", 1) } else { ("b", 2) };
        let next = with(&fight, &[(policy, 1, json!({"x": value}))]);
        found.extend(guard.note(&twin("fight"), &fight, &next, at(10 + turn)));
        fight = next;
    }
    assert!(!found.is_empty(), "what was counted before is remembered");
}
