//! A PostgreSQL that the machine has already, for tests. `testkit::postgres` looks in the same
//! places, in the same order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// The oldest PostgreSQL that the store accepts.
const OLDEST: u32 = 15;

/// Names the folder of a good PostgreSQL's programs, before all others.
pub(crate) const VARIABLE: &str = "TWINWARD_POSTGRES_BIN";

/// Where Debian keeps every installed version, none of them on the path.
const DEBIAN: &str = "/usr/lib/postgresql";

/// What a test needs of a PostgreSQL, beside `postgres` itself.
const INITDB: &str = "initdb";

/// The `postgres` to use, if the machine has a good one.
pub(super) fn own() -> Result<Option<PathBuf>> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        // Whoever names one wants that one, so a bad one is an error and not passed over.
        let version = version(&named.join("postgres")).with_context(|| {
            format!(
                "{VARIABLE} names {}, which has no PostgreSQL in it",
                named.display()
            )
        })?;
        ensure!(
            version >= OLDEST,
            "{VARIABLE} names a PostgreSQL {version}; at least {OLDEST} is needed"
        );
        ensure!(
            named.join(INITDB).is_file(),
            "{VARIABLE} names {}, which has no {INITDB} in it",
            named.display()
        );
        return Ok(Some(named.join("postgres")));
    }
    let on_path = workspace::on_path("postgres").and_then(|found| fs::canonicalize(found).ok());
    Ok(on_path
        .into_iter()
        .chain(of_debian())
        .find(|found| is_good(found)))
}

fn is_good(postgres: &Path) -> bool {
    postgres.with_file_name(INITDB).is_file()
        && version(postgres).is_ok_and(|version| version >= OLDEST)
}

/// What Debian's packages have installed, newest first.
fn of_debian() -> Vec<PathBuf> {
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin/postgres")))
        })
        .collect();
    versions.sort_unstable_by(|one, other| other.cmp(one));
    versions.into_iter().map(|(_, path)| path).collect()
}

fn version(postgres: &Path) -> Result<u32> {
    let output = Command::new(postgres)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot start {}", postgres.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text)
        .with_context(|| format!("{} does not tell its version", postgres.display()))
}

/// Reads the major version from `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, and from
/// `17beta1` in the same place.
fn parse_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let end = version.find(|letter: char| !letter.is_ascii_digit());
    version[..end.unwrap_or(version.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(parse_version(debian), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 17.10\n"), Some(17));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_version("something else 15"), None);
    }
}
