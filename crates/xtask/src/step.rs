//! One named, timed step of a longer command.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// Runs a step, saying what runs, and afterwards how long it took.
pub(crate) fn step(name: &str, work: impl FnOnce() -> Result<Done>) -> Result<()> {
    println!("==> {name}");
    let started = Instant::now();
    let outcome = work();
    let seconds = started.elapsed().as_secs_f64();
    match &outcome {
        Ok(Done::Passed) => println!("    {name}: ok, {seconds:.1} s"),
        Ok(Done::Skipped(why)) => println!("    {name}: skipped, {why}"),
        Err(_) => println!("    {name}: FAILED, {seconds:.1} s"),
    }
    outcome
        .map(|_| ())
        .with_context(|| format!("step {name} failed"))
}

/// How a step that did not fail ended.
#[derive(Debug)]
pub(crate) enum Done {
    /// It ran and found nothing wrong.
    Passed,
    /// It did not run; the text says why that is all right.
    Skipped(String),
}

/// Runs a program to its end with our terminal; not succeeding is an error.
pub(crate) fn succeed(command: &mut Command) -> Result<Done> {
    let program = command.get_program().display().to_string();
    let status = command
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(Done::Passed)
}
