//! Cuts the text of a condition or a query into words, constants and signs, each with its place.

use super::error::{QueryError, QueryErrorKind};
use crate::limits::QUERY_CHARS_MAX;

/// A piece of the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A keyword, a function or a name.
    Word(String),
    /// `[[name]]`: a key that is no word.
    Quoted(String),
    Number(f64),
    Text(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// A token and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) offset: usize,
}

/// Longer ones first, so that `<=` is not read as `<`.
const SIGNS: [&str; 18] = [
    "!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", "[", "]", ",", ".", "+", "-", "*", "/", "%",
];

/// Signs of other languages, and what is written here.
const FOREIGN: [(&str, &str); 5] = [
    ("&&", "write AND"),
    ("||", "write OR"),
    ("!", "write NOT"),
    ("`", "quote a text with '"),
    (";", "leave it out: a text holds one query"),
];

fn starts_word(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}

fn continues_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Whether a key can stand in a path without `[[ ]]`.
pub(super) fn is_word(key: &str) -> bool {
    key.starts_with(starts_word) && key.chars().all(continues_word)
}

/// All tokens; the last one is the end. `what` the text is meant to be is for the error.
pub(super) fn tokens(text: &str, what: &str) -> Result<Vec<Placed>, QueryError> {
    if let Some((offset, _)) = text.char_indices().nth(QUERY_CHARS_MAX) {
        let found = format!("a {what} of {} characters", text.chars().count());
        let error = QueryError::new(text, offset, found, format!("at most {QUERY_CHARS_MAX}"));
        return Err(error
            .of_kind(QueryErrorKind::TooLong)
            .with_hint("a long list of values can be kept in a tag: `deviceId IN tags.list`"));
    }
    let mut lexer = Lexer {
        text,
        offset: 0,
        name_end: None,
    };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank()?;
        let offset = lexer.offset;
        let token = lexer.token()?;
        let is_name = matches!(token, Token::Word(_) | Token::Quoted(_));
        lexer.name_end = is_name.then_some(lexer.offset);
        let end = token == Token::End;
        tokens.push(Placed { token, offset });
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    offset: usize,
    /// Where the token before ends, if it is a name.
    name_end: Option<usize>,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.offset..]
    }

    /// Takes what is made of such characters.
    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let length = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.offset += length;
        &rest[..length]
    }

    fn error(&self, offset: usize, found: &str, expected: &str) -> QueryError {
        QueryError::new(self.text, offset, found, expected)
    }

    fn skip_blank(&mut self) -> Result<(), QueryError> {
        loop {
            self.take_while(char::is_whitespace);
            let Some(comment) = self.rest().strip_prefix("/*") else {
                return Ok(());
            };
            let Some(end) = comment.find("*/") else {
                return Err(self.error(self.offset, "a comment without an end", "`*/`"));
            };
            self.offset += end + 4;
        }
    }

    fn token(&mut self) -> Result<Token, QueryError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        if starts_word(first) {
            return Ok(Token::Word(self.take_while(continues_word).to_owned()));
        }
        // Directly behind a name a dot leads to a key.
        let is_fraction = first == '.'
            && rest[1..].starts_with(|c: char| c.is_ascii_digit())
            && self.name_end != Some(self.offset);
        if first.is_ascii_digit() || is_fraction {
            return self.number();
        }
        if first == '\'' || first == '"' {
            return self.string(first);
        }
        if rest.starts_with("[[") {
            return self.quoted();
        }
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            self.offset += sign.len();
            return Ok(Token::Sign(sign));
        }
        let found = format!("{first:?}");
        let error = self.error(self.offset, &found, "a name, a value or an operator");
        match FOREIGN.iter().find(|(sign, _)| rest.starts_with(sign)) {
            Some((_, hint)) => Err(error.with_hint(*hint)),
            None => Err(error),
        }
    }

    fn number(&mut self) -> Result<Token, QueryError> {
        let start = self.offset;
        let value = if self.rest().starts_with("0x") || self.rest().starts_with("0X") {
            self.offset += 2;
            let digits = self.take_while(|c| c.is_ascii_hexdigit());
            self.hexadecimal(start, digits)?
        } else {
            self.decimal();
            self.text[start..self.offset].parse().map_err(|_| {
                self.error(
                    start,
                    "a number that cannot be read",
                    "a number such as 12 or 1.5e3",
                )
            })?
        };
        if self.rest().starts_with(continues_word) {
            let found = format!(
                "`{}` directly after a number",
                self.take_while(continues_word)
            );
            let error = self.error(start, &found, "a blank or an operator after the number");
            return Err(error.with_hint("a key that begins with a digit is written [[5g]]"));
        }
        if !value.is_finite() {
            return Err(self.error(start, "a number too large to hold", "at most about 1.8e308"));
        }
        Ok(Token::Number(value))
    }

    fn decimal(&mut self) {
        self.take_while(|c| c.is_ascii_digit());
        let digit_after = |rest: &str, skip| rest[skip..].starts_with(|c: char| c.is_ascii_digit());
        if self.rest().starts_with('.') && digit_after(self.rest(), 1) {
            self.offset += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        if self.rest().starts_with(['e', 'E']) {
            let sign = usize::from(self.rest()[1..].starts_with(['+', '-']));
            if digit_after(self.rest(), 1 + sign) {
                self.offset += 1 + sign;
                self.take_while(|c| c.is_ascii_digit());
            }
        }
    }

    fn hexadecimal(&self, start: usize, digits: &str) -> Result<f64, QueryError> {
        // Up to 13 digits are 52 bits, which every number here holds exactly.
        let number = (digits.len() <= 13)
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten();
        let Some(number) = number else {
            return Err(self.error(start, "a hexadecimal number", "`0x` and 1 to 13 digits"));
        };
        let high = u32::try_from(number >> 32).expect("52 bits less 32 fit 32");
        let low = u32::try_from(number & u64::from(u32::MAX)).expect("masked to 32 bits");
        Ok(f64::from(high) * 4_294_967_296.0 + f64::from(low))
    }

    fn quoted(&mut self) -> Result<Token, QueryError> {
        let rest = self.rest();
        let Some(end) = rest.find("]]") else {
            let error = self.error(self.offset, "`[[` without an end", "`]]`");
            return Err(error.with_hint("a key is quoted as [[my-key]]; a list is [1, 2]"));
        };
        // A key may itself end in a bracket, so the last two of a row of them close.
        let more = rest[end + 2..].chars().take_while(|c| *c == ']').count();
        let name = &rest[2..end + more];
        if name.is_empty() {
            return Err(self.error(self.offset, "`[[]]`", "a key between the brackets"));
        }
        self.offset += end + more + 2;
        Ok(Token::Quoted(name.to_owned()))
    }

    fn string(&mut self, quote: char) -> Result<Token, QueryError> {
        let start = self.offset;
        self.offset += 1;
        let mut value = String::new();
        loop {
            value.push_str(self.take_while(|c| c != quote && c != '\\'));
            if self.rest().is_empty() {
                let expected = format!("a closing {quote}");
                return Err(self.error(start, "a text without an end", &expected));
            }
            if self.rest().starts_with(quote) {
                self.offset += 1;
                return Ok(Token::Text(value));
            }
            value.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, QueryError> {
        let start = self.offset;
        self.offset += 1;
        let kind = self.rest().chars().next();
        let plain = match kind {
            Some(c @ ('\'' | '"' | '\\' | '/')) => c,
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                self.offset += 1;
                return self.unicode(start);
            }
            _ => {
                let expected = r#"one of \' \" \\ \n \r \t \uXXXX"#;
                return Err(self.error(start, "an unknown escape", expected));
            }
        };
        self.offset += 1;
        Ok(plain)
    }

    /// After `\u`: four digits, or the two halves of a character beyond them.
    fn unicode(&mut self, start: usize) -> Result<char, QueryError> {
        let mut unit = u32::from(self.four_digits(start)?);
        if (0xD800..0xDC00).contains(&unit) && self.rest().starts_with("\\u") {
            self.offset += 2;
            let low = u32::from(self.four_digits(start)?);
            if (0xDC00..0xE000).contains(&low) {
                unit = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
            }
        }
        char::from_u32(unit)
            .ok_or_else(|| self.error(start, "half a character", "both halves: \\uD83D\\uDE00"))
    }

    fn four_digits(&mut self, start: usize) -> Result<u16, QueryError> {
        let digits = self
            .rest()
            .get(..4)
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let unit =
            unit.ok_or_else(|| self.error(start, "an incomplete escape", "\\u and four digits"))?;
        self.offset += 4;
        Ok(unit)
    }
}
