//! Reads tokens into a tree, one function for each level of the grammar in [`crate::query`].
//!
//! Every way into a nested condition passes [`Parser::nested`], which is what keeps a hostile text
//! from exhausting the stack.

mod keys;
mod path;
mod primary;
mod statement;

use super::Vocabulary;
use super::ast::{ArithmeticOp, CompareOp, Expr, Literal, MemberOp, Path, Set};
use super::error::QueryError;
use super::lexer::{Placed, Token, tokens};
use crate::limits::{QUERY_LIST_MAX, QUERY_NESTING_MAX};

pub(super) use primary::is_reserved;
pub(super) use statement::parse as parse_statement;

/// Reads a whole condition.
pub(super) fn parse(text: &str, vocabulary: Vocabulary) -> Result<Expr, QueryError> {
    let mut parser = Parser::new(text, "condition", vocabulary)?;
    if parser.is_keyword("SELECT") {
        let error = parser.unexpected("a condition alone, without SELECT, FROM and WHERE");
        return Err(error.with_hint("write what would follow WHERE: tags.site = 'Lyon'"));
    }
    let expr = parser.any()?;
    parser.expect_end("AND, OR or the end")?;
    Ok(expr)
}

/// Reads a path and nothing else.
pub(super) fn parse_path(text: &str, vocabulary: Vocabulary) -> Result<Path, QueryError> {
    let mut parser = Parser::new(text, "path", vocabulary)?;
    let path = parser.path()?;
    parser.expect_end("a dot or the end")?;
    Ok(path)
}

/// Words of other dialects that follow a value, and what is written here.
const FOREIGN_WORDS: [(&str, &str); 13] = [
    (
        "LIKE",
        "use STARTSWITH(a, b), ENDSWITH(a, b) or CONTAINS(a, b)",
    ),
    ("BETWEEN", "write a >= 1 AND a <= 9"),
    ("IS", "use IS_NULL(a), or IS_DEFINED(a)"),
    ("LIMIT", "write SELECT TOP 10"),
    ("OFFSET", "there is no OFFSET: go on with the page token"),
    ("HAVING", "there is no HAVING: filter the groups afterwards"),
    ("JOIN", "there are no joins"),
    ("UNION", "there are no unions"),
    ("EQUALS", "equality is written ="),
    ("WHERE", "there is one WHERE, directly after FROM"),
    ("GROUP", "GROUP BY stands after WHERE and before ORDER BY"),
    (
        "FROM",
        "the order is SELECT, FROM, WHERE, GROUP BY, ORDER BY",
    ),
    ("ORDER", "ORDER BY comes last"),
];

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Placed>,
    next: usize,
    nesting: usize,
    vocabulary: Vocabulary,
    /// Names of the elements that the `EXISTS` around this place speak of, the outermost first.
    scope: Vec<String>,
}

const COMPARISONS: [(&str, CompareOp); 7] = [
    ("=", CompareOp::Equal),
    ("!=", CompareOp::NotEqual),
    ("<>", CompareOp::NotEqual),
    ("<", CompareOp::Less),
    (">", CompareOp::Greater),
    ("<=", CompareOp::LessOrEqual),
    (">=", CompareOp::GreaterOrEqual),
];

const SUMS: [(&str, ArithmeticOp); 2] = [("+", ArithmeticOp::Add), ("-", ArithmeticOp::Subtract)];

const PRODUCTS: [(&str, ArithmeticOp); 3] = [
    ("*", ArithmeticOp::Multiply),
    ("/", ArithmeticOp::Divide),
    ("%", ArithmeticOp::Remainder),
];

