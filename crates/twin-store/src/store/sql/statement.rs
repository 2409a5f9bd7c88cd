//! Whole statements: rows in the order of their keys, counts, estimates.
//!
//! Rows come from `twins AS t`, with PostgreSQL's JSONB in `d`. If an index leads, its entries are
//! `k`, and what is known of keys is said of it.

use super::conjunct::{Probes, Serving};
use super::entries::{all_entries, entries_condition, has_entry, one_probe};
use super::fragment::{Builder, Dialect, Document, Query, joined};
use super::{ESTIMATE_MAX, Prepared};
use crate::index;
use crate::store::Source;
use crate::store::row::module_text;

/// The columns of a row, in the order in which stores read them.
pub(crate) const COLUMNS: &str = "t.device_id, t.module_id, t.revision, t.status, t.tags, \
                                  t.desired, t.reported, t.posture, t.body, t.opaque, t.checksum";
/// Values of an index that are followed side by side, in the order of keys. With more, the keys are
/// gathered and sorted first.
const ARMS_MAX: usize = 16;

/// What a statement answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Rows,
    Count,
}

/// What leads to the rows.
#[derive(Clone, Copy)]
enum Leader<'p> {
    /// The rows themselves, or their primary key.
    Rows,
    /// Entries of the index; the number is that of the conjunct they decide.
    Index(Option<usize>, &'p Probes),
}

