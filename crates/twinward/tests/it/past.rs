//! What twins were, and searching them: history, diff, revert, conditions, queries, watches.

use serde_json::{Value, json};

use crate::support::{PROGRAM, SOON, Up, directory, stderr, stdout};

#[tokio::test]
async fn what_was_changed_can_be_seen_compared_and_taken_back() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    up.json(&[
        "device",
        "create",
        "cam-1",
        "--tags",
        r#"{"site":"hall-2"}"#,
    ]);
    let patch = |tags: &str, by: &str| {
        up.json(&["twin", "patch", "cam-1", "--tags", tags, "--operator", by])
    };
    let first = patch(r#"{"site":"hall-3","a":1}"#, "eve");
    patch(r#"{"site":"hall-4","a":null}"#, "bob");
    let revision = first["revision"].to_string();

    let history = up.json(&["twin", "history", "cam-1"]);
    let actors: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["actor"])
        .collect();
    assert_eq!(actors[..2], ["operator:bob", "operator:eve"], "{history:#}");
    assert_eq!(
        history[0]["patch"]["tags"],
        json!({"site": "hall-4", "a": null})
    );
    let tags = up.json(&["twin", "history", "cam-1", "--changes", "desired"]);
    assert_eq!(tags, json!([]));
    let limited = up.json(&["twin", "history", "cam-1", "--limit", "1"]);
    assert_eq!(limited.as_array().unwrap().len(), 1);

    let then = up.json(&["twin", "get", "cam-1", "--at", &revision]);
    assert_eq!(then["tags"], json!({"site": "hall-3", "a": 1}));
    assert_eq!(then["asOf"]["actor"], "operator:eve");
    up.fails(
        &["twin", "get", "cam-1", "--at", "2000-01-01"],
        3,
        &["twin history cam-1"],
    );

    for verb in [
        &["twin", "get", "cam-1", "--at", "999999"][..],
        &["twin", "get", "cam-1", "--at", "2100-01-01"],
        &["twin", "diff", "cam-1", &revision, "999999"],
        &["twin", "revert", "cam-1", "999999"],
        &["twin", "revert", "cam-1", "999999", "--dry-run"],
    ] {
        up.fails(verb, 8, &["twin history cam-1"]);
    }

    let diff = up.json(&["twin", "diff", "cam-1", &revision]);
    let found: Vec<_> = diff["differences"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|d| d["path"].as_str().unwrap().starts_with("tags."))
        .map(|d| (d["path"].clone(), d["before"].clone(), d["actor"].clone()))
        .collect();
    assert_eq!(
        found,
        [
            (json!("tags.a"), json!(1), json!("operator:bob")),
            (json!("tags.site"), json!("hall-3"), json!("operator:bob")),
        ]
    );

    let proposed = up.json(&["twin", "revert", "cam-1", &revision, "--dry-run"]);
    assert_eq!(
        (
            &proposed["dryRun"],
            proposed["differences"].as_array().unwrap().len()
        ),
        (&json!(true), 2)
    );
    let present = up.json(&["twin", "get", "cam-1", "--fields", "tags"]);
    assert_eq!(present["tags"], json!({"site": "hall-4"}));
    assert!(present.get("properties").is_none() && present.get("status").is_none());
    let elsewhere = "tags.site = 'hall-9'";
    let unless = ["twin", "revert", "cam-1", &revision, "--if", elsewhere];
    up.fails(&unless, 8, &[elsewhere]);
    let reverted = up.json(&["twin", "revert", "cam-1", &revision]);
    assert_eq!(reverted["tags"], json!({"site": "hall-3", "a": 1}));

    // Today's thumbprint is not how it proved itself then, nor after it is gone.
    up.json(&[
        "device",
        "update",
        "cam-1",
        "--thumbprint",
        &"AB".repeat(20),
    ]);
    let then = |at: &str| up.json(&["twin", "get", "cam-1", "--at", at]);
    assert_eq!(then(&revision)["authenticationType"], "sas");
    let identity = ["twin", "history", "cam-1", "--changes", "identity"];
    let signed = up.json(&identity)[0]["revision"].to_string();
    up.json(&["device", "delete", "cam-1"]);
    assert_eq!(then(&revision)["authenticationType"], "sas");
    assert_eq!(then(&signed)["authenticationType"], "selfSigned");
    let newest = up.json(&["twin", "history", "cam-1", "--limit", "1"]);
    assert_eq!(newest[0]["changes"], json!(["deleted"]));
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn a_write_may_depend_on_what_the_twin_holds_and_be_repeated() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    up.json(&["device", "create", "cam-1", "--tags", r#"{"site":"x"}"#]);
    let patch = ["twin", "patch", "cam-1", "--desired", r#"{"n":1}"#];
    let with = |more: &[&'static str]| [&patch[..], more].concat();
    up.fails(&with(&["--if", "tags.site = 'y'"]), 8, &["cam-1"]);
    up.fails(&with(&["--if", "tags.site ="]), 5, &["^"]);
    up.fails(&with(&["--if-version", "7"]), 4, &["cam-1"]);
    let dry = up.json(&with(&["--if", "tags.site = 'x'", "--dry-run"]));
    assert_eq!(dry["differences"][0]["path"], "properties.desired.n");
    let id = ["--request-id", "5f0e1c2a-8f3b-4c1d-9a57-000000000001"];
    let once = up.json(&with(&id));
    let again = up.json(&with(&id));
    assert_eq!(
        once["revision"], again["revision"],
        "the repeated call writes nothing"
    );

    let file = dir.path().join("twin.yaml");
    std::fs::write(&file, "desired: {m: 2}\n").unwrap();
    let replaced = up.json(&["twin", "replace", "cam-1", "--file", file.to_str().unwrap()]);
    assert_eq!(replaced["properties"]["desired"]["m"], 2);
    assert!(replaced["properties"]["desired"].get("n").is_none());
    assert_eq!(
        replaced["tags"],
        json!({"site": "x"}),
        "what the file does not name stays"
    );
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn twins_are_searched_page_by_page_and_errors_point_at_their_place() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    for (id, site) in [
        ("cam-1", "hall-1"),
        ("cam-2", "hall-2"),
        ("cam-3", "hall-2"),
    ] {
        let tags = format!(r#"{{"site":"{site}"}}"#);
        up.json(&[
            "device",
            "create",
            id,
            "--no-security-module",
            "--tags",
            &tags,
        ]);
    }
    let query = "SELECT deviceId, tags.site FROM devices WHERE tags.site = 'hall-2'";
    let rows = up.json_lines(&["query", query]);
    let ids: Vec<_> = rows.iter().map(|row| row["deviceId"].clone()).collect();
    assert_eq!(ids, ["cam-2", "cam-3"]);
    let first = up.ask(&["query", query, "--limit", "1", "-o", "json"]);
    assert_eq!(stdout(&first).lines().count(), 1);
    let table = stdout(&up.ask(&[
        "query",
        "SELECT tags.site, COUNT() AS n FROM devices GROUP BY tags.site",
    ]));
    assert!(table.starts_with("site"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    let whole = stdout(&up.ask(&["query", "SELECT * FROM devices"]));
    assert!(whole.contains("site=hall-1"), "{whole}");
    let none = stdout(&up.ask(&["query", "SELECT * FROM devices WHERE tags.site = 'x'"]));
    assert_eq!(none, "no rows\n");
    up.fails(
        &["query", "SELECT * FROM devices WHERE tags.site = = 'x'"],
        5,
        &["^", "= = 'x'"],
    );
    let plan = up.json(&["query", query, "--explain"]);
    assert!(plan["sql"].as_str().unwrap().contains("SELECT"), "{plan:#}");
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn a_watch_goes_on_behind_its_bookmark() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    up.json(&["device", "create", "cam-1", "--no-security-module"]);
    let watch = |more: &[&str]| {
        testkit::ProcessBuilder::new("watch", PROGRAM)
            .args(["watch", "cam-1", "-o", "json", "--data-dir"])
            .arg(dir.path())
            .args(more.iter().copied())
            .spawn()
    };
    let mut first = watch(&[]);
    let complete = first.wait_for_line("snapshotComplete", SOON).await;
    let complete: Value = serde_json::from_str(&complete).unwrap();
    assert_eq!(complete["twinCount"], 1);
    let token = complete["resumeToken"].as_str().unwrap().to_owned();
    first.kill();
    up.json(&["twin", "patch", "cam-1", "--tags", r#"{"site":"missed"}"#]);
    let mut second = watch(&["--resume", &token]);
    let change = second.wait_for_line("\"event\":", SOON).await;
    let change: Value = serde_json::from_str(&change).unwrap();
    assert_eq!(
        (&change["event"], &change["twin"]["tags"]["site"]),
        (&json!("changed"), &json!("missed"))
    );
    second.kill();

    let output = up.ask(&["watch", "cam-1", "--resume", "no-token"]);
    let text = stderr(&output);
    assert!(
        !output.status.success() && text.contains("--resume"),
        "{text}"
    );
    up.process.stop(SOON).await;
}
