//! Keys, the audit log and the store as a whole.

use serde_json::json;

use crate::support::{SOON, Up, directory, json_lines, stderr, stdout, verb};

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
    let group = ["provisioning", "create", "hall-3", "--group"];
    up.json(&group);
    let resealed = up.json(&["store", "reseal"]);
    assert_eq!(
        resealed,
        json!({
            "resealed": 0, "current": 6, "failed": 0,
            "enrollments": {"resealed": 0, "current": 1, "failed": 0}
        })
    );
    let status = up.json(&["status"]);
    let store = status["parts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["name"] == "twin-store");
    let scope = up.json(&["provisioning", "scope"]);
    assert!(scope["idScope"].is_string(), "{scope:#}");
    assert_eq!(store.unwrap()["idScope"], scope["idScope"], "{status:#}");
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

    // The newest last, found by what they say.
    let newest = up.json_lines(&["audit", "list", "--limit", "1"]);
    assert_eq!(newest.len(), 1);
    assert_eq!(newest[0]["action"], "device.update");
    let created = ["audit", "list", "--action", "device.create", "--limit", "0"];
    assert_eq!(up.json_lines(&created).len(), 1);

    // The second time only what came since is walked.
    let state = dir.path().join("verified.json");
    let verify = ["audit", "verify", "--state", state.to_str().unwrap()];
    let walked = || -> u64 {
        let chains = up.json(&verify)["chains"].clone();
        let chains = chains.as_array().unwrap().clone();
        chains
            .iter()
            .map(|one| one["entries"].as_u64().unwrap())
            .sum()
    };
    assert!(walked() >= 2);
    assert_eq!(walked(), 0);
    up.json(&["device", "enable", "cam-1"]);
    assert_eq!(walked(), 1);
    // A log that is another one by now is noticed.
    let mut other: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&state).unwrap()).unwrap();
    other["chains"][0]["headHash"] = json!("ab".repeat(32));
    std::fs::write(&state, other.to_string()).unwrap();
    up.fails(&verify, 1, &["not whole"]);
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn a_store_is_verified_backed_up_and_restored_elsewhere() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    up.json(&[
        "device",
        "create",
        "cam-1",
        "--tags",
        r#"{"site":"hall-3"}"#,
    ]);
    let created = up.json(&["device", "get", "cam-1", "--show-keys"]);
    let verified = up.json(&["store", "verify"]);
    assert_eq!(
        (&verified["sound"], &verified["rows"]["twins"]),
        (&json!(true), &json!(2))
    );
    let backup = dir.path().join("twins.backup");
    let path = backup.to_str().unwrap();
    let made = up.ask(&["store", "backup", path]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    assert!(stdout(&made).contains("2 twins"), "{}", stdout(&made));
    let busy = up.ask(&["store", "restore", path]);
    assert_eq!(busy.status.code(), Some(4), "{}", stderr(&busy));
    assert!(stderr(&busy).contains("not empty"), "{}", stderr(&busy));
    up.process.stop(SOON).await;

    let elsewhere = directory();
    let folder = elsewhere.path().join("twin-store");
    let restored = verb(elsewhere.path())
        .args(["store", "restore", path])
        .output()
        .unwrap();
    assert_eq!(restored.status.code(), Some(0), "{}", stderr(&restored));
    assert!(
        stderr(&restored).contains("master.key"),
        "{}",
        stderr(&restored)
    );
    let told = stdout(&restored);
    assert!(
        told.contains("added 2 revisions and 1 audit entry that say so"),
        "{told}"
    );
    let written = verb(elsewhere.path())
        .args(["store", "verify", "-o", "json"])
        .output()
        .unwrap();
    let written: serde_json::Value = serde_json::from_slice(&written.stdout).unwrap();
    for (table, added) in [("twins", 0), ("history", 2), ("audit", 1)] {
        assert_eq!(
            verified["rows"][table].as_u64().map(|rows| rows + added),
            written["rows"][table].as_u64(),
            "{verified:#} {written:#}"
        );
    }
    std::fs::copy(
        dir.path().join("twin-store/master.key"),
        folder.join("master.key"),
    )
    .unwrap();
    let up = Up::start(elsewhere.path()).await;
    assert_eq!(
        up.json(&["device", "get", "cam-1", "--show-keys"])["connectionString"],
        created["connectionString"]
    );
    let found = up.ask(&[
        "query",
        "SELECT deviceId FROM devices WHERE tags.site = 'hall-3'",
        "-o",
        "json",
    ]);
    assert_eq!(
        json_lines(&found),
        [json!({"deviceId": "cam-1"})],
        "{}",
        stderr(&found)
    );
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn a_flipped_byte_is_found_and_a_cut_backup_is_refused() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    up.json(&[
        "device",
        "create",
        "cam-1",
        "--tags",
        r#"{"site":"hall-three"}"#,
    ]);
    let backup = dir.path().join("twins.backup");
    let path = backup.to_str().unwrap();
    up.ask(&["store", "backup", path]);
    up.process.stop(SOON).await;

    let whole = std::fs::read(&backup).unwrap();
    std::fs::write(&backup, &whole[..whole.len() - 3]).unwrap();
    let elsewhere = directory();
    let refused = verb(elsewhere.path())
        .args(["store", "restore", path])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("nothing was restored"),
        "{}",
        stderr(&refused)
    );
    // Nor is there an empty store, which a service would take for its own.
    assert!(!elsewhere.path().join("twin-store/twins.db").exists());
    let nowhere = directory();
    let missing = verb(nowhere.path())
        .args(["store", "verify"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(3), "{}", stderr(&missing));

    // In the file itself: the WAL was folded in when the service stopped.
    let file = dir.path().join("twin-store/twins.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let places: Vec<usize> = bytes
        .windows(10)
        .enumerate()
        .filter(|(_, w)| w == b"hall-three")
        .map(|(at, _)| at)
        .collect();
    for at in &places {
        bytes[*at] = b'H';
    }
    assert!(!places.is_empty());
    std::fs::write(&file, bytes).unwrap();
    let verified = verb(dir.path())
        .args(["store", "verify", "-o", "json"])
        .output()
        .unwrap();
    assert_eq!(verified.status.code(), Some(1), "{}", stderr(&verified));
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    let keys: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["key"].to_string())
        .collect();
    assert!(keys.iter().any(|key| key.contains("cam-1")), "{report:#}");
}