impl Prepared<'_> {
    /// Asks how many entries serve each of the conjuncts that an index can serve, up to
    /// [`ESTIMATE_MAX`]; in their order. None if there is nothing to choose from.
    pub(crate) fn estimates(&self) -> Option<Query> {
        let choices = self.choices();
        if choices.len() < 2 {
            return None;
        }
        let mut sql = Builder::new(self.dialect);
        let limit = sql.count(ESTIMATE_MAX);
        let mut counts = Vec::new();
        for (_, probes) in choices {
            let entries = entries_condition("x", probes, &mut sql);
            counts.push(format!(
                "(SELECT count(*) FROM (SELECT 1 FROM twin_index AS x WHERE {entries} \
                 LIMIT {limit}) AS s)"
            ));
        }
        Some(sql.finish(&format!("SELECT {}", counts.join(", ")), Vec::new()))
    }

    /// The statement that finds the rows of a page and those behind it, in the order of their keys.
    /// SQLite's has no limit, because it is stepped through and ends with a readable key.
    pub(crate) fn rows(&self, estimates: &[u64]) -> Query {
        self.select(Answer::Rows, self.leader(estimates))
    }

    /// The statement that counts: rows that the condition holds for, and rows that it could not look
    /// into. None if a part of the condition is residual.
    pub(crate) fn count(&self, estimates: &[u64]) -> Option<Query> {
        if !self.is_decided() {
            return None;
        }
        let everything = all_entries();
        let leader = match self.leader(estimates) {
            Leader::Rows if self.is_served() && !self.has_devices() => self
                .conjuncts
                .iter()
                .enumerate()
                .find_map(|(place, conjunct)| Some(Leader::Index(Some(place), conjunct.probes()?)))
                .unwrap_or(Leader::Index(None, &everything)),
            leader => leader,
        };
        Some(self.select(Answer::Count, leader))
    }

    /// The statement that finds the rows that [`Prepared::count`] could not look into.
    pub(crate) fn undecided(&self, estimates: &[u64]) -> Query {
        self.select_where(Answer::Rows, self.leader(estimates), true)
    }

    /// Whether keys and indexes decide everything.
    fn is_served(&self) -> bool {
        self.conjuncts.iter().all(super::Conjunct::is_served)
    }

    fn has_devices(&self) -> bool {
        let mut conjuncts = self.conjuncts.iter();
        conjuncts.any(|conjunct| matches!(conjunct.serving, Serving::Devices(_)))
    }

    /// The conjuncts that an index may lead for.
    fn choices(&self) -> Vec<(usize, &Probes)> {
        if self.has_devices() {
            return Vec::new();
        }
        let all = self.conjuncts.iter().enumerate();
        all.filter_map(|(place, conjunct)| Some((place, conjunct.probes()?)))
            .filter(|(_, probes)| !probes.is_weak())
            .collect()
    }

    fn leader(&self, estimates: &[u64]) -> Leader<'_> {
        let choices = self.choices();
        let best = (0..choices.len()).min_by_key(|choice| estimates.get(*choice).copied());
        match best.and_then(|best| choices.get(best)) {
            Some((place, probes)) => Leader::Index(Some(*place), probes),
            None => Leader::Rows,
        }
    }

    fn select(&self, answer: Answer, leader: Leader<'_>) -> Query {
        self.select_where(answer, leader, false)
    }

    fn select_where(&self, answer: Answer, leader: Leader<'_>, undecided: bool) -> Query {
        let mut sql = Builder::new(self.dialect);
        let (key, indexes) = self.key_names(&leader);
        let mut outer = Vec::new();
        let mut inside = Vec::new();
        for (place, conjunct) in self.conjuncts.iter().enumerate() {
            let leads = matches!(leader, Leader::Index(Some(own), _) if own == place);
            match &conjunct.serving {
                // Said of the keys, below.
                Serving::Devices(_) | Serving::Prefix(_) => continue,
                Serving::Index(probes) if probes.exact && leads => continue,
                Serving::Index(probes) if probes.exact && !self.is_in_row(probes, answer) => {
                    outer.push(has_entry(key, probes, &mut sql));
                    continue;
                }
                Serving::Index(_) | Serving::Rows => {}
            }
            // What does not compile is residual, and what it has left behind are unused values.
            let before = sql.clone();
            match conjunct.truth(&mut sql) {
                Ok(truth) => inside.push(truth),
                Err(_) => sql = before,
            }
        }
        if self.nothing {
            outer.push("FALSE".to_owned());
        }
        let documents: Vec<_> = sql.take_documents().into_iter().collect();
        let unreadable = unreadable(self.dialect, &documents);
        let holds = joined(&inside, "AND");
        let needs_rows = answer == Answer::Rows || !inside.is_empty();
        let mut filters = Vec::new();
        match (&unreadable, inside.is_empty()) {
            (_, true) => {}
            (None, false) if answer == Answer::Rows => outer.push(holds.clone()),
            (Some(unreadable), false) if answer == Answer::Rows && undecided => {
                outer.push(unreadable.clone());
            }
            (Some(unreadable), false) if answer == Answer::Rows => {
                outer.push(format!("CASE WHEN {unreadable} THEN TRUE ELSE {holds} END"));
            }
            (unreadable, false) => {
                let unreadable = unreadable.as_deref().unwrap_or("FALSE");
                filters.push(format!(
                    "CASE WHEN {unreadable} THEN FALSE ELSE {holds} END"
                ));
                filters.push(unreadable.to_owned());
            }
        }
        if undecided && unreadable.is_none() {
            outer.push("FALSE".to_owned());
        }
        let source = self.source(
            answer, &leader, needs_rows, &documents, &mut outer, &mut sql,
        );
        let condition = if outer.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", outer.join(" AND "))
        };
        let text = match answer {
            Answer::Rows => {
                let order = self.order(key, &leader);
                format!(
                    "SELECT {COLUMNS} FROM {source}{condition}{order}{}",
                    self.limit(&mut sql)
                )
            }
            Answer::Count => {
                let counts: Vec<_> = match filters.as_slice() {
                    [] => vec!["count(*)".to_owned(), "CAST(0 AS BIGINT)".to_owned()],
                    filters => filters
                        .iter()
                        .map(|filter| format!("count(*) FILTER (WHERE {filter})"))
                        .collect(),
                };
                format!("SELECT {} FROM {source}{condition}", counts.join(", "))
            }
        };
        sql.finish(&text, indexes)
    }

    /// Whether the row itself tells as cheaply as the index: it is read anyway.
    fn is_in_row(&self, probes: &Probes, answer: Answer) -> bool {
        let is_status = probes.values.keys().all(|path| path == index::STATUS);
        is_status && (answer == Answer::Rows || !self.is_served())
    }

    /// What the keys of found rows are called, and which indexes serve.
    fn key_names(&self, leader: &Leader<'_>) -> (&'static str, Vec<String>) {
        let mut indexes = Vec::new();
        let key = match leader {
            Leader::Index(_, probes) => {
                let paths = probes.values.keys();
                indexes.extend(paths.map(|path| format!("twin_index ({path})")));
                "k"
            }
            Leader::Rows => "t",
        };
        for conjunct in &self.conjuncts {
            match &conjunct.serving {
                Serving::Devices(_) | Serving::Prefix(_) => {
                    indexes.push("primary key (deviceId)".to_owned());
                }
                Serving::Index(_) | Serving::Rows => {}
            }
        }
        indexes.dedup();
        (key, indexes)
    }

    /// The tables that rows come from. What is known of keys is said where it narrows most.
    fn source(
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
                let is_counted = answer == Answer::Count && probes.values.len() == 1;
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

    fn order(&self, key: &str, leader: &Leader<'_>) -> String {
        match (self.dialect, leader) {
            // The keys come in order, and lead. Told to sort, SQLite would read every row first.
            (Dialect::Sqlite, Leader::Index(_, probes)) if !one_probe(probes) => String::new(),
            _ => format!(" ORDER BY {key}.device_id, {key}.module_id"),
        }
    }

    fn limit(&self, sql: &mut Builder) -> String {
        match self.dialect {
            Dialect::Sqlite => String::new(),
            // One more row tells whether there is a next page.
            Dialect::Postgres => {
                format!(" LIMIT {}", sql.count(self.search.limit.saturating_add(1)))
            }
        }
    }
}

/// Whether a row's documents cannot be looked into; never NULL. A document that is no JSON is found
/// so that it can be named as damaged; PostgreSQL refuses it with an error (see the store).
fn unreadable(dialect: Dialect, documents: &[Document]) -> Option<String> {
    if documents.is_empty() {
        return None;
    }
    Some(match dialect {
        Dialect::Postgres => "t.opaque".to_owned(),
        Dialect::Sqlite => {
            let valid = documents
                .iter()
                .map(|document| format!("json_valid(t.{})", document.column()));
            let valid: Vec<_> = valid.collect();
            format!("(t.opaque OR NOT ({}))", valid.join(" AND "))
        }
    })
}
