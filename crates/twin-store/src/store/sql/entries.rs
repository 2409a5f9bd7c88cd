//! Entries of the table of searched values, as SQL.

use super::conjunct::Probes;
use super::fragment::Builder;
use crate::index;

/// Every identity once: each has a status.
pub(super) fn all_entries() -> Probes {
    let values = ["s:enabled", "s:disabled"].map(str::to_owned).into();
    Probes {
        values: [(index::STATUS.to_owned(), values)].into(),
        exact: true,
        ..Probes::default()
    }
}

/// Whether a single value under a single path is looked for: its entries are in the order of keys.
pub(super) fn one_probe(probes: &Probes) -> bool {
    let mut values = probes.values.values();
    probes.spans.is_empty() && values.len() == 1 && values.all(|values| values.len() == 1)
}

/// Entries under this name are among the probes.
pub(super) fn entries_condition(alias: &str, probes: &Probes, sql: &mut Builder) -> String {
    let mut paths = Vec::new();
    for (path, values) in &probes.values {
        let path = sql.plain_text(path);
        let values: Vec<_> = values.iter().map(|value| sql.plain_text(value)).collect();
        paths.push(match values.as_slice() {
            [] => "FALSE".to_owned(),
            [value] => format!("{alias}.path = {path} AND {alias}.value = {value}"),
            values => format!(
                "{alias}.path = {path} AND {alias}.value IN ({})",
                values.join(", ")
            ),
        });
    }
    for (path, spans) in &probes.spans {
        paths.extend(spans.iter().map(|span| span.condition(alias, path, sql)));
    }
    match paths.as_slice() {
        [] => "FALSE".to_owned(),
        [path] => path.clone(),
        paths => format!("({})", paths.join(" OR ")),
    }
}

/// Selects whose rows are the entries that serve; an entry may come more than once.
pub(super) fn served(probes: &Probes, sql: &mut Builder) -> Vec<String> {
    let mut selects = Vec::new();
    if !probes.values.is_empty() {
        let values = Probes {
            values: probes.values.clone(),
            ..Probes::default()
        };
        let entries = entries_condition("x", &values, sql);
        selects.push(format!("SELECT 1 FROM twin_index AS x WHERE {entries}"));
    }
    for (path, spans) in &probes.spans {
        for span in spans {
            let entries = span.condition("x", path, sql);
            selects.push(format!(
                "SELECT 1 FROM {} WHERE {entries}",
                span.table(sql.dialect)
            ));
        }
    }
    selects
}

/// The key has one of the entries.
pub(super) fn has_entry(key: &str, probes: &Probes, sql: &mut Builder) -> String {
    let entries = entries_condition("x", probes, sql);
    format!(
        "EXISTS (SELECT 1 FROM twin_index AS x WHERE {entries} \
         AND x.device_id = {key}.device_id AND x.module_id = {key}.module_id)"
    )
}
