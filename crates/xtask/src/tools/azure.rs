//! The Azure SDKs for Python, pinned with their dependencies in `tests/sdk/python/requirements.txt`:
//! the stories that use them need them on Python's path. schemathesis is fetched in the same way.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{check_pip_for, move_into_place};
use crate::workspace;

/// Names the folder of the installed SDKs to the tests, and before all others to us.
pub(crate) const VARIABLE: &str = "TWINWARD_AZURE_SDK";
/// Names the folder of schemathesis, as [`VARIABLE`] does that of the SDKs.
pub(crate) const SCHEMATHESIS_VARIABLE: &str = "TWINWARD_SCHEMATHESIS";
/// Where the pins are.
const REQUIREMENTS: &str = "tests/sdk/python/requirements.txt";
/// What must be there afterwards.
const PROOF: &str = "azure/iot/hub/__init__.py";

/// A folder of packages for Python, pinned by versions and hashes.
struct Packages {
    /// What people call them.
    what: &'static str,
    /// The variable that names a folder with them.
    variable: &'static str,
    requirements: &'static str,
    proof: &'static str,
    /// How their folders are called.
    folder: &'static str,
}

const AZURE: Packages = Packages {
    what: "the Azure SDKs for Python",
    variable: VARIABLE,
    requirements: REQUIREMENTS,
    proof: PROOF,
    folder: "azure-sdk",
};

/// schemathesis, which makes odd requests of the gateway's description.
const SCHEMATHESIS: Packages = Packages {
    what: "schemathesis",
    variable: SCHEMATHESIS_VARIABLE,
    requirements: "tests/sdk/rest/requirements.txt",
    proof: "schemathesis/__init__.py",
    folder: "schemathesis",
};

/// The folder of the SDKs, fetched if they are not there.
pub(crate) fn ensure() -> Result<PathBuf> {
    AZURE.ensure()
}

/// The folder of schemathesis, fetched if it is not there.
pub(crate) fn schemathesis() -> Result<PathBuf> {
    SCHEMATHESIS.ensure()
}

impl Packages {
    fn ensure(&self) -> Result<PathBuf> {
        let (what, variable, proof) = (self.what, self.variable, self.proof);
        if let Some(named) = std::env::var_os(variable).filter(|named| !named.is_empty()) {
            let named = PathBuf::from(named);
            let good = named.join(proof).is_file();
            ensure!(
                good,
                "{variable} names {}, which has no {proof} in it",
                named.display()
            );
            return Ok(named);
        }
        let requirements = workspace::root().join(self.requirements);
        let pins = fs::read(&requirements)
            .with_context(|| format!("cannot read {}", self.requirements))?;
        // Its name says what is in it, so moved pins are fetched anew.
        let name = format!("{}-{:016x}", self.folder, fingerprint(&pins));
        let home = workspace::tools().join(name);
        if home.join(proof).is_file() {
            return Ok(home);
        }
        check_pip_for(what, "")?;
        eprintln!("fetching {what} into {}", home.display());
        let tools = workspace::tools();
        fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
        let aside = tempfile::Builder::new()
            .prefix("fetching-")
            .tempdir_in(&tools)?;
        let installed = aside.path().join("installed");
        // One dependency, paho-mqtt, has no wheel; its source is pure Python and pinned by its hash.
        let status = Command::new("python3")
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args([
                "--require-hashes",
                "--no-deps",
                "--prefer-binary",
                "--requirement",
            ])
            .arg(&requirements)
            .arg("--target")
            .arg(&installed)
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .status()
            .context("cannot start python3")?;
        ensure!(
            status.success(),
            "pip could not fetch {what}; its words are above"
        );
        move_into_place(&installed, &home)?;
        Ok(home)
    }
}

/// FNV-1a: short, and the same with every compiler.
pub(super) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_pinned_by_version_and_hash() {
        let text = fs::read_to_string(workspace::root().join(REQUIREMENTS)).expect("it is there");
        let lines: Vec<&str> = text.lines().collect();
        let mut packages = Vec::new();
        for pair in lines.windows(2) {
            if let Some((package, _)) = pair[0].split_once("==") {
                assert!(pair[1].trim().starts_with("--hash=sha256:"), "{package}");
                packages.push(package);
            }
        }
        assert!(packages.contains(&"azure-iot-hub") && packages.contains(&"azure-iot-device"));
    }

    #[test]
    fn the_folder_is_another_when_a_pin_moves() {
        // The published test vector of FNV-1a.
        assert_eq!(fingerprint(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_ne!(fingerprint(b"six==1.17.0"), fingerprint(b"six==1.17.1"));
    }
}
