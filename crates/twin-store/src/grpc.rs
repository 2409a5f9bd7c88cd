//! The gRPC API: reads requests into values, has the engine decide, prints answers.
//!
//! Every request is checked here, once, with the field named; what is left is decided in `apply`.

use std::sync::Arc;

use service_kit::clock::SharedClock;
use service_kit::shutdown::ShutdownToken;
use service_kit::status;
use tonic::Status;
use twin::{DeviceId, IdentityKey, Map, SectionKind};
use wire::{InvalidField, names};

use crate::engine::Engine;
use crate::error::Error;
use crate::forward;
use crate::metrics::Metrics;
use crate::record::Damaged;
use crate::secrets::Sealer;
use crate::store::Store;

use self::etag::etag;

mod access;
mod audit;
mod authentication;
mod bulk;
mod caller;
pub(crate) mod commands;
mod credentials;
mod desired_changes;
mod device_twins;
mod enrollment;
pub(crate) mod enrollments;
mod etag;
mod filter;
mod history;
mod identity;
mod list_place;
pub(crate) mod peers;
mod policies;
pub mod query;
mod read_mask;
mod registrations;
mod registry;
mod repeatable;
mod token;
mod twin_writes;
mod twins;
pub(crate) mod watch;

/// Most items of one page.
const PAGE_MAX: u32 = 1000;
/// Items of a page when the caller does not say.
const PAGE_DEFAULT: u32 = 100;

/// What every call needs. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub(crate) engine: Engine,
    pub(crate) bus: bus::Bus,
    /// The way to devices.
    pub(crate) way: commands::Way,
    /// Calls to devices that may wait.
    pub(crate) commands: Arc<tokio::sync::Semaphore>,
    pub(crate) feed: Arc<watch::Feed>,
    pub(crate) store: Arc<dyn Store>,
    /// Tells the runner of a new operation.
    pub(crate) operations: Arc<tokio::sync::Notify>,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) clock: SharedClock,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: ShutdownToken,
    /// Every new device gets its security module.
    pub(crate) security_module_on_create: bool,
    /// Bound of all queues of messages for devices.
    pub(crate) device_messages_bytes: u64,
    /// Enrolments of single devices, of which there may be so many.
    pub(crate) individuals: Arc<enrollments::individuals::Individuals>,
    /// The other replicas; none: there is one only.
    pub(crate) peers: Option<Arc<dyn peers::Directory>>,
}

/// Answers with an error's status; what the caller may not know is logged on the way.
fn refuse(error: impl Into<Error>) -> Status {
    let error = error.into();
    let mut status = status::to_status(&error);
    if let Error::NotOwned { partition } = error {
        forward::mark(&mut status, partition);
    }
    status
}

fn identity(field: &str, name: &str) -> Result<IdentityKey, Error> {
    Ok(names::parse_identity(field, name)?)
}

fn device(field: &str, name: &str) -> Result<DeviceId, Error> {
    let key = identity(field, name)?;
    if key.module.is_some() {
        let problem = format!("{name:?} names a module; allowed is \"devices/{{device}}\"");
        return Err(InvalidField::new(field, problem).into());
    }
    Ok(key.device)
}

fn module(field: &str, name: &str) -> Result<IdentityKey, Error> {
    let key = identity(field, name)?;
    if key.module.is_none() {
        let problem = format!(
            "{name:?} names a device; allowed is \"devices/{{device}}/modules/{{module}}\""
        );
        return Err(InvalidField::new(field, problem).into());
    }
    Ok(key)
}

fn device_id(text: &str) -> Result<DeviceId, Error> {
    Ok(DeviceId::parse(text).map_err(|error| InvalidField::new("device_id", error))?)
}

/// Reads a JSON object; empty text is none.
fn object(field: &str, text: &str) -> Result<Option<Map>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    // Paths in a refusal begin with the section that the field is for.
    let own = field.rsplit_once('.').map_or(field, |(_, own)| own);
    let section = match own {
        "tags_json" | "tags_patch_json" => SectionKind::Tags,
        "patch_json" => SectionKind::Reported,
        // Desired sections, and the settings of policies, which become part of one.
        _ => SectionKind::Desired,
    };
    match twin::parse_document(text, section) {
        Ok(document) => Ok(Some(document)),
        Err(source) => Err(Error::Document {
            field: field.to_owned(),
            source,
        }),
    }
}

