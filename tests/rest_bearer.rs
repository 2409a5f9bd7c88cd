//! People and programs with tokens of an OIDC provider at the REST door: their roles decide, and a
//! token that nobody judges opens nothing.

use serde_json::json;
use testkit::{OidcProvider, SigningKey, TestCerts};

use crate::support::front::{Front, Setup, oidc, own_token};
use crate::support::hub::TOKEN;

#[tokio::test(flavor = "multi_thread")]
async fn roles_decide_what_a_bearer_token_opens() {
    let certs = TestCerts::new();
    let key = SigningKey::p256("of-today");
    let provider = OidcProvider::start_secure(&[&key], &certs).await;
    let setup = Setup {
        twin_store: oidc(&provider, &certs),
        gateway: own_token(),
        ..Setup::default()
    };
    let front = Front::start(certs, setup).await;
    let token = |name: &str, group: &str| key.token(&provider.claims(name, &[group]));
    let (root, operator) = (token("root", "root"), token("op", "ops"));
    let guest = token("guest", "guests");
    let put = |name: &str, token: &str| {
        json!({ "name": name, "method": "PUT", "path": "/devices/d", "token": token,
                "body": { "deviceId": "d", "status": "enabled" } })
    };
    let get = |name: &str, token: &str| json!({ "name": name, "method": "GET", "path": "/devices/d", "token": token });
    let disable = json!({
        "name": "disable", "method": "PUT", "path": "/devices/d", "token": operator, "ifMatch": "*",
        "body": { "deviceId": "d", "status": "disabled", "statusReason": "stolen" },
    });
    // A bulk item and an update that say nothing of the status leave it as it is.
    let bulk = json!({
        "name": "bulk", "method": "POST", "path": "/devices", "token": operator,
        "body": [{ "id": "d", "tags": { "site": "paris" } }],
    });
    let silent = json!({
        "name": "silent", "method": "PUT", "path": "/devices/d", "token": operator, "ifMatch": "*",
        "body": { "deviceId": "d" },
    });
    let made_up = json!({
        "name": "made up", "method": "POST", "path": "/devices", "token": "made-up",
        "body": [], "stall": 8 << 20,
    });
    let told = front
        .ask(json!([
            put("guest puts", &guest),
            put("root puts", &root),
            get("root gets", &root),
            get("guest gets", &guest),
            json!({ "name": "list", "method": "GET", "path": "/devices", "token": operator }),
            disable,
            bulk,
            silent,
            get("at last", &operator),
            made_up,
        ]))
        .await;
    let status = |name: &str| told[name][0].as_u64().unwrap_or_default();
    assert_eq!(status("guest puts"), 401, "{told}");
    assert_eq!(status("root puts"), 200, "{told}");
    let shown = |name: &str| told[name][1]["authentication"]["symmetricKey"]["primaryKey"].clone();
    assert!(shown("root gets").is_string(), "{told}");
    assert_eq!(status("guest gets"), 200, "{told}");
    assert!(shown("guest gets").is_null(), "{told}");
    assert_eq!(status("list"), 200, "{told}");
    assert_eq!(told["list"][1][0]["deviceId"], "d");
    assert_eq!(status("disable"), 200, "{told}");
    assert_eq!(told["disable"][1]["status"], "disabled", "{told}");
    assert_eq!(status("bulk"), 200, "{told}");
    assert_eq!(status("silent"), 200, "{told}");
    assert_eq!(told["at last"][1]["status"], "disabled", "{told}");
    assert_eq!(told["at last"][1]["statusReason"], "stolen", "{told}");
    assert_eq!(
        told["at last"][1]["etag"], told["silent"][1]["etag"],
        "{told}"
    );
    // It is refused by its head: eight megabytes of body were promised, and one byte came.
    assert_eq!(status("made up"), 401, "{told}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nobody_judges_opens_nothing() {
    let front = Front::start(TestCerts::new(), Setup::default()).await;
    let told = front
        .ask(json!([
            { "name": "put", "method": "PUT", "path": "/devices/hacked", "token": "anything",
              "body": { "deviceId": "hacked" } },
            { "name": "list", "method": "GET", "path": "/devices", "token": "anything" },
        ]))
        .await;
    for name in ["put", "list"] {
        assert_eq!(told[name][0], 401, "{told}");
        let text = told[name][1].to_string();
        assert!(text.contains("authorisation is off"), "{told}");
    }
    let told = front.gateway.lines().join("\n");
    assert!(told.contains("bearer tokens are refused"), "{told}");
    front.stop().await;
}

/// What an address may fail in a minute, in the story below.
const UNPROVEN: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn who_proves_itself_is_let_in_whatever_others_at_its_address_fail() {
    let certs = TestCerts::new();
    let key = SigningKey::p256("of-today");
    let provider = OidcProvider::start_secure(&[&key], &certs).await;
    let mut gateway = own_token();
    gateway.push(("RATES__UNPROVEN_PER_MINUTE", UNPROVEN.to_string()));
    let setup = Setup {
        twin_store: oidc(&provider, &certs),
        gateway,
        ..Setup::default()
    };
    let front = Front::start(certs, setup).await;
    let good = key.token(&provider.claims("root", &["root"]));
    let reads = front.key("registryRead");
    let count = 3 * UNPROVEN;
    let mut requests = Vec::new();
    // A policy that may not do this, and what is no call, are paid for by who asks.
    for number in 0..count {
        requests.push(json!({ "name": format!("lacks {number}"), "method": "GET",
            "path": "/twins/d", "policy": "registryRead", "key": reads }));
        requests.push(
            json!({ "name": format!("no call {number}"), "method": "GET",
            "path": "/nothing", "policy": "registryRead", "key": reads }),
        );
    }
    for number in 0..count {
        requests.push(
            json!({ "name": format!("made up {number}"), "method": "GET",
            "path": "/devices", "token": format!("made-up-{number}") }),
        );
    }
    requests.push(json!({ "name": "good", "method": "GET", "path": "/devices", "token": good }));
    requests.push(json!({ "name": "again", "method": "GET", "path": "/devices", "token": good }));
    let told = front.ask(json!(requests)).await;
    let status = |name: String| told[&name][0].as_u64().unwrap_or_default();
    for number in 0..count {
        assert_eq!(status(format!("lacks {number}")), 401, "{told}");
        assert_eq!(status(format!("no call {number}")), 404, "{told}");
        let wanted = if number < UNPROVEN { 401 } else { 429 };
        assert_eq!(status(format!("made up {number}")), wanted, "{told}");
    }
    assert_eq!(status("good".to_owned()), 200, "{told}");
    assert_eq!(status("again".to_owned()), 200, "{told}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_holds_for_configurations_too() {
    let key = SigningKey::p256("of-today");
    // A policy service that knows nobody takes no token for anybody's.
    for knows_callers in [false, true] {
        let certs = TestCerts::new();
        let provider = OidcProvider::start_secure(&[&key], &certs).await;
        let known = oidc(&provider, &certs);
        let mut gateway = own_token();
        if knows_callers {
            gateway.push(("POLICY_TOKEN", TOKEN.to_owned()));
        }
        let setup = Setup {
            policy: Some(if knows_callers {
                known.clone()
            } else {
                Vec::new()
            }),
            twin_store: known,
            gateway,
        };
        let front = Front::start(certs, setup).await;
        let token = |name: &str, group: &str| key.token(&provider.claims(name, &[group]));
        let (guest, operator) = (token("guest", "guests"), token("op", "ops"));
        let put = |name: &str, token: &str| {
            json!({ "name": name, "method": "PUT", "path": "/configurations/all", "token": token,
                "body": { "id": "all", "targetCondition": "*", "priority": 1,
                    "content": { "deviceContent": { "properties.desired.x": 1 } } } })
        };
        let get = |name: &str, token: &str| json!({ "name": name, "method": "GET", "path": "/configurations", "token": token });
        let bulk = json!({ "name": "guest's bulk", "method": "POST", "path": "/devices",
            "token": guest, "body": [{ "id": "d", "importMode": "create" }] });
        let job = json!({ "name": "guest's job", "method": "PUT", "path": "/jobs/v2/j",
            "token": guest, "body": { "jobId": "j", "type": "scheduleUpdateTwin",
                "queryCondition": "*", "updateTwin": { "tags": { "a": 1 } },
                "maxExecutionTimeInSeconds": 60 } });
        let told = front
            .ask(json!([
                put("guest puts", &guest),
                put("operator puts", &operator),
                get("guest gets", &guest),
                bulk,
                job,
            ]))
            .await;
        let status = |name: &str| told[name][0].as_u64().unwrap_or_default();
        assert_eq!(status("guest puts"), 401, "{told}");
        let wanted = if knows_callers {
            (201, 200)
        } else {
            (401, 401)
        };
        let got = (status("operator puts"), status("guest gets"));
        assert_eq!(got, wanted, "{told}");
        if knows_callers {
            assert_eq!(told["guest gets"][1][0]["id"], "all", "{told}");
        } else {
            let text = told["guest puts"][1].to_string();
            assert!(text.contains("off at the policy service"), "{told}");
        }
        // Each item of a bulk call is refused for itself.
        assert_eq!(status("guest's bulk"), 400, "{told}");
        let errors = told["guest's bulk"][1]["errors"].to_string();
        assert!(errors.contains("401003"), "{told}");
        assert_eq!(status("guest's job"), 401, "{told}");
        front.stop().await;
    }
}
