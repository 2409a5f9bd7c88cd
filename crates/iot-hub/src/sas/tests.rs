use proptest::prelude::*;
use twin::{DeviceId, ModuleId};

use super::*;

/// The vector of the specification: ASCII `0123456789abcdef` twice.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const VECTOR: &str = "SharedAccessSignature sr=hub.example.com%2Fdevices%2Fd1\
    &sig=U7ZUZ%2FArB4pKBmVrXsqZ0Dcta6m8YyLCvH17hBbTWk0%3D&se=1893456000";
const EXPIRY: i64 = 1_893_456_000;

fn key() -> SymmetricKey {
    SymmetricKey::parse(KEY).unwrap()
}

fn other_key() -> SymmetricKey {
    SymmetricKey::generate([9; 32])
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn identity(path: &str) -> IdentityKey {
    let (device, module) = match path.split_once('/') {
        Some((device, module)) => (device, Some(module)),
        None => (path, None),
    };
    IdentityKey {
        device: DeviceId::parse(device).unwrap(),
        module: module.map(|module| ModuleId::parse(module).unwrap()),
    }
}

fn resource(path: &str) -> SasResource {
    SasResource::of_identity("hub.example.com", &identity(path))
}

/// Signs a raw resource as a foreign encoder would and says whether it serves device `d1`.
fn raw_serves(raw_resource: &str, skn: &str, wanted: &SasResource) -> Result<(), SasError> {
    let signature = key().sign(format!("{raw_resource}\n{EXPIRY}").as_bytes());
    let signature = percent::encode(&STANDARD.encode(signature.as_ref()));
    let text = format!("{PREFIX}sr={raw_resource}&sig={signature}&se={EXPIRY}&skn={skn}");
    SasToken::parse(&text)?.verify(wanted, &[&key()], at(EXPIRY))
}

#[test]
fn the_vector_of_the_specification_verifies_and_is_what_we_sign() {
    let token = SasToken::parse(VECTOR).unwrap();
    assert_eq!(
        token.verify(&resource("d1"), &[&key()], at(EXPIRY - 60)),
        Ok(())
    );
    assert_eq!(token.identity(), Some(identity("d1")));
    assert_eq!(token.policy(), None);
    assert_eq!(token.expires_at(), at(EXPIRY));

    let signed = SasToken::sign(resource("d1"), &key(), at(EXPIRY));
    assert_eq!(signed.to_string(), VECTOR);
    assert_eq!(SasToken::parse(&signed.to_string()), Ok(signed));
}

#[test]
fn field_names_come_in_any_order_and_case() {
    let (sr, sig) = (
        "hub.example.com%2Fdevices%2Fd1",
        // The slash unescaped, as the Python service SDK writes it; a bare plus elsewhere is one.
        "U7ZUZ/ArB4pKBmVrXsqZ0Dcta6m8YyLCvH17hBbTWk0=",
    );
    for text in [
        format!("{PREFIX}sig={sig}&se={EXPIRY}&sr={sr}"),
        format!("{PREFIX}SE={EXPIRY}&Sr={sr}&SIG={sig}&skn="),
        format!("{PREFIX}sr={sr}&sig={sig}&se={EXPIRY}&new=field&&odd"),
    ] {
        let token = SasToken::parse(&text).unwrap();
        assert_eq!(
            token.verify(&resource("d1"), &[&key()], at(EXPIRY)),
            Ok(()),
            "{text}"
        );
    }
}

#[test]
fn the_signature_covers_the_resource_as_it_was_written() {
    for raw in [
        "hub.example.com%2Fdevices%2Fd1",
        "hub.example.com%2fdevices%2fd1",
        "hub.example.com/devices/d1",
        "HUB.example.com%3A8443%2Fdevices%2Fd1",
        "https%3A%2F%2Fhub.example.com%2Fdevices%2Fd1%2F",
        "hub.example.com%2Fdevices%2Fd1%2Fapi-version%3D2016-11-14",
    ] {
        assert_eq!(raw_serves(raw, "", &resource("d1")), Ok(()), "{raw}");
    }
}

#[test]
fn a_policys_resource_covers_by_whole_segments_and_an_identitys_only_itself() {
    for (raw, path, serves) in [
        ("hub.example.com", "d1", true),
        ("hub.example.com%2Fdevices", "d1", true),
        ("hub.example.com%2Fdevices%2Fd1", "d1/m1", true),
        ("hub.example.com%2Fdev", "d1", false),
        ("hub.example.com%2Fdevices%2Fd", "d1", false),
        ("hub.example.com%2Fdevices%2FD1", "d1", false),
        ("hub.example.com%2Fdevices%2Fd1%2Fmodules%2Fm1", "d1", false),
        (
            "hub.example.com%2Fdevices%2Fd1%2Fmodules%2Fm1",
            "d1/m2",
            false,
        ),
        ("other.example.com%2Fdevices%2Fd1", "d1", false),
    ] {
        let result = raw_serves(raw, "device", &resource(path));
        assert_eq!(result.is_ok(), serves, "{raw} for {path}: {result:?}");
        if let Err(error) = result {
            assert!(matches!(error, SasError::WrongResource { .. }), "{error}");
        }
        let with_own_key = raw_serves(raw, "", &resource(path));
        assert!(
            matches!(with_own_key, Err(SasError::WrongResource { .. })),
            "{raw} for {path}: {with_own_key:?}"
        );
    }
}

#[test]
fn hosts_compare_without_port_and_brackets_stay() {
    let d1 = identity("d1");
    for (host, same) in [
        ("HUB:443", "hub"),
        ("[::1]:8443", "[::1]"),
        ("[::1]", "[::1]:1"),
        ("127.0.0.1:7", "127.0.0.1"),
    ] {
        assert_eq!(
            SasResource::of_identity(host, &d1),
            SasResource::of_identity(same, &d1),
            "{host}"
        );
    }
    assert_ne!(
        SasResource::of_identity("[::1]", &d1),
        SasResource::of_identity("[::2]", &d1)
    );
}

#[test]
fn a_token_lives_five_minutes_longer_than_it_says() {
    let token = SasToken::parse(VECTOR).unwrap();
    let last = at(EXPIRY + 5 * 60 - 1);
    assert_eq!(token.verify(&resource("d1"), &[&key()], last), Ok(()));
    let now = at(EXPIRY + 5 * 60);
    assert_eq!(
        token.verify(&resource("d1"), &[&key()], now),
        Err(SasError::Expired {
            expired_at: at(EXPIRY),
            now
        })
    );
}

#[test]
fn either_of_two_keys_verifies_and_no_other() {
    let token = SasToken::parse(VECTOR).unwrap();
    let now = at(EXPIRY);
    let wanted = resource("d1");
    assert_eq!(token.verify(&wanted, &[&other_key(), &key()], now), Ok(()));
    assert_eq!(
        token.verify(&wanted, &[&other_key()], now),
        Err(SasError::WrongSignature)
    );
    assert_eq!(
        token.verify(&wanted, &[], now),
        Err(SasError::WrongSignature)
    );
}

#[test]
fn a_changed_resource_or_expiry_breaks_the_signature() {
    for changed in [
        VECTOR.replace("d1", "d2"),
        VECTOR.replace("1893456000", "1993456000"),
    ] {
        let token = SasToken::parse(&changed).unwrap();
        assert_eq!(
            token.verify(&resource("d2"), &[&key()], at(0)),
            Err(SasError::WrongSignature)
        );
    }
}

#[test]
fn a_policy_token_names_its_policy() {
    let token = SasToken::parse(&format!("{VECTOR}&skn=iothub%20owner")).unwrap();
    assert_eq!(token.policy(), Some("iothub owner"));
    assert_eq!(SasToken::parse(&token.to_string()), Ok(token));
}

#[test]
fn malformed_tokens_are_refused_by_what_is_wrong() {
    for (text, message) in [
        (
            "",
            "not a SAS token: it does not begin with \"SharedAccessSignature \"",
        ),
        (
            "Bearer x",
            "not a SAS token: it does not begin with \"SharedAccessSignature \"",
        ),
        ("SharedAccessSignature ", "the SAS token has no field sr"),
        (
            "SharedAccessSignature sr=h",
            "the SAS token has no field sig",
        ),
        (
            "SharedAccessSignature sr=h&sig=YQ==",
            "the SAS token has no field se",
        ),
        (
            "SharedAccessSignature sr=h&sr=h",
            "the SAS token has the field sr twice",
        ),
        (
            "SharedAccessSignature sr=h&sig=%&se=1",
            "the SAS token's field sig is malformed: want percent-encoded base64",
        ),
        (
            "SharedAccessSignature sr=/a&sig=YQ==&se=1",
            "the SAS token's field sr is malformed: want a percent-encoded host with an optional path",
        ),
        (
            "SharedAccessSignature sr=h&sig=YQ==&se=99999999999999999",
            "the SAS token's field se is malformed: want seconds since 1970 as a decimal number",
        ),
    ] {
        let error = SasToken::parse(text).unwrap_err();
        assert_eq!(error.to_string(), message, "{text}");
    }
    let long = format!("{VECTOR}&x={}", "y".repeat(TOKEN_BYTES_MAX));
    assert!(matches!(
        SasToken::parse(&long),
        Err(SasError::TooLong { .. })
    ));
}

#[test]
fn debug_shows_no_signature() {
    let token = SasToken::parse(VECTOR).unwrap();
    let shown = format!("{token:?}");
    assert!(shown.contains("d1"), "{shown}");
    assert!(!shown.contains("U7ZU") && !shown.contains("sig"), "{shown}");
}

proptest! {
    #[test]
    fn a_signed_token_reads_back_and_verifies_for_its_identity_alone(
        device in "[A-Za-z0-9:.+%_#*?!(),=@;$'-]{1,128}",
        module in proptest::option::of("[A-Za-z0-9:.+%_#*?!(),=@;$'-]{1,128}"),
        random in any::<[u8; 32]>(),
        expiry in 0_i64..4_000_000_000,
    ) {
        let identity = IdentityKey {
            device: DeviceId::parse(&device).unwrap(),
            module: module.map(|module| ModuleId::parse(&module).unwrap()),
        };
        let key = SymmetricKey::generate(random);
        let wanted = SasResource::of_identity("Hub.example:8443", &identity);
        let token = SasToken::sign(wanted.clone(), &key, at(expiry));
        let read = SasToken::parse(&token.to_string()).unwrap();
        prop_assert_eq!(&read, &token);
        prop_assert_eq!(read.identity(), Some(identity));
        prop_assert_eq!(read.verify(&wanted, &[&key], at(expiry)), Ok(()));
        prop_assert_eq!(
            read.verify(&resource("someone-else-of-no-such-name"), &[&key], at(expiry)).is_err(),
            true
        );
    }

    #[test]
    fn reading_never_panics(text in any::<String>(), fields in "[srigek=&%2Ff0-9é/:]{0,100}") {
        let _ = SasToken::parse(&text);
        let _ = SasToken::parse(&format!("{PREFIX}{fields}"));
        let _ = SasToken::parse(&format!("{PREFIX}sr={fields}&sig={fields}&se=1"));
    }
}
