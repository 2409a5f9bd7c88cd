//! Rules of the repository that no compiler checks: which crate may know which, what a dependency
//! may be licensed as, what a manifest and a source file must look like. Each finding names the
//! file and what to do.

mod dependencies;
mod files;
mod layers;
mod licences;
mod manifests;
mod metadata;

use anyhow::{Result, bail};

use crate::step::Done;
use crate::workspace;

/// Checks all rules and reports all findings at once.
pub(crate) fn run() -> Result<Done> {
    let metadata = metadata::Metadata::read()?;
    let mut findings = Vec::new();
    findings.extend(layers::check(&metadata));
    findings.extend(dependencies::check(&metadata));
    findings.extend(licences::check(&metadata));
    findings.extend(manifests::check(&workspace::root())?);
    findings.extend(files::check(&workspace::root())?);
    if findings.is_empty() {
        return Ok(Done::Passed);
    }
    for finding in &findings {
        println!("    {finding}");
    }
    bail!("{} rule(s) of the repository are broken", findings.len())
}
