//! What a person reads when something fails: what was tried, why it failed, what to do next.

use std::fmt::{Display, Write as _};

use service_kit::error::{Classified as _, Kind as ErrorKind};
use service_kit::status::RemoteError;

use crate::exit::Kind;

/// The one error of the program's outermost layer. It holds sentences, because nobody but a person
/// and an exit code come after it.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    what: String,
    why: Option<String>,
    details: Vec<String>,
    advice: Vec<String>,
    code: Option<Box<str>>,
}

impl Failure {
    /// Says what failed, for instance `cannot read policy.yaml`.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            why: None,
            details: Vec::new(),
            advice: Vec::new(),
            code: None,
        }
    }

    /// The answer of a service to what was tried.
    pub fn from_status(what: impl Into<String>, status: tonic::Status) -> Self {
        Self::from_remote(what, &RemoteError::from(status))
    }

    /// The answer of a service, read already, to what was tried.
    pub fn from_remote(what: impl Into<String>, remote: &RemoteError) -> Self {
        let violations = remote.violations();
        // A message that goes on to list the violations would say them twice.
        let message = remote.to_string();
        let listed = violations.first().and_then(|first| {
            message
                .split_once(&format!(": {}: ", first.subject))
                .map(|(before, _)| before)
        });
        let mut lines = listed.unwrap_or(&message).lines();
        let first = lines.next().unwrap_or_default();
        let mut failure = Self::new(kind_of(remote.kind()), what).because(first);
        failure.code = Some(remote.reason().into());
        // A statement that cannot be read comes with a picture of the place, and a hint.
        for line in lines {
            match line.strip_prefix("hint: ") {
                Some(hint) => failure = failure.advise(hint),
                // Details are set in by as much.
                None => failure = failure.detail(line.strip_prefix("  ").unwrap_or(line)),
            }
        }
        for violation in &violations {
            if is_said_by(first, &violation.description) {
                continue;
            }
            failure = failure.detail(format!("{}: {}", violation.subject, violation.description));
        }
        // An answer lists the first of many and says how many there are.
        let all = remote.fact("violations").and_then(|all| all.parse().ok());
        let more = all.unwrap_or(0_usize).saturating_sub(violations.len());
        if more > 0 {
            failure = failure.detail(format!("and {more} more"));
        }
        if let Some(delay) = remote.retry_after() {
            failure = failure.advise(format!("try again in {} ms", delay.as_millis()));
        }
        match remote.kind() {
            ErrorKind::Unauthenticated => failure.advise(
                "the token was not accepted; `twinward up` writes the right one into its env file \
                 (--env-file, --token-file)",
            ),
            ErrorKind::Aborted => {
                failure.advise("somebody changed it in between: read it again and repeat")
            }
            ErrorKind::InvalidArgument
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::FailedPrecondition
            | ErrorKind::OutOfRange
            | ErrorKind::PermissionDenied
            | ErrorKind::ResourceExhausted
            | ErrorKind::Unavailable
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Unimplemented
            | ErrorKind::Internal
            | ErrorKind::DataLoss => failure,
        }
    }

    /// Adds the reason.
    #[must_use]
    pub fn because(mut self, why: impl Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// Adds a line of its own, for instance one wrong field.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// Adds what the reader may do next.
    #[must_use]
    pub fn advise(mut self, line: impl Into<String>) -> Self {
        self.advice.push(line.into());
        self
    }

    /// The stable reason that a service gave, for instance `HISTORY_TRIMMED`.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Why it failed, or else what failed, on one line.
    pub fn reason(&self) -> String {
        self.why.clone().unwrap_or_else(|| self.what.clone())
    }

    /// The reason and all details on one line, for a list of failures.
    pub fn details_on_one_line(&self) -> String {
        let mut text = self.reason();
        for (index, line) in self.details.iter().enumerate() {
            text.push_str(if index == 0 { ": " } else { "; " });
            text.push_str(line.trim());
        }
        text
    }

    /// The whole message, ending with a line break.
    pub fn render(&self) -> String {
        let mut text = format!("error: {}", self.what);
        if let Some(why) = &self.why {
            let _ = write!(text, ": {why}");
        }
        text.push('\n');
        for line in self.details.iter().flat_map(|detail| detail.lines()) {
            let _ = writeln!(text, "  {line}");
        }
        for line in &self.advice {
            let _ = writeln!(text, "help: {line}");
        }
        text
    }
}

