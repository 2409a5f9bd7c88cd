//! Queries over `devices.jobs`: what became of each device in each job (spec iot-hub-twins §8.2).
//! The conditions are those of all queries, with the row in the place of a twin. Pure.

use serde_json::{Map, Value};
use twin::query::{CompareOp, Expr, Literal, Root, Scope, Vocabulary};
use twin::{Condition, TwinView};

use crate::error::ApiError;

/// What is asked about.
const SOURCE: &str = "devices.jobs";
/// What its fields are called in a condition, and where a row stands in a twin.
const FIELD: (&str, &str) = ("devices.jobs.", "tags.");
/// Characters of a query, as twin-store takes them.
const CHARS_MAX: usize = 8192;

/// A query over the rows of jobs.
#[derive(Debug)]
pub(crate) struct JobQuery {
    /// None: all rows.
    condition: Option<Condition>,
}

impl JobQuery {
    /// Reads a query; none if it is about something else, or asks for more than whole rows, which is
    /// twin-store's to refuse.
    pub(crate) fn parse(text: &str) -> Result<Option<JobQuery>, ApiError> {
        let words = ["select", "*", "from", SOURCE];
        let Some(rest) = words.into_iter().try_fold(text.trim(), keyword) else {
            return Ok(None);
        };
        if text.chars().nth(CHARS_MAX).is_some() {
            return Err(ApiError::new(
                412_001,
                "PreconditionFailed",
                format!("the query has more than {CHARS_MAX} characters, which is the most"),
            ));
        }
        if rest.is_empty() {
            return Ok(Some(JobQuery { condition: None }));
        }
        let condition = keyword(rest, "where")
            .filter(|condition| !condition.is_empty())
            .ok_or_else(|| {
                ApiError::argument(
                    "after `SELECT * FROM devices.jobs` want nothing, or WHERE and a condition",
                )
            })?;
        let (rewritten, places) = rewrite(condition);
        let parsed = Condition::parse_in(&rewritten, Vocabulary::Changes).map_err(|error| {
            let before = places.iter().filter(|place| **place < error.offset).count();
            let offset = error.offset + before * (FIELD.0.len() - FIELD.1.len());
            let start = text.len() - condition.len();
            let character = text
                .get(..start + offset)
                .map_or(start, |text| text.chars().count());
            ApiError::argument(format!(
                "character {} of the query: found {}, expected {}",
                character + 1,
                error.found,
                error.expected
            ))
        })?;
        Ok(Some(JobQuery {
            condition: Some(parsed),
        }))
    }

    /// The one job that it can be about, if it names one.
    pub(crate) fn job(&self) -> Option<&str> {
        match self.condition.as_ref()?.scope() {
            Scope::Where(expr) => job(expr),
            Scope::Everything | Scope::Nothing => None,
        }
    }

    /// Whether a row is asked for.
    pub(crate) fn takes(&self, row: &Map<String, Value>) -> bool {
        let Some(condition) = &self.condition else {
            return true;
        };
        let nothing = Map::new();
        let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
        condition.matches(&TwinView {
            device_id: text("deviceId"),
            module_id: None,
            status: text("status"),
            tags: row,
            desired: &nothing,
            desired_version: 0,
            reported: &nothing,
            reported_version: 0,
            posture: &Value::Null,
        })
    }
}

/// The job that a condition demands.
fn job(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::All(parts) => parts.iter().find_map(job),
        Expr::Compare {
            op: CompareOp::Equal,
            left,
            right,
        } => match (&**left, &**right) {
            (Expr::Path(path), Expr::Literal(Literal::Text(text)))
            | (Expr::Literal(Literal::Text(text)), Expr::Path(path)) => {
                let is_id = path.root == Root::Tags && path.keys == ["jobId"];
                is_id.then_some(text.as_str())
            }
            _ => None,
        },
        _ => None,
    }
}

/// What follows a word, whatever its case, if the text begins with it.
fn keyword<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(word.len())?;
    let ends = rest.is_empty() || rest.starts_with(char::is_whitespace);
    (head.eq_ignore_ascii_case(word) && ends).then(|| rest.trim_start())
}

