//! Searches as SQL, for the embedded store and for the shared one.
//!
//! A condition is a row of conjuncts. What SQL decides exactly as the evaluator of crate `twin` does
//! goes into the statement; the rest is residual, and decided in memory on the rows found. Undefined
//! is NULL, whose logic is the evaluator's. So the rows found are never too few; where a row's
//! documents cannot be looked into (`opaque`, or no JSON any more), the row is found undecided.
//!
//! Conjuncts about ids are served by the primary key, conjuncts about searched values (`index`) by
//! the table `twin_index`, which then leads to the rows in the order of their keys.
//!
//! Values and keys of documents never become part of a statement's text: they are parameters.
//! Nothing here talks to a database.

use twin::query::{Expr, Scope};

use super::{Estimates, Plan, Search};
use conjunct::Conjunct;
pub(crate) use fragment::{Dialect, Param, Query};

mod attribute;
mod condition;
mod conjunct;
mod document;
mod entries;
mod fragment;
mod function;
mod instant;
mod operand;
mod source;
mod span;
mod statement;

#[cfg(test)]
mod tests;

/// Index entries counted at most when conjuncts are compared: beyond it an index is as good as
/// another one.
pub(crate) const ESTIMATE_MAX: u32 = 1000;
/// The same where ranges are looked for. Their keys are gathered and sorted for each page, so with
/// more of them going through the rows is better.
pub(crate) const SPAN_MAX: u32 = 20_000;

/// A search, taken apart.
pub(crate) struct Prepared<'s> {
    search: &'s Search,
    dialect: Dialect,
    conjuncts: Vec<Conjunct<'s>>,
    /// The condition holds for nothing.
    nothing: bool,
}

impl<'s> Prepared<'s> {
    /// Takes a search apart.
    pub(crate) fn new(search: &'s Search, dialect: Dialect) -> Prepared<'s> {
        let (parts, nothing) = match &search.condition {
            Scope::Everything => (&[][..], false),
            Scope::Nothing => (&[][..], true),
            Scope::Where(Expr::All(parts)) => (parts.as_slice(), false),
            Scope::Where(expr) => (std::slice::from_ref(expr), false),
        };
        let conjunct = |expr| Conjunct::new(expr, dialect, search.now);
        let mut conjuncts: Vec<_> = parts.iter().map(conjunct).collect();
        conjunct::narrow(&mut conjuncts);
        Prepared {
            search,
            dialect,
            conjuncts,
            nothing,
        }
    }

    /// What is known of the indexes, from another page of the search.
    pub(crate) fn known(&self) -> &Estimates {
        &self.search.estimates
    }

    /// Whether nothing is left to be decided in memory, on rows that can be looked into.
    pub(crate) fn is_decided(&self) -> bool {
        self.conjuncts.iter().all(Conjunct::is_decided)
    }

    /// What is told of it: `query` is the statement that is run, `lines` the engine's own words.
    pub(crate) fn plan(&self, query: &Query, lines: Vec<String>) -> Plan {
        let (mut compiled, mut residual) = (Vec::new(), Vec::new());
        for conjunct in &self.conjuncts {
            if conjunct.is_decided() {
                compiled.push(conjunct.expr.clone());
            } else {
                residual.push(conjunct.expr.clone());
            }
        }
        if self.nothing {
            compiled.push(Expr::Literal(twin::query::ast::Literal::Bool(false)));
        }
        Plan {
            sql: query.sql.clone(),
            compiled: all(compiled),
            residual: all(residual),
            indexes: query.indexes.clone(),
            lines,
        }
    }
}

/// The text of a conjunction.
fn all(mut parts: Vec<Expr>) -> String {
    match parts.len() {
        0 => String::new(),
        1 => parts.remove(0).to_string(),
        _ => Expr::All(parts).to_string(),
    }
}
