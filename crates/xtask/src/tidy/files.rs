//! What a source file must look like: it opens by saying what it is for, and it can be read in one
//! sitting.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Lines of production code in one file; what stands below a `#[cfg(test)] mod … {` does not count,
/// nor do files that only tests are built with.
const LINES_MAX: usize = 400;

/// Files that may be longer, and why splitting them would make them harder to read.
const LONGER: [(&str, &str); 1] = [(
    "crates/twin-store/src/store.rs",
    "the port and the words it is written in are one specification, and half of it is comments",
)];

const CFG_TEST: &str = "#[cfg(test)]";

/// Source that no person writes.
const GENERATED: &str = "/generated/";

pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
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
        files.push((name, text));
    }
    let for_tests: Vec<String> = files
        .iter()
        .flat_map(|(name, text)| test_modules(name, text))
        .collect();
    let mut findings = Vec::new();
    for (name, text) in &files {
        let only_tests = is_test(name) || for_tests.iter().any(|module| within(name, module));
        let kind = if only_tests {
            Kind::Test
        } else {
            Kind::Production
        };
        findings.extend(check_one(name, text, kind));
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

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Production,
    Test,
}

fn check_one(name: &str, text: &str, kind: Kind) -> Vec<String> {
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
    if kind == Kind::Test {
        return findings;
    }
    if !text.starts_with("//!") {
        findings.push(format!(
            "{name}: opens without a `//!` header that says what it is for"
        ));
    }
    let lines = production_lines(text);
    let allowed = LONGER.iter().any(|(longer, _)| *longer == name);
    if lines > LINES_MAX && !allowed {
        findings.push(format!(
            "{name}: has {lines} lines of production code, over {LINES_MAX}"
        ));
    }
    findings
}

/// Lines before the tests of the file itself, without those that declare other files of tests.
fn production_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0].trim() == CFG_TEST && pair[1].trim_end().ends_with('{'));
    let declared = lines
        .windows(2)
        .filter(|pair| pair[0].trim() == CFG_TEST && pair[1].trim_end().ends_with(';'));
    tests.unwrap_or(lines.len()) - 2 * declared.count()
}

/// Paths, without an ending, of the modules that a file declares for tests alone.
fn test_modules(name: &str, text: &str) -> Vec<String> {
    let folder = name
        .strip_suffix("/lib.rs")
        .or_else(|| name.strip_suffix("/main.rs"))
        .or_else(|| name.strip_suffix(".rs"))
        .unwrap_or(name);
    let lines: Vec<&str> = text.lines().collect();
    let declared = lines.windows(2).filter(|pair| pair[0].trim() == CFG_TEST);
    declared
        .filter_map(|pair| pair[1].trim().strip_suffix(';')?.rsplit_once("mod "))
        .map(|(_, module)| format!("{folder}/{module}"))
        .collect()
}

fn within(name: &str, module: &str) -> bool {
    name.strip_prefix(module)
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
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

    fn check_production(text: &str) -> Vec<String> {
        check_one("crates/a/src/b.rs", text, Kind::Production)
    }

    #[test]
    fn a_file_without_a_header_or_too_long_is_found() {
        let long = format!("//! For.\n{}", "x\n".repeat(LINES_MAX));
        assert_eq!(check_production("//! For.\n"), [""; 0]);
        assert!(check_production("use x;\n")[0].contains("opens without"));
        assert!(check_production(&long)[0].contains("401 lines"));
        assert_eq!(check_one("crates/a/src/b.rs", &long, Kind::Test), [""; 0]);
        assert!(is_test("crates/a/src/b/tests.rs"));
    }

    #[test]
    fn tests_in_the_file_do_not_count() {
        let text = format!(
            "//! For.\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "x\n".repeat(LINES_MAX)
        );
        assert_eq!(check_production(&text), [""; 0]);
    }

    #[test]
    fn a_module_for_tests_does_not_count_and_hides_nothing_behind_it() {
        let text = format!(
            "//! For.\n#[cfg(test)]\npub(crate) mod model;\n{}",
            "x\n".repeat(LINES_MAX)
        );
        assert!(check_production(&text)[0].contains("401 lines"));
        let modules = test_modules("crates/a/src/store.rs", &text);
        assert_eq!(modules, ["crates/a/src/store/model"]);
        assert!(within("crates/a/src/store/model.rs", &modules[0]));
        assert!(within("crates/a/src/store/model/rows.rs", &modules[0]));
        assert!(!within("crates/a/src/store/modelling.rs", &modules[0]));
        assert_eq!(
            test_modules("crates/a/src/lib.rs", &text),
            ["crates/a/src/model"]
        );
    }
}