fn page_size(size: i32) -> Result<u32, Error> {
    match u32::try_from(size) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(size) if size <= PAGE_MAX => Ok(size),
        Ok(_) | Err(_) => {
            let problem =
                format!("is {size}; allowed are 1 to {PAGE_MAX}, and 0 for {PAGE_DEFAULT}");
            Err(InvalidField::new("page_size", problem).into())
        }
    }
}

/// Bytes after which a page ends early. The largest twin, with the metadata of two full sections and
/// its posture, has less than 3 MiB; one for which there is no room any more ([`has_room`]) begins the
/// next page.
const PAGE_BYTES: usize = 1024 * 1024;

/// The most that an answer of several twins holds: what gRPC clients take, less room for the names and the
/// token beside them.
const ANSWER_BYTES: usize = 4 * 1024 * 1024 - 256 * 1024;

/// Whether an answer of so many bytes has room for something of this size. The first always finds room:
/// it cannot be had in smaller parts.
fn has_room(bytes: usize, next: usize) -> bool {
    bytes == 0 || bytes.saturating_add(next) <= ANSWER_BYTES
}

/// A page token is the resource name after which the page starts.
fn page_start(token: &str) -> Result<Option<IdentityKey>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let bad = |_| InvalidField::new("page_token", "is not one that this service gave");
    Ok(Some(
        names::parse_identity("page_token", token).map_err(bad)?,
    ))
}

fn page_token(next: Option<&IdentityKey>) -> String {
    next.map(names::identity_name).unwrap_or_default()
}

/// One damaged record must not fail a list as a whole; whoever asks for it alone gets an error.
fn report_damaged(damaged: &[Damaged]) {
    for damaged in damaged {
        if damaged.is_undecided() {
            tracing::warn!(error = %damaged, "a twin was left out of an answer");
            continue;
        }
        tracing::error!(error = %damaged, "a stored twin was left out of a list");
    }
}

/// The resource name in a report of damage, as far as it is one.
fn damaged_name(key: &str) -> String {
    IdentityKey::parse_path(key).map_or_else(|_| key.to_owned(), |key| names::identity_name(&key))
}

#[cfg(test)]
mod tests {
    use service_kit::error::Classified as _;

    use super::*;

    #[test]
    fn an_integer_that_json_readers_would_change_is_refused_with_its_path() {
        let text = r#"{"a": [1, 18446744073709551616]}"#;
        for (field, path) in [
            ("tags_patch_json", "tags.a[1]"),
            ("bulk_update.tags_patch_json", "tags.a[1]"),
            ("desired_json", "properties.desired.a[1]"),
            ("patch_json", "properties.reported.a[1]"),
        ] {
            let error = object(field, text).unwrap_err().to_string();
            assert!(error.contains(field) && error.contains(path), "{error}");
        }
        assert!(object("tags_json", "").unwrap().is_none());
    }

    #[test]
    fn an_answer_stays_below_what_clients_take_unless_one_twin_alone_is_larger() {
        assert!(has_room(0, 10 * ANSWER_BYTES));
        assert!(has_room(1, ANSWER_BYTES - 1));
        assert!(!has_room(1, ANSWER_BYTES));
        assert!(!has_room(PAGE_BYTES - 1, usize::MAX));
    }

    #[test]
    fn what_is_no_document_is_told_with_path_rule_and_number() {
        for (text, rule, number) in [
            ("{", "MALFORMED", 400_006),
            ("[]", "NOT_AN_OBJECT", 400_004),
            (r#"{"a": 18446744073709551616}"#, "INTEGER_RANGE", 400_004),
        ] {
            let error = object("tags_json", text).unwrap_err();
            assert_eq!(error.iot_hub().number(), number, "{error}");
            let remote = status::RemoteError::from(refuse(error));
            assert_eq!(remote.fact("field"), Some("tags_json"));
            let violations = remote.violations();
            assert!(violations[0].subject.starts_with("tags"), "{violations:?}");
            assert_eq!(violations[0].rule, rule);
        }
    }
}
