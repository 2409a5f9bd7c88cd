//! The program `twinward`: every service, all of them together, and the operator's command line.
//!
//! The only crate that knows all services; they do not know each other. `up` puts them into one
//! process, where they still talk gRPC and NATS as they would across machines. Nothing is decided
//! here that a service decides.
//!
//! Reading order: `args` (what can be asked for) → `connection` (where the services are) →
//! `verbs` (each a file) → `output` and `failure` (what people read) → `serve` (one
//! service) → `up` (everything).

mod args;
mod certs;
mod connection;
mod credentials;
pub mod env_file;
pub mod environment;
pub mod exit;
mod failpoint;
pub mod failure;
mod files;
mod identity_args;
mod object;
mod os_user;
mod output;
mod patience;
pub mod private_file;
mod probe;
mod serve;
mod service;
mod up;
mod verbs;
mod when;
mod whole_file;

use std::ffi::OsString;
use std::process::ExitCode;

use service_kit::clock::{Clock as _, SystemClock};

use crate::args::{Cli, Command, Global};
use crate::connection::Connection;
use crate::environment::Environment;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::Output;

/// Does what the command line asks for; the exit code says how it went.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(code) = up::guard::main(&arguments) {
        return code;
    }
    let cli = match Cli::read(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Clap knows where its text belongs; if that is closed nobody reads it anyway.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Kind::Usage.code()));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::say(&failure.render());
            failure.kind().into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let environment = Environment::read();
    let runtime = |threads: Threads| {
        let mut builder = match threads {
            Threads::One => tokio::runtime::Builder::new_current_thread(),
            Threads::All => tokio::runtime::Builder::new_multi_thread(),
        };
        builder.enable_all().build().map_err(|error| {
            Failure::new(Kind::Failed, "cannot start the asynchronous runtime").because(error)
        })
    };
    match cli.command {
        Command::Completions(args) => verbs::completions::run(&args),
        Command::Up(args) => {
            runtime(Threads::All)?.block_on(up::run(args, &cli.global, &environment))
        }
        Command::Ingestion(args) => {
            runtime(Threads::All)?.block_on(serve::run::<ingestion::App>(args))
        }
        Command::TwinStore(args) => {
            runtime(Threads::All)?.block_on(serve::run::<twin_store::App>(args))
        }
        Command::Gateway(args) => runtime(Threads::All)?.block_on(serve::run::<gateway::App>(args)),
        Command::Policy(args) if args.command.is_none() => {
            runtime(Threads::All)?.block_on(serve::run::<policy::App>(args.service))
        }
        command => runtime(Threads::One)?.block_on(ask(command, &cli.global, &environment)),
    }
}

/// What a command needs of the machine.
enum Threads {
    /// It asks and waits.
    One,
    /// It serves.
    All,
}

/// Runs a verb that asks services.
async fn ask(command: Command, global: &Global, environment: &Environment) -> Result<(), Failure> {
    if let Command::Probe(args) = &command {
        return verbs::probe::run(args, global.timeout.get()).await;
    }
    let output = Output::new(global.output, environment, SystemClock.now());
    let command = match command {
        Command::Store(command) => {
            return verbs::store::run(command, global, environment, &output).await;
        }
        Command::Certs(command) => return verbs::certs::run(command, &output),
        Command::AccessPolicy(command) => {
            let data_dir = || connection::data_dir(global, environment);
            return verbs::access_policy::run(command, data_dir, &output);
        }
        command => command,
    };
    let connection = Connection::find(global, environment)?;
    match command {
        Command::Status(args) => verbs::status::run(&args, &connection, &output).await,
        Command::Device(command) => verbs::device::run(command, &connection, &output).await,
        Command::Module(command) => verbs::module::run(command, &connection, &output).await,
        Command::Enrollment(command) => verbs::enrollment::run(command, &connection, &output).await,
        Command::Provisioning(command) => {
            verbs::provisioning::run(command, &connection, &output).await
        }
        Command::Twin(command) => verbs::twin::run(command, &connection, &output).await,
        Command::Query(args) => verbs::query::run(&args, &connection, &output).await,
        Command::Watch(args) => verbs::twin::watch::run(args, &connection, &output).await,
        Command::Bulk(command) => verbs::bulk::run(command, &connection, &output).await,
        Command::Operation(command) => verbs::operation::run(command, &connection, &output).await,
        Command::Audit(command) => verbs::audit::run(command, &connection, &output).await,
        Command::Policy(args) => match args.command {
            Some(command) => verbs::policy::run(command, &connection, &output).await,
            None => Ok(()),
        },
        Command::Rollout(command) => verbs::rollout::run(command, &connection, &output).await,
        Command::Guard(command) => verbs::guard::run(command, &connection, &output).await,
        Command::Configuration(command) => {
            verbs::configuration::run(command, &connection, &output).await
        }
        Command::Probe(_)
        | Command::Store(_)
        | Command::AccessPolicy(_)
        | Command::Certs(_)
        | Command::Up(_)
        | Command::Ingestion(_)
        | Command::Gateway(_)
        | Command::TwinStore(_)
        | Command::Completions(_) => Ok(()),
    }
}
