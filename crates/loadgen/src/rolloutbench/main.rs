//! `twinward-rolloutbench`: a rollout over thousands of simulated agents of which one in twenty fails and
//! one in ten is not there, on a running hub; then one with a narrower gate, which is taken back.
//!
//! It ends with an error if anything is not as it must be: who was told what, on how many twins the policy
//! stands how, and that exactly the twins of the waves that began were changed and have again what they
//! had. Times go to standard output. It starts no service.
//!
//! Reading order: [`agent`] → [`fleet`] → [`api`] → [`mod@follow`] → here.

// It talks to a person on a terminal, or to the program that started it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod agent;
mod api;
mod fleet;
mod follow;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use loadgen::files;
use loadgen::hub::Hub;
use serde_json::{Value, json};
use service_kit::shutdown::ShutdownToken;
use service_kit::tasks::Tasks;
use tokio::time::{Instant, sleep};
use wire::policy::v1::rollout::Phase;
use wire::policy::v1::rollout_strategy::{Wave, wave};
use wire::policy::v1::{PolicyStatus, RolloutStrategy};

use agent::Kind;
use api::Api;
use fleet::Fleet;
use follow::{Followed, follow};

/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long one rollout may take, or the fleet to come to rest.
const WITHIN: Duration = Duration::from_mins(10);
/// How long everything may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// What each rollout sets.
const GOOD: i64 = 1;
const BAD: i64 = 2;

/// A rollout over simulated agents, of which 5 % fail and 10 % are not there.
#[derive(Debug, Parser)]
#[command(name = "twinward-rolloutbench", version)]
struct Arguments {
    /// The file that `twinward up` wrote
    #[arg(long, value_name = "FILE")]
    env_file: PathBuf,
    /// Simulated agents, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(40..=100_000))]
    agents: u32,
    /// How long a wave waits for agents that do not answer, of which there are then half as many as
    /// fail; 0: all that fail reject
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    silence: u32,
    /// Device ids are this and a number
    #[arg(long, value_name = "TEXT", default_value = "roll")]
    prefix: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("twinward-rolloutbench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the phases need.
struct Story {
    arguments: Arguments,
    api: Api,
    fleet: Fleet,
    tasks: Tasks,
}

async fn run(arguments: &Arguments) -> Result<Value> {
    files::allow(arguments.agents)?;
    let hub = Hub::read(&arguments.env_file)?;
    let end = ShutdownToken::new();
    eprintln!("registering {} devices", arguments.agents);
    let prefix = arguments.prefix.clone();
    let silent = arguments.silence > 0;
    let story = Story {
        api: Api::of(&hub)?,
        fleet: Fleet::register(&hub, &prefix, arguments.agents, silent).await?,
        tasks: Tasks::new(end.clone()),
        arguments: Arguments {
            prefix,
            env_file: arguments.env_file.clone(),
            ..*arguments
        },
    };
    let report = story.tell(&end).await;
    end.trigger();
    // What is cut off here has nothing to hand back.
    let _ = story.tasks.drain(ENDS_WITHIN).await;
    report
}

impl Story {
    async fn tell(&self, end: &ShutdownToken) -> Result<Value> {
        let leaving = end.child();
        eprintln!("connecting them");
        let began = Instant::now();
        fleet::connect(&self.fleet.staying, &self.tasks, end).await;
        fleet::connect(&self.fleet.leaving, &self.tasks, &leaving).await;
        self.wait_connected(true).await?;
        let connected = began.elapsed();
        leaving.trigger();
        self.wait_connected(false).await?;

        eprintln!("a rollout that may fail on 20 %");
        let good = self.roll_out(GOOD, 20).await?;
        let settled = self.check_good(&good).await?;

        eprintln!("those that were not there come back");
        let began = Instant::now();
        let leaving = end.child();
        fleet::connect(&self.fleet.leaving, &self.tasks, &leaving).await;
        self.wait_status(self.expected(0)).await?;
        let back = began.elapsed();
        self.check_told_good()?;
        leaving.trigger();
        self.wait_connected(false).await?;

        eprintln!("a rollout that may fail on 3 %");
        let before = self.api.desired(&self.arguments.prefix).await?;
        let bad = self.roll_out(BAD, 3).await?;
        let taken_back = self.check_bad(&bad, &before).await?;
        Ok(json!({
            "agents": self.arguments.agents,
            "connectedSeconds": connected.as_secs_f64(),
            "good": good.json(),
            "settledSeconds": settled.as_secs_f64(),
            "backSeconds": back.as_secs_f64(),
            "bad": bad.json(),
            "changed": bad.released(),
            "takenBackSeconds": taken_back.as_secs_f64(),
        }))
    }

    async fn wait_connected(&self, all: bool) -> Result<Duration> {
        let staying = self.fleet.staying.len();
        let wanted = staying + if all { self.fleet.leaving.len() } else { 0 };
        fleet::connected(&self.api, &self.arguments.prefix, wanted).await
    }

    async fn roll_out(&self, level: i64, max_failed_percent: u32) -> Result<Followed> {
        let waves = [2, 10, 50].map(|percent| Wave {
            twins: Some(wave::Twins::Percent(percent)),
        });
        // Without silent agents only a broken hub leaves one without an answer.
        let within = match self.arguments.silence {
            0 => WITHIN,
            seconds => Duration::from_secs(seconds.into()),
        };
        let strategy = RolloutStrategy {
            waves: waves.to_vec(),
            within: Some(within.try_into()?),
            // What is measured is how fast it goes on, not how long it watches.
            soak: Some(Duration::ZERO.try_into()?),
            max_failed_percent,
            ..RolloutStrategy::default()
        };
        let began = Instant::now();
        self.api
            .apply(&self.arguments.prefix, level, strategy)
            .await?;
        follow(&self.api, began, WITHIN).await
    }

    /// How the policy must stand, with so many that are not there.
    fn expected(&self, away: u64) -> PolicyStatus {
        let rejected = self.fleet.count(Kind::Rejects);
        let silent = self.fleet.count(Kind::Silent);
        let targeted = u64::from(self.arguments.agents);
        PolicyStatus {
            twins_targeted: targeted,
            twins_applied: targeted - away - rejected - silent,
            twins_pending: away + silent,
            twins_rejected: rejected,
            ..PolicyStatus::default()
        }
    }

    /// Waits until it stands so; how long that took.
    async fn wait_status(&self, wanted: PolicyStatus) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let mut status = self.api.status().await?;
            if status.in_step_time.take().is_some() && status == wanted {
                return Ok(began.elapsed());
            }
            ensure!(
                began.elapsed() < WITHIN,
                "the policy stands so: {status:#?}\nand should stand so: {wanted:#?}"
            );
            sleep(LOOK).await;
        }
    }