/// Whether a message names the place in a text that a violation names, and so says the same.
fn is_said_by(message: &str, description: &str) -> bool {
    let place = description.split(": ").next().unwrap_or_default();
    place.starts_with("line ") && place.contains(", column ") && message.contains(place)
}

/// What the services' vocabulary means to the shell.
fn kind_of(kind: ErrorKind) -> Kind {
    match kind {
        ErrorKind::InvalidArgument => Kind::Invalid,
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::AlreadyExists | ErrorKind::Aborted => Kind::Conflict,
        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Kind::Denied,
        ErrorKind::FailedPrecondition | ErrorKind::OutOfRange | ErrorKind::ResourceExhausted => {
            Kind::Precondition
        }
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => Kind::Unavailable,
        ErrorKind::Unimplemented | ErrorKind::Internal | ErrorKind::DataLoss => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn every_violation_has_a_line_of_its_own() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("desired.a.b", "is 12 levels deep; allowed are 10");
        details.add_bad_request_violation("tags.$x", "keys may not start with $");
        let status =
            Status::with_error_details(Code::InvalidArgument, "the patch breaks 2 rules", details);
        let failure = Failure::from_status("cannot patch devices/cam-1", status);
        assert_eq!(failure.kind(), Kind::Invalid);
        assert_eq!(
            failure.render(),
            "error: cannot patch devices/cam-1: the patch breaks 2 rules\n  \
             desired.a.b: is 12 levels deep; allowed are 10\n  \
             tags.$x: keys may not start with $\n"
        );
    }

    #[test]
    fn what_is_not_listed_is_counted() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("tags.a", "is too long");
        let all = [("violations".to_owned(), "70".to_owned())];
        details.set_error_info("INVALID_TWIN", "twinward", all);
        let message = "70 rules are broken: tags.a: is too long; and 69 more";
        let status = Status::with_error_details(Code::InvalidArgument, message, details);
        assert_eq!(
            Failure::from_status("cannot patch devices/cam-1", status).render(),
            "error: cannot patch devices/cam-1: 70 rules are broken\n  \
             tags.a: is too long\n  and 69 more\n"
        );
    }

    #[test]
    fn violations_that_the_message_repeats_are_said_once() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("ttl", "must be above zero");
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "the request is invalid: ttl: must be above zero",
            details,
        );
        assert_eq!(
            Failure::from_status("cannot create a token", status).render(),
            "error: cannot create a token: the request is invalid\n  ttl: must be above zero\n"
        );
    }

    #[test]
    fn a_statement_that_cannot_be_read_is_shown_with_its_place_once() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("query", "line 1, column 5: found `=` (write one)");
        let message = "the query cannot be run: line 1, column 5: found `=`\n\
                       hint: write one\n  a = = 1\n      ^";
        let status = Status::with_error_details(Code::InvalidArgument, message, details);
        assert_eq!(
            Failure::from_status("cannot run the query", status).render(),
            "error: cannot run the query: the query cannot be run: line 1, column 5: found `=`\n  \
             a = = 1\n      ^\nhelp: write one\n"
        );
    }

    #[test]
    fn a_refused_verb_ends_as_a_refused_service_would() {
        for code in 1..=16 {
            let code = Code::from(code);
            let failure = Failure::from_status("cannot do it", Status::new(code, "no"));
            assert_eq!(
                failure.kind().code(),
                ErrorKind::from_code(code).exit_code()
            );
        }
    }

    #[test]
    fn a_wrong_token_tells_where_the_right_one_is() {
        let failure = Failure::from_status("cannot list devices", Status::unauthenticated("no"));
        assert_eq!(failure.kind().code(), 7);
        assert!(
            failure.render().contains("--token-file"),
            "{}",
            failure.render()
        );
    }
}
