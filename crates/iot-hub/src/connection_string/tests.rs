use proptest::prelude::*;

use super::*;

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

fn refused_as(text: &str, message: &str) {
    let error = ConnectionString::parse(text).unwrap_err();
    assert_eq!(error.to_string(), message, "{text}");
}

#[test]
fn fields_come_in_any_order_and_case() {
    for text in [
        format!("HostName=hub.example.com:8443;DeviceId=d1;ModuleId=m=1;SharedAccessKey={KEY}"),
        format!("SharedAccessKey={KEY};ModuleId=m=1;DeviceId=d1;HostName=hub.example.com:8443"),
        format!(
            " hostname=hub.example.com:8443; deviceid=d1;MODULEID=m=1;sharedAccessKey={KEY};\n"
        ),
    ] {
        let parsed = ConnectionString::parse(&text).unwrap();
        assert_eq!(parsed.host_name(), "hub.example.com:8443");
        assert_eq!(parsed.identity().to_string(), "d1/m=1");
        assert_eq!(parsed.key().to_base64().as_str(), KEY);
    }
}

#[test]
fn a_device_has_no_module() {
    let text = format!("HostName=h;DeviceId=d1;SharedAccessKey={KEY}");
    let parsed = ConnectionString::parse(&text).unwrap();
    assert_eq!(parsed.identity().module, None);
    assert_eq!(parsed.to_secret_string().as_str(), text);
}

#[test]
fn errors_name_the_field() {
    refused_as("", "the connection string has no HostName");
    refused_as("HostName=h", "the connection string has no DeviceId");
    refused_as(
        "HostName=h;DeviceId=d",
        "the connection string has no SharedAccessKey",
    );
    refused_as(
        "HostName=h;DeviceId=d;DeviceId=e",
        "the connection string has DeviceId twice",
    );
    refused_as(
        &format!("HostName=h h;DeviceId=d;SharedAccessKey={KEY}"),
        "HostName is malformed: want a host name or address with an optional :port, \
         at most 260 bytes",
    );
    refused_as(
        &format!("HostName=h;DeviceId=d/e;SharedAccessKey={KEY}"),
        "DeviceId is malformed",
    );
    refused_as(
        &format!("HostName=h;DeviceId=d;ModuleId=;SharedAccessKey={KEY}"),
        "ModuleId is malformed",
    );
    refused_as(
        "HostName=h;DeviceId=d;SharedAccessKey=short",
        "SharedAccessKey is malformed",
    );
    refused_as(
        &format!("HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}"),
        "the connection string has SharedAccessKeyName, which is not supported: \
         use a SharedAccessKey of the device or module",
    );
    refused_as(
        &"x".repeat(CONNECTION_STRING_BYTES_MAX + 1),
        "the connection string has 2049 bytes, allowed are 2048",
    );
}

#[test]
fn neither_errors_nor_debug_show_a_secret() {
    // The sign after SharedAccessKey is lost, and the separator before it: the secret stands where a
    // key should stand.
    let secret = KEY.trim_end_matches('=');
    for text in [
        format!("HostName=h;DeviceId=d;SharedAccessKey{secret}"),
        format!("HostName=h;DeviceId=d;{KEY}"),
        format!("HostName=h;DeviceId=d;SharedAccessKey={secret}"),
    ] {
        let error = ConnectionString::parse(&text).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.to_lowercase().contains(&secret.to_lowercase()),
            "{shown}"
        );
    }
    let good =
        ConnectionString::parse(&format!("HostName=h;DeviceId=d;SharedAccessKey={KEY}")).unwrap();
    assert!(!format!("{good:?}").contains(secret));
}

#[test]
fn an_id_with_a_semicolon_cannot_be_carried() {
    let identity = IdentityKey {
        device: DeviceId::parse("a;b").unwrap(),
        module: None,
    };
    assert_eq!(
        ConnectionString::new("h", identity, SymmetricKey::generate([1; 32])),
        Err(ConnectionStringError::Semicolon { key: DEVICE_ID })
    );
}

fn id() -> impl Strategy<Value = String> {
    "[A-Za-z0-9:.+%_#*?!(),=@$'-]{1,128}"
}

proptest! {
    #[test]
    fn what_was_printed_reads_back(
        host in "[a-z0-9.-]{1,200}(:[0-9]{1,5})?",
        device in id(),
        module in proptest::option::of(id()),
        random in any::<[u8; 32]>(),
    ) {
        let identity = IdentityKey {
            device: DeviceId::parse(&device).unwrap(),
            module: module.map(|module| ModuleId::parse(&module).unwrap()),
        };
        let made =
            ConnectionString::new(&host, identity, SymmetricKey::generate(random)).unwrap();
        prop_assert_eq!(ConnectionString::parse(&made.to_secret_string()), Ok(made));
    }

    #[test]
    fn reading_never_panics(text in any::<String>(), odd in "[HostNameDeviceIdSharedAccessKey=; é]{0,200}") {
        let _ = ConnectionString::parse(&text);
        let _ = ConnectionString::parse(&odd);
    }
}
