//! The verbs against real services: what they print, and how they exit.

use serde_json::Value;

use crate::support::{SOON, Up, directory, stderr, stdout, verb};

fn json(up: &Up, arguments: &[&str]) -> Value {
    let output = up.ask(&[arguments, &["-o", "json"]].concat());
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        stderr(&output)
    );
    serde_json::from_slice(&output.stdout).expect("-o json prints JSON")
}

#[track_caller]
fn fails(up: &Up, arguments: &[&str], code: i32, words: &[&str]) {
    let output = up.ask(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert_eq!(stdout(&output), "", "errors do not go to standard output");
    for word in words {
        assert!(
            text.contains(word),
            "{arguments:?} does not say {word:?}: {text}"
        );
    }
}

#[tokio::test]
async fn an_operators_day() {
    let dir = directory();
    let up = Up::start(dir.path()).await;

    let created = json(&up, &["device", "create", "cam-1"]);
    let module = created["securityModule"]["connectionString"]
        .as_str()
        .unwrap();
    let read = iot_hub::ConnectionString::parse(module).unwrap();
    assert_eq!(read.identity().to_string(), "cam-1/DefenderIotMicroAgent");
    let shown = json(&up, &["device", "get", "cam-1", "--show-keys"]);
    assert_eq!(shown["connectionString"], created["connectionString"]);
    assert!(
        json(&up, &["device", "get", "cam-1"])
            .get("connectionString")
            .is_none()
    );
    fails(
        &up,
        &["device", "create", "cam-1"],
        4,
        &["cam-1", "twinward device get cam-1"],
    );
    fails(&up, &["device", "get", "cam-2"], 3, &["cam-2"]);
    fails(
        &up,
        &["device", "delete", "cam-1", "--etag", "other"],
        4,
        &["cam-1"],
    );

    let disabled = json(&up, &["device", "disable", "cam-1", "--reason", "lost"]);
    assert_eq!(
        (&disabled["status"], &disabled["statusReason"]),
        (&"disabled".into(), &"lost".into())
    );
    assert_eq!(
        json(&up, &["device", "enable", "cam-1"])["status"],
        "enabled"
    );

    json(&up, &["module", "create", "cam-1", "lens"]);
    let modules = json(&up, &["module", "list", "cam-1"]);
    assert_eq!(modules.as_array().unwrap().len(), 2);
    let update = [
        "module",
        "update",
        "cam-1",
        "lens",
        "--managed-by",
        "optics",
    ];
    let tried = json(&up, &[&update[..], &["--dry-run"]].concat());
    assert_eq!(tried["managedBy"], "optics");
    let never = [&update[..], &["--if", "tags.site = 'nowhere'"]].concat();
    fails(&up, &never, 8, &["tags.site"]);
    assert_eq!(
        json(&up, &["module", "get", "cam-1", "lens"])["managedBy"],
        serde_json::Value::Null
    );
    let updated = json(&up, &[&update[..], &["--auth", "ca"]].concat());
    assert_eq!(
        (&updated["managedBy"], &updated["authenticationType"]),
        (&"optics".into(), &"certificateAuthority".into())
    );
    json(&up, &["module", "delete", "cam-1", "lens"]);
    fails(&up, &["module", "get", "cam-1", "lens"], 3, &["lens"]);

    let twin = json(
        &up,
        &[
            "twin",
            "patch",
            "cam-1",
            "--desired",
            r#"{"a":{"b":1}}"#,
            "--tags",
            r#"{"s":"x"}"#,
            "--operator",
            "eve",
        ],
    );
    assert_eq!(twin["properties"]["desired"]["a"]["b"], 1);
    let by = &twin["properties"]["desired"]["$metadata"]["a"]["b"]["$lastUpdatedBy"];
    assert_eq!(by, "operator:eve");
    fails(
        &up,
        &[
            "twin",
            "patch",
            "cam-1",
            "--desired",
            r#"{"$a": 1, "b": {"c.d": 2}}"#,
        ],
        5,
        &["\n  properties.desired.$a:", "c.d"],
    );
    let token = json(
        &up,
        &["enrollment", "create", "--device", "cam-2", "--ttl", "5m"],
    );
    assert!(token["token"].as_str().unwrap().len() > 16);
    fails(
        &up,
        &["enrollment", "create", "--ttl", "365d"],
        5,
        &["ttl", "30 days"],
    );
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn a_policy_goes_from_a_file_to_twins_and_back_out() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    json(&up, &["device", "create", "cam-1"]);
    let file = dir.path().join("p.yaml");
    let path = file.to_str().unwrap();
    std::fs::write(
        &file,
        "kind: Policy\nname: calm\ntarget: \"*\"\nsettings: {quiet: true}\n",
    )
    .unwrap();
    let applied = json(&up, &["policy", "apply", "-f", path, "--dry-run"]);
    assert_eq!(applied["dryRun"], true);
    assert_eq!(
        json(&up, &["policy", "list"]),
        serde_json::json!([]),
        "a dry run writes nothing"
    );

    assert_eq!(
        json(&up, &["policy", "apply", "-f", path])["outcome"],
        "created"
    );
    assert_eq!(
        json(&up, &["policy", "apply", "-f", path])["outcome"],
        "unchanged"
    );
    assert_eq!(
        json(&up, &["policy", "diff", "-f", path])["changes"],
        serde_json::json!([])
    );
    let quiet = |up: &Up| {
        json(up, &["twin", "get", "cam-1", "--security"])["properties"]["desired"]["quiet"].clone()
    };
    testkit::wait_for("the policy's setting", SOON, async || {
        (quiet(&up) == true).then_some(())
    })
    .await;

    // What is printed can be applied again.
    let printed = up.ask(&["policy", "get", "calm", "-o", "yaml"]);
    std::fs::write(&file, &printed.stdout).unwrap();
    assert_eq!(
        json(&up, &["policy", "apply", "-f", path])["outcome"],
        "unchanged"
    );

    std::fs::write(
        &file,
        "kind: Policy\nname: calm\ntarget: \"*\"\npriority: 4\nsettings: {quiet: true}\n",
    )
    .unwrap();
    let expected = serde_json::json!([{"path": "priority", "old": 0, "new": 4}]);
    let told = json(&up, &["policy", "apply", "-f", path, "--dry-run"]);
    assert_eq!(
        (&told["outcome"], &told["changes"]),
        (&"updated".into(), &expected)
    );
    json(&up, &["policy", "apply", "-f", path, "--note", "louder"]);
    assert_eq!(json(&up, &["policy", "diff", "calm"])["changes"], expected);
    assert_eq!(
        json(&up, &["policy", "history", "calm"])[0]["note"],
        "louder"
    );
    let was = json(&up, &["policy", "get", "calm", "--revision", "1"]);
    assert_eq!(was["priority"], 0);

    std::fs::write(
        &file,
        "kind: Policy\nname: loud\ntarget: \"*\"\npriority: 1\nsettings: {quiet: true, loud: 2}\n",
    )
    .unwrap();
    let told = up.ask(&["policy", "preview", "-f", path, "-o", "json"]);
    let told = String::from_utf8(told.stdout).unwrap();
    let told: Vec<serde_json::Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let twin = "devices/cam-1/modules/DefenderIotMicroAgent";
    assert_eq!(told[0]["twin"]["name"], twin);
    assert_eq!(told[0]["twin"]["changes"][0]["path"], "loud");
    assert_eq!(told[0]["twin"]["overruled"][0]["reason"], "priority");
    assert_eq!((&told[1]["twinsMatched"], told.len()), (&1.into(), 2));
    let why = json(&up, &["policy", "explain", "cam-1", "--security"]);
    assert_eq!(why["leaves"][0]["writer"], "policy:calm@2");
    assert_eq!(why["policies"][0]["verdict"], "applies");

    json(&up, &["policy", "delete", "calm"]);
    testkit::wait_for("the setting to go", SOON, async || {
        quiet(&up).is_null().then_some(())
    })
    .await;
    fails(&up, &["policy", "get", "calm"], 3, &["calm"]);
    std::fs::write(
        &file,
        "kind: Policy\nname: x\ntarget: \"a =\"\nsetting: {}\n",
    )
    .unwrap();
    fails(
        &up,
        &["policy", "apply", "-f", path],
        5,
        &[
            "line 3, column 9: target (line 1, column 1): found",
            "line 4, column 1: unknown key `setting`",
            "--help",
        ],
    );
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn a_watch_prints_one_json_object_a_line() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    json(&up, &["device", "create", "cam-1"]);
    let mut watch = testkit::ProcessBuilder::new("watch", crate::support::PROGRAM)
        .args(["twin", "watch", "cam-1", "-o", "json", "--data-dir"])
        .arg(dir.path())
        .spawn();
    let first = watch.wait_for_line("\"event\":\"present\"", SOON).await;
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(first["twin"]["deviceId"], "cam-1");
    json(
        &up,
        &["twin", "patch", "cam-1", "--tags", r#"{"site":"x"}"#],
    );
    let change = watch.wait_for_line("\"event\":\"changed\"", SOON).await;
    let change: Value = serde_json::from_str(&change).unwrap();
    assert_eq!(change["changes"], serde_json::json!(["tags"]));
    assert_eq!(change["twin"]["tags"]["site"], "x");
    json(&up, &["device", "delete", "cam-1"]);
    watch.wait_for_line("\"event\":\"deleted\"", SOON).await;
    watch.kill();
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_told_apart_from_nobody_there() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    fails(
        &up,
        &["--token", "0123456789abcdef", "device", "list"],
        7,
        &["--token-file"],
    );
    let status = up.ask(&["--token", "0123456789abcdef", "status"]);
    assert_eq!(status.status.code(), Some(7));
    let text = stdout(&status);
    assert!(text.contains("refused") && !text.contains("lag"), "{text}");
    assert!(stderr(&status).contains("--token-file"));
    for verb in [&["status"][..], &["device", "list"]] {
        let arguments = [&["--token", "short"], verb].concat();
        fails(&up, &arguments, 7, &["token", "16 characters"]);
    }
    up.process.stop(SOON).await;

    let nobody = verb(dir.path()).args(["device", "list"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(6));
    assert!(
        stderr(&nobody).contains("twinward up"),
        "{}",
        stderr(&nobody)
    );
}
