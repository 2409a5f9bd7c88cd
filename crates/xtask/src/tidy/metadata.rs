//! What `cargo metadata` says about packages and who depends on whom, reduced to what the rules
//! ask.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace;

/// Why a package depends on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// In production, or to build what is.
    Production,
    /// For tests alone.
    Test,
}

/// One dependency of a package.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    pub(super) to: String,
    pub(super) kind: Kind,
}

/// A package of the workspace or of a registry.
#[derive(Debug, Clone, Default)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) licence: Option<String>,
    /// `None` for ours.
    pub(super) source: Option<String>,
    /// Dependencies by package id, as resolved.
    pub(super) edges: Vec<Edge>,
}

/// All packages by id.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    pub(super) packages: BTreeMap<String, Package>,
}

impl Metadata {
    pub(super) fn read() -> Result<Self> {
        // We ship for Linux; what a library needs elsewhere (in a browser, say) is not in our tree.
        let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let output = workspace::cargo()
            .args([
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--filter-platform",
            ])
            .arg(platform)
            .output()
            .context("cannot start cargo metadata")?;
        ensure!(
            output.status.success(),
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self::parse(&serde_json::from_slice(&output.stdout)?)
    }

    fn parse(json: &Value) -> Result<Self> {
        let mut metadata = Self::default();
        for package in list(&json["packages"])? {
            let parsed = Package {
                name: text(&package["name"])?,
                version: text(&package["version"])?,
                licence: package["license"].as_str().map(str::to_owned),
                source: package["source"].as_str().map(str::to_owned),
                edges: Vec::new(),
            };
            metadata.packages.insert(text(&package["id"])?, parsed);
        }
        for node in list(&json["resolve"]["nodes"])? {
            let id = text(&node["id"])?;
            let mut edges = Vec::new();
            for dependency in list(&node["deps"])? {
                let to = text(&dependency["pkg"])?;
                for kind in list(&dependency["dep_kinds"])? {
                    let kind = match kind["kind"].as_str() {
                        Some("dev") => Kind::Test,
                        // Absent is normal; "build" runs on the way to production.
                        Some(_) | None => Kind::Production,
                    };
                    edges.push(Edge {
                        to: to.clone(),
                        kind,
                    });
                }
            }
            let package = metadata
                .packages
                .get_mut(&id)
                .context("a node without a package")?;
            package.edges = edges;
        }
        Ok(metadata)
    }

    /// Our own packages.
    pub(super) fn ours(&self) -> impl Iterator<Item = (&String, &Package)> {
        self.packages
            .iter()
            .filter(|(_, package)| package.source.is_none())
    }

    /// Names of everything that a package needs in production, however far.
    pub(super) fn closure(&self, id: &str) -> BTreeSet<&str> {
        let (mut names, mut seen, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![id]);
        while let Some(id) = open.pop() {
            let Some(package) = self.packages.get(id) else {
                continue;
            };
            for edge in package
                .edges
                .iter()
                .filter(|edge| edge.kind == Kind::Production)
            {
                if seen.insert(&edge.to) {
                    names.extend(self.packages.get(&edge.to).map(|to| to.name.as_str()));
                    open.push(&edge.to);
                }
            }
        }
        names
    }
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value
        .as_array()
        .context("cargo metadata has another form than expected")
}

fn text(value: &Value) -> Result<String> {
    let text = value
        .as_str()
        .context("cargo metadata has another form than expected")?;
    Ok(text.to_owned())
}
