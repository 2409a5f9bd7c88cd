//! `twinward-loadgen`: many simulated agents as real gRPC clients of a running hub.
//!
//! It measures how many events a second are acknowledged, how soon, and how long it takes from an
//! event to the configuration that it causes; and it counts what was acknowledged, so that tests
//! can hold it against what is in the twins. It starts no service and judges no twin.
//!
//! Reading order: [`args`] → `hub` of the library (where everything is) → [`fleet`] (devices and policy) →
//! [`agent`] with [`lane`] and [`turn`] (one agent) → [`hops`] → [`stats`] → [`bare`] (JetStream alone) →
//! [`report`].

// It talks to a person on a terminal, or to the program that started it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod agent;
mod args;
mod bare;
mod events;
mod fleet;
mod hops;
mod lane;
mod outbox;
mod report;
mod stats;
mod turn;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use loadgen::{files, hub::Hub};
use service_kit::shutdown::{self, ShutdownToken};
use service_kit::tasks::{OnFailure, Tasks};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use wire::twin::v1::twin_service_client::TwinServiceClient;

use agent::{Agent, Finished, Plan, Signals};
use args::Arguments;
use bare::{Samples, Streams};
use fleet::Member;
use report::Report;
use stats::{Stats, get};

/// Beyond the time that opening all sessions should take.
const CONNECT_GRACE: Duration = Duration::from_secs(30);
/// How often the number of open sessions is looked at.
const LOOK: Duration = Duration::from_millis(20);

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

/// Does the run and prints what it came to; true when nothing was lost.
async fn run(arguments: &Arguments) -> Result<bool> {
    files::allow(arguments.agents)?;
    let hub = Hub::read(&arguments.env_file)?;
    let interrupted = ShutdownToken::new();
    shutdown::on_signals(&interrupted).context("cannot listen to signals")?;
    let members = fleet::prepare(&hub, arguments).await?;

    let stats = Arc::new(Stats::default());
    let signals = Signals {
        go: ShutdownToken::new(),
        stop: ShutdownToken::new(),
        end: ShutdownToken::new(),
    };
    let tasks = Tasks::new(signals.end.clone());
    let mut finished = start(&hub, arguments, members, &stats, &signals, &tasks)?;
    let connected = connected(arguments, &stats, &interrupted).await;

    let mut bare = Vec::new();
    let mut samples = None;
    let (mut sending, mut acked) = (Duration::ZERO, 0);
    if connected.is_ok() {
        let bus = match arguments.bare_seconds {
            0 => None,
            _ => Some(bare::connect(&hub).await?),
        };
        let began = Instant::now();
        signals.go.trigger();
        let until = began + Duration::from_secs(arguments.seconds);
        let over = ShutdownToken::new();
        let waiting = async {
            interrupted.run_until(sleep_until(until)).await;
            over.trigger();
        };
        let sampling = async {
            match bus {
                Some(bus) => bare::sample(bus, over.clone()).await.ok(),
                None => None,
            }
        };
        samples = tokio::join!(waiting, sampling).1;
        sending = began.elapsed();
        acked = get(&stats.acked_events);
        signals.stop.trigger();
    }
    signals.stop.trigger();
    let all = collect(&mut finished, arguments, &signals).await;
    // What is cut off here has nothing to hand back any more.
    let _ = tasks.drain(CONNECT_GRACE).await;
    connected?;
    if arguments.bare_seconds > 0 {
        bare = publish_bare(&hub, arguments, samples.unwrap_or_default()).await?;
    }

    let report = Report {
        arguments,
        stats: &stats,
        sending,
        acked_while_sending: acked,
        finished: &all,
        bare: &bare,
    };
    if arguments.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(report.is_good())
}

/// Starts all agents, each at its time.
fn start(
    hub: &Hub,
    arguments: &Arguments,
    members: Vec<Member>,
    stats: &Arc<Stats>,
    signals: &Signals,
    tasks: &Tasks,
) -> Result<mpsc::Receiver<Finished>> {
    let (sender, receiver) = mpsc::channel(members.len().max(1));
    let (over, turns) = hops::channel();
    let twins = TwinServiceClient::new(hub.service(&hub.twin_store_url)?);
    let reading = hops::read(twins, turns, stats.clone());
    tasks.spawn("hops", OnFailure::Log, reading);
    let interval = interval(arguments);
    // Agents begin spread over one interval, or over a second when they wait for nothing.
    let spread = interval.unwrap_or(Duration::from_secs(1));
    for member in members {
        let share = f64::from(member.index) / f64::from(arguments.agents);
        let plan = Plan {
            host: hub.host.clone(),
            phase: spread.mul_f64(share),
            interval,
            batch: arguments.batch,
            window: arguments.window as usize,
            loop_pause: arguments.loop_pause,
        };
        let opens_after =
            Duration::from_secs_f64(f64::from(member.index) / f64::from(arguments.connect_rate));
        let name = format!("agent {}", member.index);
        let agent = Agent::new(
            member,
            plan,
            hub.agent_door()?,
            stats.clone(),
            signals.clone(),
            over.clone(),
        );
        let sender = sender.clone();
        tasks.spawn(name, OnFailure::Log, async move {
            sleep(opens_after).await;
            // Nobody listens any more only when the run has failed.
            let _ = sender.send(agent.run().await).await;
        });
    }
    Ok(receiver)
}

/// Time between the batches of one agent.
fn interval(arguments: &Arguments) -> Option<Duration> {
    if arguments.rate == 0 {
        return None;
    }
    let batches_per_second = f64::from(arguments.rate) / f64::from(arguments.batch);
    Some(Duration::from_secs_f64(
        f64::from(arguments.agents) / batches_per_second,
    ))
}

/// Waits until every agent has a session.
async fn connected(
    arguments: &Arguments,
    stats: &Stats,
    interrupted: &ShutdownToken,
) -> Result<()> {
    let planned = f64::from(arguments.agents) / f64::from(arguments.connect_rate);
    let deadline = Instant::now() + Duration::from_secs_f64(planned) + CONNECT_GRACE;
    let opened = || get(&stats.sessions_opened).saturating_sub(get(&stats.sessions_lost));
    while opened() < u64::from(arguments.agents) {
        ensure!(!interrupted.is_triggered(), "interrupted");
        ensure!(
            Instant::now() < deadline,
            "only {} of {} agents have a session; errors: {:?}",
            opened(),
            arguments.agents,
            stats.errors()
        );
        sleep(LOOK).await;
    }
    Ok(())
}

/// Waits for the agents to finish, and after the deadline ends them as they are.
async fn collect(
    finished: &mut mpsc::Receiver<Finished>,
    arguments: &Arguments,
    signals: &Signals,
) -> Vec<Finished> {
    let deadline = Instant::now() + arguments.drain;
    let mut all = Vec::new();
    loop {
        tokio::select! {
            one = finished.recv() => match one {
                Some(one) => all.push(one),
                None => break,
            },
            () = sleep_until(deadline), if !signals.end.is_triggered() => signals.end.trigger(),
        }
    }
    all.sort_by_key(|it| it.member.index);
    all
}

async fn publish_bare(
    hub: &Hub,
    arguments: &Arguments,
    samples: Samples,
) -> Result<Vec<bare::Bare>> {
    let bus = bare::connect(hub).await?;
    let time = Duration::from_secs(arguments.bare_seconds);
    let mut all = Vec::new();
    for streams in [Streams::One, Streams::PerPartition] {
        all.push(bare::publish(&bus, &samples, streams, time).await?);
    }
    Ok(all)
}