#[tokio::test]
async fn a_store_moves_into_a_database_and_back() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    up.json(&[
        "device",
        "create",
        "cam-1",
        "--tags",
        r#"{"site":"hall-3"}"#,
    ]);
    up.process.stop(SOON).await;
    let database = testkit::postgres::database().await;
    let url = dir.path().join("database.url");
    std::fs::write(&url, database.url()).unwrap();
    let url = url.to_str().unwrap();
    let run = |data_dir: &std::path::Path, arguments: &[&str]| {
        let output = verb(data_dir).args(arguments).output().unwrap();
        (output.status.code(), stdout(&output), stderr(&output))
    };
    let of_database =
        |arguments: &[&'static str]| [arguments, &["--database-url-file", url]].concat();
    let missing = run(dir.path(), &of_database(&["store", "verify"]));
    assert_eq!(missing.0, Some(3), "{missing:?}");

    let first = dir.path().join("first.backup");
    let first = first.to_str().unwrap();
    let second = dir.path().join("second.backup");
    let second = second.to_str().unwrap();
    let restore = [&of_database(&["store", "restore"])[..], &[first]].concat();
    let backup = [&of_database(&["store", "backup"])[..], &[second]].concat();
    for (arguments, code) in [
        (vec!["store", "backup", first], 0),
        (restore.clone(), 0),
        // It is not empty any more.
        (restore, 4),
        (of_database(&["store", "verify"]), 0),
        (backup, 0),
    ] {
        let done = run(dir.path(), &arguments);
        assert_eq!(done.0, Some(code), "{arguments:?}: {done:?}");
    }
    let damage = "UPDATE twins SET tags = '{}' WHERE module_id = ''";
    database.execute(damage).await;
    let found = run(dir.path(), &of_database(&["store", "verify", "-o", "json"]));
    assert_eq!(found.0, Some(1), "{found:?}");
    assert!(found.1.contains("cam-1"), "{found:?}");

    let elsewhere = directory();
    let back = run(elsewhere.path(), &["store", "restore", second]);
    assert_eq!(back.0, Some(0), "{back:?}");
    let key = "twin-store/master.key";
    std::fs::copy(dir.path().join(key), elsewhere.path().join(key)).unwrap();
    let up = Up::start(elsewhere.path()).await;
    let twin = up.json(&["twin", "get", "cam-1"]);
    assert_eq!(twin["tags"]["site"], "hall-3", "{twin:#}");
    up.process.stop(SOON).await;
}
