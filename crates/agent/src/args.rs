//! The command line of `twinward-agent`. Every option may be given as an environment variable, too.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use service_kit::secret::Secret;
use service_kit::units::Duration;

use crate::spool;

/// How to begin, and what the exit codes mean.
const HELP: &str = "\
Examples:
  twinward-agent run --connection-string-file agent.key --ca-file ca.pem
  twinward-agent enroll --server https://hub:8420 --ca-file ca.pem --device-id cam-1 \\
      --enrollment-token TOKEN
  twinward-agent status -o json

Exit codes, the same as `twinward --help` lists:
  0   stopped as told, or done
  1   a part of the agent failed, for instance its spool
  2   the command line is wrong, or lacks an identity, a server or a data directory
  4   another agent uses the data directory
  5   the connection string or the way to the server cannot be used
  6   the service could not be reached for the enrolment; try again
  7   the enrolment was refused
  130, 143  a second SIGINT or SIGTERM cut the stop short";

/// Watches this machine for its security twin.
#[derive(Debug, Parser)]
#[command(name = "twinward-agent", version, about, after_help = HELP)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the agent can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Collects and streams until told to stop. Enrols first if it must and may.
    Run(RunArguments),
    /// Exchanges an enrolment token for a key, keeps it in the data directory, and ends.
    Enroll(EnrollArguments),
    /// Says who this agent is, which configuration it follows and what waits in its spool.
    Status(StatusArguments),
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Where the agent keeps its files.
    #[command(flatten)]
    pub data: DataArguments,
    /// How to reach the service.
    #[command(flatten)]
    pub connection: ConnectionArguments,
    /// The identity's connection string. Prefer a file: other users can see command lines.
    #[arg(
        long,
        value_name = "TEXT",
        env = "TWINWARD_AGENT__CONNECTION_STRING",
        hide_env_values = true,
        value_parser = secret
    )]
    pub connection_string: Option<Secret>,
    /// A file with the identity's connection string, readable by its owner alone. Kept in the data
    /// directory after the first run.
    #[arg(
        long,
        value_name = "FILE",
        env = "TWINWARD_AGENT__CONNECTION_STRING_FILE",
        conflicts_with = "connection_string"
    )]
    pub connection_string_file: Option<PathBuf>,
    /// Who to enrol as when there is no key yet.
    #[command(flatten)]
    pub enrollment: EnrollmentArguments,
    /// Bytes of events kept while the service cannot be reached; over it the oldest of the lowest
    /// priority go and are counted.
    #[arg(
        long,
        value_name = "BYTES",
        env = "TWINWARD_AGENT__SPOOL_MAX_BYTES",
        default_value_t = spool::Options::BYTES_MAX_DEFAULT,
        value_parser = clap::value_parser!(u64).range(65_536..)
    )]
    pub spool_max_bytes: u64,
    /// After a new configuration, the service may be out of reach for so long, for instance `30s` or
    /// `10m`; then the agent goes back to the last good configuration by itself, and says so when it
    /// can. That version is not tried again, only a newer one is. `0s`: never.
    #[arg(
        long,
        value_name = "TIME",
        env = "TWINWARD_AGENT__REVERT_AFTER",
        default_value_t = Duration::secs(300)
    )]
    pub revert_after: Duration,
    /// Watches a machine whose files lie below this directory, for tests.
    #[arg(
        long,
        value_name = "DIR",
        env = "TWINWARD_AGENT__MACHINE_ROOT",
        default_value = "/",
        hide = true
    )]
    pub machine_root: PathBuf,
    /// What to log.
    #[command(flatten)]
    pub log: LogArguments,
}

/// Options of `enroll`.
#[derive(Debug, Args)]
pub struct EnrollArguments {
    /// Where the agent keeps its files.
    #[command(flatten)]
    pub data: DataArguments,
    /// How to reach the service.
    #[command(flatten)]
    pub connection: ConnectionArguments,
    /// Who to enrol as.
    #[command(flatten)]
    pub enrollment: EnrollmentArguments,
    /// What to log.
    #[command(flatten)]
    pub log: LogArguments,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Where the agent keeps its files.
    #[command(flatten)]
    pub data: DataArguments,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
}

/// How `status` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where the agent keeps its files.
#[derive(Debug, Args)]
pub struct DataArguments {
    /// Directory of the key, the last good configuration and the spool. Default: for root
    /// `/var/lib/twinward-agent`, for others `twinward-agent` below `$XDG_STATE_HOME` or
    /// `~/.local/state`.
    #[arg(long, value_name = "DIR", env = "TWINWARD_AGENT__DATA_DIR")]
    pub data_dir: Option<PathBuf>,
}

/// How to reach the service.
#[derive(Debug, Args)]
pub struct ConnectionArguments {
    /// URL of the service's door for agents: `https://host:port`, or `http://` on this machine.
    /// Default: `https://` and the host name of the connection string.
    #[arg(long, value_name = "URL", env = "TWINWARD_AGENT__SERVER")]
    pub server: Option<String>,
    /// PEM file with the authorities that sign the service's certificate. Needed for https.
    #[arg(long, value_name = "FILE", env = "TWINWARD_AGENT__CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// Allows http to another machine, where anybody on the way can read and change everything.
    #[arg(long, env = "TWINWARD_AGENT__ALLOW_INSECURE")]
    pub allow_insecure: bool,
}

/// Who to enrol as.
#[derive(Debug, Args)]
pub struct EnrollmentArguments {
    /// The secret that `twinward enrollment create` printed.
    #[arg(
        long,
        value_name = "TEXT",
        env = "TWINWARD_AGENT__ENROLLMENT_TOKEN",
        hide_env_values = true,
        value_parser = secret
    )]
    pub enrollment_token: Option<Secret>,
    /// The device id to ask for. Default: this machine's host name.
    #[arg(long, value_name = "ID", env = "TWINWARD_AGENT__DEVICE_ID")]
    pub device_id: Option<String>,
}

/// What to log.
#[derive(Debug, Args)]
pub struct LogArguments {
    /// What to log, in the form of `RUST_LOG`: `info`, `debug`, `info,agent=debug`.
    #[arg(
        long,
        value_name = "FILTER",
        env = "TWINWARD_AGENT__LOG_FILTER",
        default_value = "info"
    )]
    pub log_filter: String,
    /// How log lines look.
    #[arg(long, value_enum, env = "TWINWARD_AGENT__LOG_FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// gRPC endpoint of an OTLP collector for traces: `http://host:4317`. Default: none.
    #[arg(long, value_name = "URL", env = "TWINWARD_AGENT__OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[expect(clippy::unnecessary_wraps, reason = "clap's parsers are fallible")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_examples_of_the_help_are_command_lines() {
        let help = HELP.replace("\\\n", " ");
        let examples: Vec<_> = help
            .lines()
            .filter(|line| line.starts_with("  twinward-agent "))
            .collect();
        assert_eq!(examples.len(), 3);
        for example in examples {
            let parsed = Arguments::try_parse_from(example.split_whitespace());
            assert!(parsed.is_ok(), "{example}: {:?}", parsed.err());
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let arguments =
            Arguments::parse_from(["twinward-agent", "run", "--enrollment-token", "hunter2"]);
        assert!(!format!("{arguments:?}").contains("hunter2"));
    }

    #[test]
    fn one_connection_string_is_enough() {
        let both = [
            "twinward-agent",
            "run",
            "--connection-string=a",
            "--connection-string-file=b",
        ];
        assert!(Arguments::try_parse_from(both).is_err());
    }
}
