//! Many devices at once: import, export, bulk updates.

use serde_json::{Value, json};

use crate::support::{SOON, Up, directory, json_lines, stderr, stdout};

/// Enough for several batches, and for a page of twins that does not hold them all.
const DEVICES: usize = 1000;

/// An identity a line: devices of all kinds, and a module for every tenth.
fn fleet() -> String {
    let mut text = String::new();
    for n in 0..DEVICES {
        let status = if n % 7 == 0 { "disabled" } else { "enabled" };
        let line = json!({
            "deviceId": format!("cam-{n:04}"),
            "status": status,
            "authentication": match n % 3 {
                0 => json!({"type": "sas"}),
                1 => json!({"type": "selfSigned", "x509Thumbprint":
                    {"primaryThumbprint": format!("{n:040X}")}}),
                _ => json!({"type": "certificateAuthority"}),
            },
            "tags": {"site": format!("hall-{}", n % 5), "note": "a \"quoted\" ☃ \u{1b}[31m"},
            "properties": {"desired": {"n": n, "deep": {"list": [1, {"a": "b"}]}}},
        });
        text += &line.to_string();
        text.push('\n');
        if n % 10 == 0 {
            let line = json!({
                "deviceId": format!("cam-{n:04}"),
                "moduleId": "lens",
                "managedBy": "optics",
                "properties": {"desired": {"zoom": n}},
            });
            text += &line.to_string();
            text.push('\n');
        }
    }
    text
}

fn summary(output: &std::process::Output) -> Value {
    json_lines(output)
        .pop()
        .expect("the last line is the summary")["summary"]
        .clone()
}