impl<'t> Parser<'t> {
    fn new(text: &'t str, what: &str, vocabulary: Vocabulary) -> Result<Parser<'t>, QueryError> {
        Ok(Parser {
            text,
            tokens: tokens(text, what)?,
            next: 0,
            nesting: 0,
            vocabulary,
            scope: Vec::new(),
        })
    }
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Expr, QueryError> {
        let mut parts = vec![self.all()?];
        while self.take_keyword("OR") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr, QueryError> {
        let mut parts = vec![self.not()?];
        while self.take_keyword("AND") {
            parts.push(self.not()?);
        }
        Ok(one_or(parts, Expr::All))
    }

    fn not(&mut self) -> Result<Expr, QueryError> {
        if self.take_keyword("NOT") {
            return Ok(Expr::Not(Box::new(self.nested(Parser::not)?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr, QueryError> {
        let left = self.sum()?;
        if let Some(op) = self.take_one_of(&COMPARISONS) {
            let right = Box::new(self.sum()?);
            if COMPARISONS
                .iter()
                .any(|(sign, _)| *self.peek() == Token::Sign(sign))
            {
                let error = self.unexpected("AND, OR or the end after a comparison");
                return Err(error.with_hint("join two comparisons with AND: `1 < a AND a < 9`"));
            }
            return Ok(Expr::Compare {
                op,
                left: Box::new(left),
                right,
            });
        }
        let op = if self.take_keyword("IN") {
            MemberOp::In
        } else if self.take_keyword("NIN") {
            MemberOp::NotIn
        } else if self.is_keyword("NOT") {
            return Err(self
                .unexpected("an operator")
                .with_hint("`NOT IN` is written NIN"));
        } else {
            return Ok(left);
        };
        Ok(Expr::Member {
            value: Box::new(left),
            op,
            set: self.set()?,
        })
    }

    fn set(&mut self) -> Result<Set, QueryError> {
        if self.take_sign("[") {
            return Ok(Set::List(self.list()?));
        }
        match self.peek() {
            Token::Word(_) => Ok(Set::Path(self.path()?)),
            Token::Sign("(") => {
                let error = self.unexpected("a list or a path");
                Err(error.with_hint("a list stands in square brackets: [22, 443]"))
            }
            _ => Err(self.unexpected("a list such as [22, 443], or a path to an array")),
        }
    }

    /// The rest of a list, after its opening bracket.
    fn list(&mut self) -> Result<Vec<Literal>, QueryError> {
        let mut values = Vec::new();
        if self.take_sign("]") {
            return Ok(values);
        }
        loop {
            if values.len() == QUERY_LIST_MAX {
                let error = self.unexpected(&format!("at most {QUERY_LIST_MAX} values in a list"));
                return Err(error.with_hint("keep a longer list in a tag: `port IN tags.ports`"));
            }
            values.push(self.list_value()?);
            if self.take_sign("]") {
                return Ok(values);
            }
            self.expect_sign(",", "`,` or `]`")?;
        }
    }

    fn list_value(&mut self) -> Result<Literal, QueryError> {
        let minus = self.take_sign("-");
        match self.literal() {
            Some(Literal::Number(number)) if minus => Ok(Literal::Number(-number)),
            Some(value) if !minus && value != Literal::Undefined => Ok(value),
            _ => Err(self.unexpected("a number, a text, true, false or null")),
        }
    }

    fn sum(&mut self) -> Result<Expr, QueryError> {
        self.chain(&SUMS, Parser::product)
    }

    fn product(&mut self) -> Result<Expr, QueryError> {
        self.chain(&PRODUCTS, Parser::sign)
    }

    fn chain(
        &mut self,
        ops: &[(&str, ArithmeticOp)],
        operand: fn(&mut Self) -> Result<Expr, QueryError>,
    ) -> Result<Expr, QueryError> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some(op) = self.take_one_of(ops) {
            rest.push((op, operand(self)?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expr::Chain {
            first: Box::new(first),
            rest,
        })
    }

    fn sign(&mut self) -> Result<Expr, QueryError> {
        if self.take_sign("-") {
            return Ok(Expr::Negate(Box::new(self.nested(Parser::sign)?)));
        }
        if self.take_sign("+") {
            return self.nested(Parser::sign);
        }
        self.primary()
    }

    /// Goes one level deeper, if that is allowed.
    fn nested<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        if self.nesting == QUERY_NESTING_MAX {
            let error = self.unexpected(&format!("at most {QUERY_NESTING_MAX} levels of nesting"));
            return Err(error.with_hint("split the condition, or leave out parentheses"));
        }
        self.nesting += 1;
        let result = inner(self);
        self.nesting -= 1;
        result
    }

    fn peek(&self) -> &Token {
        // The last token is the end, and nothing advances beyond it.
        &self.tokens[self.next].token
    }

    fn advance(&mut self) {
        if *self.peek() != Token::End {
            self.next += 1;
        }
    }

    fn is_keyword(&self, keyword: &str) -> bool {
        matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = self.is_keyword(keyword);
        if found {
            self.advance();
        }
        found
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(found) if *found == sign);
        if found {
            self.advance();
        }
        found
    }

    fn take_one_of<T: Copy>(&mut self, ops: &[(&str, T)]) -> Option<T> {
        let Token::Sign(found) = self.peek() else {
            return None;
        };
        let (_, op) = ops.iter().find(|(sign, _)| sign == found)?;
        self.advance();
        Some(*op)
    }

    fn expect_sign(&mut self, sign: &str, expected: &str) -> Result<(), QueryError> {
        if self.take_sign(sign) {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    /// Nothing may follow.
    fn expect_end(&self, expected: &str) -> Result<(), QueryError> {
        match self.peek() {
            Token::End => Ok(()),
            Token::Sign(")") => Err(self.unexpected("the end, since no `(` is open")),
            Token::Word(word) => {
                let mut words = FOREIGN_WORDS.iter();
                let foreign = words.find(|(foreign, _)| foreign.eq_ignore_ascii_case(word));
                let error = self.unexpected(expected);
                match foreign {
                    Some((_, hint)) => Err(error.with_hint(*hint)),
                    None => Err(error),
                }
            }
            Token::Quoted(_) | Token::Number(_) | Token::Text(_) | Token::Sign(_) => {
                Err(self.unexpected(expected))
            }
        }
    }

    /// An error at the next token.
    fn unexpected(&self, expected: &str) -> QueryError {
        self.error_at(self.next, expected)
    }

    fn error_at(&self, index: usize, expected: &str) -> QueryError {
        let Placed { token, offset } = &self.tokens[index];
        let found = match token {
            Token::Word(word) | Token::Quoted(word) => format!("`{}`", shortened(word)),
            Token::Number(number) => format!("the number {}", Literal::Number(*number)),
            Token::Text(text) => format!("the text '{}'", shortened(text)),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::End => "the end".to_owned(),
        };
        QueryError::new(self.text, *offset, found, expected)
    }
}

fn one_or(mut parts: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            many(parts)
        }
        None => many(parts),
    }
}

fn shortened(text: &str) -> String {
    let quoted = crate::validate::quote(text);
    quoted[1..quoted.len() - 1].to_owned()
}
