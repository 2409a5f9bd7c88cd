//! `twinward-evaluatebench`: how long it takes to evaluate policies on all twins, on one core and through
//! a running hub.
//!
//! Three ways to call it: the evaluation alone; filling an embedded store in which the policies' settings
//! are in place; a re-evaluation of all twins of a hub that runs on such a store. It judges nothing:
//! numbers go to standard output.

// It talks to a person on a terminal, or to the program that started it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod engine;
mod policies;
mod service;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use loadgen::hub::Hub;
use loadgen::twins;
use policy::assess::Assessor;
use serde_json::{Value, json};
use service_kit::clock::SystemClock;
use twin_store::encode;
use twin_store::store::Store as _;
use twin_store::store::sqlite::SqliteStore;

/// Measures the evaluation of policies.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    which: Which,
    /// Policies in force
    #[arg(long, value_name = "N", default_value_t = 50, global = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    policies: u32,
    /// Twins, of devices
    #[arg(long, value_name = "N", default_value_t = 1_000_000, global = true)]
    twins: u32,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// The evaluation alone, on one thread
    Engine,
    /// Fills an embedded store
    Fill {
        /// Directory of twin-store; must exist and be empty
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// A re-evaluation by a running hub
    Service {
        /// The file that `twinward up` wrote
        #[arg(long, value_name = "FILE")]
        env_file: PathBuf,
    },
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
            eprintln!("twinward-evaluatebench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Value> {
    let policies = policies::all(arguments.policies)?;
    let now = SystemClock::shared().now();
    match &arguments.which {
        Which::Engine => engine::run(&policies, arguments.twins, now),
        Which::Fill { data_dir } => {
            let began = Instant::now();
            let assessor = Assessor::new(policies);
            let store = SqliteStore::open(data_dir)?;
            let shape = |record| {
                let wanted = assessor.assess(&encode::twin(&record)?, now)?;
                engine::carried_out(&record, wanted, now)
            };
            let tell = |id: &str| eprint!("\rfilled up to {id} ");
            twins::fill(&store, arguments.twins, now, shape, tell).await?;
            store.close().await;
            let seconds = began.elapsed().as_secs_f64();
            Ok(json!({ "twins": arguments.twins, "seconds": seconds }))
        }
        Which::Service { env_file } => {
            let hub = Hub::read(env_file)?;
            service::run(&hub, &policies, arguments.twins).await
        }
    }
}
