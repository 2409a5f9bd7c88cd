use std::collections::BTreeSet;

use service_kit::auth::{self, Permission, Principal};
use service_kit::error::Classified as _;
use service_kit::error::Kind;
use service_kit::status::{RemoteError, to_status};
use twin::SectionKind;
use twin::{Etag, TwinError, Version};
use wire::InvalidField;

use super::*;
use crate::error::CommandError;
use crate::provisioning::ProvisioningError;
use crate::record::Damaged;
use crate::secrets::SecretError;
use crate::store;
use crate::testing::{key, now, object, partition};

fn rules(document: serde_json::Value) -> TwinError {
    let stamp = twin::Stamp {
        at: now(),
        by: twin::Writer::Device,
    };
    let patch = twin::TwinPatch {
        tags: Some(object(document)),
        desired: None,
    };
    let twin = twin::Twin::new(now());
    twin.patch(&patch, &stamp, None)
        .expect_err("it breaks rules")
}

fn twin_error(source: TwinError) -> Error {
    Error::twin(&key("d"), source)
}

fn damaged() -> Damaged {
    Damaged {
        key: "d".to_owned(),
        part: "row",
        problem: "its checksum does not match".to_owned(),
    }
}

fn query(text: &str) -> Error {
    let error = twin::Condition::parse(text).expect_err("it is no condition");
    Error::query("query", error)
}

