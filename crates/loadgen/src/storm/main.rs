//! `twinward-storm`: many idle devices on a running hub, by MQTT over TLS, and what happens when all of
//! them are cut off at once.
//!
//! It measures what the hub's process takes of memory for each of them, how long a reconnect storm
//! takes, and how long a direct method and a change of configuration take meanwhile to a device that
//! was not cut off; and it proves that no device has lost what it subscribed to. It starts no
//! service.
//!
//! Reading order: [`args`] → [`fleet`] (the devices) → `probe` of the library (the one that is not cut off) → here
//! (the phases) → [`report`].

// It talks to a person on a terminal, or to the program that started it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod fleet;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use loadgen::devices::{self, Device};
use loadgen::hub::Hub;
use loadgen::mqtt::Door;
use loadgen::probe::Probe;
use loadgen::{files, process};
use serde_json::json;
use service_kit::shutdown::ShutdownToken;
use service_kit::tasks::Tasks;
use tokio::time::{Instant, sleep};

use args::Arguments;
use fleet::{Counts, Fleet};
use report::{Memory, Report};

/// How often a count is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Connections beforehand: what is made once only should be there before anything is measured.
const WARM_UP: usize = 50;
/// How long everything may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does the run and prints what it came to; true when no session was lost and nothing starved.
async fn run(arguments: &Arguments) -> Result<bool> {
    files::allow(arguments.connections + 1)?;
    let hub = Hub::read(&arguments.env_file)?;
    let door = Door::of(&hub)?;
    let end = ShutdownToken::new();
    let tasks = Tasks::new(end.clone());
    eprintln!("registering {} devices", arguments.connections);
    let mut all = devices::register(&hub, &arguments.prefix, arguments.connections + 1).await?;
    let probed = all.pop().context("no device to probe with")?;
    warm_up(&door, arguments, &all).await?;
    let probe = Probe::connect(&hub, &door, probed, &tasks).await?;
    let memory = |what| resident(arguments.pid, what);

    let before = memory("before")?;
    let counts = Arc::new(Counts::default());
    let fleet = Fleet::start(&door, arguments, &all, &counts, &tasks);
    let began = Instant::now();
    let planned = fleet::after(arguments.connections, arguments.connect_rate);
    connected(arguments, &counts, planned + arguments.within).await?;
    let connecting = began.elapsed();
    eprintln!(
        "{} connected in {connecting:.1?}; waiting {:?}",
        all.len(),
        arguments.settle
    );
    sleep(arguments.settle).await;
    let idle = memory("idle")?;
    let calm = probe.measure(&tasks, sleep(arguments.calm)).await;

    eprintln!("cutting all of them off");
    let cut_at = Instant::now();
    fleet.cut();
    let mut outcome = Ok(());
    let storm = async {
        // Those that have not noticed yet still count as connected.
        outcome = async {
            reconnected(arguments, &counts).await?;
            connected(arguments, &counts, arguments.within).await
        }
        .await;
    };
    let storm_probe = probe.measure(&tasks, storm).await;
    outcome?;
    let reconnecting = cut_at.elapsed();
    sleep(arguments.settle).await;
    let after_storm = memory("after the storm")?;

    eprintln!("changing the configuration of all of them");
    let changing = Instant::now();
    devices::patch_desired(&hub, &all, &json!({ fleet::MARK: 1 }).to_string()).await?;
    let told = wait(arguments.within, || {
        counts.told() >= u64::from(arguments.connections)
    });
    // Who was not told is counted by the report.
    told.await;
    let changing = changing.elapsed();

    fleet.end();
    let gone = wait(ENDS_WITHIN, || counts.connected() == 0);
    ensure!(gone.await, "devices did not end");
    sleep(arguments.settle.min(Duration::from_secs(5))).await;
    let at_end = memory("at the end")?;
    end.trigger();
    // What is cut off here has nothing to hand back any more.
    let _ = tasks.drain(ENDS_WITHIN).await;

    let report = Report {
        connections: arguments.connections,
        memory: Memory {
            before,
            idle,
            after_storm,
            at_end,
        },
        connecting,
        reconnecting,
        changing,
        counts: &counts,
        calm,
        storm: storm_probe,
    };
    if arguments.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(report.is_good())
}

fn resident(pid: u32, what: &str) -> Result<u64> {
    let bytes = process::resident(pid)?;
    eprintln!("memory {what}: {:.1} MiB", report::mib(bytes));
    Ok(bytes)
}

/// Connects a few, and goes again.
async fn warm_up(door: &Door, arguments: &Arguments, all: &[Device]) -> Result<()> {
    for device in all.iter().take(WARM_UP) {
        let hello = fleet::hello(door, arguments, device);
        let from = fleet::source(arguments, device.index);
        let (mut client, _) = door.connect(from, hello).await?;
        client.subscribe().await?;
    }
    Ok(())
}

async fn connected(arguments: &Arguments, counts: &Counts, within: Duration) -> Result<()> {
    let all = u64::from(arguments.connections);
    let reached = wait(within, || counts.connected() >= all).await;
    ensure!(
        reached,
        "only {} of {all} are connected after {within:?}; what went wrong: {:?}",
        counts.connected(),
        counts.failures()
    );
    Ok(())
}

/// Waits until everybody has noticed.
async fn reconnected(arguments: &Arguments, counts: &Counts) -> Result<()> {
    let all = u64::from(arguments.connections);
    let noticed = wait(arguments.within, || counts.cut() >= all).await;
    ensure!(noticed, "only {} of {all} were cut off", counts.cut());
    Ok(())
}

/// Waits for something; false if it did not come about.
async fn wait(within: Duration, is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !is_so() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}
