//! What people and programs see of the answer to a query: pages of rows, or the plan.

use serde::Serialize;
use serde_json::Value;
use wire::twin::v1 as api;

use super::row::{Row, columns, selected};
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::leaves::{compact, leaves};
use crate::output::{Format, Output, Paper, View, table, time};
use crate::verbs::twin::TwinView;

/// Columns of whole twins, what a narrow terminal may cut off last.
const TWIN_COLUMNS: [&str; 8] = [
    "TWIN",
    "STATUS",
    "CONNECTED",
    "CONFIGURATION",
    "CHANGED",
    "TAGS",
    "DESIRED",
    "REPORTED",
];

/// Prints page after page.
pub(super) struct Printer {
    selected: Vec<String>,
    table: table::Pages,
    rows: u64,
}

impl Printer {
    /// For the rows of this statement.
    pub(super) fn new(query: &str) -> Self {
        Self {
            selected: selected(query),
            table: table::Pages::default(),
            rows: 0,
        }
    }

    /// Prints a page; returns how many rows it had.
    pub(super) fn page(
        &mut self,
        page: api::QueryTwinsResponse,
        output: &Output,
    ) -> Result<u64, Failure> {
        let count = match page.kind() {
            api::RowKind::Raw => self.raw(&page.rows_json, output)?,
            // A page without rows need not say of what it has none.
            api::RowKind::Twin | api::RowKind::Unspecified => self.twins(page.twins, output)?,
        };
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.rows += count;
        Ok(count)
    }

    /// Says so if there was nothing.
    pub(super) fn end(&self, output: &Output) -> Result<(), Failure> {
        match (self.rows, output.format()) {
            (0, Format::Table) => crate::output::write("no rows\n"),
            (_, Format::Table | Format::Json | Format::Yaml) => Ok(()),
        }
    }

    fn twins(&mut self, twins: Vec<api::Twin>, output: &Output) -> Result<usize, Failure> {
        let mut rows = Vec::new();
        let count = twins.len();
        for twin in twins {
            let view = TwinView::read(twin)?;
            match output.format() {
                Format::Table => rows.push(twin_row(&view, output.paper())),
                Format::Json | Format::Yaml => output.show_next(&view)?,
            }
        }
        let text = self.table.next(output.paper(), &TWIN_COLUMNS, rows);
        crate::output::write(&text)?;
        Ok(count)
    }

    fn raw(&mut self, rows_json: &[String], output: &Output) -> Result<usize, Failure> {
        match output.format() {
            Format::Table => {
                let text = raw_table(&mut self.table, &self.selected, rows_json, output.paper())?;
                crate::output::write(&text)?;
            }
            Format::Json | Format::Yaml => {
                for text in rows_json {
                    let row: &serde_json::value::RawValue =
                        serde_json::from_str(text).map_err(|error| damaged(&error))?;
                    match output.format() {
                        // As it came, members in the order in which they were selected.
                        Format::Json => crate::output::write(&format!("{}\n", row.get()))?,
                        Format::Yaml | Format::Table => {
                            let value: Value =
                                serde_json::from_str(text).map_err(|error| damaged(&error))?;
                            output.show_next(&RawRow(value))?;
                        }
                    }
                }
            }
        }
        Ok(rows_json.len())
    }
}

fn raw_table(
    pages: &mut table::Pages,
    selected: &[String],
    rows_json: &[String],
    paper: &Paper,
) -> Result<String, Failure> {
    let mut rows: Vec<Row> = Vec::new();
    for text in rows_json {
        rows.push(serde_json::from_str(text).map_err(|error| damaged(&error))?);
    }
    let columns = columns(selected, &rows);
    let cells = rows.iter().map(|row| {
        let cell = |name: &&str| row.get(name).map(compact).unwrap_or_default();
        columns.iter().map(cell).collect()
    });
    Ok(pages.next(paper, &columns, cells.collect()))
}

fn damaged(error: &serde_json::Error) -> Failure {
    Failure::new(Kind::Internal, "the answer is damaged").because(format!("rows_json: {error}"))
}

fn twin_row(view: &TwinView, paper: &Paper) -> Vec<String> {
    let twin = view.twin();
    let tags: Vec<_> = leaves(view.tags(), &Value::Null)
        .into_iter()
        .map(|leaf| format!("{}={}", leaf.path, leaf.value))
        .collect();
    let connected = match (
        twin.connected,
        time::age(paper.now, twin.last_activity_time),
    ) {
        (true, _) => "yes".to_owned(),
        (false, age) if age.is_empty() => "no".to_owned(),
        (false, age) => format!("no, {age}"),
    };
    let configuration = view.configuration();
    vec![
        twin.name.replace("devices/", "").replace("/modules/", "/"),
        twin.status.clone(),
        connected,
        // The state alone; what it means in full is for `twin get`.
        configuration
            .split([',', ':'])
            .next()
            .unwrap_or_default()
            .to_owned(),
        time::age(paper.now, twin.update_time),
        tags.join(" "),
        twin.desired_version.to_string(),
        twin.reported_version.to_string(),
    ]
}

/// A row for YAML.
struct RawRow(Value);

impl View for RawRow {
    fn data(&self) -> impl Serialize {
        &self.0
    }

    fn text(&self, _paper: &Paper) -> String {
        compact(&self.0) + "\n"
    }
}

/// How a statement is run.
pub(super) struct Explanation(pub(super) api::ExplainQueryResponse);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplanationData<'a> {
    canonical_query: &'a str,
    sql: &'a str,
    compiled_condition: &'a str,
    residual_condition: &'a str,
    indexes: &'a [String],
    plan: &'a [String],
}

impl View for Explanation {
    fn data(&self) -> impl Serialize {
        ExplanationData {
            canonical_query: &self.0.canonical_query,
            sql: &self.0.sql,
            compiled_condition: &self.0.compiled_condition,
            residual_condition: &self.0.residual_condition,
            indexes: &self.0.indexes,
            plan: &self.0.plan,
        }
    }

    fn text(&self, paper: &Paper) -> String {
        let none = |text: &str, words: &str| match text {
            "" => words.to_owned(),
            text => text.to_owned(),
        };
        let indexes = self.0.indexes.join(", ");
        let mut text = String::new();
        for (title, value) in [
            ("Query", self.0.canonical_query.clone()),
            (
                "Decided by the store",
                none(
                    &self.0.compiled_condition,
                    "nothing: it looks at every twin",
                ),
            ),
            (
                "Decided in memory, on what the store finds",
                none(&self.0.residual_condition, "nothing"),
            ),
            ("Indexes", none(&indexes, "none")),
            ("SQL", self.0.sql.clone()),
            ("Plan of the store", self.0.plan.join("\n")),
        ] {
            text.push_str(&paper.bold(title));
            text.push('\n');
            // Whole, however narrow the terminal: a statement that is cut explains nothing.
            for line in value.lines() {
                text.push_str("  ");
                text.push_str(&table::one_line(line));
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests;
