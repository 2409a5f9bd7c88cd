//! Paths into the twin.

use super::super::ast::{Path, Root};
use super::super::error::QueryError;
use super::super::lexer::Token;
use super::Parser;

/// What a path can begin with, for hints.
const ROOTS: &str = "a path begins with tags, properties.desired, properties.reported, posture, \
                     deviceId, moduleId or status";

/// Attributes that IoT Hub's language has for registry entries, and conditions do not.
const ONLY_IN_QUERIES: [&str; 14] = [
    "etag",
    "deviceEtag",
    "version",
    "statusReason",
    "statusUpdateTime",
    "connectionState",
    "lastActivityTime",
    "cloudToDeviceMessageCount",
    "authenticationType",
    "x509Thumbprint",
    "capabilities",
    "deviceScope",
    "modelId",
    "configurations",
];

impl Parser<'_> {
    /// Whether a name means something here already, so that no `EXISTS` may give it away.
    pub(super) fn is_taken(&self, name: &str) -> bool {
        const FIRST: [&str; 5] = ["tags", "properties", "desired", "reported", "posture"];
        FIRST.contains(&name) || system_root(name).is_some() || self.scope.iter().any(|n| n == name)
    }

    pub(super) fn path(&mut self) -> Result<Path, QueryError> {
        let start = self.next;
        let Token::Word(first) = self.peek().clone() else {
            return Err(self.unexpected("a path").with_hint(ROOTS));
        };
        self.advance();
        let mut keys = Vec::new();
        while self.take_sign(".") {
            keys.push(self.key()?);
        }
        let root = self.root(start, &first, &mut keys)?;
        self.check_keys(start, &root, &keys)?;
        if *self.peek() == Token::Sign("[") {
            let error = self.unexpected("a dot or an operator");
            return Err(error.with_hint(
                "an array has no positions: use EXISTS(x IN path WHERE …) or ARRAY_CONTAINS",
            ));
        }
        Ok(Path { root, keys })
    }

    fn key(&mut self) -> Result<String, QueryError> {
        let key = match self.peek() {
            Token::Word(key) | Token::Quoted(key) => key.clone(),
            Token::Number(_) => {
                let error = self.unexpected("a key");
                return Err(error.with_hint("a key that begins with a digit is written [[5g]]"));
            }
            Token::Text(_) | Token::Sign(_) | Token::End => {
                let error = self.unexpected("a key");
                return Err(error.with_hint("a key with other signs is written [[my-key]]"));
            }
        };
        self.advance();
        Ok(key)
    }

    /// What the first word means; takes the second key where two words name a section.
    fn root(&self, start: usize, first: &str, keys: &mut Vec<String>) -> Result<Root, QueryError> {
        if let Some(level) = self.scope.iter().position(|name| name == first) {
            return Ok(Root::Variable {
                name: first.to_owned(),
                level,
            });
        }
        if let Some(root) = system_root(first) {
            return Ok(root);
        }
        match first {
            "tags" => return Ok(Root::Tags),
            "posture" => return Ok(Root::Posture),
            "desired" => return Ok(Root::Desired),
            "reported" => return Ok(Root::Reported),
            "properties" => {
                let section = keys.first().map(String::as_str);
                let root = match section {
                    Some("desired") => Root::Desired,
                    Some("reported") => Root::Reported,
                    _ => {
                        let expected = "properties.desired or properties.reported";
                        return Err(self.error_at(start, expected));
                    }
                };
                keys.remove(0);
                return Ok(root);
            }
            _ => {}
        }
        let error = self.error_at(start, "a path, a value or a function");
        let dashed = start >= 2 && self.tokens[start - 1].token == Token::Sign("-");
        if ONLY_IN_QUERIES
            .iter()
            .any(|name| name.eq_ignore_ascii_case(first))
        {
            return Err(error.with_hint("this attribute cannot be used in a condition"));
        }
        if dashed && matches!(self.tokens[start - 2].token, Token::Word(_)) {
            return Err(error.with_hint("a key with a dash in it is written [[my-key]]"));
        }
        Err(error.with_hint(format!("{ROOTS}; a text stands in quotes: '{first}'")))
    }

    fn check_keys(&self, start: usize, root: &Root, keys: &[String]) -> Result<(), QueryError> {
        let scalar = matches!(root, Root::DeviceId | Root::ModuleId | Root::Status);
        if scalar && !keys.is_empty() {
            return Err(self.error_at(start, "this attribute alone, because it is a text"));
        }
        // Elsewhere no key begins with a dollar sign, so such a path would silently never hold.
        let Some(dollar) = keys.iter().position(|key| key.starts_with('$')) else {
            return Ok(());
        };
        let versioned = matches!(root, Root::Desired | Root::Reported);
        if versioned && dollar == 0 && keys.len() == 1 && keys[0] == "$version" {
            return Ok(());
        }
        let error = self.error_at(start, "a path whose keys do not begin with `$`");
        Err(error.with_hint("only properties.desired.$version and properties.reported.$version do"))
    }
}

/// Names of the identity, read in any case (spec 8.1).
fn system_root(name: &str) -> Option<Root> {
    const SYSTEM: [(&str, Root); 3] = [
        ("deviceId", Root::DeviceId),
        ("moduleId", Root::ModuleId),
        ("status", Root::Status),
    ];
    let found = SYSTEM
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, root)| root.clone())
}
