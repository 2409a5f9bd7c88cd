//! What people and programs see of an import: what became of each line, and the sum.

use serde::Serialize;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{Format, Output, Paper, View, plural, table};

/// What became of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The identity was made.
    Created,
    /// It existed, and this of it was changed.
    Updated(Vec<&'static str>),
    /// It existed, as the line says.
    Unchanged,
    /// It existed, differed in this, and was left alone.
    Different(Vec<&'static str>),
    /// It could not be made or changed.
    Failed(String),
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self {
            Outcome::Created => "created",
            Outcome::Updated(_) => "updated",
            Outcome::Unchanged => "unchanged",
            Outcome::Different(_) => "different",
            Outcome::Failed(_) => "failed",
        }
    }

    fn words(&self) -> String {
        match self {
            Outcome::Created | Outcome::Unchanged => String::new(),
            Outcome::Updated(what) => what.join(", "),
            Outcome::Different(what) => format!("left alone, differs in {}", what.join(", ")),
            Outcome::Failed(why) => why.clone(),
        }
    }

    fn differences(&self) -> &[&'static str] {
        match self {
            Outcome::Updated(what) | Outcome::Different(what) => what,
            Outcome::Created | Outcome::Unchanged | Outcome::Failed(_) => &[],
        }
    }
}

/// What became of some lines.
#[derive(Debug, Default)]
pub(super) struct Results(Vec<LineResult>);

#[derive(Debug)]
struct LineResult {
    number: u64,
    identity: Option<String>,
    outcome: Outcome,
}

/// The first line of several that failed.
#[derive(Debug)]
pub(super) struct FirstFailure {
    pub(super) number: u64,
    pub(super) why: String,
}

impl Results {
    /// Adds a line.
    pub(super) fn add(&mut self, number: u64, identity: Option<String>, outcome: Outcome) {
        self.0.push(LineResult {
            number,
            identity,
            outcome,
        });
    }

    /// Prints them in the order of the file. People get only what they may want to act on.
    pub(super) fn print(mut self, output: &Output) -> Result<(), Failure> {
        self.0.sort_by_key(|result| result.number);
        for result in &self.0 {
            match (output.format(), &result.outcome) {
                (Format::Table, Outcome::Created | Outcome::Unchanged | Outcome::Updated(_)) => {}
                (Format::Table | Format::Json | Format::Yaml, _) => output.show_next(result)?,
            }
        }
        Ok(())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LineData<'a> {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    differences: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl View for LineResult {
    fn data(&self) -> impl Serialize {
        LineData {
            line: self.number,
            identity: self.identity.as_deref(),
            outcome: self.outcome.name(),
            differences: self.outcome.differences(),
            error: match &self.outcome {
                Outcome::Failed(why) => Some(why),
                Outcome::Created
                | Outcome::Updated(_)
                | Outcome::Unchanged
                | Outcome::Different(_) => None,
            },
        }
    }

    fn text(&self, paper: &Paper) -> String {
        // Whole, however narrow the terminal: this is what somebody has to mend.
        let line = format!(
            "line {}  {}  {}  {}",
            self.number,
            self.identity.as_deref().unwrap_or("-"),
            self.outcome.name(),
            self.outcome.words()
        );
        let line = table::one_line(line.trim_end());
        match self.outcome {
            Outcome::Failed(_) => paper.red(&line) + "\n",
            Outcome::Created | Outcome::Updated(_) | Outcome::Unchanged | Outcome::Different(_) => {
                line + "\n"
            }
        }
    }
}

/// The sum of an import.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    summary: Summary,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    dry_run: bool,
    lines: u64,
    created: u64,
    updated: u64,
    unchanged: u64,
    different: u64,
    failed: u64,
}

impl Report {
    /// Nothing yet.
    pub(super) fn new(dry_run: bool) -> Self {
        Self {
            summary: Summary {
                dry_run,
                ..Summary::default()
            },
        }
    }

    /// Adds results; returns the first failure among them.
    pub(super) fn count(&mut self, results: &Results) -> Option<FirstFailure> {
        let sum = &mut self.summary;
        for result in &results.0 {
            sum.lines += 1;
            *match result.outcome {
                Outcome::Created => &mut sum.created,
                Outcome::Updated(_) => &mut sum.updated,
                Outcome::Unchanged => &mut sum.unchanged,
                Outcome::Different(_) => &mut sum.different,
                Outcome::Failed(_) => &mut sum.failed,
            } += 1;
        }
        let failed = results.0.iter().filter_map(|result| match &result.outcome {
            Outcome::Failed(why) => Some(FirstFailure {
                number: result.number,
                why: match &result.identity {
                    Some(identity) => format!("{identity}: {why}"),
                    None => why.clone(),
                },
            }),
            Outcome::Created | Outcome::Updated(_) | Outcome::Unchanged | Outcome::Different(_) => {
                None
            }
        });
        failed.min_by_key(|failure| failure.number)
    }

    /// Lines done so far.
    pub(super) fn lines(&self) -> u64 {
        self.summary.lines
    }

    /// What did not go as it should, in a few words.
    pub(super) fn troubles(&self) -> String {
        match self.summary.failed {
            0 => String::new(),
            failed => format!("{failed} failed"),
        }
    }

    /// What is said at the end if lines failed.
    pub(super) fn verdict(&self) -> Option<Failure> {
        let sum = &self.summary;
        (sum.failed > 0).then(|| {
            let failed = plural(sum.failed, "line", "lines");
            Failure::new(Kind::Failed, format!("{failed} of {} failed", sum.lines))
        })
    }
}

impl View for Report {
    fn data(&self) -> impl Serialize {
        self
    }

    fn text(&self, _paper: &Paper) -> String {
        let sum = &self.summary;
        let mut words = vec![format!("{} created", sum.created)];
        for (count, what) in [
            (sum.updated, "updated"),
            (sum.unchanged, "unchanged"),
            (sum.different, "different and left alone"),
            (sum.failed, "failed"),
        ] {
            if count > 0 {
                words.push(format!("{count} {what}"));
            }
        }
        let mut text = format!(
            "{}: {}",
            plural(sum.lines, "line", "lines"),
            words.join(", ")
        );
        if sum.dry_run {
            text.push_str("; this was a dry run, nothing was written");
        } else if sum.different > 0 {
            text.push_str("; --on-existing update changes those that differ");
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::{json, text};

    #[test]
    fn results_say_what_to_mend_and_the_sum_says_it_all() {
        let mut results = Results::default();
        let name = |id: &str| Some(id.to_owned());
        results.add(1, name("cam-1"), Outcome::Created);
        results.add(
            4,
            None,
            Outcome::Failed("is not UTF-8\u{1b}[31m".to_owned()),
        );
        results.add(
            3,
            name("cam-3"),
            Outcome::Failed("exists already".to_owned()),
        );
        results.add(
            2,
            name("cam-2"),
            Outcome::Different(vec!["tags", "desired"]),
        );
        let mut report = Report::new(false);
        let first = report.count(&results).unwrap();
        assert_eq!(
            (first.number, first.why.as_str()),
            (3, "cam-3: exists already")
        );
        let lines: String = results.0.iter().map(text).collect();
        insta::assert_snapshot!("lines", lines);
        let lines: String = results.0.iter().map(json).collect();
        insta::assert_snapshot!("lines_json", lines);
        insta::assert_snapshot!("report", text(&report));
        insta::assert_snapshot!("report_json", json(&report));
        assert!(
            report
                .verdict()
                .unwrap()
                .render()
                .contains("2 lines of 4 failed")
        );
        assert!(text(&Report::new(true)).contains("nothing was written"));
    }
}
