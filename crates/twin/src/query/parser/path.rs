//! Paths into the twin.

use super::super::Vocabulary;
use super::super::ast::{Attribute, Members, Path, Root};
use super::super::error::QueryError;
use super::super::hint::nearest;
use super::super::lexer::Token;
use super::Parser;

/// What a path can begin with, for hints.
const ROOTS_OF_CHANGES: &str = "a path begins with tags, properties.desired, \
                                properties.reported, posture, deviceId, moduleId, status, or \
                                device.tags on modules";
const ROOTS_OF_QUERIES: &str = "a path begins with tags, properties.desired, \
                                properties.reported, posture, or an attribute such as deviceId, \
                                status or connectionState";

/// First words that are no attributes.
const SECTIONS: [&str; 5] = ["tags", "properties", "desired", "reported", "posture"];

/// Leads from a module to its device. An `EXISTS` may give it away: it did before it meant anything.
const DEVICE: &str = "device";

/// What `$metadata` says of a node.
const STAMPS: [&str; 3] = ["$lastUpdated", "$lastUpdatedVersion", "$lastUpdatedBy"];

impl Parser<'_> {
    /// Whether a name means something here already, so that no `EXISTS` may give it away.
    pub(super) fn is_taken(&self, name: &str) -> bool {
        SECTIONS.contains(&name)
            || self.attribute(name).is_some()
            || self.scope.iter().any(|n| n == name)
    }

    pub(super) fn path(&mut self) -> Result<Path, QueryError> {
        let start = self.next;
        let Token::Word(first) = self.peek().clone() else {
            return Err(self.unexpected("a path").with_hint(self.roots()));
        };
        self.advance();
        let mut keys = Vec::new();
        while self.take_sign(".") {
            keys.push(self.key()?);
        }
        let root = self.root(start, &first, &mut keys)?;
        self.check_keys(start, &root, &mut keys)?;
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
            Token::Text(key) if !key.is_empty() => key.clone(),
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
        if let Some(attribute) = self.attribute(first) {
            return Ok(Root::Attribute(attribute));
        }
        match first {
            "tags" => return Ok(Root::Tags),
            "posture" => return Ok(Root::Posture),
            DEVICE => {
                if keys.first().is_none_or(|key| key != "tags") {
                    let error = self.error_at(start, "device.tags");
                    return Err(error.with_hint(
                        "of its device a module's condition can look at the tags alone, as in device.tags.site",
                    ));
                }
                keys.remove(0);
                return Ok(Root::DeviceTags);
            }
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
        Err(self.unknown_root(start, first))
    }

    /// Whether a path may begin with that word.
    pub(super) fn is_root(&self, name: &str) -> bool {
        let is_section = |section: &str| section.eq_ignore_ascii_case(name);
        SECTIONS.into_iter().chain([DEVICE]).any(is_section) || self.attribute(name).is_some()
    }

    /// The attribute of that name, if it can be named here.
    fn attribute(&self, name: &str) -> Option<Attribute> {
        Attribute::by_name(name).filter(|attribute| match self.vocabulary {
            Vocabulary::Query => true,
            Vocabulary::Changes => attribute.is_in_changes(),
        })
    }

    fn roots(&self) -> &'static str {
        match self.vocabulary {
            Vocabulary::Query => ROOTS_OF_QUERIES,
            Vocabulary::Changes => ROOTS_OF_CHANGES,
        }
    }

    fn unknown_root(&self, start: usize, first: &str) -> QueryError {
        let error = self.error_at(start, "a path, a value or a function");
        if Attribute::by_name(first).is_some() {
            return error.with_hint(
                "this attribute cannot be used in a condition over changes, which do not carry it",
            );
        }
        let dashed = start >= 2 && self.tokens[start - 1].token == Token::Sign("-");
        if dashed && matches!(self.tokens[start - 2].token, Token::Word(_)) {
            return error.with_hint("a key with a dash in it is written [[my-key]]");
        }
        if first.eq_ignore_ascii_case("devices") {
            return error.with_hint("leave out `devices.` before an attribute");
        }
        let attributes = Attribute::ALL.into_iter();
        let attributes = attributes.filter(|a| self.attribute(a.name()).is_some());
        let mut known: Vec<&str> = self.scope.iter().map(String::as_str).collect();
        known.extend(SECTIONS);
        for attribute in attributes {
            known.push(attribute.name());
        }
        if let Some(meant) = nearest(first, known) {
            return error.with_hint(format!("did you mean {meant}?"));
        }
        error.with_hint(format!(
            "{}; a text stands in quotes: '{first}'",
            self.roots()
        ))
    }

    fn check_keys(&self, start: usize, root: &Root, keys: &mut [String]) -> Result<(), QueryError> {
        if let Root::Attribute(attribute) = root {
            return self.check_members(start, *attribute, keys);
        }
        // Elsewhere no key begins with a dollar sign, so such a path would silently never hold.
        let Some(dollar) = keys.iter().position(|key| key.starts_with('$')) else {
            return Ok(());
        };
        let versioned = matches!(root, Root::Desired | Root::Reported);
        if versioned && dollar == 0 && keys.len() == 1 && keys[0] == "$version" {
            return Ok(());
        }
        if versioned && dollar == 0 && keys[0] == "$metadata" {
            return self.check_metadata(start, &keys[1..]);
        }
        let error = self.error_at(start, "a path whose keys do not begin with `$`");
        Err(error.with_hint(match self.vocabulary {
            Vocabulary::Query => {
                "only $version and $metadata directly below properties.desired and \
                 properties.reported do"
            }
            Vocabulary::Changes => {
                "only properties.desired.$version and properties.reported.$version do"
            }
        }))
    }

    /// The keys after `$metadata`: those of the section, and perhaps one of its own at the end.
    fn check_metadata(&self, start: usize, keys: &[String]) -> Result<(), QueryError> {
        if self.vocabulary == Vocabulary::Changes {
            let error = self.error_at(start, "a path without $metadata");
            return Err(error
                .with_hint("metadata changes with every write; a condition can look at $version"));
        }
        let own = keys.iter().position(|key| key.starts_with('$'));
        let known = own
            .is_none_or(|place| place + 1 == keys.len() && STAMPS.contains(&keys[place].as_str()));
        if known {
            return Ok(());
        }
        let error = self.error_at(start, "$lastUpdated, $lastUpdatedVersion or $lastUpdatedBy");
        Err(error.with_hint("as in properties.desired.$metadata.rate.$lastUpdated"))
    }

    /// Below an attribute there is nothing, something fixed, or anything.
    fn check_members(
        &self,
        start: usize,
        attribute: Attribute,
        keys: &mut [String],
    ) -> Result<(), QueryError> {
        match (attribute.members(), keys) {
            (_, []) | (Members::Any, _) => Ok(()),
            (Members::None, _) => {
                Err(self.error_at(start, "this attribute alone, because nothing is below it"))
            }
            (Members::These(names), [key]) => {
                let Some(name) = names.iter().find(|name| name.eq_ignore_ascii_case(key)) else {
                    let expected = format!("{} of {}", names.join(" or "), attribute.name());
                    return Err(self.error_at(start, &expected));
                };
                (*name).clone_into(key);
                Ok(())
            }
            (Members::These(names), _) => {
                let expected = format!("{} of {}", names.join(" or "), attribute.name());
                Err(self.error_at(start, &expected))
            }
        }
    }
}
