//! Where the rows of a statement come from, and what is known of their keys.

use super::Prepared;
use super::conjunct::{Probes, Serving};
use super::entries::{entries_condition, one_probe};
use super::fragment::{Builder, Dialect, Document};
use crate::store::Source;
use crate::store::row::module_text;

/// Values of an index that are followed side by side, in the order of keys. With more, the keys are
/// gathered and sorted first.
const ARMS_MAX: usize = 16;

/// What a statement answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Rows,
    Count,
}

/// What leads to the rows.
#[derive(Clone, Copy)]
pub(super) enum Leader<'p> {
    /// The rows themselves, or their primary key.
    Rows,
    /// Entries of the index; the number is that of the conjunct they decide.
    Index(Option<usize>, &'p Probes),
}

impl Leader<'_> {
    /// Whether it is these entries.
    pub(super) fn is(&self, probes: &Probes) -> bool {
        matches!(self, Leader::Index(_, own) if *own == probes)
    }
}

impl Prepared<'_> {
    /// The tables that rows come from. What is known of keys is said where it narrows most.
    pub(super) fn source(
        &self,
        answer: Answer,
        leader: &Leader<'_>,
        needs_rows: bool,
        documents: &[Document],
        outer: &mut Vec<String>,
        sql: &mut Builder,
    ) -> String {
        let mut source = match leader {
            Leader::Rows => {
                outer.extend(self.keys("t", answer, sql));
                "twins AS t".to_owned()
            }
            Leader::Index(_, probes) => {
                // A twin has one value under a path, so none is counted twice.
                let mut paths = probes.values.keys().chain(probes.spans.keys());
                let first = paths.next();
                let is_counted = answer == Answer::Count && paths.all(|path| Some(path) == first);
                let entries = if one_probe(probes) || (is_counted && probes.exact) {
                    outer.push(entries_condition("k", probes, sql));
                    outer.extend(self.keys("k", answer, sql));
                    "twin_index AS k".to_owned()
                } else {
                    self.many_entries(probes, answer, sql)
                };
                match (needs_rows, self.dialect) {
                    (false, _) => entries,
                    // In SQLite the word also says which is the outer loop.
                    (true, Dialect::Sqlite) => format!(
                        "{entries} CROSS JOIN twins AS t \
                         ON t.device_id = k.device_id AND t.module_id = k.module_id"
                    ),
                    (true, Dialect::Postgres) => format!(
                        "{entries} JOIN twins AS t \
                         ON t.device_id = k.device_id AND t.module_id = k.module_id"
                    ),
                }
            }
        };
        let columns = documents.iter().map(|document| document.column());
        if self.dialect == Dialect::Postgres && !documents.is_empty() {
            let parsed: Vec<_> = columns
                .map(|column| {
                    format!("CASE WHEN NOT t.opaque THEN t.{column}::jsonb END AS {column}")
                })
                .collect();
            // OFFSET keeps the planner from parsing a document again for each mention.
            source.push_str(" CROSS JOIN LATERAL (SELECT ");
            source.push_str(&parsed.join(", "));
            source.push_str(" OFFSET 0) AS d");
        }
        source
    }

    /// Keys with any of several entries, each once, in order.
    fn many_entries(&self, probes: &Probes, answer: Answer, sql: &mut Builder) -> String {
        let arms: usize = probes
            .values
            .values()
            .map(std::collections::BTreeSet::len)
            .sum();
        let mut selects = Vec::new();
        for (path, values) in &probes.values {
            let path = sql.plain_text(path);
            let values: Vec<_> = values.iter().map(|value| sql.plain_text(value)).collect();
            let groups = if arms <= ARMS_MAX {
                values
            } else {
                vec![values.join(", ")]
            };
            for values in groups {
                let mut conditions = vec![format!("x.path = {path} AND x.value IN ({values})")];
                conditions.extend(self.keys("x", answer, sql));
                selects.push(format!(
                    "SELECT x.device_id, x.module_id FROM twin_index AS x WHERE {}",
                    conditions.join(" AND ")
                ));
            }
        }
        for (path, spans) in &probes.spans {
            for span in spans {
                let mut conditions = vec![span.condition("x", path, sql)];
                conditions.extend(self.keys("x", answer, sql));
                selects.push(format!(
                    "SELECT x.device_id, x.module_id FROM {} WHERE {}",
                    span.table(self.dialect),
                    conditions.join(" AND ")
                ));
            }
        }
        let together = match selects.as_slice() {
            [] => "SELECT device_id, module_id FROM twins WHERE FALSE".to_owned(),
            _ => selects.join(" UNION "),
        };
        match (answer, self.dialect) {
            // The limit, which is none, keeps SQLite from forgetting the order.
            (Answer::Rows, Dialect::Sqlite) => {
                format!("({together} ORDER BY 1, 2 LIMIT -1) AS k")
            }
            (Answer::Rows, Dialect::Postgres) | (Answer::Count, _) => format!("({together}) AS k"),
        }
    }

    /// What is known of keys, whatever is searched for.
    fn keys(&self, alias: &str, answer: Answer, sql: &mut Builder) -> Vec<String> {
        let mut conditions = Vec::new();
        if let (Answer::Rows, Some(after)) = (answer, &self.search.after) {
            let device = sql.plain_text(after.device.as_str());
            let module = sql.plain_text(module_text(after));
            conditions.push(format!(
                "({alias}.device_id, {alias}.module_id) > ({device}, {module})"
            ));
        }
        match self.search.source {
            Source::All => {}
            Source::Devices => conditions.push(format!("{alias}.module_id = ''")),
            Source::Modules => conditions.push(format!("{alias}.module_id <> ''")),
        }
        for conjunct in &self.conjuncts {
            match &conjunct.serving {
                Serving::Devices(ids) if ids.is_empty() => conditions.push("FALSE".to_owned()),
                Serving::Devices(ids) => {
                    let ids: Vec<_> = ids.iter().map(|id| sql.plain_text(id)).collect();
                    conditions.push(format!("{alias}.device_id IN ({})", ids.join(", ")));
                }
                Serving::Prefix(prefix) => {
                    // Ids are ASCII, so every id that begins so comes before the last character.
                    let end = sql.plain_text(&format!("{prefix}\u{10ffff}"));
                    let from = sql.plain_text(prefix);
                    conditions.push(format!("{alias}.device_id >= {from}"));
                    conditions.push(format!("{alias}.device_id < {end}"));
                }
                Serving::Index(_) | Serving::Rows => {}
            }
        }
        conditions
    }
}