#[tokio::test]
async fn a_fleet_goes_out_and_comes_back_the_same() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    let file = dir.path().join("fleet.ndjson");
    let path = file.to_str().unwrap();
    std::fs::write(&file, fleet()).unwrap();

    let dry = up.ask(&["device", "import", path, "--dry-run", "-o", "json"]);
    assert_eq!(summary(&dry)["created"], 1100, "{}", stderr(&dry));
    assert_eq!(
        up.json(&["device", "list"]),
        json!([]),
        "a dry run writes nothing"
    );
    let import = up.ask(&["device", "import", path, "-o", "json"]);
    assert_eq!(summary(&import)["created"], 1100, "{}", stderr(&import));
    let again = up.ask(&["device", "import", path, "-o", "json"]);
    assert_eq!(summary(&again)["unchanged"], 1100, "{}", stderr(&again));

    let exported = dir.path().join("exported.ndjson");
    let out = exported.to_str().unwrap();
    let counts = up.json(&["device", "export", out, "--with-keys"]);
    assert_eq!(counts, json!({"devices": 1000, "modules": 100}));
    let keys = std::fs::read_to_string(&exported).unwrap();
    assert!(keys.contains("primaryKey"));

    // Into a store of its own, keys and all; and out of that again.
    let other_dir = directory();
    let other = Up::start(other_dir.path()).await;
    let moved = other.ask(&["device", "import", out, "--with-keys", "-o", "json"]);
    assert_eq!(summary(&moved)["created"], 1100, "{}", stderr(&moved));
    let back = other.ask(&["device", "export", "-", "--with-keys"]);
    assert_eq!(stdout(&back), keys);
    let key = |up: &Up| {
        up.json(&["device", "get", "cam-0000", "--show-keys"])["connectionString"].clone()
    };
    assert_eq!(key(&up), key(&other));
    let without = stdout(&other.ask(&["device", "export", "-", "--devices-only"]));
    assert_eq!(without.lines().count(), 1000);
    assert!(!without.contains("primaryKey") && !without.contains("moduleId"));
    let some = stdout(&other.ask(&["device", "export", "-", "--filter", "tags.site = 'hall-1'"]));
    assert_eq!(some.lines().count(), 200);
    other.process.stop(SOON).await;
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn lines_that_are_wrong_are_named_and_do_not_hide_the_others() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    let file = dir.path().join("fleet.ndjson");
    let path = file.to_str().unwrap();
    let big = format!(
        r#"{{"deviceId":"big","tags":{{"a":"{}"}}}}"#,
        "x".repeat(9000)
    );
    let mut content = b"\xef\xbb\xbf{\"deviceId\":\"ok-1\"}\r\n\r\nnot json\n\xff\xff\n".to_vec();
    for line in [
        r#"{"deviceId":"a b"}"#,
        r#"{"deviceId":"ok-1"}"#,
        r#"{"deviceId":"ok-2","moduleId":"m","status":"enabled"}"#,
        r#"{"deviceId":"ok-2","tags":{"$x":1}}"#,
        &big,
        r#"{"deviceId":"nobody","moduleId":"m"}"#,
        r#"{"deviceId":"last","status":"disabled","statusReason":"spare"}"#,
    ] {
        content.extend(line.as_bytes());
        content.push(b'\n');
    }
    std::fs::write(&file, content).unwrap();

    up.fails(
        &["device", "import", path],
        1,
        &["stopped at line 3", "--continue-on-error"],
    );
    let all = up.ask(&[
        "device",
        "import",
        path,
        "--continue-on-error",
        "-o",
        "json",
    ]);
    assert_eq!(all.status.code(), Some(1), "{}", stderr(&all));
    let lines = json_lines(&all);
    let found: Vec<_> = lines[..lines.len() - 1]
        .iter()
        .map(|line| format!("{} {}", line["line"], line["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            "1 unchanged",
            "3 failed",
            "4 failed",
            "5 failed",
            "6 failed",
            "7 failed",
            "8 failed",
            "9 failed",
            "10 failed",
            "11 created"
        ],
        "{lines:#?}"
    );
    let error = |number: usize| {
        let line = lines.iter().find(|line| line["line"] == number).unwrap();
        line["error"].as_str().unwrap().to_owned()
    };
    for (number, words) in [
        (3, "column"),
        (4, "UTF-8"),
        (5, "deviceId"),
        (6, "line 1 has"),
        (7, "its device"),
        (8, "$x"),
        (9, "8192"),
        (10, "nobody"),
    ] {
        assert!(
            error(number).contains(words),
            "line {number}: {}",
            error(number)
        );
    }
    assert_eq!(
        summary(&all),
        json!({"dryRun": false, "lines": 10, "created": 1, "updated": 0,
        "unchanged": 1, "different": 0, "failed": 8})
    );
    assert_eq!(up.json(&["device", "get", "last"])["statusReason"], "spare");
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn what_exists_is_compared_updated_or_refused() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    let file = dir.path().join("fleet.ndjson");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "{\"deviceId\":\"a\",\"tags\":{\"n\":1}}\n{\"deviceId\":\"a\",\"moduleId\":\"m\"}\n{\"deviceId\":\"b\"}\n").unwrap();
    let import =
        |more: &[&'static str]| up.ask(&[&["device", "import", path, "-o", "json"], more].concat());
    assert_eq!(summary(&import(&[]))["created"], 3);
    std::fs::write(
        &file,
        "{\"deviceId\":\"a\",\"status\":\"disabled\",\"statusReason\":\"lost\",\"tags\":{\"n\":2}}\n\
         {\"deviceId\":\"a\",\"moduleId\":\"m\",\"managedBy\":\"x\",\"tags\":{\"t\":1}}\n\
         {\"deviceId\":\"b\"}\n",
    )
    .unwrap();
    let skipped = json_lines(&import(&[]));
    assert_eq!(
        skipped[0]["differences"],
        json!(["status", "statusReason", "tags"]),
        "{skipped:#?}"
    );
    assert_eq!(skipped[1]["differences"], json!(["managedBy", "tags"]));
    assert_eq!(skipped[2]["outcome"], "unchanged");
    assert_eq!(
        up.json(&["device", "get", "a"])["status"],
        "enabled",
        "it was left alone"
    );

    let refused = import(&["--on-existing", "fail", "--continue-on-error"]);
    assert_eq!(
        (refused.status.code(), &summary(&refused)["failed"]),
        (Some(1), &json!(3))
    );
    let dry = import(&["--on-existing", "update", "--dry-run"]);
    assert_eq!(summary(&dry)["updated"], 2, "{}", stderr(&dry));
    assert_eq!(
        up.json(&["device", "get", "a"])["status"],
        "enabled",
        "a dry run writes nothing"
    );
    let updated = import(&["--on-existing", "update"]);
    assert_eq!(summary(&updated)["updated"], 2, "{}", stderr(&updated));
    let device = up.json(&["device", "get", "a"]);
    assert_eq!(
        (&device["status"], &device["statusReason"]),
        (&json!("disabled"), &json!("lost"))
    );
    assert_eq!(up.json(&["twin", "get", "a"])["tags"], json!({"n": 2}));
    assert_eq!(up.json(&["module", "get", "a", "m"])["managedBy"], "x");
    assert_eq!(summary(&import(&[]))["unchanged"], 3);
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn many_twins_are_changed_by_an_operation_that_can_be_undone() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    let file = dir.path().join("fleet.ndjson");
    // More than an undo is foreseen for at once.
    let many = 520;
    let lines: String = (0..many)
        .map(|n| {
            json!({"deviceId": format!("cam-{n}"), "tags": {"site": "x", "n": n}}).to_string()
                + "\n"
        })
        .collect();
    std::fs::write(&file, lines).unwrap();
    up.ask(&["device", "import", file.to_str().unwrap()]);
    let update = [
        "bulk",
        "update",
        "--where",
        "tags.site = 'x'",
        "--tags",
        r#"{"site":"y"}"#,
    ];
    let matching = up.json(&[&update[..], &["--dry-run"]].concat());
    assert_eq!(matching, json!({"dryRun": true, "total": many}));
    let done = up.json(&[&update[..], &["--wait"]].concat());
    assert_eq!(
        (&done["state"], &done["succeeded"]),
        (&json!("succeeded"), &json!(many)),
        "{done:#}"
    );
    let name = done["name"].as_str().unwrap();
    let results = up.json_lines(&["operation", "results", name, "--limit", "0"]);
    assert_eq!(results.len(), many);
    up.json(&["twin", "patch", "cam-7", "--tags", r#"{"site":"z"}"#]);
    let foreseen = up.json(&["operation", "undo", name, "--dry-run"]);
    let undone = up.json(&["operation", "undo", name, "--wait"]);
    for count in ["total", "succeeded", "failed", "skipped"] {
        assert_eq!(foreseen[count], undone[count], "{foreseen:#} {undone:#}");
    }
    let listed = |states: &[&str]| {
        let mut verb = vec!["operation", "list"];
        for state in states {
            verb.extend(["--state", state]);
        }
        up.json(&verb).as_array().map(Vec::len)
    };
    assert_eq!(listed(&["running", "failed"]), Some(0));
    assert_eq!(listed(&["succeeded"]), listed(&[]));
    assert_eq!(
        (&undone["succeeded"], &undone["skipped"]),
        (&json!(many - 1), &json!(1)),
        "{undone:#}"
    );
    assert_eq!(up.json(&["twin", "get", "cam-3"])["tags"]["site"], "x");
    assert_eq!(up.json(&["twin", "get", "cam-7"])["tags"]["site"], "z");
    let listed = up.json(&["operation", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let cancelled = up.json(&["operation", "cancel", name]);
    assert_eq!(
        cancelled["state"], "succeeded",
        "cancelling what has ended is harmless"
    );
    up.fails(
        &["bulk", "update", "--where", "tags.site =", "--tags", "{}"],
        5,
        &["^"],
    );
    up.fails(&["operation", "get", "nothing"], 5, &["uuid"]);
    up.process.stop(SOON).await;
}

#[tokio::test]
async fn devices_with_large_twins_go_out_and_come_back_too() {
    let dir = directory();
    let up = Up::start(dir.path()).await;
    let values: serde_json::Map<_, _> = (0..2400).map(|n| (format!("k{n}"), json!(n))).collect();
    let lines = (0..60).map(|n| {
        let properties = json!({ "desired": values });
        json!({"deviceId": format!("large-{n:03}"), "properties": properties}).to_string() + "\n"
    });
    let file = dir.path().join("large.ndjson");
    let path = file.to_str().unwrap();
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let import = up.ask(&["device", "import", path, "-o", "json"]);
    assert_eq!(summary(&import)["created"], 60, "{}", stderr(&import));
    let again = ["device", "import", path, "--on-existing", "update"];
    let again = up.ask(&[&again[..], &["-o", "json"]].concat());
    assert_eq!(summary(&again)["unchanged"], 60, "{}", stderr(&again));
    let out = dir.path().join("out.ndjson");
    let counts = up.json(&["device", "export", out.to_str().unwrap(), "--devices-only"]);
    assert_eq!(counts, json!({"devices": 60, "modules": 0}));
}