    /// It ended well, and nothing waits for those that are not there.
    async fn check_good(&self, good: &Followed) -> Result<Duration> {
        let rollout = &good.rollout;
        ensure!(
            rollout.phase() == Phase::Completed,
            "it should be complete: {rollout:#?}"
        );
        ensure!(good.waves.len() == 4, "not all waves began: {rollout:#?}");
        let away = u64::try_from(self.fleet.leaving.len())?;
        let took = self.wait_status(self.expected(away)).await?;
        for agent in &self.fleet.leaving {
            ensure!(
                agent.told.last().is_none(),
                "{} was not there and was told {:?}",
                agent.device.id(),
                agent.told.all()
            );
        }
        Ok(took)
    }

    /// Everybody was told of the setting once, and of nothing else.
    fn check_told_good(&self) -> Result<()> {
        for agent in self.fleet.all() {
            let told: Vec<i64> = agent.told.all().into_iter().flatten().collect();
            ensure!(
                told == [GOOD],
                "{} was told {told:?}, and should be told {GOOD} alone",
                agent.device.id()
            );
        }
        Ok(())
    }

    /// It was taken back, from exactly those that had it; how long it took until all had what they had.
    async fn check_bad(
        &self,
        bad: &Followed,
        before: &std::collections::BTreeMap<String, api::Desired>,
    ) -> Result<Duration> {
        let rollout = &bad.rollout;
        ensure!(
            rollout.phase() == Phase::RolledBack,
            "it should be rolled back: {rollout:#?}"
        );
        let began = Instant::now();
        let has_bad = |agent: &&agent::Agent| agent.told.last() == Some(BAD);
        let after = loop {
            let after = self.api.desired(&self.arguments.prefix).await?;
            let on_twins = after.values().filter(|(_, level)| *level != Some(GOOD));
            let left = on_twins.count() + self.fleet.all().filter(has_bad).count();
            if left == 0 {
                break after;
            }
            ensure!(
                began.elapsed() < WITHIN,
                "{left} twins or agents have the setting that was taken back"
            );
            sleep(LOOK).await;
        };
        let took = began.elapsed();
        let is_changed = |id: &str| after.get(id) != before.get(id);
        // Whoever was there answers for it as before; of the others those wait that were changed.
        let away = self.fleet.leaving.iter();
        let away = away.filter(|agent| is_changed(agent.device.id())).count();
        self.wait_status(self.expected(u64::try_from(away)?))
            .await?;
        let changed = after.keys().filter(|id| is_changed(id)).count();
        // A wave may fail before all of its twins have been written.
        ensure!(
            (1..=bad.released()).contains(&u64::try_from(changed)?),
            "{changed} twins were changed, and {} are in the waves that began: {rollout:#?}",
            bad.released()
        );
        ensure!(
            changed < after.len(),
            "it should have stopped before it came to all"
        );
        for agent in self.fleet.all() {
            let told: Vec<i64> = agent.told.all().into_iter().flatten().collect();
            let id = agent.device.id();
            // One may not have been told before it was taken back.
            let fits = told == [GOOD] || (told == [GOOD, BAD, GOOD] && is_changed(id));
            ensure!(fits, "{id} was told {told:?}; changed: {}", is_changed(id));
        }
        Ok(took)
    }
}
