//! `cargo xtask test`: every check and every test, cheapest first, stopping at the first failure.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::step::{Done, step, succeed};
use crate::tools::{self, NATS_VARIABLE, Tool};
use crate::{tidy, workspace};

/// Hops of a whole loop, from the event to the acknowledgement (`demo::hops`).
const HOPS: usize = 8;

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Runs only these steps.
    #[arg(long, value_enum)]
    step: Vec<Step>,
}

/// The steps in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// Formatting.
    Fmt,
    /// Rules of the repository: layers, licences, manifests, files.
    Tidy,
    /// Spelling.
    Typos,
    /// The protobuf contracts.
    Buf,
    /// Dependencies, once more, by cargo-deny where it is installed.
    Deny,
    /// Lints, as errors.
    Clippy,
    /// Documentation, warnings as errors.
    Doc,
    /// Builds the programs that tests start.
    Build,
    /// All tests.
    Tests,
    /// One loop of the demo: the README's first command, to its end.
    Demo,
}

const STEPS: [Step; 10] = [
    Step::Fmt,
    Step::Tidy,
    Step::Typos,
    Step::Buf,
    Step::Deny,
    Step::Clippy,
    Step::Doc,
    Step::Build,
    Step::Tests,
    Step::Demo,
];

/// Runs the steps.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let chosen = |step: &Step| arguments.step.is_empty() || arguments.step.contains(step);
    let mut count = 0;
    for which in STEPS.into_iter().filter(chosen) {
        step(which.name(), || which.run())?;
        count += 1;
    }
    println!(
        "all {count} steps passed in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Tidy => "tidy",
            Self::Typos => "typos",
            Self::Buf => "buf lint",
            Self::Deny => "cargo deny",
            Self::Clippy => "clippy",
            Self::Doc => "doc",
            Self::Build => "build",
            Self::Tests => "tests",
            Self::Demo => "demo",
        }
    }

    fn run(self) -> Result<Done> {
        match self {
            Self::Fmt => succeed(workspace::cargo().args(["fmt", "--all", "--check"])),
            Self::Tidy => tidy::run(),
            Self::Typos => {
                let typos = tools::ensure(Tool::Typos)?;
                succeed(Command::new(typos).current_dir(workspace::root()))
            }
            Self::Buf => {
                let buf = tools::ensure(Tool::Buf)?;
                let proto = workspace::root().join("proto");
                succeed(Command::new(buf).arg("lint").current_dir(proto))
            }
            Self::Deny => deny(),
            Self::Clippy => {
                let mut clippy = workspace::cargo();
                clippy.args([
                    "clippy",
                    "--locked",
                    "--quiet",
                    "--workspace",
                    "--all-targets",
                ]);
                succeed(clippy.args(["--", "-D", "warnings"]))
            }
            Self::Doc => {
                let mut doc = workspace::cargo();
                doc.args(["doc", "--locked", "--quiet", "--workspace", "--no-deps"]);
                succeed(doc.env("RUSTDOCFLAGS", "-D warnings"))
            }
            Self::Build => {
                let mut build = workspace::cargo();
                succeed(build.args(["build", "--locked", "--quiet", "--workspace", "--bins"]))
            }
            Self::Tests => {
                let nats = tools::ensure(Tool::NatsServer)?;
                let mut tests = workspace::cargo();
                tests.args(["test", "--locked", "--quiet", "--workspace"]);
                // Who reads the log of a failed gate wants to know everything that is wrong.
                tests.arg("--no-fail-fast");
                tests.env(NATS_VARIABLE, nats);
                let postgres = tools::ensure(Tool::Postgres)?;
                // Its folder: it starts other programs that lie beside it.
                if let Some(folder) = postgres.parent() {
                    tests.env(tools::postgres::VARIABLE, folder);
                }
                tests.env(tools::azure::VARIABLE, tools::azure::ensure()?);
                tests.env(
                    tools::azure::SCHEMATHESIS_VARIABLE,
                    tools::azure::schemathesis()?,
                );
                let (node, sdk) = tools::node::ensure()?;
                tests.env(tools::node::PROGRAM_VARIABLE, node);
                tests.env(tools::node::SDK_VARIABLE, sdk);
                succeed(&mut tests)
            }
            Self::Demo => one_loop(),
        }
    }
}

/// Plays one loop and reads its result as a program would: every hop must be there.
fn one_loop() -> Result<Done> {
    let mut demo = workspace::cargo();
    let shown = demo
        .args(["run", "--locked", "--quiet", "--package", "xtask", "--"])
        .args(["demo", "--once", "--json"])
        .output()
        .context("cannot run the demo")?;
    let story = String::from_utf8_lossy(&shown.stderr);
    ensure!(
        shown.status.success(),
        "the demo ended with {}:\n{story}",
        shown.status
    );
    let result: serde_json::Value =
        serde_json::from_slice(&shown.stdout).context("the demo's result is no JSON")?;
    for change in ["opened", "closed"] {
        let hops = result[change]["hops"].as_array().map_or(0, Vec::len);
        ensure!(
            hops == HOPS,
            "{hops} of {HOPS} hops when the port {change}:\n{result:#}"
        );
    }
    Ok(Done::Passed)
}

/// cargo-deny knows advisories of form that tidy does not, but building it takes longer than all
/// our tests; tidy enforces licences, sources and bans on every run.
fn deny() -> Result<Done> {
    if workspace::on_path("cargo-deny").is_none() {
        return Ok(Done::Skipped(
            "cargo-deny is not installed; tidy checks the same rules".into(),
        ));
    }
    let mut deny = workspace::cargo();
    succeed(deny.args(["deny", "--offline", "check", "bans", "licenses", "sources"]))
}
