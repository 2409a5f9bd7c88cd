//! Every dependency's licence is one that a user may embed and ship. `deny.toml` has the same
//! list.

use super::metadata::Metadata;

/// Permissive licences that occur in our tree.
const ALLOWED: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
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

/// Whether an SPDX expression can be met with allowed licences alone.
fn is_allowed(expression: &str) -> bool {
    // The old form `MIT/Apache-2.0` means a choice.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let good = choice(&mut rest);
    good && rest.is_empty()
}

/// `a OR b`, weakest binding.
fn choice(rest: &mut &[&str]) -> bool {
    let mut good = all(rest);
    while take(rest, "OR") {
        // Both sides are read, also when the first is good.
        good |= all(rest);
    }
    good
}

/// `a AND b`.
fn all(rest: &mut &[&str]) -> bool {
    let mut good = one(rest);
    while take(rest, "AND") {
        good &= one(rest);
    }
    good
}

/// A licence, one with an exception, or a group.
fn one(rest: &mut &[&str]) -> bool {
    if take(rest, "(") {
        let good = choice(rest);
        return take(rest, ")") && good;
    }
    let Some((&licence, after)) = rest.split_first() else {
        return false;
    };
    *rest = after;
    if !take(rest, "WITH") {
        return ALLOWED.contains(&licence);
    }
    let Some((&exception, after)) = rest.split_first() else {
        return false;
    };
    *rest = after;
    // An exception only gives more than its licence.
    ALLOWED.contains(&licence) || ALLOWED.contains(&format!("{licence} WITH {exception}").as_str())
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
