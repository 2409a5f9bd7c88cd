//! Versions, features, lints and package fields stand in the root manifest alone, so that one
//! package never builds with other settings than its neighbour.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::files::manifests;

const TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];

pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for manifest in manifests(root)? {
        let text = fs::read_to_string(&manifest)?;
        let name = manifest
            .strip_prefix(root)
            .unwrap_or(&manifest)
            .display()
            .to_string();
        let table: Table = text
            .parse()
            .with_context(|| format!("{name} is no manifest"))?;
        findings.extend(
            check_one(&table)
                .into_iter()
                .map(|finding| format!("{name}: {finding}")),
        );
    }
    Ok(findings)
}

fn check_one(manifest: &Table) -> Vec<String> {
    let mut findings = Vec::new();
    for table in TABLES {
        let Some(dependencies) = manifest.get(table).and_then(Value::as_table) else {
            continue;
        };
        for (name, value) in dependencies {
            // Features for tests (a paused clock) must not reach production, so they stand where
            // they are needed.
            let may_add: &[&str] = if table == "dev-dependencies" {
                &["features"]
            } else {
                &[]
            };
            if !only_inherits(value, may_add) {
                findings.push(format!(
                    "{table}.{name}: write `{name}.workspace = true` alone"
                ));
            }
        }
    }
    let inherits = |value: Option<&Value>| {
        let table = value.and_then(Value::as_table);
        table.and_then(|table| table.get("workspace")) == Some(&Value::Boolean(true))
    };
    let package = manifest.get("package").and_then(Value::as_table);
    for field in INHERITED {
        if !inherits(package.and_then(|package| package.get(field))) {
            findings.push(format!("package.{field}: write `{field}.workspace = true`"));
        }
    }
    if !inherits(manifest.get("lints")) {
        findings.push("lints: write `workspace = true`".to_owned());
    }
    findings
}

fn only_inherits(dependency: &Value, may_add: &[&str]) -> bool {
    let Some(table) = dependency.as_table() else {
        return false;
    };
    let inherits = table.get("workspace") == Some(&Value::Boolean(true));
    let additions = table.keys().filter(|key| *key != "workspace");
    inherits
        && additions
            .into_iter()
            .all(|key| may_add.contains(&key.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "
        [package]
        name = \"x\"
        version.workspace = true
        edition.workspace = true
        rust-version.workspace = true
        license.workspace = true
        publish.workspace = true
        [lints]
        workspace = true
        ";

    fn findings(rest: &str) -> Vec<String> {
        check_one(&format!("{HEAD}{rest}").parse().expect("a manifest"))
    }

    #[test]
    fn inheriting_everything_is_fine() {
        assert!(findings("[dependencies]\ntokio.workspace = true").is_empty());
    }

    #[test]
    fn a_version_or_a_production_feature_in_a_crate_is_found() {
        let found = findings(
            "[dependencies]
            a = \"1\"
            b = { workspace = true, features = [\"x\"] }
            [dev-dependencies]
            b = { workspace = true, features = [\"x\"] }
            c = \"1\"",
        );
        assert_eq!(
            found,
            [
                "dependencies.a: write `a.workspace = true` alone",
                "dependencies.b: write `b.workspace = true` alone",
                "dev-dependencies.c: write `c.workspace = true` alone"
            ]
        );
    }

    #[test]
    fn own_lints_and_fields_are_found() {
        let found = check_one(&"[package]\nname = \"x\"".parse().expect("a manifest"));
        assert_eq!(found.len(), INHERITED.len() + 1);
    }
}
