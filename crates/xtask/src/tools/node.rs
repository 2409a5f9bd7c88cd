//! Node and the Azure SDKs for Node, pinned with their dependencies in `tests/sdk/node`: the stories
//! that use them run them unmodified, as clients of a hub.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Tool, azure, move_into_place};
use crate::workspace;

/// Names the folder with the SDKs' `node_modules` to the tests, and before all others to us.
pub(crate) const SDK_VARIABLE: &str = "TWINWARD_AZURE_SDK_NODE";
/// Names the program `node` to the tests.
pub(crate) const PROGRAM_VARIABLE: &str = "TWINWARD_NODE";
/// Where the pins are.
const PINS: &str = "tests/sdk/node";
/// What npm needs of them.
const PIN_FILES: [&str; 2] = ["package.json", "package-lock.json"];
/// What must be there afterwards.
const PROOF: &str = "node_modules/azure-iothub/package.json";
/// The oldest that the SDKs are run with here.
const OLDEST: u32 = 18;
/// Where npm lies, seen from the folder of `node`, in the registry's package and in Node's own.
const NPM_BESIDE: &str = "../lib/node_modules/npm/bin/npm-cli.js";

/// A Node with npm that the machine has already and that is new enough.
pub(super) fn own() -> Option<PathBuf> {
    let found = workspace::on_path("node")?;
    let output = Command::new(&found).arg("--version").output().ok()?;
    let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
    let has_npm = npm_beside(&found).is_some() || workspace::on_path("npm").is_some();
    (version >= OLDEST && has_npm).then_some(found)
}

/// The major number of `v20.20.2`.
fn parse_version(text: &str) -> Option<u32> {
    let (major, _) = text.trim().strip_prefix('v')?.split_once('.')?;
    major.parse().ok()
}

fn npm_beside(node: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(node).ok()?;
    let npm = real.parent()?.join(NPM_BESIDE);
    npm.is_file().then_some(npm)
}

/// npm, run by the Node it belongs to.
fn npm(node: &Path) -> Result<Command> {
    if let Some(script) = npm_beside(node) {
        let mut npm = Command::new(node);
        npm.arg(script);
        return Ok(npm);
    }
    let npm = workspace::on_path("npm").context("there is a node, and no npm beside it")?;
    Ok(Command::new(npm))
}

/// `node`, and the folder of the SDKs, fetched if they are not there.
pub(crate) fn ensure() -> Result<(PathBuf, PathBuf)> {
    let node = super::ensure(Tool::Node)?;
    if let Some(named) = std::env::var_os(SDK_VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        let good = named.join(PROOF).is_file();
        ensure!(
            good,
            "{SDK_VARIABLE} names {}, which has no {PROOF} in it",
            named.display()
        );
        return Ok((node, named));
    }
    let pins = workspace::root().join(PINS);
    let lock = pins.join("package-lock.json");
    let lock = fs::read(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    // Its name says what is in it, so moved pins are fetched anew.
    let name = format!("azure-sdk-node-{:016x}", azure::fingerprint(&lock));
    let home = workspace::tools().join(name);
    if home.join(PROOF).is_file() {
        return Ok((node, home));
    }
    eprintln!("fetching the Azure SDKs for Node into {}", home.display());
    let tools = workspace::tools();
    fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
    let aside = tempfile::Builder::new()
        .prefix("fetching-")
        .tempdir_in(&tools)?;
    let installed = aside.path().join("installed");
    fs::create_dir(&installed)?;
    for file in PIN_FILES {
        fs::copy(pins.join(file), installed.join(file))
            .with_context(|| format!("cannot copy {PINS}/{file}"))?;
    }
    // `ci` takes exactly what the lock says, by its hashes; no package may run a script.
    let status = npm(&node)?
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .args(["--loglevel", "error"])
        .current_dir(&installed)
        .status()
        .context("cannot start npm")?;
    ensure!(
        status.success(),
        "npm could not fetch the Azure SDKs for Node; its words are above"
    );
    move_into_place(&installed, &home)?;
    Ok((node, home))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read() {
        assert_eq!(parse_version("v20.20.2\n"), Some(20));
        assert_eq!(parse_version("20"), None);
    }

    #[test]
    fn every_package_is_pinned_by_its_hash() {
        let lock = workspace::root().join(PINS).join("package-lock.json");
        let lock: serde_json::Value =
            serde_json::from_slice(&fs::read(lock).expect("it is there")).expect("JSON");
        let packages = lock["packages"].as_object().expect("packages");
        // The one without a name is ours.
        let others = packages.iter().filter(|(path, _)| !path.is_empty());
        for (path, package) in others {
            let hash = package["integrity"].as_str().unwrap_or_default();
            assert!(hash.starts_with("sha512-"), "{path}: {hash}");
        }
        assert!(packages.contains_key("node_modules/azure-iothub"));
        assert!(packages.contains_key("node_modules/azure-iot-device-mqtt"));
    }
}
