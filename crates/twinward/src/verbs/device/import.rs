//! `twinward device import`: creates or updates identities from a file, a hundred a call.
//!
//! Lines are read one by one and never all held; what comes before a line that is wrong is done
//! when the import stops there. Repeating an import is harmless: what exists is compared.

mod batch;
mod existing;
mod reader;
mod view;

use std::collections::HashMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::line::{Item, parse};
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::Output;
use crate::output::progress::Progress;

use batch::Batch;
use reader::{Read, Reader};
use view::{Outcome, Report, Results};

/// Identities in one call; the service takes no more.
const BATCH_MAX: usize = 100;
/// Bytes of documents in one call: far below what a gRPC server takes.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Arguments of `device import`.
#[derive(Debug, Args)]
#[command(
    after_help = "A line is a JSON object; `device export` writes such files, and IoT Hub's own \
    export can be read:\n\n  \
    {\"deviceId\": \"cam-1\", \"tags\": {\"site\": \"hall-3\"}, \
    \"properties\": {\"desired\": {\"a\": 1}}}\n  \
    {\"deviceId\": \"cam-1\", \"moduleId\": \"lens\"}\n\n\
    Only deviceId is needed. With -o json every line's result is a JSON object on a line of its \
    own,\nand the last one is the summary.\n\nExamples:\n  \
    twinward device import fleet.ndjson --dry-run --continue-on-error\n  \
    twinward device import fleet.ndjson --on-existing update\n  \
    twinward device export - | twinward --data-dir OTHER device import -"
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(crate) struct ImportArgs {
    /// File with one identity a line; - reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What to do about an identity that exists and differs from its line
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    on_existing: OnExisting,
    /// Take the keys of the file over; without it they are left out, and new ones are made
    #[arg(long)]
    with_keys: bool,
    /// Also create the security module of every device that is created
    #[arg(long)]
    security_modules: bool,
    /// Go on behind lines that fail; exits with 1 if there were any
    #[arg(long)]
    continue_on_error: bool,
    /// Check everything and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Who changes it, for the twins' metadata [default: your user name]
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
}

/// What to do about an identity that exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnExisting {
    /// Leave it alone, and say what differs
    #[default]
    Skip,
    /// Make it what the line says
    Update,
    /// Count it as a failure, whether it differs or not
    Fail,
}

/// What holds for all batches.
struct Settings {
    on_existing: OnExisting,
    with_keys: bool,
    security_modules: bool,
    dry_run: bool,
    operator: String,
}

/// Does what was asked for.
pub(super) async fn run(
    args: ImportArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut reader = Reader::open(&args.file)?;
    let total = reader.count()?;
    let operator = args
        .operator
        .unwrap_or_else(|| connection.operator().to_owned());
    let mut import = Import {
        connection,
        output,
        settings: Settings {
            on_existing: args.on_existing,
            with_keys: args.with_keys,
            security_modules: args.security_modules,
            dry_run: args.dry_run,
            operator,
        },
        progress: Progress::begin("importing", total, output.format()),
        total,
        seen: HashMap::new(),
        waiting: Vec::new(),
        waiting_bytes: 0,
        report: Report::new(args.dry_run),
        keys_left_out: false,
        stop: if args.continue_on_error {
            Stop::AtTheEnd
        } else {
            Stop::AtTheFirstFailure
        },
    };
    let result = import.all(&mut reader).await;
    import.finish(result)
}

/// When failures end an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    AtTheFirstFailure,
    AtTheEnd,
}

struct Import<'a> {
    connection: &'a Connection,
    output: &'a Output,
    settings: Settings,
    progress: Progress,
    total: Option<u64>,
    /// The line on which an identity was: naming one twice is a mistake, and which of the two
    /// counts would be chance.
    seen: HashMap<String, u64>,
    waiting: Vec<Item>,
    waiting_bytes: usize,
    report: Report,
    keys_left_out: bool,
    stop: Stop,
}

impl Import<'_> {
    async fn all(&mut self, reader: &mut Reader) -> Result<(), Failure> {
        while let Some(read) = reader.next()? {
            match read {
                Read::Line { number, text } => self.line(number, &text).await?,
                Read::Unreadable { number, problem } => self.wrong(number, None, problem).await?,
            }
        }
        self.flush().await
    }

    async fn line(&mut self, number: u64, text: &str) -> Result<(), Failure> {
        let item = match parse(number, text) {
            Ok(item) => item,
            Err(problem) => return self.wrong(number, None, problem).await,
        };
        let name = item.key.to_string();
        if let Some(first) = self.seen.get(&name) {
            let problem = format!("line {first} has this identity already");
            return self.wrong(number, Some(name), problem).await;
        }
        self.seen.insert(name, number);
        if item.line.has_keys() && !self.settings.with_keys && !self.keys_left_out {
            self.keys_left_out = true;
            self.progress.say(
                "the file holds keys, which are left out: what is created gets new ones \
                 (--with-keys takes them over)",
            );
        }
        self.waiting_bytes += text.len();
        self.waiting.push(item);
        if self.waiting.len() >= BATCH_MAX || self.waiting_bytes >= BATCH_BYTES_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    /// A line that cannot be sent: what is before it goes first, so that results are in order.
    async fn wrong(
        &mut self,
        number: u64,
        identity: Option<String>,
        problem: String,
    ) -> Result<(), Failure> {
        self.flush().await?;
        let mut results = Results::default();
        results.add(number, identity, Outcome::Failed(problem));
        self.tell(results)
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let items = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let mut batch = Batch {
            connection: self.connection,
            settings: &self.settings,
            seen: &self.seen,
            results: Results::default(),
        };
        let done = batch.run(&items).await;
        let results = batch.results;
        self.tell(results)?;
        done
    }

    /// Prints results, and stops if that is wanted.
    fn tell(&mut self, results: Results) -> Result<(), Failure> {
        let output = self.output;
        let failures = self.report.count(&results);
        self.progress.beside(|| results.print(output))?;
        self.progress
            .at(self.report.lines(), self.total, &self.report.troubles());
        match (self.stop, failures) {
            (Stop::AtTheFirstFailure, Some(first)) => {
                let what = format!("stopped at line {}", first.number);
                Err(Failure::new(Kind::Failed, what).because(first.why).advise(
                    "what came before it is done, and repeating the import is harmless; \
                         --continue-on-error goes on behind such lines",
                ))
            }
            (Stop::AtTheFirstFailure | Stop::AtTheEnd, _) => Ok(()),
        }
    }

    /// Says what was done, whatever ended it.
    fn finish(self, result: Result<(), Failure>) -> Result<(), Failure> {
        drop(self.progress);
        self.output.show_next(&self.report)?;
        result?;
        self.report.verdict().map_or(Ok(()), Err)
    }
}
