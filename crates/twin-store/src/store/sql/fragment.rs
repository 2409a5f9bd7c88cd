//! Pieces of statements and their parameters.

use std::collections::BTreeSet;

/// Whose SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The embedded store's.
    Sqlite,
    /// The shared store's.
    Postgres,
}

/// A value of a statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Param {
    /// Without a zero character, which PostgreSQL has not and SQLite reads as an end.
    Text(String),
    /// Finite.
    Number(f64),
    /// A number of rows.
    Count(u32),
}

/// A statement, ready to be run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Query {
    /// With placeholders `?1` or `$1`.
    pub(crate) sql: String,
    /// Their values.
    pub(crate) params: Vec<Param>,
    /// The indexes of ours that serve it.
    pub(crate) indexes: Vec<String>,
}

/// What SQL does not decide exactly as the evaluator does. It is decided in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Residual;

/// A column with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Document {
    Tags,
    Desired,
    Reported,
    Posture,
    /// The rest of a row; see `row::RowBody`.
    Body,
}

impl Document {
    pub(super) const fn column(self) -> &'static str {
        match self {
            Document::Tags => "tags",
            Document::Desired => "desired",
            Document::Reported => "reported",
            Document::Posture => "posture",
            Document::Body => "body",
        }
    }
}

/// Collects the parameters of a statement while its text is made, and the documents that it reads.
#[derive(Debug, Clone)]
pub(super) struct Builder {
    pub(super) dialect: Dialect,
    params: Vec<Param>,
    documents: BTreeSet<Document>,
    aliases: usize,
}

impl Builder {
    pub(super) fn new(dialect: Dialect) -> Builder {
        Builder {
            dialect,
            params: Vec::new(),
            documents: BTreeSet::new(),
            aliases: 0,
        }
    }

    /// A placeholder for a text.
    pub(super) fn text(&mut self, text: &str) -> Result<String, Residual> {
        if text.contains('\0') {
            return Err(Residual);
        }
        Ok(self.place(Param::Text(text.to_owned())))
    }

    /// A placeholder for a text that is known to hold no zero character, as ids and index entries.
    pub(super) fn plain_text(&mut self, text: &str) -> String {
        self.place(Param::Text(text.replace('\0', "\u{fffd}")))
    }

    /// A placeholder for a number.
    pub(super) fn number(&mut self, number: f64) -> String {
        self.place(Param::Number(number))
    }

    /// A placeholder for a number of rows.
    pub(super) fn count(&mut self, count: u32) -> String {
        self.place(Param::Count(count))
    }

    fn place(&mut self, param: Param) -> String {
        let known = self.params.iter().position(|known| *known == param);
        let index = known.unwrap_or(self.params.len());
        if known.is_none() {
            self.params.push(param);
        }
        let number = index + 1;
        match (self.dialect, &self.params[index]) {
            (Dialect::Sqlite, _) => format!("?{number}"),
            (Dialect::Postgres, Param::Text(_)) => format!("${number}::text"),
            (Dialect::Postgres, Param::Number(_)) => format!("${number}::float8"),
            (Dialect::Postgres, Param::Count(_)) => format!("${number}::bigint"),
        }
    }

    /// A name for the members of an array, of which there may be several in a statement.
    pub(super) fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("e{}", self.aliases)
    }

    /// Notes that a document is read.
    pub(super) fn reads(&mut self, document: Document) {
        self.documents.insert(document);
    }

    /// The documents that were read since they were last taken.
    pub(super) fn take_documents(&mut self) -> BTreeSet<Document> {
        std::mem::take(&mut self.documents)
    }

    /// The statement, with the values that its text has come to mention: a piece may have been left
    /// out, and a value that nothing mentions is refused by both stores.
    pub(super) fn finish(self, sql: &str, indexes: Vec<String>) -> Query {
        let mut text = String::with_capacity(sql.len());
        let mut params = Vec::new();
        let mut places: Vec<Option<usize>> = vec![None; self.params.len()];
        let mut rest = sql;
        while let Some(start) = rest.find(['?', '$']) {
            let (before, mark) = rest.split_at(start);
            text.push_str(before);
            let digits = mark[1..].bytes().take_while(u8::is_ascii_digit).count();
            let (placeholder, behind) = mark.split_at(digits + 1);
            rest = behind;
            text.push_str(&placeholder[..1]);
            let number: Option<usize> = placeholder[1..].parse().ok();
            let Some(index) = number.and_then(|number| number.checked_sub(1)) else {
                continue;
            };
            let (Some(place), Some(param)) = (places.get_mut(index), self.params.get(index)) else {
                continue;
            };
            let place = *place.get_or_insert_with(|| {
                params.push(param.clone());
                params.len()
            });
            text.push_str(&place.to_string());
        }
        text.push_str(rest);
        Query {
            sql: text,
            params,
            indexes,
        }
    }
}

/// Joins parts by an operator, as a balanced tree: SQLite bounds the depth of an expression, and a
/// chain of a thousand parts would be a thousand deep.
pub(super) fn joined(parts: &[String], operator: &str) -> String {
    match parts {
        [] => String::new(),
        [part] => part.clone(),
        _ => {
            let (left, right) = parts.split_at(parts.len() / 2);
            let (left, right) = (joined(left, operator), joined(right, operator));
            format!("({left} {operator} {right})")
        }
    }
}
