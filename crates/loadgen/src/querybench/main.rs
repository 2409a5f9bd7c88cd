//! `twinward-querybench`: how long queries over many twins take, on either store.
//!
//! It fills a store of its own through the port, as the service does, and then asks through the query
//! service's own code; only gRPC is left out. It judges nothing: numbers go to standard output.

// It talks to a person on a terminal, or to the program that started it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod questions;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use jiff::Timestamp;
use loadgen::twins;
use serde_json::{Value, json};
use service_kit::clock::SystemClock;
use testkit::postgres::{PostgresOptions, PostgresServer};
use twin_store::grpc::query::Queries;
use twin_store::store::Store;
use twin_store::store::postgres::{PostgresSettings, PostgresStore};
use twin_store::store::sqlite::SqliteStore;
use wire::twin::v1::{ExplainQueryRequest, QueryTwinsRequest};

use questions::Question;

/// A question is not asked more often than this.
const RUNS_MAX: u32 = 500;
/// Nor longer than this, once it was asked three times.
const ASKED_WITHIN: Duration = Duration::from_secs(4);
/// How often at least.
const RUNS_MIN: u32 = 3;
/// Connections to PostgreSQL.
const CONNECTIONS: u16 = 4;
/// As an administrator would set a server of this machine's size; what makes writes durable stays.
const POSTGRES_SETTINGS: &str = "shared_buffers = 2GB
max_wal_size = 8GB
checkpoint_timeout = 15min
effective_cache_size = 12GB
";

/// Measures queries over many twins.
#[derive(Debug, Parser)]
struct Arguments {
    /// Devices in the store
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    twins: u32,
    /// Which store
    #[arg(long, value_enum, default_value_t = Which::Sqlite)]
    store: Which,
    /// Directory for the embedded store; must exist and be empty
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// The embedded one
    Sqlite,
    /// The shared one, on a PostgreSQL server started for this
    Postgres,
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
            eprintln!("twinward-querybench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Value> {
    let clock = SystemClock::shared();
    match arguments.store {
        Which::Sqlite => {
            let store = SqliteStore::open(&arguments.data_dir)?;
            measure(Arc::new(store), arguments, clock.now()).await
        }
        Which::Postgres => {
            let server = PostgresServer::start_with(PostgresOptions {
                extra: POSTGRES_SETTINGS.to_owned(),
                ..PostgresOptions::default()
            })
            .await;
            let database = server.database().await;
            let store = PostgresStore::open(&PostgresSettings {
                connections: CONNECTIONS,
                ..PostgresSettings::at(database.url())
            })
            .await?;
            let store = Arc::new(store);
            twins::fill(store.as_ref(), arguments.twins, clock.now(), Ok, tell).await?;
            database.execute("VACUUM ANALYZE").await;
            ask_all(store, arguments, clock.now()).await
        }
    }
}

async fn measure(store: Arc<dyn Store>, arguments: &Arguments, now: Timestamp) -> Result<Value> {
    let began = Instant::now();
    twins::fill(store.as_ref(), arguments.twins, now, Ok, tell).await?;
    eprintln!("filled in {:.0} s", began.elapsed().as_secs_f64());
    ask_all(store, arguments, now).await
}

/// How far the store is filled.
fn tell(id: &str) {
    eprint!("\rfilled up to {id} ");
}

async fn ask_all(store: Arc<dyn Store>, arguments: &Arguments, now: Timestamp) -> Result<Value> {
    let mut answers = Vec::new();
    for question in questions::all(arguments.twins) {
        let answer = ask(store.as_ref(), &question, now)
            .await
            .with_context(|| question.name.to_owned())?;
        eprintln!("{answer}");
        answers.push(answer);
    }
    store.close().await;
    Ok(json!({ "twins": arguments.twins, "questions": answers }))
}

/// Asks a question again and again, each time with other values.
async fn ask(store: &dyn Store, question: &Question, now: Timestamp) -> Result<Value> {
    let queries = Queries { store, now };
    let mut histogram: Histogram<u64> = Histogram::new(3)?;
    let began = Instant::now();
    let (mut runs, mut rows) = (0, 0);
    while runs < RUNS_MIN || (runs < RUNS_MAX && began.elapsed() < ASKED_WITHIN) {
        let request = QueryTwinsRequest {
            query: (question.text)(runs),
            page_size: question.page_size,
            page_token: String::new(),
        };
        let asked = Instant::now();
        let answer = queries.query(request).await?;
        let took = asked.elapsed();
        rows = answer.twins.len() + answer.rows_json.len();
        // The first one warms the connection's cache of pages and statements.
        if runs > 0 {
            histogram.record(u64::try_from(took.as_micros())?)?;
        }
        runs += 1;
    }
    let plan = queries
        .explain(ExplainQueryRequest {
            query: (question.text)(0),
        })
        .await?;
    let milliseconds = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1000.0;
    Ok(json!({
        "name": question.name,
        "query": (question.text)(0),
        "pageSize": question.page_size,
        "runs": histogram.len(),
        "rows": rows,
        "p50": milliseconds(histogram.value_at_quantile(0.5)),
        "p99": milliseconds(histogram.value_at_quantile(0.99)),
        "max": milliseconds(histogram.max()),
        "indexes": plan.indexes,
        "residual": plan.residual_condition,
    }))
}
