//! Where dependencies come from and which ones we do not take. `deny.toml` says the same for
//! cargo-deny.

use super::metadata::Metadata;

/// How the source of a package begins that comes from a registry; git and paths begin otherwise.
const REGISTRY: &str = "registry+";

/// Packages that must not be in the tree, with what to use instead.
const BANNED: [(&str, &str); 5] = [
    ("openssl", "rustls with ring"),
    ("openssl-sys", "rustls with ring"),
    ("native-tls", "rustls with ring"),
    (
        "aws-lc-sys",
        "ring: a second cryptography library needs cmake and takes minutes to build",
    ),
    ("chrono", "jiff"),
];

pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata.packages.values() {
        let (name, version) = (&package.name, &package.version);
        if let Some(source) = package
            .source
            .as_ref()
            .filter(|source| !source.starts_with(REGISTRY))
        {
            findings.push(format!(
                "{name} {version}: comes from {source}, not from the registry"
            ));
        }
        if let Some((_, instead)) = BANNED.iter().find(|(banned, _)| banned == name) {
            findings.push(format!("{name} {version}: is banned, use {instead}"));
        }
    }
    findings
}
