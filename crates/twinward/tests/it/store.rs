//! Keys, the audit log and the store as a whole.

use serde_json::json;

use crate::support::{SOON, Up, directory};

#[tokio::test]
async fn keys_are_rotated_one_at_a_time() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    let created = up.json(&["device", "create", "cam-1"]);
    let first = created["connectionString"].clone();
    let rotated = up.json(&["device", "rotate-keys", "cam-1", "--key", "secondary"]);
    assert_eq!(rotated["connectionString"], first, "the primary key stays");
    let swapped = up.json(&["device", "rotate-keys", "cam-1", "--key", "swap"]);
    assert_eq!(
        swapped["connectionString"],
        rotated["secondaryConnectionString"]
    );
    assert_eq!(swapped["secondaryConnectionString"], first);
    let module = up.json(&[
        "device",
        "rotate-keys",
        "cam-1",
        "--security",
        "--key",
        "primary",
    ]);
    assert_ne!(
        module["connectionString"],
        created["securityModule"]["connectionString"]
    );
    let thumbprint = "AB".repeat(20);
    let changed = up.json(&["device", "update", "cam-1", "--thumbprint", &thumbprint]);
    assert_eq!(changed["authenticationType"], "selfSigned");
    up.fails(
        &["device", "rotate-keys", "cam-1", "--key", "primary"],
        8,
        &["cam-1"],
    );
    let listed = up.json(&["device", "list", "--filter", "status = 'disabled'"]);
    assert_eq!(listed, json!([]));
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn security_modules_are_made_where_they_are_missing() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    up.json(&["device", "create", "cam-1"]);
    for id in ["cam-2", "cam-3"] {
        up.json(&["device", "create", id, "--no-security-module"]);
    }
    let ensure = ["device", "ensure-security-modules", "--page-size", "2"];
    assert_eq!(
        up.json(&ensure),
        json!({"created": 2, "existing": 1, "failed": 0})
    );
    assert_eq!(
        up.json(&ensure),
        json!({"created": 0, "existing": 3, "failed": 0})
    );
    let resealed = up.json(&["store", "reseal"]);
    assert_eq!(
        (&resealed["resealed"], &resealed["failed"]),
        (&json!(0), &json!(0))
    );
    let status = up.json(&["status"]);
    let store = status["parts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["name"] == "twin-store");
    let counts = &store.unwrap()["counts"];
    assert_eq!(
        (&counts["devices"], &counts["modules"]),
        (&json!(3), &json!(3)),
        "{status:#}"
    );
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what_and_proves_that_it_is_whole() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    up.json(&["device", "create", "cam-1"]);
    let heads = up.json(&["audit", "verify"]);
    assert_eq!(heads["whole"], true);
    let kept = dir.path().join("heads.json");
    std::fs::write(&kept, heads.to_string()).unwrap();
    up.json(&["device", "disable", "cam-1", "--reason", "lost"]);
    let entries = up.json_lines(&["audit", "list", "--resource", "devices/cam-1"]);
    let actions: Vec<_> = entries
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert!(actions.contains(&"device.create"), "{actions:?}");
    assert_eq!(
        up.json(&["audit", "verify", "--against", kept.to_str().unwrap()])["whole"],
        true
    );

    let mut forged = heads.clone();
    forged["chains"][0]["headHash"] = json!("00");
    std::fs::write(&kept, forged.to_string()).unwrap();
    up.fails(
        &["audit", "verify", "--against", kept.to_str().unwrap()],
        1,
        &["its hash was 00"],
    );
    up.process.stop(SOON).await;
}
