//! What back-end programs meet at the REST door beside the straight way: comparisons of etags in bulk
//! calls, bodies that ask for nothing, modules of devices that are not there. By hand, because SDKs
//! send none of it.

use serde_json::{Value, json};
use testkit::TestCerts;

use crate::support::front::{Front, Setup, own_token};
use crate::support::hub::TOKEN;

/// The door, with the owner's key.
struct Owner {
    front: Front,
    key: String,
}

impl Owner {
    async fn start() -> Owner {
        let setup = Setup {
            twin_store: vec![("TOKEN", TOKEN.to_owned())],
            gateway: own_token(),
            ..Setup::default()
        };
        let front = Front::start(TestCerts::new(), setup).await;
        let key = front.key("iothubowner");
        Owner { front, key }
    }

    /// Status and body of each answer, in order. A request is a method, a path, a body, and an
    /// `If-Match` that may be empty.
    async fn ask(&self, requests: &[(&str, &str, Value, &str)]) -> Vec<(u64, Value)> {
        let requests: Vec<Value> = requests
            .iter()
            .enumerate()
            .map(|(number, (method, path, body, if_match))| {
                let mut request = json!({ "name": number.to_string(), "method": method,
                    "path": path, "policy": "iothubowner", "key": self.key });
                if !body.is_null() {
                    request["body"] = body.clone();
                }
                if !if_match.is_empty() {
                    request["ifMatch"] = json!(if_match);
                }
                request
            })
            .collect();
        let told = self.front.ask(json!(requests)).await;
        let answer = |number: usize| {
            let answer = &told[number.to_string()];
            (answer[0].as_u64().unwrap_or_default(), answer[1].clone())
        };
        (0..requests.len()).map(answer).collect()
    }

    /// One answer.
    async fn one(&self, method: &str, path: &str, body: Value, if_match: &str) -> (u64, Value) {
        let mut answers = self.ask(&[(method, path, body, if_match)]).await;
        answers.remove(0)
    }

    /// The numbers of the items of a bulk call that failed.
    async fn bulk(&self, items: Value) -> Vec<u64> {
        let (status, body) = self.one("POST", "/devices", items, "").await;
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        assert_eq!(status == 200, errors.is_empty(), "{body}");
        let number = |error: &Value| error["errorCode"].as_u64().unwrap_or_default();
        errors.iter().map(number).collect()
    }