/// One of every variant, with the number and the name that IoT Hub's table has (spec §2.5, §6.3).
fn all() -> Vec<(Error, u32, &'static str)> {
    let large = serde_json::json!({
        "a": "x".repeat(4000), "b": "x".repeat(4000), "c": "x".repeat(4000),
    });
    let engine = || store::Error::Engine {
        action: "write",
        source: "disk full".into(),
    };
    let mismatch = |key_of: &str| Error::EtagMismatch {
        key: key(key_of),
        expected: "1".to_owned(),
        actual: "2".to_owned(),
    };
    let etags = TwinError::EtagMismatch {
        expected: Etag::FIRST,
        actual: Etag::FIRST.next(),
    };
    let versions = TwinError::VersionMismatch {
        section: "properties.desired",
        expected: Version::FIRST,
        actual: Version::FIRST,
    };
    vec![
        (
            InvalidField::new("f", "is wrong").into(),
            400_004,
            "ArgumentInvalid",
        ),
        (
            Error::Document {
                field: "tags_json".to_owned(),
                source: twin::parse_document("{", SectionKind::Tags).unwrap_err(),
            },
            400_006,
            "IotHubFormatError",
        ),
        (query("a = = 1"), 400_004, "ArgumentInvalid"),
        (query(&"a".repeat(9000)), 412_001, "PreconditionFailed"),
        (
            Error::QueryTooSlow { seconds: 1 },
            504_101,
            "GatewayTimeout",
        ),
        (
            Error::TooManyGroups(twin::query::TooManyGroups),
            400_003,
            "InvalidOperation",
        ),
        (Error::NotFound(key("d")), 404_001, "DeviceNotFound"),
        (Error::NotFound(key("d/m")), 404_010, "ModuleNotFound"),
        (
            Error::AlreadyExists(key("d")),
            409_001,
            "DeviceAlreadyExists",
        ),
        (
            Error::AlreadyExists(key("d/m")),
            409_301,
            "ModuleAlreadyExistsOnDevice",
        ),
        (mismatch("d"), 412_001, "PreconditionFailed"),
        (
            Error::TwinEtagMismatch {
                key: key("d"),
                expected: "abc".to_owned(),
                actual: "AAAAAAAAAAE=".to_owned(),
            },
            412_001,
            "PreconditionFailed",
        ),
        (
            Error::ConditionFalse {
                key: key("d"),
                condition: "a = 1".to_owned(),
            },
            412_001,
            "PreconditionFailed",
        ),
        (
            Error::ModuleOfModule {
                parent: "devices/d/modules/m".to_owned(),
            },
            400_301,
            "CannotRegisterModuleToModule",
        ),
        (
            Error::DefinedTwice(key("d")),
            400_011,
            "DeviceDefinedMultipleTimes",
        ),
        (
            Error::NoKeys {
                key: key("d"),
                authentication: "none",
            },
            400_003,
            "InvalidOperation",
        ),
        (
            Error::RequestReused { id: "1".to_owned() },
            400_004,
            "ArgumentInvalid",
        ),
        (
            auth::check(&Principal::nobody(), Permission::TwinsWriteAs, "do it")
                .expect_err("nobody may")
                .into(),
            401_003,
            "IotHubUnauthorized",
        ),
        (
            Error::NotOwned {
                partition: partition(),
            },
            503_001,
            "ServiceUnavailable",
        ),
        (
            Error::HubFull {
                what: "devices",
                allowed: 1,
                setting: "devices_max",
            },
            413_002,
            "TooManyDevices",
        ),
        (
            Error::TooManyModules {
                device: "d".to_owned(),
                allowed: 50,
            },
            413_003,
            "TooManyModulesOnDevice",
        ),
        (
            twin_error(rules(serde_json::json!({"a b": 1}))),
            400_004,
            "ArgumentInvalid",
        ),
        (twin_error(rules(large)), 403_100, "TwinSectionTooLarge"),
        (twin_error(etags), 412_001, "PreconditionFailed"),
        (twin_error(versions), 412_001, "PreconditionFailed"),
        (
            twin_error(TwinError::VersionsExhausted),
            403_100,
            "TwinSectionTooLarge",
        ),
        (ProvisioningError::Refused.into(), 401_002, "Unauthorized"),
        (
            ProvisioningError::Disabled {
                registration: "d".to_owned(),
            }
            .into(),
            401_002,
            "Unauthorized",
        ),
        (
            ProvisioningError::NotFound("enrollments/d".to_owned()).into(),
            404_201,
            "EnrollmentNotFound",
        ),
        (
            ProvisioningError::NotRegistered {
                registration: "d".to_owned(),
            }
            .into(),
            404_000,
            "RegistrationNotFound",
        ),
        (
            ProvisioningError::Exists("enrollments/d".to_owned()).into(),
            409_201,
            "EnrollmentConflict",
        ),
        (
            ProvisioningError::DeviceTaken {
                device: "d".to_owned(),
            }
            .into(),
            409_001,
            "DeviceAlreadyExists",
        ),
        (
            ProvisioningError::TooManyGroups { allowed: 100 }.into(),
            400_003,
            "InvalidOperation",
        ),
        (
            ProvisioningError::TooManyIndividuals { allowed: 100 }.into(),
            400_003,
            "InvalidOperation",
        ),
        (Error::TokenRefused, 401_002, "IotHubUnauthorizedAccess"),
        (
            Error::EnrollmentDenied {
                device: "d".to_owned(),
                why: "no",
            },
            401_003,
            "IotHubUnauthorized",
        ),
        (
            Error::NeverDesired {
                key: key("d"),
                version: 9,
            },
            412_001,
            "PreconditionFailed",
        ),
        (
            CommandError::NotOnline(key("d")).into(),
            404_103,
            "DeviceNotOnline",
        ),
        (
            Error::Command(CommandError::NotAnswered {
                key: key("d"),
                seconds: 30,
            }),
            504_101,
            "GatewayTimeout",
        ),
        (
            CommandError::Busy(key("d")).into(),
            429_001,
            "ThrottlingException",
        ),
        (
            Error::Command(CommandError::BadAnswer {
                key: key("d"),
                status: 200,
                problem: "is no JSON".to_owned(),
            }),
            400_012,
            "DeserializationError",
        ),
        (
            CommandError::PayloadTooLarge { bytes: 200_000 }.into(),
            413_001,
            "MessageTooLarge",
        ),
        (
            Error::Command(CommandError::Bus(bus::AskError::Nobody {
                subject: "s".to_owned(),
            })),
            503_001,
            "ServiceUnavailable",
        ),
        (
            Error::Read(ReadError::TooManyOperations { allowed: 1 }),
            429_001,
            "ThrottlingException",
        ),
        (
            Error::Read(ReadError::WatchTooOld),
            400_004,
            "ArgumentInvalid",
        ),
        (
            Error::Read(ReadError::NotThen(key("d/m"))),
            404_010,
            "ModuleNotFound",
        ),
        (
            Error::Read(ReadError::NoOperation("operations/x".to_owned())),
            404_002,
            "JobNotFound",
        ),
        (
            Error::Read(ReadError::JobExists("x".to_owned())),
            409_002,
            "JobAlreadyExists",
        ),
        (
            Error::Read(ReadError::TooManyJobs { allowed: 1 }),
            429_004,
            "ThrottlingMaxActiveJobCountExceeded",
        ),
        (
            Error::Read(ReadError::OperationRuns("operations/x".to_owned())),
            400_003,
            "InvalidOperation",
        ),
        (
            Error::Read(ReadError::TooFast(key("d"))),
            503_001,
            "ServiceUnavailable",
        ),
        (
            Error::Bulk {
                source: TwinError::VersionsExhausted,
            },
            403_100,
            "TwinSectionTooLarge",
        ),
        (
            Error::Replica(Box::new(tonic::Status::unavailable("away").into())),
            503_001,
            "ServiceUnavailable",
        ),
        (Error::Stopping, 503_001, "ServiceUnavailable"),
        (Error::Overtaken, 503_001, "ServiceUnavailable"),
        (
            Error::Store(store::Error::TokenUsedUp),
            503_001,
            "ServiceUnavailable",
        ),
        (Error::Damaged(damaged()), 500_001, "ServerError"),
        (Damaged::undecided("d").into(), 400_003, "InvalidOperation"),
        (Error::Secret(SecretError::Open), 500_001, "ServerError"),
        (
            Error::Store(store::Error::Damaged(damaged())),
            500_001,
            "ServerError",
        ),
        (Error::Store(engine()), 500_001, "ServerError"),
        (
            Error::Store(store::Error::Closed),
            503_001,
            "ServiceUnavailable",
        ),
        (
            Error::Store(store::Error::Fenced {
                partition: partition(),
            }),
            503_001,
            "ServiceUnavailable",
        ),
    ]
}

