//! `twinward-agent`: watches this machine for its security twin.

use std::process::ExitCode;

use agent::args::Arguments;
use clap::Parser;

fn main() -> ExitCode {
    agent::app::main(Arguments::parse())
}