/// Puts the row in the place of a twin's tags, outside of texts; and where that was done.
fn rewrite(condition: &str) -> (String, Vec<usize>) {
    let mut rewritten = String::with_capacity(condition.len());
    let mut places = Vec::new();
    let mut quote = None;
    let mut rest = condition;
    while let Some(next) = rest.chars().next() {
        let field = rest.get(..FIELD.0.len());
        if quote.is_none() && field.is_some_and(|field| field.eq_ignore_ascii_case(FIELD.0)) {
            places.push(rewritten.len());
            rewritten.push_str(FIELD.1);
            rest = &rest[FIELD.0.len()..];
            continue;
        }
        // What is behind a backslash does not end a text.
        let taken = match (next, quote) {
            ('\\', Some(_)) => rest.chars().take(2).map(char::len_utf8).sum(),
            ('\'' | '"', None) => {
                quote = Some(next);
                1
            }
            (end, Some(open)) if end == open => {
                quote = None;
                1
            }
            _ => next.len_utf8(),
        };
        rewritten.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    (rewritten, places)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn query(text: &str) -> JobQuery {
        let parsed = JobQuery::parse(text).expect(text);
        parsed.expect("it is about jobs")
    }

    #[test]
    fn rows_are_found_by_their_fields() {
        let row = json!({"jobId": "j", "deviceId": "d", "status": "failed", "jobType": "x",
                         "error": {"code": "devices.jobs."}});
        let row = row.as_object().expect("an object");
        for (text, takes) in [
            ("SELECT * FROM devices.jobs", true),
            (
                "select *  from DEVICES.JOBS where devices.jobs.jobId = 'j'",
                true,
            ),
            (
                "SELECT * FROM devices.jobs WHERE devices.jobs.jobId='j' AND devices.jobs.status='failed'",
                true,
            ),
            (
                "SELECT * FROM devices.jobs WHERE devices.jobs.error.code = 'devices.jobs.'",
                true,
            ),
            (
                "SELECT * FROM devices.jobs WHERE devices.jobs.status IN ['completed']",
                false,
            ),
            ("SELECT * FROM devices.jobs WHERE deviceId = 'other'", false),
        ] {
            assert_eq!(query(text).takes(row), takes, "{text}");
        }
    }

    #[test]
    fn one_job_is_looked_at_if_it_is_named() {
        let job = |condition: &str| {
            let query = query(&format!("SELECT * FROM devices.jobs WHERE {condition}"));
            query.job().map(str::to_owned)
        };
        assert_eq!(job("devices.jobs.jobId = 'j'").as_deref(), Some("j"));
        assert_eq!(
            job("devices.jobs.status = 'failed' AND devices.jobs.jobId = 'j'").as_deref(),
            Some("j")
        );
        assert_eq!(
            job("devices.jobs.jobId = 'j' OR devices.jobs.jobId = 'k'"),
            None
        );
        assert_eq!(job("devices.jobs.jobId != 'j'"), None);
    }

    #[test]
    fn mistakes_are_placed_in_the_query_as_it_was_sent() {
        let error = JobQuery::parse("SELECT * FROM devices.jobs WHERE devices.jobs.jobId =");
        let error = error.expect_err("it is broken off").to_string();
        assert!(
            error.starts_with("character 54 of the query: found the end"),
            "{error}"
        );
        assert!(JobQuery::parse("SELECT * FROM devices.jobs GROUP BY x").is_err());
        let others = [
            "SELECT * FROM devices",
            "SELECT deviceId FROM devices.jobs",
            "",
            "*",
        ];
        for other in others {
            assert!(
                JobQuery::parse(other)
                    .expect("no mistake of ours")
                    .is_none(),
                "{other}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(condition in "[a-z'\"\\\\ .=ä]{0,40}") {
            let _ = JobQuery::parse(&format!("SELECT * FROM devices.jobs WHERE {condition}"));
            let _ = JobQuery::parse(&format!("SELECT * FROM devices.jobs WHERE devices.jobs.{condition}"));
        }
    }
}
