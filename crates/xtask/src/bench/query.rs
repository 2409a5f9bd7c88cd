//! `bench query`: how long queries over a million twins take, on both stores.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::render::Machine;
use crate::demo::guard;
use crate::programs::{self, Profile};
use crate::workspace;

/// Where the numbers are written down.
const DOCUMENT: &str = "docs/benchmarks.md";
/// What is written stands between these.
const BEGIN: &str = "<!-- bench query: begin -->";
const END: &str = "<!-- bench query: end -->";

/// The question that has a bound.
const SELECTIVE: &str = "selective tag, 100 of its twins";

/// Arguments of `bench query`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct QueryArguments {
    /// Devices in the store
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    twins: u32,
    /// Only this store: `sqlite` or `postgres`; both if left out
    #[arg(long, value_name = "STORE", value_parser = ["sqlite", "postgres"])]
    store: Option<String>,
    /// Median that a query by a selective tag may take, in milliseconds; above it the command fails
    #[arg(long, value_name = "MS", default_value_t = 10.0)]
    bound: f64,
    /// Prints one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Writes the numbers to docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

const HELP: &str = "\
Builds with optimisation and fills a store of its own in a directory below target/ (some 5 GB for a
million twins of 3 KiB; PostgreSQL's in the system's temporary directory). Each query is asked again
and again with other values, through the query service's own code without gRPC; the first answer does
not count. \"Without index\" goes through every twin.

It ends with an error if a query by a selective tag takes longer than the bound at the median.";

/// Measures.
pub(super) fn run(arguments: &QueryArguments) -> Result<()> {
    let built = programs::build(Profile::Release, &["loadgen"])?;
    let program = built.get("twinward-querybench")?;
    let stores = match &arguments.store {
        Some(store) => vec![store.as_str()],
        None => vec!["sqlite", "postgres"],
    };
    let mut results = Vec::new();
    for store in stores {
        results.push((store, measure(&program, store, arguments.twins)?));
    }
    let machine = Machine::this();
    let command = format!("cargo xtask bench query --twins {}", arguments.twins);
    if arguments.json {
        let stores: Vec<_> = results
            .iter()
            .map(|(store, result)| json!({ "store": store, "result": result }))
            .collect();
        println!("{}", json!({ "command": command, "stores": stores }));
        return within(&results, arguments.bound);
    }
    let text = text(&machine, &command, &commit(), &results);
    print!("{text}");
    if arguments.write {
        let path = workspace::root().join(DOCUMENT);
        let document = std::fs::read_to_string(&path).context("cannot read the document")?;
        std::fs::write(&path, replaced(&document, &text)?).context("cannot write the document")?;
    }
    within(&results, arguments.bound)
}

/// Fails if a query by a selective tag took longer than that at the median, on any store.
fn within(results: &[(&str, Value)], bound: f64) -> Result<()> {
    for (store, result) in results {
        let p50 = selective(result)
            .and_then(|question| question["p50"].as_f64())
            .with_context(|| format!("{store} was not asked for a selective tag"))?;
        ensure!(
            p50 <= bound,
            "{store}: a query by a selective tag took {p50:.2} ms at the median; \
             {bound} ms are allowed (--bound)"
        );
    }
    Ok(())
}

/// The question that the bound is about.
fn selective(result: &Value) -> Option<&Value> {
    let mut questions = result["questions"].as_array()?.iter();
    questions.find(|question| question["name"] == SELECTIVE)
}

