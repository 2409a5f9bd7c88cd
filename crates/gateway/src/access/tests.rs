use http::HeaderValue;
use iot_hub::SymmetricKey;

use super::*;
use crate::error::ApiError;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn policies() -> (tempfile::TempDir, AccessPolicies) {
    let folder = tempfile::tempdir().expect("a folder");
    let policies = AccessPolicies::open(&folder.path().join("p.toml")).expect("made");
    (folder, policies)
}

/// A token as the SDKs make it: for a resource, by a policy's key.
fn token(policies: &AccessPolicies, policy: &str, resource: &str, expires: &str) -> String {
    let text = policies
        .named(policy)
        .expect("a policy")
        .connection_string("hub");
    let (_, key) = text.split_once("SharedAccessKey=").expect("a key");
    let key = SymmetricKey::parse(key).expect("a key");
    let expires = expires.parse().expect("a time");
    let (host, path) = resource.split_once('/').unwrap_or((resource, ""));
    let token = SasToken::sign(SasResource::of_path(host, path), &key, expires);
    format!("{token}&skn={policy}")
}

fn call(
    policies: &AccessPolicies,
    header: Option<&str>,
    method: &str,
    path: &str,
) -> Result<Caller, ApiError> {
    let mut headers = HeaderMap::new();
    if let Some(header) = header {
        headers.insert(AUTHORIZATION, HeaderValue::from_str(header).expect("text"));
    }
    let route = Route::parse(&method.parse().expect("a method"), path).expect("a call");
    match shown(policies, &headers, path, now())? {
        Shown::Policy(policy) => {
            allow(policy, &route)?;
            Ok(Caller::Policy(policy.name().to_owned()))
        }
        Shown::Bearer(token) => Ok(Caller::Bearer(token)),
    }
}

#[test]
fn each_policy_may_do_what_it_names_and_no_more() {
    let (_folder, policies) = policies();
    let later = "2026-01-01T01:00:00Z";
    let calls = [
        ("GET", "/devices/d"),
        ("PUT", "/devices/d"),
        ("PATCH", "/twins/d"),
        ("POST", "/devices/query"),
        ("POST", "/devices"),
        ("GET", "/configurations/c"),
        ("PUT", "/configurations/c"),
        ("PUT", "/jobs/v2/j"),
        ("POST", "/twins/d/methods"),
        ("POST", "/messages/deviceBound"),
    ];
    let (yes, no) = (true, false);
    for (policy, wanted) in [
        ("iothubowner", [yes; 10]),
        ("service", [no, no, yes, yes, no, yes, yes, yes, yes, yes]),
        ("device", [no; 10]),
        ("registryRead", [yes, no, no, yes, no, yes, no, no, no, no]),
        (
            "registryReadWrite",
            [yes, yes, no, yes, yes, yes, yes, no, no, no],
        ),
    ] {
        let token = token(&policies, policy, "hub", later);
        for ((method, path), wanted) in calls.into_iter().zip(wanted) {
            let got = call(&policies, Some(&token), method, path);
            match (wanted, got) {
                (true, got) => assert_eq!(got.expect(path), Caller::Policy(policy.to_owned())),
                (false, Ok(_)) => panic!("{policy} may not {method} {path}"),
                (false, Err(error)) => {
                    assert_eq!(error.number(), 401_003, "{error}");
                    assert!(error.to_string().contains("it needs"), "{error}");
                }
            }
        }
    }
}

#[test]
fn a_token_serves_what_lies_below_its_resource() {
    let (_folder, policies) = policies();
    let later = "2026-01-01T01:00:00Z";
    let narrow = token(&policies, "iothubowner", "hub/devices/d", later);
    assert!(call(&policies, Some(&narrow), "GET", "/devices/d").is_ok());
    assert!(call(&policies, Some(&narrow), "GET", "/devices/d/modules/m").is_ok());
    for path in ["/devices/dd", "/twins/d", "/devices"] {
        let error = call(&policies, Some(&narrow), "GET", path).expect_err(path);
        assert_eq!(error.number(), 401_002, "{path}");
    }
}

#[test]
fn who_proves_nothing_is_told_what_is_wanted() {
    let (_folder, policies) = policies();
    let stale = token(&policies, "service", "hub", "2025-12-31T23:00:00Z");
    let good = token(&policies, "service", "hub", "2026-01-01T01:00:00Z");
    let without_policy = good.replace("&skn=service", "");
    let of_another = good.replace("skn=service", "skn=iothubowner");
    let unknown = good.replace("skn=service", "skn=nobody");
    for (header, wanted) in [
        (None, "Authorization is missing"),
        (Some("Basic abc"), "not a SAS token"),
        (Some(stale.as_str()), "expired"),
        (Some(&without_policy), "names no policy"),
        (Some(&of_another), "signature"),
        (Some(&unknown), "signature"),
    ] {
        let error = call(&policies, header, "GET", "/twins/d").expect_err(wanted);
        assert_eq!(error.number(), 401_002, "{wanted}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn bearer_tokens_are_handed_on() {
    let (_folder, policies) = policies();
    let caller = call(&policies, Some("bearer  abc"), "GET", "/devices/d").expect("handed on");
    assert_eq!(caller, Caller::Bearer(Secret::new("abc")));
}
