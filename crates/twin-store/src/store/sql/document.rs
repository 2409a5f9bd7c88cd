//! A place in a JSON document, in the words of both dialects.
//!
//! SQLite reads the text of a document itself, PostgreSQL a JSONB made of it once per row (alias `d`,
//! see `statement`). The names of types are SQLite's or PostgreSQL's and stay inside this file.

use super::fragment::{Builder, Dialect, Document, Residual};

/// Where a path begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// In a column.
    Column(Document),
    /// At a member of an array or object, under this alias.
    Member(String),
}

/// A place in a document, as pieces of SQL.
#[derive(Debug, Clone)]
pub(super) struct Place {
    dialect: Dialect,
    /// The type's name, NULL where there is nothing.
    kind: String,
    /// SQLite: arguments of a JSON function, or none where the place is a whole member. PostgreSQL:
    /// the JSONB value.
    value: Option<String>,
    /// SQLite: the whole member.
    member: Option<String>,
}

impl Place {
    /// The place under these keys.
    pub(super) fn new(base: &Base, keys: &[String], sql: &mut Builder) -> Result<Place, Residual> {
        if let Base::Column(document) = base {
            sql.reads(*document);
        }
        match sql.dialect {
            Dialect::Sqlite => Place::sqlite(base, keys, sql),
            Dialect::Postgres => Place::postgres(base, keys, sql),
        }
    }

    fn sqlite(base: &Base, keys: &[String], sql: &mut Builder) -> Result<Place, Residual> {
        let dialect = Dialect::Sqlite;
        let mut path = "$".to_owned();
        for key in keys {
            // SQLite's paths have no certain way to write these; no valid document has such a key,
            // but for quotes and backslashes.
            if key.is_empty() || key.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')) {
                return Err(Residual);
            }
            path.push_str(".\"");
            path.push_str(key);
            path.push('"');
        }
        Ok(match base {
            Base::Column(document) => {
                let path = sql.text(&path)?;
                let arguments = format!("t.{}, {path}", document.column());
                Place {
                    dialect,
                    kind: format!("json_type({arguments})"),
                    value: Some(arguments),
                    member: None,
                }
            }
            Base::Member(alias) if keys.is_empty() => Place {
                dialect,
                kind: format!("{alias}.type"),
                value: None,
                member: Some(alias.clone()),
            },
            Base::Member(alias) => {
                let path = sql.text(&path)?;
                // Only of an object is the value a text of JSON that a path can lead into.
                let value = format!("CASE {alias}.type WHEN 'object' THEN {alias}.value END");
                let arguments = format!("{value}, {path}");
                Place {
                    dialect,
                    kind: format!("json_type({arguments})"),
                    value: Some(arguments),
                    member: None,
                }
            }
        })
    }

    fn postgres(base: &Base, keys: &[String], sql: &mut Builder) -> Result<Place, Residual> {
        let mut value = match base {
            Base::Column(document) => format!("d.{}", document.column()),
            Base::Member(alias) => format!("{alias}.value"),
        };
        for key in keys {
            // By text, so that a key of digits does not lead into an array.
            let key = sql.text(key)?;
            value = format!("{value} -> {key}");
        }
        if !keys.is_empty() {
            value = format!("({value})");
        }
        Ok(Place {
            dialect: Dialect::Postgres,
            kind: format!("jsonb_typeof({value})"),
            value: Some(value),
            member: None,
        })
    }

    fn value(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }

    /// SQLite: the value in SQL's own types.
    fn extracted(&self) -> String {
        match &self.member {
            Some(alias) => format!("{alias}.atom"),
            None => format!("json_extract({})", self.value()),
        }
    }

    /// The text there; NULL if there is none.
    pub(super) fn text(&self) -> String {
        let kind = &self.kind;
        match self.dialect {
            Dialect::Sqlite => format!("CASE {kind} WHEN 'text' THEN {} END", self.extracted()),
            Dialect::Postgres => format!(
                "CASE {kind} WHEN 'string' THEN ({} #>> '{{}}') COLLATE \"C\" END",
                self.value()
            ),
        }
    }

    /// The number there, as the evaluator has it; NULL if there is none.
    pub(super) fn number(&self) -> String {
        let kind = &self.kind;
        match self.dialect {
            Dialect::Sqlite => format!(
                "CASE WHEN {kind} IN ('integer', 'real') THEN CAST({} AS REAL) END",
                self.extracted()
            ),
            Dialect::Postgres => {
                format!(
                    "CASE {kind} WHEN 'number' THEN ({})::float8 END",
                    self.value()
                )
            }
        }
    }

    /// The truth there; NULL if there is none.
    pub(super) fn boolean(&self) -> String {
        let kind = &self.kind;
        match self.dialect {
            Dialect::Sqlite => {
                format!("CASE {kind} WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE END")
            }
            Dialect::Postgres => {
                format!(
                    "CASE {kind} WHEN 'boolean' THEN ({})::boolean END",
                    self.value()
                )
            }
        }
    }

    /// Whether there is anything; never NULL.
    pub(super) fn is_defined(&self) -> String {
        format!("{} IS NOT NULL", self.kind)
    }

    /// Whether `null` is there; never NULL.
    pub(super) fn is_null(&self) -> String {
        format!("({} = 'null') IS TRUE", self.kind)
    }

    /// Whether an array is there; never NULL.
    pub(super) fn is_array(&self) -> String {
        format!("({} = 'array') IS TRUE", self.kind)
    }

    /// Whether an object is there; never NULL.
    pub(super) fn is_object(&self) -> String {
        format!("({} = 'object') IS TRUE", self.kind)
    }

    /// Whether a text, number, boolean or `null` is there; never NULL.
    pub(super) fn is_primitive(&self) -> String {
        format!("({} NOT IN ('array', 'object')) IS TRUE", self.kind)
    }

    /// How many elements the array there has; NULL if there is none.
    pub(super) fn array_length(&self) -> String {
        match (self.dialect, &self.member) {
            (Dialect::Sqlite, None) => format!(
                "CASE {} WHEN 'array' THEN CAST(json_array_length({}) AS REAL) END",
                self.kind,
                self.value()
            ),
            (Dialect::Sqlite, Some(alias)) => format!(
                "CASE {} WHEN 'array' THEN CAST(json_array_length({alias}.value) AS REAL) END",
                self.kind
            ),
            (Dialect::Postgres, _) => format!(
                "CASE {} WHEN 'array' THEN jsonb_array_length({})::float8 END",
                self.kind,
                self.value()
            ),
        }
    }

    /// A source of the members of the array or object there, of none if it is neither, named so
    /// that [`Base::Member`] finds them.
    pub(super) fn members(&self, alias: &str) -> String {
        let (kind, value) = (&self.kind, self.value());
        match (self.dialect, &self.member) {
            (Dialect::Sqlite, None) => format!("json_each({value}) AS {alias}"),
            (Dialect::Sqlite, Some(outer)) => format!(
                "json_each(CASE WHEN {kind} IN ('array', 'object') THEN {outer}.value END) \
                 AS {alias}"
            ),
            (Dialect::Postgres, _) => format!(
                "(SELECT value FROM jsonb_array_elements(CASE {kind} WHEN 'array' THEN {value} END) \
                 UNION ALL \
                 SELECT value FROM jsonb_each(CASE {kind} WHEN 'object' THEN {value} END)) \
                 AS {alias}"
            ),
        }
    }
}
