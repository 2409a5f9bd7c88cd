//! Entries and their changes.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::record::Status;
use crate::testing::record;

fn tagged(tags: &Value) -> Record {
    let mut record = record("d", "g");
    record.twin.tags.document = tags.to_string();
    record
}

fn shown(record: &Record) -> Vec<String> {
    let entries = entries(record).unwrap();
    entries
        .into_iter()
        .map(|entry| format!("{}={}", entry.path, entry.value))
        .collect()
}

#[test]
fn each_scalar_leaf_has_an_entry_with_its_type() {
    let record = tagged(&json!({
        "site": "paris", "floor": {"number": 5.0, "open": true}, "list": [1], "empty": {},
    }));
    assert_eq!(
        shown(&record),
        [
            "lastActivityTime=s:0001-01-01T00",
            "posture.configuration.state=s:pending",
            "status=s:enabled",
            "tags.floor.number=n:5",
            "tags.floor.open=b:true",
            "tags.site=s:paris",
        ]
    );
}

#[test]
fn equal_numbers_have_one_form_and_different_ones_have_two() {
    let form = |json: Value| value(&json).unwrap();
    assert_eq!(form(json!(0)), form(json!(-0.0)));
    assert_eq!(form(json!(100)), form(json!(1e2)));
    assert_eq!(
        form(json!(-4_503_599_627_370_496_i64)),
        "n:-4503599627370496"
    );
    assert_eq!(form(json!(0.1)), "n:1e-1");
    assert_ne!(form(json!(1e300)), form(json!(1e301)));
    assert_ne!(form(json!("5")), form(json!(5)));
}

#[test]
fn a_long_text_fits_a_key() {
    let (long, other) = ("é".repeat(2000), format!("{}x", "é".repeat(1999)));
    let entry = value(&json!(long)).unwrap();
    assert!(entry.len() < TEXT_MAX + 80, "{}", entry.len());
    assert_ne!(entry, value(&json!(other)).unwrap());
    let zero = value(&json!("a\0b")).unwrap();
    assert!(!zero.contains('\0') && zero.starts_with("s:a#"), "{zero}");
    assert!(tag_path(["k".repeat(1024).as_str(), "x"]).len() < TEXT_MAX + 80);
}

#[test]
fn connections_and_hours_of_activity_have_entries_that_change_rarely() {
    let mut silent = tagged(&json!({}));
    silent.posture.agent = posture::posture::Agent::default();
    let mut active = silent.clone();
    active.posture.agent.connected = true;
    active.posture.agent.last_seen_at = Some("2026-11-23T13:00:00.5Z".parse().unwrap());
    let (remove, add) = changes(Some(&silent), Some(&active)).unwrap();
    let text = |entries: &[IndexEntry]| {
        let text = |entry: &IndexEntry| format!("{}={}", entry.path, entry.value);
        entries.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(text(&remove), ["lastActivityTime=s:0001-01-01T00"]);
    assert_eq!(
        text(&add),
        [
            "connectionState=s:Connected",
            "lastActivityTime=s:2026-11-23T13"
        ]
    );
    let mut later = active.clone();
    later.posture.agent.last_seen_at = Some("2026-11-23T13:59:59Z".parse().unwrap());
    assert_eq!(
        changes(Some(&active), Some(&later)).unwrap(),
        Default::default()
    );
    let mut next = later.clone();
    next.posture.agent.connected = false;
    next.posture.agent.last_seen_at = Some("2026-11-23T14:00:00Z".parse().unwrap());
    let (remove, add) = changes(Some(&later), Some(&next)).unwrap();
    assert_eq!((remove.len(), add.len()), (2, 1));
}

#[test]
fn a_changed_status_is_one_entry_less_and_one_more() {
    let before = tagged(&json!({"site": "paris"}));
    let mut after = before.clone();
    after.identity.status = Status::Disabled;
    // Damaged tags do not matter as long as they are not what changed.
    let (mut old, mut new) = (before.clone(), after.clone());
    old.twin.tags.document = "{".to_owned();
    new.twin.tags.document = "{".to_owned();
    let (remove, add) = changes(Some(&old), Some(&new)).unwrap();
    assert_eq!((remove.len(), add.len()), (1, 1));
    assert_eq!(
        (remove[0].value.as_str(), add[0].value.as_str()),
        ("s:enabled", "s:disabled")
    );
    assert!(entries(&new).is_err());
}

fn tags() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        (0_i32..3).prop_map(Value::from),
        "[a-b]{0,1}".prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(json!([1])),
    ];
    let value = leaf.prop_recursive(3, 12, 3, |inner| {
        prop::collection::btree_map("[a-c]", inner, 0..3)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
    });
    prop::collection::btree_map("[a-c]", value, 0..4)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

proptest! {
    #[test]
    fn changes_lead_from_one_full_index_to_the_other(before in tags(), after in tags()) {
        let states = [None, Some(tagged(&before)), Some(tagged(&after))];
        for from in &states {
            for to in &states {
                let full = |record: &Option<Record>| {
                    record.as_ref().map(|record| entries(record).unwrap()).unwrap_or_default()
                };
                let (remove, add) = changes(from.as_ref(), to.as_ref()).unwrap();
                let mut index = full(from);
                for entry in &remove {
                    prop_assert!(index.remove(entry), "{entry:?} was not there");
                }
                for entry in add {
                    prop_assert!(index.insert(entry), "it was there already");
                }
                prop_assert_eq!(index, full(to));
            }
        }
    }
}