#[test]
fn every_error_carries_the_number_and_the_name_of_iot_hub() {
    for (error, number, name) in all() {
        let remote = RemoteError::from(to_status(&error));
        let number = number.to_string();
        assert_eq!(remote.fact("iot_hub_code"), Some(&*number), "{error}");
        assert_eq!(remote.fact("iot_hub_name"), Some(name), "{error}");
    }
}

#[test]
fn every_broken_rule_is_named_and_those_not_listed_are_counted() {
    let members = (0..70).map(|n| (format!("bad key {n}"), serde_json::json!(n)));
    let error = twin_error(rules(members.collect()));
    let remote = RemoteError::from(to_status(&error));
    let violations = remote.violations();
    // As many as travel in the headers of an answer.
    assert!((20..70).contains(&violations.len()), "{violations:?}");
    assert_eq!(remote.fact("violations"), Some("70"));
    for violation in violations {
        assert_eq!(violation.rule, "KEY_CHARACTERS", "{violation:?}");
        assert!(violation.subject.starts_with("tags."), "{violation:?}");
        assert!(
            violation.description.contains("; allowed is "),
            "{violation:?}"
        );
    }
}

#[test]
fn the_status_in_a_number_says_the_same_as_the_kind() {
    for (error, number, _) in all() {
        let fits: &[u32] = match error.kind() {
            Kind::InvalidArgument | Kind::OutOfRange => &[400, 403, 413],
            Kind::NotFound => &[404],
            Kind::AlreadyExists => &[409],
            Kind::Aborted => &[412],
            // 404: the device is known, and not online.
            Kind::FailedPrecondition => &[400, 403, 404, 412, 413],
            Kind::Unauthenticated | Kind::PermissionDenied => &[401],
            Kind::ResourceExhausted => &[429],
            Kind::Unavailable => &[503],
            Kind::DeadlineExceeded => &[504],
            Kind::Internal | Kind::DataLoss => &[500],
            Kind::Unimplemented => panic!("{error} is served"),
        };
        assert!(fits.contains(&(number / 1000)), "{error}: {number}");
    }
}

#[test]
fn every_variant_is_in_the_table() {
    // Names of variants as they are printed; the enum has as many.
    let variants: BTreeSet<_> = all()
        .iter()
        .map(|(error, ..)| {
            let text = format!("{error:?}");
            let end = text
                .find(|c: char| !c.is_alphanumeric())
                .unwrap_or(text.len());
            text[..end].to_owned()
        })
        .collect();
    let source = include_str!("../../error.rs");
    let body = source
        .split_once("pub enum Error {")
        .and_then(|(_, rest)| rest.split_once("\n}"))
        .map(|(body, _)| body)
        .expect("the enum is there");
    let declared: BTreeSet<_> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| {
            let end = line
                .find(|c: char| !c.is_alphanumeric())
                .unwrap_or(line.len());
            line[..end].to_owned()
        })
        .collect();
    assert_eq!(variants, declared);
}
