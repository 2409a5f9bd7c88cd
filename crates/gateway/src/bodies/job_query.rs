//! Queries over `devices.jobs`: what became of each device in each job (spec iot-hub-twins §8.2).
//! Whole rows or values of them, and conditions: the language is that of all queries, with the row in
//! the place of a twin. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value};
use twin::TwinView;
use twin::query::{CompareOp, Expr, Literal, Root, Select, Statement};

use crate::error::ApiError;

/// What is asked about, and what stands in its place when the query is read.
const SOURCE: (&str, &str) = ("devices.jobs", "devices");
/// What its fields are called, and where a row stands in a twin.
const FIELD: (&str, &str) = ("devices.jobs.", "tags.");
/// Characters of a query, as twin-store takes them.
const CHARS_MAX: usize = 8192;

/// A query over the rows of jobs.
#[derive(Debug)]
pub(crate) struct JobQuery {
    statement: Statement,
}

impl JobQuery {
    /// Reads a query; none if it is about something else, which is twin-store's to answer.
    pub(crate) fn parse(text: &str) -> Result<Option<JobQuery>, ApiError> {
        let Some((rewritten, places)) = rewrite(text) else {
            return Ok(None);
        };
        if text.chars().nth(CHARS_MAX).is_some() {
            return Err(ApiError::new(
                412_001,
                "PreconditionFailed",
                format!("the query has more than {CHARS_MAX} characters, which is the most"),
            ));
        }
        let statement = Statement::parse(&rewritten).map_err(|error| {
            let before = places.iter().filter(|(place, _)| *place < error.offset);
            let offset = error.offset + before.map(|(_, shorter)| shorter).sum::<usize>();
            let character = text.get(..offset).map_or(0, |text| text.chars().count());
            ApiError::argument(format!(
                "character {} of the query: found {}, expected {}",
                character + 1,
                error.found,
                error.expected
            ))
        })?;
        let more = [
            ("TOP", statement.top().is_some()),
            ("aggregates or GROUP BY", statement.is_aggregated()),
            ("ORDER BY", !statement.order_by().is_empty()),
        ];
        if let Some((what, _)) = more.into_iter().find(|(_, is_there)| *is_there) {
            return Err(ApiError::argument(format!(
                "a query of devices.jobs takes no {what}: want a list of values or `*`, and WHERE"
            )));
        }
        Ok(Some(JobQuery { statement }))
    }

    /// The one job that it can be about, if it names one.
    pub(crate) fn job(&self) -> Option<&str> {
        job(self.statement.condition()?)
    }

    /// Whether whole rows are asked for.
    pub(crate) fn is_whole(&self) -> bool {
        *self.statement.select() == Select::All
    }