    async fn etag(&self, path: &str) -> String {
        let (status, body) = self.one("GET", path, Value::Null, "").await;
        assert_eq!(status, 200, "{body}");
        body["etag"].as_str().unwrap_or_default().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_call_compares_the_etags_it_is_given_and_never_without_one() {
    let owner = Owner::start().await;
    // A module comes after its device.
    let made = json!([
        { "id": "d", "importMode": "create" },
        { "id": "d", "moduleId": "m", "importMode": "create", "managedBy": "me" },
        { "id": "e", "importMode": "create" },
    ]);
    assert_eq!(owner.bulk(made).await, [0; 0]);
    for mode in [
        "deleteIfMatchETag",
        "updateIfMatchETag",
        "createOrUpdateIfMatchETag",
        "updateTwinIfMatchETag",
    ] {
        let item = |etag: Value| {
            json!([{ "id": "d", "importMode": mode, "eTag": etag, "twinETag": etag,
                "status": "disabled", "tags": { "mode": mode } }])
        };
        assert_eq!(owner.bulk(item(Value::Null)).await, [400_004], "{mode}");
        assert_eq!(owner.bulk(item(json!(""))).await, [412_001], "{mode}");
        assert_eq!(owner.bulk(item(json!("bm8="))).await, [412_001], "{mode}");
    }
    let (_, twin) = owner.one("GET", "/twins/d", Value::Null, "").await;
    assert_eq!(
        (&twin["status"], &twin["tags"]),
        (&json!("enabled"), &Value::Null)
    );
    // Weak etags and any are read as in headers.
    let weak = |etag: &str| format!("W/\"{etag}\"");
    let etag = owner.etag("/devices/d").await;
    let update = json!([{ "id": "d", "importMode": "updateIfMatchETag", "eTag": weak(&etag),
        "status": "disabled", "statusReason": "first" }]);
    assert_eq!(owner.bulk(update).await, [0; 0]);
    let etag = owner.etag("/twins/d").await;
    let tags = json!([{ "id": "d", "importMode": "updateTwinIfMatchETag", "twinETag": weak(&etag),
        "tags": { "site": "rome" } }]);
    assert_eq!(owner.bulk(tags).await, [0; 0]);
    let any = json!([{ "id": "e", "importMode": "deleteIfMatchETag", "eTag": "*" }]);
    assert_eq!(owner.bulk(any).await, [0; 0]);
    let (status, _) = owner.one("GET", "/devices/e", Value::Null, "").await;
    assert_eq!(status, 404);
    // Nobody can say which of two items about one identity is meant to last.
    let twice = json!([
        { "id": "x", "importMode": "create" },
        { "id": "x", "importMode": "delete" },
        { "id": "y", "importMode": "create" },
    ]);
    assert_eq!(owner.bulk(twice).await, [400_011, 400_011]);
    let gone = owner.one("GET", "/devices/x", Value::Null, "").await;
    let there = owner.one("GET", "/devices/y", Value::Null, "").await;
    assert_eq!((gone.0, there.0), (404, 200));

    // What an item does not name stays, and is not written.
    let before = owner.etag("/devices/d").await;
    let module = owner.etag("/devices/d/modules/m").await;
    let tags = json!([
        { "id": "d", "tags": { "site": "paris" } },
        { "id": "d", "moduleId": "m", "tags": { "site": "paris" } },
    ]);
    assert_eq!(owner.bulk(tags).await, [0; 0]);
    assert_eq!(owner.etag("/devices/d").await, before);
    assert_eq!(owner.etag("/devices/d/modules/m").await, module);
    let (_, module) = owner
        .one("GET", "/devices/d/modules/m", Value::Null, "")
        .await;
    assert_eq!(module["managedBy"], "me");
    let (_, twin) = owner.one("GET", "/twins/d", Value::Null, "").await;
    assert_eq!(twin["tags"], json!({ "site": "paris" }));
    // A reason alone is written, and the status stays.
    let reason = json!([{ "id": "d", "importMode": "update", "statusReason": "second" }]);
    assert_eq!(owner.bulk(reason).await, [0; 0]);
    let (_, device) = owner.one("GET", "/devices/d", Value::Null, "").await;
    let told = (&device["status"], &device["statusReason"]);
    assert_eq!(told, (&json!("disabled"), &json!("second")));
    // The answer to a write has the keys that it left.
    let keys = json!({ "primaryKey": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "secondaryKey": "MTEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" });
    for path in ["/devices/d", "/devices/d/modules/m"] {
        let body = json!({ "authentication": { "type": "sas", "symmetricKey": keys } });
        let (status, told) = owner.one("PUT", path, body, "*").await;
        assert_eq!(status, 200, "{told}");
        assert_eq!(told["authentication"]["symmetricKey"], keys, "{told}");
    }
    owner.front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_a_twin_that_asks_for_nothing_is_accepted_and_without_effect() {
    let owner = Owner::start().await;
    let made = json!([{ "id": "d", "importMode": "create", "tags": { "a": 1 } }]);
    assert_eq!(owner.bulk(made).await, [0; 0]);
    let (_, before) = owner.one("GET", "/twins/d", Value::Null, "").await;
    let etag = before["etag"].as_str().expect("an etag");
    let right = format!("\"{etag}\"");
    let mut requests = Vec::new();
    for method in ["PATCH", "PUT"] {
        for body in [
            json!({}),
            json!({ "properties": { "reported": { "x": 1 } } }),
            json!({ "status": "disabled", "etag": null }),
        ] {
            for if_match in ["", "*", &right, "\"bm8=\""] {
                requests.push((method, "/twins/d", body.clone(), if_match));
            }
        }
    }
    let answers = owner.ask(&requests).await;
    for (request, (status, body)) in requests.iter().zip(answers) {
        if request.3 == "\"bm8=\"" {
            assert_eq!(status, 412, "{request:?} {body}");
        } else {
            assert_eq!((status, &body), (200, &before), "{request:?}");
        }
    }
    let (status, _) = owner.one("PATCH", "/twins/nobody", json!({}), "").await;
    assert_eq!(status, 404);
    owner.front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_of_a_missing_device_is_told_as_the_device_that_is_not_there() {
    let owner = Owner::start().await;
    assert_eq!(
        owner
            .bulk(json!([{ "id": "d", "importMode": "create" }]))
            .await,
        [0; 0]
    );
    for (device, wanted) in [("nobody", "DeviceNotFound"), ("d", "ModuleNotFound")] {
        let module = format!("/devices/{device}/modules/none");
        let twin = format!("/twins/{device}/modules/none");
        let method = format!("{twin}/methods");
        let requests = [
            ("GET", module.as_str(), Value::Null, ""),
            ("PUT", &module, json!({ "managedBy": "me" }), "*"),
            ("DELETE", &module, Value::Null, "*"),
            ("GET", &twin, Value::Null, ""),
            ("PATCH", &twin, json!({ "tags": { "a": 1 } }), ""),
            ("PUT", &twin, json!({}), ""),
            ("POST", &method, json!({ "methodName": "m" }), ""),
        ];
        let answers = owner.ask(&requests).await;
        for (request, (status, body)) in requests.iter().zip(answers) {
            assert_eq!(status, 404, "{request:?} {body}");
            let text = body["Message"].as_str().unwrap_or_default();
            let start = format!("ErrorCode:{wanted};");
            assert!(text.starts_with(&start), "{request:?} {body}");
        }
        let number = if device == "d" { 404_010 } else { 404_001 };
        let items = json!([{ "id": device, "moduleId": "none", "importMode": "update",
            "managedBy": "me" }]);
        assert_eq!(owner.bulk(items).await, [number]);
    }
    owner.front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_is_refused_is_told_with_its_reason() {
    let owner = Owner::start().await;
    let body = json!({ "registrationId": "sn-1" });
    let path = "/0neNOWHERE/registrations/sn-1/register";
    let (status, told) = owner.one("PUT", path, body, "").await;
    assert_eq!(status, 401, "{told}");
    let lines = owner.front.gateway.lines();
    let told = lines.iter().any(|line| {
        let has = |word| line.contains(word);
        has("a registration was refused") && has("sn-1") && has("401")
    });
    assert!(told, "{}", lines.join("\n"));
    owner.front.stop().await;
}
