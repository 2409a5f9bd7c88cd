//! `cargo xtask demo`: sets everything up and shows the loop, event to applied push, live.
//!
//! It runs the real programs and talks to them through their command lines; it knows nothing of
//! gRPC or NATS. Reading order: [`setup`] → [`cycle`] (what is played) → [`narrate`] and [`screen`]
//! (what is shown) → [`children`], [`guard`] and [`events`] (how it ends).

mod children;
mod cli;
mod cycle;
mod events;
pub(crate) mod guard;
mod hops;
mod narrate;
mod screen;
mod setup;
mod twin;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use serde_json::{Value, json};

use self::children::{Children, Kill};
use self::cycle::{Change, HopFailed, Round, Stage};
use self::events::{Events, Interrupted};
use self::hops::millis;
use self::screen::{Screen, To, time};
use self::setup::Places;
use crate::programs::Profile;
use crate::workspace;

/// How long the collectors' states may take to come; they are shown, nothing depends on them.
const STATUS_WITHIN: Duration = Duration::from_secs(5);

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// Does one full loop, prints the hops with their latencies, and ends
    #[arg(long)]
    once: bool,
    /// Prints the result of `--once` as JSON, for programs; people read on standard error
    #[arg(long, requires = "once")]
    json: bool,
    /// Builds with optimisation: takes longer, hops are shorter
    #[arg(long)]
    release: bool,
    /// Where the demo keeps its files [default: target/demo]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

const HELP: &str = "\
Builds without optimisation unless told otherwise: the first build is what a newcomer waits for, the
same artefacts serve `cargo xtask test`, and the loop takes milliseconds either way.

It needs no root. What it may not see is left out, and the collectors' states say so. Ctrl-C stops
everything in order; a second Ctrl-C kills what is left.

--once ends with 0 after one loop; if a hop fails it ends with 1 and names the hop.";

/// Runs the demo.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let screen = Screen::new(if arguments.json {
        To::Error
    } else {
        To::Output
    });
    let root = match &arguments.dir {
        Some(dir) => std::path::absolute(dir)?,
        None => workspace::root().join("target/demo"),
    };
    let _lock = claim(&root)?;
    let places = Places::make(&root)?;
    let kill = Kill::default();
    let events = Events::listen(kill.clone())?;
    let mut children = Children::new(kill, places.logs.clone());

    let shown = show(arguments, &places, &mut children, &events, screen);
    let shown = shown.map_err(|error| {
        let by_signal = !error.is::<Interrupted>() && events.were_interrupted();
        if by_signal { Interrupted.into() } else { error }
    });
    if shown
        .as_ref()
        .is_err_and(|error| !error.is::<Interrupted>())
    {
        show_logs(&children, screen);
    }
    let clean = children.stop(&events, screen);
    let interrupted = shown.as_ref().is_err_and(Error::is::<Interrupted>);
    if clean && interrupted {
        screen.aside("everything is stopped");
    }
    if arguments.json {
        println!("{}", result(&shown));
    }
    match shown {
        Ok(_) => Ok(()),
        // Ctrl-C is how the plain demo ends.
        Err(_) if interrupted && !arguments.once => Ok(()),
        Err(error) => Err(error),
    }
}

/// What `--once` found.
struct Shown {
    device: String,
    round: Round,
    collectors: Value,
}

fn show(
    arguments: &Arguments,
    places: &Places,
    children: &mut Children,
    events: &Events,
    screen: Screen,
) -> Result<Shown> {
    let profile = if arguments.release {
        Profile::Release
    } else {
        Profile::Dev
    };
    let ready = setup::set_up(profile, places, children, events, screen)?;
    let mut stage = Stage::new(ready, events, screen);
    stage.until(STATUS_WITHIN, |twin| !twin.collectors.is_empty())?;
    screen.heading("Collectors on this machine");
    for (name, collector) in &stage.twin().collectors {
        screen.collector(name, collector);
    }
    let round = stage.play()?;
    conclude(&round, screen);
    let collectors = stage.twin().collectors.iter().map(|(name, it)| {
        (
            name.clone(),
            json!({ "state": it.state, "reason": it.reason }),
        )
    });
    let shown = Shown {
        device: stage.device().to_owned(),
        round,
        collectors: collectors.collect(),
    };
    if arguments.once {
        return Ok(shown);
    }
    screen.heading("Watching this machine");
    screen.say("Open a port yourself, for instance with `python3 -m http.server 9999`.");
    screen.say(&format!(
        "The hub in another terminal: `. {} && {} status`.",
        workspace::shown(&places.env_file),
        workspace::shown(&stage.program()),
    ));
    screen.say("Ctrl-C ends everything.");
    loop {
        stage.next(None)?;
    }
}

