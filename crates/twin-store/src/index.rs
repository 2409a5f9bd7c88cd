//! What of a record is found by index: the slow-changing values that operators search by.
//!
//! An entry is a scalar leaf under its path: every one of the tags, `status`, and
//! `posture.configuration.state`. What changes with each batch of events is left out on purpose:
//! maintaining it would cost more than all searches save.
//!
//! An index answers candidates. Two values that a condition takes for equal have the same entry;
//! whoever searches evaluates the condition again on what it finds, so the reverse need not hold.

use std::collections::BTreeSet;

use posture::configuration::PushState;
use ring::digest;
use serde_json::{Map, Number, Value};

use crate::hex;
use crate::record::{Damaged, Record};
use crate::store::IndexEntry;

/// Path of the registry's status.
pub const STATUS: &str = "status";
/// Path of where the push of the configuration stands.
pub const CONFIGURATION_STATE: &str = "posture.configuration.state";
/// What paths of tags begin with.
pub const TAGS: &str = "tags";
/// Bytes of a path or a text that are kept as they are. Longer ones are cut and a hash follows:
/// the key of an index row has to fit PostgreSQL's 2,704 bytes.
pub const TEXT_MAX: usize = 512;

/// The entries of a record, in order.
///
/// # Errors
/// The tags cannot be read; nothing but a damaged store causes it.
pub fn entries(record: &Record) -> Result<BTreeSet<IndexEntry>, Damaged> {
    let mut entries = tag_entries(record)?;
    entries.extend(fixed_entries(record));
    Ok(entries)
}

/// What changes in the index when a record changes: entries to remove, entries to add. Tags are
/// parsed only if their text differs.
///
/// # Errors
/// As [`entries`], of the record after. A record before that cannot be read counts as one
/// without entries: what replaces it is made of the store's own row.
pub fn changes(
    before: Option<&Record>,
    after: Option<&Record>,
) -> Result<(Vec<IndexEntry>, Vec<IndexEntry>), Damaged> {
    let (old, new) = match (before, after) {
        // Nearly always: a fold of events touches none of it.
        (Some(before), Some(after)) if same_values(before, after) => return Ok(Default::default()),
        (Some(before), Some(after)) => {
            let mut old: BTreeSet<_> = fixed_entries(before).into();
            let mut new: BTreeSet<_> = fixed_entries(after).into();
            if before.twin.tags.document != after.twin.tags.document {
                old.extend(tag_entries(before).unwrap_or_default());
                new.extend(tag_entries(after)?);
            }
            (old, new)
        }
        (Some(before), None) => (entries(before).unwrap_or_default(), BTreeSet::new()),
        (None, Some(after)) => (BTreeSet::new(), entries(after)?),
        (None, None) => Default::default(),
    };
    Ok((
        old.difference(&new).cloned().collect(),
        new.difference(&old).cloned().collect(),
    ))
}

/// The path of a tag: its keys with dots between, which no key may hold.
pub fn tag_path<'k>(keys: impl IntoIterator<Item = &'k str>) -> String {
    let mut path = TAGS.to_owned();
    for key in keys {
        path.push('.');
        path.push_str(key);
    }
    bounded(&path)
}

/// A scalar with its type: `s:paris`, `n:5`, `b:true`. None for what is no scalar.
pub fn value(json: &Value) -> Option<String> {
    match json {
        Value::String(text) => Some(format!("s:{}", bounded(text))),
        Value::Number(number) => Some(format!("n:{}", canonical(number))),
        Value::Bool(truth) => Some(format!("b:{truth}")),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The beginning that all entries share whose text begins with `prefix`.
pub fn text_prefix(prefix: &str) -> String {
    let end = kept(prefix);
    format!("s:{}", &prefix[..end])
}

fn same_values(before: &Record, after: &Record) -> bool {
    before.twin.tags.document == after.twin.tags.document
        && before.identity.status == after.identity.status
        && before.posture.configuration.state == after.posture.configuration.state
}

fn fixed_entries(record: &Record) -> [IndexEntry; 2] {
    let entry = |path: &str, text: &str| IndexEntry {
        path: path.to_owned(),
        value: format!("s:{text}"),
    };
    [
        entry(STATUS, record.identity.status.as_str()),
        entry(
            CONFIGURATION_STATE,
            push_state(record.posture.configuration.state),
        ),
    ]
}

/// As the posture's JSON has it.
fn push_state(state: PushState) -> &'static str {
    match state {
        PushState::None => "none",
        PushState::Pending => "pending",
        PushState::Applied => "applied",
        PushState::Rejected => "rejected",
    }
}

fn tag_entries(record: &Record) -> Result<BTreeSet<IndexEntry>, Damaged> {
    let tags: Map<String, Value> =
        serde_json::from_str(&record.twin.tags.document).map_err(|error| Damaged {
            key: record.key.to_string(),
            part: "tags",
            problem: error.to_string(),
        })?;
    let mut entries = BTreeSet::new();
    let mut keys = Vec::new();
    collect(&tags, &mut keys, &mut entries);
    Ok(entries)
}

fn collect<'t>(
    object: &'t Map<String, Value>,
    keys: &mut Vec<&'t str>,
    entries: &mut BTreeSet<IndexEntry>,
) {
    for (key, json) in object {
        keys.push(key);
        match json {
            Value::Object(inner) => collect(inner, keys, entries),
            Value::Null
            | Value::Array(_)
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => {
                entries.extend(value(json).map(|value| IndexEntry {
                    path: tag_path(keys.iter().copied()),
                    value,
                }));
            }
        }
        keys.pop();
    }
}

/// Numbers that are equal have one form: `5`, `5.0` and `5e0` are `5`.
fn canonical(number: &Number) -> String {
    /// Below it every whole number has a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let Some(double) = number.as_f64() else {
        return number.to_string();
    };
    if double.fract() == 0.0 && double.abs() < EXACT {
        // Adding zero turns the negative one into the usual one.
        return format!("{:.0}", double + 0.0);
    }
    format!("{double:e}")
}

/// A text as an index key can hold it.
fn bounded(text: &str) -> String {
    let end = kept(text);
    if end == text.len() {
        return text.to_owned();
    }
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut bounded = text[..end].to_owned();
    bounded.push('#');
    bounded.push_str(&hex::text(hash.as_ref()));
    bounded
}

/// How many bytes of a text are kept: up to the bound, and up to a zero byte, which PostgreSQL
/// cannot store.
fn kept(text: &str) -> usize {
    let zero = text.find('\0').unwrap_or(text.len());
    text.floor_char_boundary(TEXT_MAX.min(zero))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_push_state_reads_as_in_the_posture() {
        for state in [
            PushState::None,
            PushState::Pending,
            PushState::Applied,
            PushState::Rejected,
        ] {
            assert_eq!(json!(state), json!(push_state(state)));
        }
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
    fn a_long_text_fits_a_key_and_is_still_found_by_its_beginning() {
        let (long, other) = ("é".repeat(2000), format!("{}x", "é".repeat(1999)));
        let entry = value(&json!(long)).unwrap();
        assert!(entry.len() < TEXT_MAX + 80, "{}", entry.len());
        assert_ne!(entry, value(&json!(other)).unwrap());
        assert!(entry.starts_with(&text_prefix(&long[..800])));
        let zero = value(&json!("a\0b")).unwrap();
        assert!(!zero.contains('\0') && zero.starts_with("s:a#"), "{zero}");
        assert!(tag_path(["k".repeat(1024).as_str(), "x"]).len() < TEXT_MAX + 80);
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
}
