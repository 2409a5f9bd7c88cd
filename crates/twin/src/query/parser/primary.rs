//! Constants, function calls, parentheses and the quantifier.

use super::super::Vocabulary;
use super::super::ast::{Expr, Function, Literal, TimeUnit};
use super::super::error::QueryError;
use super::super::hint::nearest;
use super::super::lexer::Token;
use super::super::statement::Aggregate;
use super::Parser;
use crate::limits::QUERY_EXISTS_NESTING_MAX;

impl Parser<'_> {
    pub(super) fn primary(&mut self) -> Result<Expr, QueryError> {
        if let Some(literal) = self.literal() {
            return Ok(Expr::Literal(literal));
        }
        if self.take_sign("(") {
            let inner = self.nested(Parser::any)?;
            self.expect_sign(")", "`)`, AND or OR")?;
            return Ok(inner);
        }
        match self.peek() {
            Token::Word(word) if self.is_call() => {
                let word = word.clone();
                self.call(&word)
            }
            Token::Word(word) if is_keyword(word) => Err(self.unexpected("a value or a path")),
            Token::Word(_) => Ok(Expr::Path(self.path()?)),
            Token::Sign("[") => {
                let error = self.unexpected("a value or a path");
                Err(error.with_hint("a list can only follow IN or NIN"))
            }
            Token::Quoted(_) => {
                let error = self.unexpected("a value or a path");
                Err(error.with_hint("a quoted key follows a dot: tags.[[my-key]]"))
            }
            Token::Sign("=") => {
                let error = self.unexpected("a value or a path");
                Err(error.with_hint("equality is written with a single ="))
            }
            _ => Err(self.unexpected("a value, a path or a function")),
        }
    }

    /// A constant, if one stands here.
    pub(super) fn literal(&mut self) -> Option<Literal> {
        let literal = match self.peek() {
            Token::Number(number) => Literal::Number(*number),
            Token::Text(text) => Literal::Text(text.clone()),
            Token::Word(word) => match word.to_ascii_lowercase().as_str() {
                "true" => Literal::Bool(true),
                "false" => Literal::Bool(false),
                "null" => Literal::Null,
                "undefined" => Literal::Undefined,
                _ => return None,
            },
            Token::Quoted(_) | Token::Sign(_) | Token::End => return None,
        };
        self.advance();
        Some(literal)
    }

    pub(super) fn is_call(&self) -> bool {
        let after = self.tokens.get(self.next + 1);
        after.is_some_and(|placed| placed.token == Token::Sign("("))
    }

    fn call(&mut self, name: &str) -> Result<Expr, QueryError> {
        if name.eq_ignore_ascii_case("EXISTS") {
            return self.exists();
        }
        let Some(function) = Function::by_name(name) else {
            return Err(self.no_function(name));
        };
        if function == Function::Now && self.vocabulary == Vocabulary::Changes {
            let error = self.unexpected("a function that does not look at the time");
            return Err(error.with_hint(
                "a condition over changes is evaluated when a twin changes, not when time passes",
            ));
        }
        self.advance();
        self.advance();
        let arity = function.arity();
        let mut args = Vec::new();
        if self.take_sign(")") {
            return self.called(function, args);
        }
        loop {
            if args.len() == *arity.end() {
                return Err(self.unexpected(&format!("`)`: {}", takes(function))));
            }
            args.push(self.argument(function, args.len())?);
            if self.take_sign(")") {
                return self.called(function, args);
            }
            self.expect_sign(",", &format!("`,` or `)`: {}", takes(function)))?;
        }
    }

    /// The call, if its arguments are enough.
    fn called(&self, function: Function, args: Vec<Expr>) -> Result<Expr, QueryError> {
        if args.len() < *function.arity().start() {
            let expected = format!("another argument: {}", takes(function));
            return Err(self.error_at(self.next - 1, &expected));
        }
        Ok(Expr::Call { function, args })
    }

    fn argument(&mut self, function: Function, index: usize) -> Result<Expr, QueryError> {
        let place = self.next;
        let arg = self.nested(Parser::any)?;
        if index > 0 {
            return Ok(arg);
        }
        if function.takes_path() && !matches!(arg, Expr::Path(_)) {
            let expected = format!("a path as {} takes", function.name());
            return Err(self.error_at(place, &expected));
        }
        if function.takes_unit() {
            let unit = match &arg {
                Expr::Literal(Literal::Text(text)) => TimeUnit::by_name(text),
                _ => None,
            };
            let hint = match unit {
                None => "there are 'second', 'minute', 'hour', 'day', 'week', 'month', 'year'",
                Some(unit) if function == Function::DateDiff && unit.seconds().is_none() => {
                    "months and years have different lengths: count 'day' or 'week'"
                }
                Some(_) => return Ok(arg),
            };
            let error = self.error_at(place, "a unit of time");
            return Err(error.with_hint(hint));
        }
        Ok(arg)
    }

    fn no_function(&self, name: &str) -> QueryError {
        let error = self.unexpected("a function");
        if Aggregate::by_name(name).is_some() {
            return error.with_hint("an aggregate stands in the list after SELECT only");
        }
        let names = Function::NAMES.iter().map(|(name, _)| *name);
        let known: Vec<_> = std::iter::once("EXISTS").chain(names).collect();
        if let Some(meant) = nearest(name, known.iter().copied()) {
            return error.with_hint(format!("did you mean {meant}?"));
        }
        error.with_hint(format!("there are {}", known.join(", ")))
    }

    /// `EXISTS(name IN path WHERE condition)`
    fn exists(&mut self) -> Result<Expr, QueryError> {
        if self.scope.len() == QUERY_EXISTS_NESTING_MAX {
            let expected = format!("at most {QUERY_EXISTS_NESTING_MAX} EXISTS within each other");
            return Err(self.unexpected(&expected));
        }
        self.advance();
        self.advance();
        let shape = "EXISTS(p IN posture.listeningPorts WHERE p.port > 1024)";
        let Token::Word(variable) = self.peek().clone() else {
            return Err(self.unexpected("a name for the element").with_hint(shape));
        };
        if is_keyword(&variable) || self.is_taken(&variable) {
            let error = self.unexpected("a name that means nothing else here");
            return Err(error.with_hint(shape));
        }
        self.advance();
        if !self.take_keyword("IN") {
            return Err(self.unexpected("IN").with_hint(shape));
        }
        let array = self.path()?;
        if !self.take_keyword("WHERE") {
            return Err(self.unexpected("WHERE").with_hint(shape));
        }
        self.scope.push(variable.clone());
        let condition = self.nested(Parser::any);
        self.scope.pop();
        let condition = Box::new(condition?);
        self.expect_sign(")", "`)`, AND or OR")?;
        Ok(Expr::Exists {
            variable,
            array,
            condition,
        })
    }
}