fn measure(program: &Path, store: &str, twins: u32) -> Result<Value> {
    // Not in the system's temporary directory: where that is memory, nothing would be durable.
    let target = workspace::root().join("target");
    std::fs::create_dir_all(&target)?;
    let directory = tempfile::Builder::new()
        .prefix("bench-query-")
        .tempdir_in(&target)?;
    eprintln!("{store}, {twins} twins");
    let output = guard::command(program)
        .arg("--twins")
        .arg(twins.to_string())
        .args(["--store", store, "--data-dir"])
        .arg(directory.path())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start twinward-querybench")?;
    ensure!(
        output.status.success(),
        "twinward-querybench ended with {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("twinward-querybench told no numbers")
}

fn commit() -> String {
    let output = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .current_dir(workspace::root())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Tables as Markdown, which people read on a terminal as well.
fn text(machine: &Machine, command: &str, commit: &str, results: &[(&str, Value)]) -> String {
    let mut out = format!("    {command}\n\n{}; commit {commit}\n", machine.text());
    for (store, result) in results {
        let twins = &result["twins"];
        let _ = write!(
            out,
            "\n{store}, {twins} twins:\n\n\
             | query | rows | p50 | p99 | runs | index |\n| --- | --- | --- | --- | --- | --- |\n"
        );
        for question in result["questions"].as_array().into_iter().flatten() {
            let indexes = question["indexes"].as_array().into_iter().flatten();
            let indexes: Vec<_> = indexes.filter_map(Value::as_str).collect();
            let indexes = if indexes.is_empty() {
                "–".to_owned()
            } else {
                indexes.join(", ")
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {indexes} |",
                question["name"].as_str().unwrap_or_default(),
                question["rows"],
                milliseconds(&question["p50"]),
                milliseconds(&question["p99"]),
                question["runs"],
            );
        }
    }
    for (store, result) in results {
        if let Some(question) = selective(result) {
            let _ = write!(
                out,
                "\n{store}: a query by a selective tag among {} twins, printing 100 of them, takes {} at the \
                 median and {} at p99.\n",
                result["twins"],
                milliseconds(&question["p50"]),
                milliseconds(&question["p99"]),
            );
        }
    }
    out
}

fn milliseconds(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number < 10.0 => format!("{number:.2} ms"),
        Some(number) if number < 1000.0 => format!("{number:.0} ms"),
        Some(number) => format!("{:.1} s", number / 1000.0),
        None => "not measured".to_owned(),
    }
}

/// The document with these numbers in the place of those before.
fn replaced(document: &str, text: &str) -> Result<String> {
    let place = "the document has no place for them";
    let (before, rest) = document.split_once(BEGIN).context(place)?;
    let (_, after) = rest.split_once(END).context(place)?;
    Ok(format!("{before}{BEGIN}\n{text}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_the_place_of_those_before() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replaced(&document, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(replaced("a", "new").is_err());
    }

    #[test]
    fn a_median_above_the_bound_fails() {
        let result = |p50: f64| json!({"questions": [{"name": SELECTIVE, "p50": p50}]});
        assert!(within(&[("sqlite", result(10.0))], 10.0).is_ok());
        let results = [("sqlite", result(1.0)), ("postgres", result(10.5))];
        let error = within(&results, 10.0).unwrap_err().to_string();
        assert!(
            error.starts_with("postgres: ") && error.contains("10.50 ms"),
            "{error}"
        );
        assert!(within(&[("sqlite", json!({"questions": []}))], 10.0).is_err());
    }

    #[test]
    fn every_question_has_a_line() {
        let result = json!({"twins": 10, "questions": [
            {"name": "one", "rows": 3, "p50": 0.5, "p99": 20.0, "runs": 7, "indexes": ["i"]},
            {"name": "two", "rows": 0, "p50": 1500.0, "p99": 2500.0, "runs": 2, "indexes": []},
        ]});
        let text = text(
            &Machine::this(),
            "the command",
            "abc",
            &[("sqlite", result)],
        );
        assert!(
            text.contains("| one | 3 | 0.50 ms | 20 ms | 7 | i |"),
            "{text}"
        );
        assert!(
            text.contains("| two | 0 | 1.5 s | 2.5 s | 2 | – |"),
            "{text}"
        );
        assert!(text.contains("commit abc"));
    }
}
