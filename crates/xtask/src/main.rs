//! The project's automation: what a newcomer, a developer and the gate run, each as one command.
//!
//! It starts programs and reads files; it holds no product code. `cargo xtask --help` lists what
//! there is.

// Automation talks to a person on a terminal, and reads cargo's environment.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

mod bench;
mod demo;
mod fuzz;
mod hub;
mod programs;
mod step;
mod test;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Automation of the Twinward workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetches the pinned helper programs into target/tools, unless good ones are there.
    Tools(tools::Arguments),
    /// Runs every check and every test: what the gate runs.
    Test(test::Arguments),
    /// Shows the whole loop live on this machine.
    Demo(demo::Arguments),
    /// Measures on this machine.
    Bench(bench::Arguments),
    /// Sends odd requests to a real hub.
    Fuzz(fuzz::Arguments),
    /// Becomes a program that ends with its parent; for `demo` itself.
    #[command(hide = true)]
    Guard(demo::guard::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Tools(arguments) => tools::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Guard(arguments) => demo::guard::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
