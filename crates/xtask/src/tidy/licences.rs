//! Every dependency's licence is one that a user may embed and ship. `deny.toml` has the same
//! list.

use super::metadata::Metadata;

/// Permissive licences that occur in our tree.
const ALLOWED: [&str; 10] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Packages with a licence of their own, and why it is all right.
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "webpki-roots",
    "CDLA-Permissive-2.0",
    "data, not code: Mozilla's list of authorities, free to pass on",
)];

pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let foreign = metadata
        .packages
        .values()
        .filter(|package| package.source.is_some());
    foreign
        .filter_map(|package| {
            let (name, version) = (&package.name, &package.version);
            let Some(licence) = &package.licence else {
                return Some(format!("{name} {version}: states no licence"));
            };
            let excepted = EXCEPTIONS
                .iter()
                .any(|(known, allowed, _)| known == name && allowed == licence);
            let good = excepted || is_allowed(licence);
            (!good).then(|| format!("{name} {version}: licence {licence} is not on our list"))
        })
        .collect()
}

/// Whether an SPDX expression can be met with allowed licences alone; one that cannot be read
/// cannot.
fn is_allowed(expression: &str) -> bool {
    // The old form `MIT/Apache-2.0` means a choice.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    choice(&mut rest) == Some(true) && rest.is_empty()
}

/// `a OR b`, weakest binding. `None` is an expression that cannot be read.
fn choice(rest: &mut &[&str]) -> Option<bool> {
    let mut good = all(rest)?;
    while take(rest, "OR") {
        // Both sides are read, also when the first is good.
        good |= all(rest)?;
    }
    Some(good)
}

/// `a AND b`.
fn all(rest: &mut &[&str]) -> Option<bool> {
    let mut good = one(rest)?;
    while take(rest, "AND") {
        good &= one(rest)?;
    }
    Some(good)
}

/// A licence, one with an exception, or a group.
fn one(rest: &mut &[&str]) -> Option<bool> {
    if take(rest, "(") {
        let good = choice(rest)?;
        return take(rest, ")").then_some(good);
    }
    let good = ALLOWED.contains(&word(rest)?);
    if take(rest, "WITH") {
        // An exception only adds rights to its licence.
        word(rest)?;
    }
    Some(good)
}

fn word<'a>(rest: &mut &[&'a str]) -> Option<&'a str> {
    let (&word, after) = rest.split_first()?;
    *rest = after;
    Some(word)
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    match rest.split_first() {
        Some((first, after)) if *first == word => {
            *rest = after;
            true
        }
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_needs_one_good_licence_and_a_conjunction_all() {
        assert!(is_allowed("MIT"));
        assert!(is_allowed("MIT/Apache-2.0"));
        assert!(is_allowed("GPL-2.0-only OR MIT"));
        assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(is_allowed(
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"
        ));
        assert!(is_allowed("GPL-3.0-only AND Zlib OR MIT"));
        assert!(!is_allowed("GPL-3.0-only"));
        assert!(!is_allowed("MIT AND GPL-3.0-only"));
        assert!(!is_allowed("MIT OR"));
        assert!(!is_allowed("MIT Apache-2.0"));
        assert!(!is_allowed(""));
    }
}