    /// What is asked for of a row; none if the row is not.
    pub(crate) fn answer(&self, row: Map<String, Value>, now: Timestamp) -> Option<Value> {
        let nothing = Map::new();
        let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
        let view = TwinView {
            device_id: text("deviceId"),
            module_id: None,
            status: text("status"),
            tags: &row,
            desired: &nothing,
            desired_version: 0,
            reported: &nothing,
            reported_version: 0,
            posture: &Value::Null,
            device_tags: None,
        };
        if !self.statement.matches(&view, now) {
            return None;
        }
        Some(Value::Object(if self.is_whole() {
            row
        } else {
            self.statement.project(&view, now)
        }))
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

/// Puts devices in the place of jobs and the row in the place of a twin's tags, outside of texts,
/// quoted names and comments; and where that was done, by how many bytes. None if it is not about
/// jobs.
fn rewrite(text: &str) -> Option<(String, Vec<(usize, usize)>)> {
    /// What is read as it stands: its beginning and its end.
    const LITERALS: [(&str, &str); 4] = [("'", "'"), ("\"", "\""), ("/*", "*/"), ("[[", "]]")];
    let mut rewritten = String::with_capacity(text.len());
    let mut places = Vec::new();
    let mut is_about_jobs = false;
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let begins = |word: &str| {
            let head = rest.get(..word.len());
            head.is_some_and(|head| head.eq_ignore_ascii_case(word))
        };
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let after_word = rewritten.ends_with(|c| is_word(c) || c == '.');
        let behind = rest.get(SOURCE.0.len()..).unwrap_or_default();
        let replaced = if after_word {
            None
        } else if begins(FIELD.0) {
            Some(FIELD)
        } else if begins(SOURCE.0) && !behind.starts_with(is_word) && is_from(&rewritten) {
            is_about_jobs = true;
            Some(SOURCE)
        } else {
            None
        };
        if let Some((found, instead)) = replaced {
            places.push((rewritten.len(), found.len() - instead.len()));
            rewritten.push_str(instead);
            rest = &rest[found.len()..];
            continue;
        }
        let literal = LITERALS.iter().find(|(begin, _)| rest.starts_with(begin));
        let taken = match literal {
            Some((begin, end)) => begin.len() + literal_length(&rest[begin.len()..], end),
            None => next.len_utf8(),
        };
        rewritten.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    is_about_jobs.then_some((rewritten, places))
}

/// Whether the last word is FROM.
fn is_from(text: &str) -> bool {
    let word = text.trim_end().rsplit(char::is_whitespace).next();
    word.is_some_and(|word| word.eq_ignore_ascii_case("from") || word.ends_with("*/"))
}

/// Bytes up to the end of what is read as it stands, with the end. What is behind a backslash does not
/// end a text.
fn literal_length(text: &str, end: &str) -> usize {
    let is_text = end == "'" || end == "\"";
    let mut chars = text.char_indices();
    while let Some((at, next)) = chars.next() {
        if is_text && next == '\\' {
            chars.next();
        } else if text[at..].starts_with(end) {
            return at + end.len();
        }
    }
    text.len()
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

    fn row() -> Map<String, Value> {
        let row = json!({"jobId": "j", "deviceId": "d", "status": "failed", "jobType": "x",
                         "startTimeUtc": "2026-11-23T12:00:00Z",
                         "error": {"code": "devices.jobs."}});
        row.as_object().expect("an object").clone()
    }

    fn answer(text: &str) -> Option<Value> {
        query(text).answer(row(), "2026-11-23T13:30:00Z".parse().expect("a date"))
    }

    #[test]
    fn rows_are_found_by_their_fields() {
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
            (
                "SELECT * FROM /* it's from devices */ devices.jobs \
                 WHERE DATE_DIFF('hour', devices.jobs.startTimeUtc, NOW()) > 1",
                true,
            ),
        ] {
            let whole = Value::Object(row());
            assert_eq!(answer(text), takes.then_some(whole), "{text}");
        }
    }

    #[test]
    fn values_of_rows_are_named_as_in_every_query() {
        assert_eq!(
            answer(
                "SELECT deviceId, devices.jobs.jobId, devices.jobs.error.code AS why, \
                 UPPER(devices.jobs.status) AS [[devices.jobs.]], devices.jobs.none FROM devices.jobs"
            ),
            Some(
                json!({"deviceId": "d", "jobId": "j", "why": "devices.jobs.",
                        "devices.jobs.": "FAILED"})
            )
        );
        for (text, what) in [
            ("SELECT COUNT() FROM devices.jobs", "aggregates"),
            ("SELECT TOP 3 * FROM devices.jobs", "TOP"),
            ("SELECT * FROM devices.jobs ORDER BY deviceId", "ORDER BY"),
        ] {
            let error = JobQuery::parse(text).expect_err(text).to_string();
            assert!(error.contains(what), "{error}");
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
            "SELECT 'from devices.jobs' FROM devices",
            "SELECT deviceId FROM devices WHERE devices.jobs.x = 1",
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
        fn any_text_is_read_or_refused(condition in "[a-z'\"\\\\ .=ä/*\\[\\]]{0,40}") {
            let _ = JobQuery::parse(&format!("SELECT * FROM devices.jobs WHERE {condition}"));
            let _ = JobQuery::parse(&format!("SELECT {condition} FROM devices.jobs"));
            let _ = JobQuery::parse(&format!("SELECT * FROM devices.jobs WHERE devices.jobs.{condition}"));
        }
    }
}
