//! Whole statements: rows in the order of their keys, counts, estimates.
//!
//! Rows come from `twins AS t`, with PostgreSQL's JSONB in `d`. If an index leads, its entries are
//! `k`, and what is known of keys is said of it.

use super::conjunct::{Conjunct, Probes, Serving};
use super::entries::{all_entries, has_entry, one_probe, served};
use super::fragment::{Builder, Dialect, Document, Query, joined};
use super::source::{Answer, Leader};
use super::{ESTIMATE_MAX, Prepared, SPAN_MAX};
use crate::index;

/// The columns of a row, in the order in which stores read them.
pub(crate) const COLUMNS: &str = "t.device_id, t.module_id, t.revision, t.status, t.tags, \
                                  t.desired, t.reported, t.posture, t.body, t.opaque, t.checksum";

impl Prepared<'_> {
    /// Asks how many entries serve each of the conjuncts that an index can serve, up to
    /// [`ESTIMATE_MAX`] or [`SPAN_MAX`]; in their order. None if there is nothing to choose from.
    pub(crate) fn estimates(&self) -> Option<Query> {
        let choices = self.choices();
        let has_spans = choices.iter().any(|(_, probes)| !probes.spans.is_empty());
        if choices.is_empty() || (choices.len() == 1 && !has_spans) {
            return None;
        }
        let mut sql = Builder::new(self.dialect);
        let mut counts = Vec::new();
        for (_, probes) in choices {
            let most = if probes.spans.is_empty() {
                ESTIMATE_MAX
            } else {
                SPAN_MAX
            };
            let limit = sql.count(most);
            let entries = served(probes, &mut sql).join(" UNION ALL ");
            counts.push(format!(
                "(SELECT count(*) FROM ({entries} LIMIT {limit}) AS s)"
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
        let is_narrow = |choice: &usize| {
            let count = estimates.get(*choice).copied().unwrap_or_default();
            let spans = choices.get(*choice).map(|(_, probes)| &probes.spans);
            count < SPAN_MAX.into() || spans.is_none_or(std::collections::BTreeMap::is_empty)
        };
        let best = (0..choices.len())
            .filter(is_narrow)
            .min_by_key(|choice| estimates.get(*choice).copied());
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
                Serving::Index(probes) if probes.exact && (leads || leader.is(probes)) => continue,
                Serving::Index(probes) if probes.exact && !self.is_in_row(conjunct, answer) => {
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
    fn is_in_row(&self, conjunct: &Conjunct<'_>, answer: Answer) -> bool {
        let Some(probes) = conjunct.probes() else {
            return true;
        };
        let is_status = probes.values.keys().all(|path| path == index::STATUS);
        let is_there = if probes.spans.is_empty() {
            is_status
        } else {
            conjunct.compiles()
        };
        is_there && (answer == Answer::Rows || !self.is_served())
    }

    /// What the keys of found rows are called, and which indexes serve.
    fn key_names(&self, leader: &Leader<'_>) -> (&'static str, Vec<String>) {
        let mut indexes = Vec::new();
        let key = match leader {
            Leader::Index(_, probes) => {
                let paths = probes.values.keys();
                indexes.extend(paths.map(|path| format!("twin_index ({path})")));
                for (path, spans) in &probes.spans {
                    let name = |span| format!("twin_index ({path} {span})");
                    indexes.extend(spans.iter().map(name));
                }
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
