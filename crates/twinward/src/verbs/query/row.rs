//! A row of a query: members in the order in which they were selected, which JSON objects do not
//! have but people expect.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use twin::query::{Select, Statement};

/// One row.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Row(pub(super) Vec<(String, Value)>);

impl Row {
    /// The value of a column, if the row has it.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(column, _)| column == name)
            .map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Row(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// The columns of some rows: in the order in which they were selected, if that is known, and else
/// in the order in which they first come up.
pub(super) fn columns<'a>(selected: &[String], rows: &'a [Row]) -> Vec<&'a str> {
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.0) {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let place = |name: &&str| selected.iter().position(|selected| selected == name);
    // The sort is stable: what was not selected by name stays behind, as it came.
    columns.sort_by_key(|name| place(name).unwrap_or(usize::MAX));
    columns
}

/// What a statement selects, by name; nothing if it cannot be read here, which the service tells.
pub(super) fn selected(query: &str) -> Vec<String> {
    let Ok(statement) = Statement::parse(query) else {
        return Vec::new();
    };
    match statement.select() {
        Select::All => Vec::new(),
        Select::Items(items) => items.iter().map(|item| item.name.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn columns_come_as_they_were_selected() {
        let rows = [row(r#"{"site":"x","n":1}"#), row(r#"{"n":2,"also":null}"#)];
        assert_eq!(columns(&[], &rows), ["site", "n", "also"]);
        let selected = selected("SELECT COUNT() AS n, tags.site FROM devices GROUP BY tags.site");
        assert_eq!(columns(&selected, &rows), ["n", "site", "also"]);
        assert_eq!(rows[1].get("also"), Some(&Value::Null));
        assert_eq!(rows[1].get("site"), None);
    }

    #[test]
    fn a_row_must_be_an_object() {
        let error = serde_json::from_str::<Row>("[1]").unwrap_err();
        assert!(error.to_string().contains("a JSON object"), "{error}");
    }
}
