//! `twinward probe`: whether one service is ready, for the health checks of containers, whose
//! image has no other program to ask with.

use clap::Args;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::probe;

/// Arguments of `probe`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  twinward probe http://127.0.0.1:8431\n\n\
    Exits with 0 when the service is ready, with 1 when it is not, with 6 when nobody answers.")]
pub(crate) struct ProbeArgs {
    /// Address of the service's health and metrics, http://host:port
    #[arg(value_name = "URL")]
    url: String,
}

/// Asks; silence means yes.
pub(crate) async fn run(args: &ProbeArgs, within: std::time::Duration) -> Result<(), Failure> {
    let readiness = probe::readiness(&args.url, within).await.map_err(|error| {
        Failure::new(Kind::Unavailable, format!("cannot ask {}", args.url)).because(error)
    })?;
    if readiness.ready {
        return Ok(());
    }
    let mut failure = Failure::new(Kind::Failed, format!("{} is not ready", args.url));
    for (name, part) in readiness.components {
        failure = failure.detail(format!("{name}: {} {}", part.state, part.reason));
    }
    Err(failure)
}
