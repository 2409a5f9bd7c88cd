//! What a source file must look like: it opens by saying what it is for, and it can be read in one
//! sitting.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Lines of production code in one file; the part below `#[cfg(test)]` does not count.
const LINES_MAX: usize = 400;

/// Files that may be longer, and why splitting them would make them harder to read.
const LONGER: [(&str, &str); 0] = [];

/// Source that no person writes.
const GENERATED: &str = "/generated/";

pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for path in sources(root)? {
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .display()
            .to_string();
        if name.contains(GENERATED) {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
        findings.extend(check_one(&name, &text));
    }
    for (longer, _) in LONGER {
        if !root.join(longer).is_file() {
            findings.push(format!(
                "{longer}: is allowed to be long but does not exist"
            ));
        }
    }
    Ok(findings)
}

fn check_one(name: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    // Split so that this file does not find itself.
    let marker = concat!("TO", "DO");
    for (index, line) in text.lines().enumerate() {
        if line.contains(marker) && !line.contains(&format!("{marker}(#")) {
            findings.push(format!(
                "{name}:{}: a {marker} names its issue: {marker}(#7)",
                index + 1
            ));
        }
    }
    if is_test(name) {
        return findings;
    }
    if !text.starts_with("//!") {
        findings.push(format!(
            "{name}: opens without a `//!` header that says what it is for"
        ));
    }
    let lines = text
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .count();
    let allowed = LONGER.iter().any(|(longer, _)| *longer == name);
    if lines > LINES_MAX && !allowed {
        findings.push(format!(
            "{name}: has {lines} lines of production code, over {LINES_MAX}"
        ));
    }
    findings
}

fn is_test(name: &str) -> bool {
    name.starts_with("tests/")
        || name.contains("/tests/")
        || name.ends_with("/tests.rs")
        || name.ends_with("/build.rs")
}

/// Manifests of all members.
pub(super) fn manifests(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in read(&root.join("crates"))? {
        let manifest = entry.join("Cargo.toml");
        if manifest.is_file() {
            found.push(manifest);
        }
    }
    found.push(root.join("tests/Cargo.toml"));
    found.retain(|manifest| manifest.is_file());
    Ok(found)
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![root.join("crates"), root.join("tests")]);
    while let Some(directory) = open.pop() {
        for path in read(&directory)? {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_header_or_too_long_is_found() {
        let long = format!("//! For.\n{}", "x\n".repeat(LINES_MAX));
        assert_eq!(check_one("crates/a/src/b.rs", "//! For.\n"), [""; 0]);
        assert!(check_one("crates/a/src/b.rs", "use x;\n")[0].contains("opens without"));
        assert!(check_one("crates/a/src/b.rs", &long)[0].contains("401 lines"));
        assert_eq!(check_one("crates/a/src/b/tests.rs", &long), [""; 0]);
    }

    #[test]
    fn tests_in_the_file_do_not_count() {
        let text = format!(
            "//! For.\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "x\n".repeat(LINES_MAX)
        );
        assert_eq!(check_one("crates/a/src/b.rs", &text), [""; 0]);
    }
}