fn takes(function: Function) -> String {
    let arity = function.arity();
    let (least, most) = (*arity.start(), *arity.end());
    let count = match (least, most) {
        (0, 0) => "no".to_owned(),
        (least, most) if least == most => most.to_string(),
        (least, most) => format!("{least} to {most}"),
    };
    let noun = if most == 1 { "argument" } else { "arguments" };
    format!("{} takes {count} {noun}", function.name())
}

/// Words that cannot be the name of an item.
pub(in crate::query) fn is_reserved(word: &str) -> bool {
    const CLAUSES: [&str; 9] = [
        "SELECT", "TOP", "AS", "FROM", "GROUP", "ORDER", "BY", "ASC", "DESC",
    ];
    is_keyword(word)
        || CLAUSES
            .iter()
            .any(|clause| clause.eq_ignore_ascii_case(word))
}

/// Words that cannot be the name of an element.
pub(super) fn is_keyword(word: &str) -> bool {
    const KEYWORDS: [&str; 11] = [
        "AND",
        "OR",
        "NOT",
        "IN",
        "NIN",
        "WHERE",
        "EXISTS",
        "TRUE",
        "FALSE",
        "NULL",
        "UNDEFINED",
    ];
    KEYWORDS
        .iter()
        .any(|keyword| keyword.eq_ignore_ascii_case(word))
}
