//! An error goes out as a status and comes back as the same error, less what is private.

use super::*;

#[derive(Debug, thiserror::Error)]
enum Demo {
    #[error("the twin of `dev1` is at version 7, not 5")]
    Conflict,
    #[error("the request has 1 invalid field")]
    Invalid,
    #[error("the rollout is paused")]
    Paused,
    #[error("the store is busy")]
    Busy,
    #[error("row 17 of /var/lib/twins.db is torn")]
    Torn,
}

impl Classified for Demo {
    fn kind(&self) -> Kind {
        match self {
            Self::Conflict => Kind::Aborted,
            Self::Invalid => Kind::InvalidArgument,
            Self::Paused => Kind::FailedPrecondition,
            Self::Busy => Kind::Unavailable,
            Self::Torn => Kind::DataLoss,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Conflict => "VERSION_CONFLICT",
            Self::Invalid => "INVALID_REQUEST",
            Self::Paused => "ROLLOUT_PAUSED",
            Self::Busy => "STORE_BUSY",
            Self::Torn => "ROW_TORN",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Invalid => {
                vec![Violation::new("twin.name", "must not be empty").of_rule("NAME_EMPTY")]
            }
            Self::Paused => vec![Violation::new("policies/a", "resume it first")],
            Self::Conflict | Self::Busy | Self::Torn => Vec::new(),
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Conflict => vec![("version", "7".to_owned())],
            Self::Invalid | Self::Paused | Self::Busy | Self::Torn => Vec::new(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Busy).then_some(Duration::from_secs(2))
    }
}

#[test]
fn a_known_error_arrives_as_it_was() {
    for error in [Demo::Conflict, Demo::Invalid, Demo::Paused, Demo::Busy] {
        let remote = RemoteError::from(to_status(&error));
        assert_eq!(remote.kind(), error.kind());
        assert_eq!(remote.reason(), error.reason());
        assert_eq!(remote.violations(), error.violations());
        assert_eq!(remote.iot_hub(), error.iot_hub());
        assert_eq!(remote.retry_after(), error.retry_after());
        assert_eq!(remote.to_string(), error.to_string());
    }
    assert_eq!(
        RemoteError::from(to_status(&Demo::Conflict)).fact("version"),
        Some("7")
    );
}

#[test]
fn details_are_of_the_standard_types() {
    let invalid = to_status(&Demo::Invalid).get_error_details();
    let fields = &invalid.bad_request().expect("BadRequest").field_violations;
    assert_eq!(fields[0].field, "twin.name");
    assert_eq!(fields[0].reason, "NAME_EMPTY");
    let info = invalid.error_info().expect("ErrorInfo");
    assert_eq!(info.metadata["iot_hub_code"], "400004");
    assert_eq!(info.metadata["iot_hub_name"], "ArgumentInvalid");
    let paused = to_status(&Demo::Paused).get_error_details();
    let failures = &paused
        .precondition_failure()
        .expect("PreconditionFailure")
        .violations;
    assert_eq!(
        (&*failures[0].r#type, &*failures[0].subject),
        ("ROLLOUT_PAUSED", "policies/a")
    );
    assert_eq!(paused.error_info().expect("ErrorInfo").domain, DOMAIN);
}

#[test]
fn an_unforeseen_cause_is_answered_vaguely_with_a_correlation_id() {
    let status = to_status(&Demo::Torn);
    assert!(
        !status.message().contains("/var/lib"),
        "{}",
        status.message()
    );
    let remote = RemoteError::from(status);
    assert_eq!(remote.kind(), Kind::DataLoss);
    let id = remote.fact(CORRELATION_ID).expect("an id");
    assert!(remote.to_string().contains(id), "{remote}");
    assert_eq!(remote.iot_hub().number(), 500_001);
}

#[test]
fn a_status_without_details_is_still_classified() {
    let remote = RemoteError::from(Status::unavailable(""));
    assert_eq!(remote.kind(), Kind::Unavailable);
    assert_eq!(remote.reason(), "UNKNOWN");
    assert!(!remote.to_string().is_empty());
}

#[test]
fn every_kind_survives_the_way_there_and_back() {
    for kind in [
        Kind::InvalidArgument,
        Kind::NotFound,
        Kind::AlreadyExists,
        Kind::FailedPrecondition,
        Kind::OutOfRange,
        Kind::Aborted,
        Kind::PermissionDenied,
        Kind::Unauthenticated,
        Kind::ResourceExhausted,
        Kind::Unavailable,
        Kind::DeadlineExceeded,
        Kind::Unimplemented,
        Kind::Internal,
        Kind::DataLoss,
    ] {
        assert_eq!(Kind::from_code(kind.code()), kind);
        assert!(kind.http_status().is_client_error() || kind.http_status().is_server_error());
        assert_ne!(kind.exit_code(), crate::exit::OK);
    }
}

#[test]
fn a_connection_that_breaks_under_a_call_is_unavailability() {
    // The only transport error that can be made without a network.
    let error = tonic::transport::Endpoint::from_shared("\0").expect_err("no URL");
    let status = Status::from_error(Box::new(error));
    assert_eq!(status.code(), Code::Unknown);
    assert_eq!(RemoteError::from(status).kind, Kind::Unavailable);
    // An answer with that code is somebody's mistake.
    let answered = Status::unknown("transport error");
    assert_eq!(RemoteError::from(answered).kind, Kind::Internal);
}

/// A refusal that repeats what a hostile caller sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Long(String);

impl Classified for Long {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }

    fn reason(&self) -> &'static str {
        "LONG"
    }

    fn violations(&self) -> Vec<Violation> {
        vec![Violation::new(self.0.clone(), self.0.clone()); 200]
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![("name", self.0.clone())]
    }
}

#[test]
fn a_refusal_always_fits_into_the_headers_it_travels_in() {
    // What hyper takes as a whole, less room for the other headers.
    const HEADERS_MAX: usize = 15 * 1024;
    for text in ["a", "ä", "\u{0}", "%", "\u{1F980}"] {
        let status = to_status(&Long(text.repeat(50_000)));
        let message: usize = status.message().chars().map(escaped).sum();
        let bytes = message + status.details().len().div_ceil(3) * 4;
        assert!(bytes < HEADERS_MAX, "{text:?}: {bytes}");
        let error = RemoteError::from(status);
        assert_eq!(
            (error.kind(), error.reason()),
            (Kind::InvalidArgument, "LONG")
        );
        assert!(error.to_string().ends_with(CUT));
        assert!(!error.violations().is_empty());
    }
}
