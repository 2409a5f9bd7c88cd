//! Nothing imports upward, and the crates at the bottom stay pure.

use super::metadata::{Kind, Metadata};

/// The layers of ARCHITECTURE.md. A crate may depend on lower layers, and within its own only as
/// [`SIDEWAYS`] says; crates of the third layer know each other by gRPC and NATS alone.
const LAYERS: [(&str, u8); 15] = [
    ("twin", 0),
    ("posture", 0),
    ("iot-hub", 1),
    ("wire", 1),
    ("service-kit", 2),
    ("access-policies", 2),
    ("bus", 2),
    ("client", 2),
    ("ingestion", 3),
    ("twin-store", 3),
    ("policy", 3),
    ("gateway", 3),
    ("agent", 3),
    ("twinward", 4),
    ("testkit", TESTS_ONLY),
];

/// Layer of what only tests may use.
const TESTS_ONLY: u8 = u8::MAX;

/// Dependencies inside a layer.
const SIDEWAYS: [(&str, &str); 4] = [
    ("access-policies", "service-kit"),
    ("posture", "twin"),
    ("bus", "service-kit"),
    ("client", "service-kit"),
];

/// Packages that look at the whole: no layer, and nobody may depend on them.
const OUTSIDE: [&str; 3] = ["xtask", "system-tests", "loadgen"];

/// Crates that neither wait, read a clock, roll dice, log, nor touch the machine.
const PURE: [&str; 3] = ["twin", "posture", "iot-hub"];

/// What a pure crate may not even reach through others. (`log` is not here: cargo shows features of
/// the whole workspace, and another crate turns on jiff's logging, which twin never calls.)
const IMPURE: [&str; 13] = [
    "async-nats",
    "axum",
    "hyper",
    "mio",
    "opentelemetry",
    "rand",
    "reqwest",
    "rusqlite",
    "rustls",
    "tokio",
    "tonic",
    "tracing",
    "uuid",
];

pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    for (id, package) in metadata.ours() {
        let name = package.name.as_str();
        if OUTSIDE.contains(&name) {
            continue;
        }
        let Some(own) = layer(name) else {
            findings.push(format!(
                "{name}: has no layer; add it to xtask/src/tidy/layers.rs"
            ));
            continue;
        };
        let known = package.edges.iter().filter_map(|edge| {
            let to = metadata.packages.get(&edge.to)?;
            to.source.is_none().then_some((to.name.as_str(), edge.kind))
        });
        findings.extend(known.filter_map(|(to, kind)| judge(name, own, to, kind)));
        if PURE.contains(&name) {
            let reached = metadata.closure(id);
            let impure = IMPURE.iter().filter(|impure| reached.contains(**impure));
            findings.extend(impure.map(|impure| format!("{name}: is pure, but reaches {impure}")));
        }
    }
    findings
}

fn layer(name: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, layer)| *layer)
}

fn judge(name: &str, own: u8, to: &str, kind: Kind) -> Option<String> {
    if own == TESTS_ONLY || SIDEWAYS.contains(&(name, to)) {
        return None;
    }
    let Some(theirs) = layer(to) else {
        return Some(format!("{name}: nothing may depend on {to}"));
    };
    match (theirs == TESTS_ONLY, kind) {
        (true, Kind::Test) => None,
        (true, Kind::Production) => Some(format!("{name}: {to} is for tests alone")),
        (false, _) if theirs < own => None,
        (false, _) => Some(format!(
            "{name} (layer {own}): may not depend on {to} (layer {theirs})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_go_down_and_sideways_only_where_it_is_written() {
        let judged =
            |name: &str, to: &str, kind| judge(name, layer(name).expect("known"), to, kind);
        assert_eq!(judged("ingestion", "bus", Kind::Production), None);
        assert_eq!(judged("bus", "service-kit", Kind::Production), None);
        assert_eq!(judged("bus", "testkit", Kind::Test), None);
        assert_eq!(
            judged("policy", "twin-store", Kind::Test).as_deref(),
            Some("policy (layer 3): may not depend on twin-store (layer 3)")
        );
        assert!(judged("wire", "bus", Kind::Production).is_some());
        assert!(judged("bus", "testkit", Kind::Production).is_some());
        assert!(judged("twinward", "xtask", Kind::Production).is_some());
    }
}
