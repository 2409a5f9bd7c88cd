use super::*;
use crate::secrets::MasterKeys;
use crate::testing::record;

fn sealer() -> Sealer {
    let keys = MasterKeys {
        present: service_kit::secret::Secret::new(BASE64_STANDARD.encode([3_u8; 32])),
        ..MasterKeys::default()
    };
    Sealer::open(&keys).expect("a sealer")
}

fn keys(primary: &str, secondary: &str) -> proto::SymmetricKeys {
    proto::SymmetricKeys {
        primary: primary.to_owned(),
        secondary: secondary.to_owned(),
    }
}

fn thumbprints(primary: &str, secondary: &str) -> proto::Thumbprints {
    proto::Thumbprints {
        primary: primary.to_owned(),
        secondary: secondary.to_owned(),
    }
}

fn key_of(bytes: usize) -> String {
    BASE64_STANDARD.encode(vec![9_u8; bytes])
}

/// What a new identity gets, or what is wrong with the request.
fn new(
    kind: proto::AuthenticationType,
    keys: impl Into<Option<proto::SymmetricKeys>>,
    thumbprints: impl Into<Option<proto::Thumbprints>>,
) -> Result<Authentication, String> {
    let text = |error: Error| error.to_string();
    let wanted =
        Wanted::read(kind.into(), keys.into(), thumbprints.into().as_ref()).map_err(text)?;
    let key = crate::testing::key("d");
    wanted.for_new(&sealer(), &key, "g").map_err(text)
}

/// What an identity that has `current` gets.
fn changed(
    current: &Authentication,
    kind: proto::AuthenticationType,
    keys: impl Into<Option<proto::SymmetricKeys>>,
    thumbprints: impl Into<Option<proto::Thumbprints>>,
) -> Result<Authentication, String> {
    let text = |error: Error| error.to_string();
    let mut record = record("d", "g");
    record.identity.authentication = current.clone();
    let wanted =
        Wanted::read(kind.into(), keys.into(), thumbprints.into().as_ref()).map_err(text)?;
    wanted.for_record(&sealer(), &record).map_err(text)
}

const SHA1: &str = "0123456789abcdef0123456789ABCDEF01234567";

use proto::AuthenticationType as Type;

#[test]
fn each_of_the_four_kinds_can_be_asked_for() {
    assert_eq!(new(Type::Unspecified, None, None).unwrap().as_str(), "sas");
    let sas = new(Type::Sas, keys(&key_of(16), &key_of(64)), None).unwrap();
    let mut made = record("d", "g");
    made.identity.authentication = sas;
    let open = open_keys(&sealer(), &made).unwrap().expect("it has keys");
    assert_eq!((open.primary, open.secondary), (key_of(16), key_of(64)));
    assert_eq!(
        new(Type::SelfSigned, None, thumbprints(SHA1, &"f".repeat(64))),
        Ok(Authentication::SelfSigned {
            primary: SHA1.to_uppercase(),
            secondary: Some("F".repeat(64)),
        })
    );
    let authority = new(Type::CertificateAuthority, None, None);
    assert_eq!(authority, Ok(Authentication::CertificateAuthority));
    assert_eq!(new(Type::None, None, None), Ok(Authentication::None));
}

#[test]
fn a_bad_proof_is_refused_with_its_field_and_what_is_allowed() {
    let good = key_of(32);
    let cases = [
        (
            new(Type::Sas, keys(&key_of(15), &good), None),
            "keys.primary",
        ),
        (
            new(Type::Sas, keys(&good, &key_of(65)), None),
            "keys.secondary",
        ),
        (
            new(Type::Sas, keys(&good, "not base64!"), None),
            "keys.secondary",
        ),
        (new(Type::Sas, keys(&good, ""), None), "keys.secondary"),
        (new(Type::Sas, None, thumbprints(SHA1, "")), "thumbprints"),
        (new(Type::SelfSigned, None, None), "thumbprints"),
        (
            new(Type::SelfSigned, keys(&good, &good), thumbprints(SHA1, "")),
            "keys",
        ),
        (
            new(Type::SelfSigned, None, thumbprints("", SHA1)),
            "thumbprints.primary",
        ),
        (
            new(Type::SelfSigned, None, thumbprints(SHA1, "12:34")),
            "thumbprints.secondary",
        ),
        (
            new(Type::SelfSigned, None, thumbprints(&"g".repeat(40), "")),
            "thumbprints.primary",
        ),
        (new(Type::None, keys(&good, &good), None), "keys"),
        (
            new(Type::CertificateAuthority, None, thumbprints(SHA1, "")),
            "thumbprints",
        ),
    ];
    for (result, field) in cases {
        let error = result.expect_err(field);
        assert!(error.contains(&format!("{field}: ")), "{field}: {error}");
        assert!(!error.contains(&good), "no key is told: {error}");
    }
    assert!(Wanted::read(9, None, None).is_err());
}

#[test]
fn a_change_keeps_what_it_does_not_name_and_makes_what_is_missing() {
    let sas = new(Type::Sas, None, None).unwrap();
    let none = Authentication::None;
    let signed = Authentication::SelfSigned {
        primary: SHA1.to_uppercase(),
        secondary: None,
    };
    assert_eq!(changed(&sas, Type::Sas, None, None), Ok(sas.clone()));
    assert_eq!(
        changed(&none, Type::Sas, None, None).unwrap().as_str(),
        "sas"
    );
    let good = key_of(32);
    let given = changed(&sas, Type::Unspecified, keys(&good, &good), None).unwrap();
    assert_ne!(given, sas);
    assert_eq!(
        changed(&signed, Type::SelfSigned, None, None),
        Ok(signed.clone())
    );
    assert!(changed(&sas, Type::SelfSigned, None, None).is_err());
    assert!(changed(&none, Type::Unspecified, keys(&good, &good), None).is_err());
    assert!(changed(&sas, Type::Unspecified, None, thumbprints(SHA1, "")).is_err());
    assert_eq!(
        changed(&sas, Type::SelfSigned, None, thumbprints(SHA1, "")),
        Ok(signed)
    );
    assert_eq!(changed(&sas, Type::None, None, None), Ok(none));
}
