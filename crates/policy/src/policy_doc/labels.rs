//! Labels of a policy: words by which people and programs find it. They say nothing to twins.
//!
//! Keys and values have the form of Kubernetes' labels, so that one set of words serves both.

use std::collections::BTreeMap;

use super::{Field, Problem};

/// Labels of a policy, by key.
pub type Labels = BTreeMap<String, String>;

/// Labels of one policy: words to find it by, not a document.
pub const LABELS_MAX: usize = 32;

/// Characters of a name and of a value.
const NAME_CHARS_MAX: usize = 63;

/// Characters of what may stand before a name, divided by `/`.
const PREFIX_CHARS_MAX: usize = 253;

const NAME: &str = "1 to 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or \
                    a digit";

/// Checks all labels of a policy.
pub(super) fn check(labels: &Labels) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    if labels.len() > LABELS_MAX {
        let message = format!("are {}; at most {LABELS_MAX} are allowed", labels.len());
        problems.push(Problem::new(Field::Labels, message));
    }
    for (key, value) in labels {
        let wrong = check_key(key).and_then(|()| check_value(value));
        if let Err(message) = wrong {
            problems.push(Problem {
                position: Some(format!("{key:?}")),
                ..Problem::new(Field::Labels, message)
            });
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Whether a text can be a label's key: a name, which may have a prefix of a domain's form.
pub fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_some_and(|prefix| !is_domain(prefix)) {
        return Err(format!(
            "the part of the key before `/` is no domain; allowed are at most {PREFIX_CHARS_MAX} \
             lower-case letters, digits, `-` and `.`, as in `example.com/team`"
        ));
    }
    if is_name(name) {
        Ok(())
    } else {
        Err(format!("the key is not allowed; its name has {NAME}"))
    }
}

/// Whether a text can be a label's value.
pub fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!(
        "the value {value:?} is not allowed; it is empty or has {NAME}"
    ))
}

fn is_name(text: &str) -> bool {
    let inner = |found: char| found.is_ascii_alphanumeric() || "-_.".contains(found);
    let ends = [text.chars().next(), text.chars().next_back()];
    let ends = ends.iter().flatten();
    text.chars().count() <= NAME_CHARS_MAX
        && !text.is_empty()
        && text.chars().all(inner)
        && ends.into_iter().all(char::is_ascii_alphanumeric)
}

fn is_domain(text: &str) -> bool {
    let part = |part: &str| {
        let inner =
            |found: char| found.is_ascii_lowercase() || found.is_ascii_digit() || found == '-';
        !part.is_empty()
            && part.chars().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= PREFIX_CHARS_MAX && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_those_of_kubernetes() {
        let long = "a".repeat(NAME_CHARS_MAX);
        for key in ["team", "A", "a.b_c-d", "example.com/team", &long] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
        let too_long = "a".repeat(NAME_CHARS_MAX + 1);
        for key in [
            "", "-a", "a-", "a b", "é", "/a", "a/", "A.com/a", "a/b/c", "-a.b/c", "a..b/c",
            &too_long,
        ] {
            assert!(check_key(key).is_err(), "{key}");
        }
        for value in ["", "gold", "1.2", &long] {
            assert_eq!(check_value(value), Ok(()), "{value}");
        }
        for value in ["a b", "_a", "a.", "a/b", &too_long] {
            assert!(check_value(value).is_err(), "{value}");
        }
    }

    #[test]
    fn every_wrong_label_is_told_with_its_key() {
        let mut labels: Labels = (0..=LABELS_MAX)
            .map(|number| (format!("k{number}"), String::new()))
            .collect();
        labels.insert("a b".to_owned(), "x".to_owned());
        labels.insert("site".to_owned(), "hall 3".to_owned());
        let problems = check(&labels).unwrap_err();
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:#?}");
        assert!(told[0].contains("at most 32"), "{told:#?}");
        assert!(
            told[1].starts_with("labels (\"a b\"): the key"),
            "{told:#?}"
        );
        assert!(
            told[2].starts_with("labels (\"site\"): the value \"hall 3\""),
            "{told:#?}"
        );
    }
}
