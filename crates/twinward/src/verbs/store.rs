//! `twinward store`: what concerns a store as a whole.

mod maintain;
mod reseal;

use clap::Subcommand;

use crate::args::Global;
use crate::connection::{Connection, data_dir};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::output::Output;

/// Where `up` keeps the store, below its data directory.
const FOLDER: &str = "twin-store";

/// What can be done with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read everything that a store holds, and say what is damaged
    Verify(maintain::VerifyArgs),
    /// Write everything that a store holds into a file; its service may go on running
    Backup(maintain::BackupArgs),
    /// Fill an empty store from a backup
    Restore(maintain::RestoreArgs),
    /// Encrypt all stored keys anew under the present master key
    Reseal(reseal::ResealArgs),
}

/// Does what was asked for. Only what goes through the service needs to know where that is: a
/// store must be verified and restored when nothing runs.
pub(crate) async fn run(
    command: StoreCommand,
    global: &Global,
    environment: &Environment,
    output: &Output,
) -> Result<(), Failure> {
    let folder = || Ok(data_dir(global, environment)?.join(FOLDER));
    match command {
        StoreCommand::Verify(args) => maintain::verify(&args, folder, output).await,
        StoreCommand::Backup(args) => maintain::backup(&args, folder, output).await,
        StoreCommand::Restore(args) => maintain::restore(&args, folder, output).await,
        StoreCommand::Reseal(args) => {
            let connection = Connection::find(global, environment)?;
            reseal::run(&args, &connection, output).await
        }
    }
}