fn conclude(round: &Round, screen: Screen) {
    screen.heading("The loop is closed");
    for (name, change) in [("opened", &round.opened), ("closed", &round.closed)] {
        let applied = change
            .timeline
            .event_to_applied()
            .map_or_else(String::new, time);
        let noticed = time(change.noticed_after);
        screen.fact(
            name,
            &format!("noticed after {noticed}, configuration applied {applied} after the event"),
        );
    }
}

/// What programs read.
fn result(shown: &Result<Shown>) -> Value {
    match shown {
        Ok(shown) => json!({
            "ok": true,
            "device": shown.device,
            "port": shown.round.port,
            "opened": change_json(&shown.round.opened),
            "closed": change_json(&shown.round.closed),
            "collectors": shown.collectors,
        }),
        Err(error) => json!({
            "ok": false,
            "failedHop": failed_hop(error),
            "error": format!("{error:#}"),
        }),
    }
}

/// The hop, or what came before all hops.
fn failed_hop(error: &Error) -> &'static str {
    error
        .downcast_ref::<HopFailed>()
        .map_or("setup", |failed| failed.hop.name())
}

fn change_json(change: &Change) -> Value {
    let hops = change.timeline.passed().into_iter().map(|passed| {
        json!({
            "hop": passed.hop.name(),
            "at": passed.at.to_string(),
            "tookMs": passed.took.map(millis),
            "sinceEventMs": millis(passed.since_start),
        })
    });
    json!({
        "desiredVersion": change.desired_version,
        "noticedAfterMs": millis(change.noticed_after),
        "eventToAppliedMs": change.timeline.event_to_applied().map(millis),
        "traceParent": change.trace_parent,
        "hops": hops.collect::<Vec<_>>(),
    })
}

fn show_logs(children: &Children, screen: Screen) {
    for name in ["twinward", "twinward-agent", "twin-watch"] {
        let lines = children.last_lines(name);
        if lines.is_empty() {
            continue;
        }
        screen.heading(&format!(
            "The end of {}",
            workspace::shown(&children.log(name))
        ));
        for line in lines {
            screen.aside(&line);
        }
    }
}

/// Makes sure that no other demo uses the directory, and that it is one of ours.
fn claim(root: &Path) -> Result<File> {
    fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
    let path = root.join("demo.lock");
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another demo runs in {}; --dir names another place",
                root.display()
            )
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::hops::{Hop, Timeline};
    use super::twin::tests::applied;
    use super::*;

    fn change() -> Change {
        Change {
            desired_version: 2,
            timeline: Timeline::read(&applied()["posture"]["configuration"]["timeline"]),
            noticed_after: SignedDuration::from_millis(200),
            trace_parent: String::new(),
        }
    }

    #[test]
    fn programs_get_every_hop_with_its_latency() {
        let round = Round {
            port: 4711,
            opened: change(),
            closed: change(),
        };
        let shown = Shown {
            device: "d".to_owned(),
            round,
            collectors: json!({}),
        };
        let value = result(&Ok(shown));
        assert_eq!(value["ok"], true);
        let hops = value["opened"]["hops"].as_array().unwrap();
        assert_eq!(hops.len(), Hop::ALL.len());
        assert_eq!(
            (&hops[0]["hop"], &hops[0]["tookMs"]),
            (&json!("event"), &Value::Null)
        );
        assert_eq!(
            (&hops[5]["hop"], &hops[5]["tookMs"]),
            (&json!("push"), &json!(1.0))
        );
        assert_eq!(value["closed"]["eventToAppliedMs"], 9.0);
        assert_eq!(value["closed"]["noticedAfterMs"], 200.0);
    }

    #[test]
    fn programs_get_the_hop_that_failed() {
        let failed = HopFailed {
            hop: Hop::Push,
            why: "late".to_owned(),
        };
        let value = result(&Err(failed.into()));
        assert_eq!(
            (&value["ok"], &value["failedHop"]),
            (&json!(false), &json!("push"))
        );
        let value = result(&Err(anyhow::anyhow!("no build")));
        assert_eq!(value["failedHop"], "setup");
    }

    #[test]
    fn two_demos_do_not_share_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = claim(directory.path()).unwrap();
        assert!(claim(directory.path()).is_err());
        drop(first);
        claim(directory.path()).unwrap();
    }
}
