use proptest::prelude::*;

use super::*;

fn parse(method: &str, path: &str) -> Result<Route, ApiError> {
    Route::parse(&method.parse().expect("a method"), path)
}

fn id(text: &str) -> DeviceId {
    DeviceId::parse(text).expect("a valid id")
}

#[test]
fn devices_may_be_named_like_calls_and_carry_escapes() {
    assert_eq!(
        parse("GET", "/devices/query").expect("a call"),
        Route::GetDevice(id("query"))
    );
    assert_eq!(
        parse("POST", "/devices/query").expect("a call"),
        Route::Query
    );
    assert_eq!(
        parse("PUT", "/devices/a%2Bb%25c").expect("a call"),
        Route::PutDevice(id("a+b%c"))
    );
    assert_eq!(
        parse("GET", "/twins/d/modules/m").expect("a call"),
        parse("GET", "/twins/d/modules/m/").expect("a call")
    );
    assert_eq!(
        parse("POST", "/twins/d/modules/m/methods/").expect("a call"),
        Route::InvokeMethod(IdentityKey::parse_path("d/m").expect("a key"))
    );
    assert_eq!(
        parse("GET", "/devices/").expect("a call"),
        Route::ListDevices
    );
}

#[test]
fn what_cannot_be_names_the_path_or_the_id() {
    for (method, path, wanted, status) in [
        ("GET", "/devices/a%2", "broken escape", 400),
        ("GET", "/devices/a%20b", "the device id `a b`", 400),
        ("GET", "/twins/d/modules/x%2Fy", "the module id `x/y`", 400),
        ("POST", "/twins/d", "POST /twins/d", 404),
        ("GET", "/", "GET /", 404),
        ("DELETE", "/twins/d", "DELETE /twins/d", 404),
    ] {
        let error = parse(method, path).expect_err(path);
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(error.status().as_u16(), status, "{path}");
    }
}

proptest! {
    #[test]
    fn any_path_is_a_call_or_an_error(path in any::<String>(), method in "[A-Z]{3,6}") {
        let _ = parse(&method, &path);
    }
}
