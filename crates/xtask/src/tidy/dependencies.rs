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

/// Banned packages that come with one we have no better choice for, by who may bring them: the MQTT
/// codec names chrono in its manifest and calls nothing of it.
const BROUGHT: [(&str, &[&str]); 1] = [("chrono", &["rmqtt-codec", "rmqtt-utils"])];

pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    for (id, package) in &metadata.packages {
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
        let banned = BANNED.iter().find(|(banned, _)| banned == name);
        if let Some((_, instead)) = banned.filter(|_| !is_only_brought(metadata, id, name)) {
            findings.push(format!("{name} {version}: is banned, use {instead}"));
        }
    }
    findings
}

/// Whether nobody depends on a package but those who may bring it.
fn is_only_brought(metadata: &Metadata, id: &str, name: &str) -> bool {
    let Some((_, bringers)) = BROUGHT.iter().find(|(brought, _)| *brought == name) else {
        return false;
    };
    metadata
        .packages
        .values()
        .filter(|package| package.edges.iter().any(|edge| edge.to == id))
        .all(|package| bringers.contains(&package.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::super::metadata::{Edge, Kind, Package};
    use super::*;

    fn findings(users: &[&str], name: &str) -> Vec<String> {
        let package = |name: &str, edges| Package {
            name: name.to_owned(),
            version: "1".to_owned(),
            source: Some(REGISTRY.to_owned()),
            edges,
            ..Package::default()
        };
        let mut metadata = Metadata::default();
        let edge = |to: &str| Edge {
            to: to.to_owned(),
            kind: Kind::Production,
        };
        for user in users {
            let user = package(user, vec![edge(name)]);
            metadata.packages.insert(user.name.clone(), user);
        }
        let banned = package(name, Vec::new());
        metadata.packages.insert(name.to_owned(), banned);
        check(&metadata)
    }

    #[test]
    fn what_is_banned_may_come_with_its_bringers_alone() {
        assert_eq!(findings(&["rmqtt-codec", "rmqtt-utils"], "chrono"), [""; 0]);
        for (users, name) in [
            (&["rmqtt-codec", "twin"][..], "chrono"),
            (&["rmqtt-codec"][..], "openssl"),
        ] {
            let found = findings(users, name);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains("is banned"), "{found:?}");
        }
    }
}
