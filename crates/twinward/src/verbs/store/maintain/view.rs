//! What people and programs see of a check, a backup and a restore.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use twin_store::store::maintain::{Finding, Report, Restored, Table};

use crate::output::{Paper, View, plural, table};

/// Findings that people see; programs get all that are listed.
const FINDINGS_MAX: usize = 50;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportData<'a> {
    sound: bool,
    rows: BTreeMap<&'static str, u64>,
    /// How much is wrong; `findings` lists the first thousand.
    found: u64,
    findings: Vec<FindingData<'a>>,
    /// Tables that break off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    incomplete: Vec<&'static str>,
}

#[derive(Serialize)]
struct FindingData<'a> {
    table: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    problem: &'a str,
}

fn data(report: &Report) -> ReportData<'_> {
    ReportData {
        sound: report.is_sound(),
        rows: rows(report),
        found: report.found,
        findings: report.findings.iter().map(finding).collect(),
        incomplete: report.incomplete.iter().map(|table| table.name()).collect(),
    }
}

fn rows(report: &Report) -> BTreeMap<&'static str, u64> {
    let rows = report.rows.iter();
    rows.map(|(table, rows)| (table.name(), *rows)).collect()
}

fn finding(finding: &Finding) -> FindingData<'_> {
    FindingData {
        table: finding.table.map(Table::name),
        key: &finding.key,
        problem: &finding.problem,
    }
}

/// A check.
pub(super) struct Verified<'a>(pub(super) &'a Report);

impl View for Verified<'_> {
    fn data(&self) -> impl Serialize {
        data(self.0)
    }

    fn text(&self, paper: &Paper) -> String {
        let report = self.0;
        let mut per_table: BTreeMap<Option<Table>, u64> = BTreeMap::new();
        for finding in &report.findings {
            *per_table.entry(finding.table).or_default() += 1;
        }
        let lines = report.rows.iter().map(|(table, rows)| {
            let wrong = per_table.get(&Some(*table)).copied().unwrap_or(0);
            let state = match wrong {
                0 => "sound".to_owned(),
                wrong => format!("{wrong} wrong"),
            };
            vec![table.name().to_owned(), rows.to_string(), state]
        });
        let mut text = table::table(paper, &["TABLE", "ROWS", "STATE"], lines.collect());
        if report.is_sound() {
            text.push_str(&paper.green("sound"));
            text.push('\n');
            return text;
        }
        text.push_str(&paper.red(&plural(report.found, "problem", "problems")));
        text.push('\n');
        for finding in report.findings.iter().take(FINDINGS_MAX) {
            // Whole, however narrow the terminal: somebody has to look for it.
            let _ = writeln!(text, "  {}", table::one_line(&finding.to_string()));
        }
        if report.findings.len() > FINDINGS_MAX {
            let _ = writeln!(text, "  and more; -o json lists them");
        }
        text
    }
}

/// A backup.
pub(super) struct BackedUp<'a>(pub(super) &'a Report);

impl View for BackedUp<'_> {
    fn data(&self) -> impl Serialize {
        data(self.0)
    }

    fn text(&self, _paper: &Paper) -> String {
        format!("backed up {}\n", words(self.0))
    }
}

/// A restore.
pub(super) struct RestoredView<'a>(pub(super) &'a Restored);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RestoredData<'a> {
    backup_time: String,
    program: &'a str,
    kind: &'a str,
    /// Revisions of twins that are missing.
    orphans: u64,
    added: AddedData,
    #[serde(flatten)]
    report: ReportData<'a>,
}

/// What the restore added to the rows of the backup.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AddedData {
    history: u64,
    audit: u64,
}

impl View for RestoredView<'_> {
    fn data(&self) -> impl Serialize {
        let header = &self.0.header;
        RestoredData {
            backup_time: header.made_at.to_string(),
            program: &header.program,
            kind: &header.kind,
            orphans: self.0.orphans,
            added: AddedData {
                history: self.0.added.revisions,
                audit: self.0.added.audit_entries,
            },
            report: data(&self.0.report),
        }
    }

    fn text(&self, _paper: &Paper) -> String {
        let header = &self.0.header;
        format!(
            "restored {}, as of {:.0}, from a {} store\nadded {} and {} that say so\n",
            words(&self.0.report),
            header.made_at,
            header.kind,
            plural(self.0.added.revisions, "revision", "revisions"),
            plural(self.0.added.audit_entries, "audit entry", "audit entries"),
        )
    }
}

fn words(report: &Report) -> String {
    let of = |table| report.rows.get(&table).copied().unwrap_or(0);
    format!(
        "{}, {}, {}",
        plural(of(Table::Twins), "twin", "twins"),
        plural(of(Table::History), "revision", "revisions"),
        plural(of(Table::Audit), "audit entry", "audit entries")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::{json, text};

    fn report() -> Report {
        Report {
            rows: [
                (Table::Twins, 1200),
                (Table::History, 5000),
                (Table::Audit, 1),
            ]
            .into(),
            ..Report::default()
        }
    }

    #[test]
    fn a_sound_store_says_so() {
        insta::assert_snapshot!("sound", text(&Verified(&report())));
        insta::assert_snapshot!("backed_up", text(&BackedUp(&report())));
    }

    #[test]
    fn a_damaged_store_says_where() {
        let mut report = report();
        report.found = 2;
        report.findings = vec![
            Finding {
                table: Some(Table::Twins),
                key: "cam-1/lens".to_owned(),
                problem: "the checksum is another\u{1b}[31m".to_owned(),
            },
            Finding {
                table: None,
                key: String::new(),
                problem: "row 3 missing from index".to_owned(),
            },
        ];
        insta::assert_snapshot!("damaged", text(&Verified(&report)));
        insta::assert_snapshot!("damaged_json", json(&Verified(&report)));
    }
}
