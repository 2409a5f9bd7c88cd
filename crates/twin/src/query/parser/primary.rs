//! Constants, function calls, parentheses and the quantifier.

use super::super::ast::{Expr, Function, Literal};
use super::super::error::QueryError;
use super::super::lexer::Token;
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

    fn is_call(&self) -> bool {
        let after = self.tokens.get(self.next + 1);
        after.is_some_and(|placed| placed.token == Token::Sign("("))
    }

    fn call(&mut self, name: &str) -> Result<Expr, QueryError> {
        if name.eq_ignore_ascii_case("EXISTS") {
            return self.exists();
        }
        let Some(function) = Function::by_name(name) else {
            let names: Vec<_> = Function::NAMES.iter().map(|(name, _)| *name).collect();
            let error = self.unexpected("a function");
            return Err(error.with_hint(format!("there are EXISTS, {}", names.join(", "))));
        };
        let start = self.next;
        self.advance();
        self.advance();
        let mut args = Vec::new();
        while args.len() < function.arity() {
            if !args.is_empty() {
                self.expect_sign(",", &takes(function))?;
            }
            let place = self.next;
            let arg = self.nested(Parser::any)?;
            if args.is_empty() && function.takes_path() && !matches!(arg, Expr::Path(_)) {
                let expected = format!("a path as {} takes", function.name());
                return Err(self.error_at(place.max(start), &expected));
            }
            args.push(arg);
        }
        self.expect_sign(")", &format!("`)`: {}", takes(function)))?;
        Ok(Expr::Call { function, args })
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
    let count = function.arity();
    let noun = if count == 1 { "argument" } else { "arguments" };
    format!("{} takes {count} {noun}", function.name())
}

/// Words that cannot be a name.
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
