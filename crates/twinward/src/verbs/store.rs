//! `twinward store`: what concerns a store as a whole.

mod reseal;

use clap::Subcommand;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::Output;

/// What can be done with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Encrypt all stored keys anew under the present master key
    Reseal(reseal::ResealArgs),
}

/// Does what was asked for.
pub(crate) async fn run(
    command: StoreCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        StoreCommand::Reseal(args) => reseal::run(&args, connection, output).await,
    }
}
