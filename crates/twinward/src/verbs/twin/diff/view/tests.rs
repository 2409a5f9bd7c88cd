use serde_json::json;

use super::*;
use crate::output::Paper;
use crate::output::golden::{json, text};

fn difference(path: &str, before: Option<Value>, after: Option<Value>) -> Difference {
    Difference {
        path: path.to_owned(),
        before,
        after,
        by: None,
    }
}

fn view() -> DiffView {
    let mut tags = difference("tags.site", Some(json!("hall-2")), Some(json!("hall-3")));
    tags.by = Some(By {
        actor: "operator:eve".to_owned(),
        revision: 33,
        commit_time: Some(prost_types::Timestamp {
            seconds: 1_789_996_000,
            nanos: 0,
        }),
    });
    DiffView {
        name: "devices/cam-1".to_owned(),
        from: Side::Revision(12),
        to: Side::Revision(40),
        differences: vec![
            difference(
                "posture.listeningPorts",
                Some(json!([{"port": 22}, {"port": 80}])),
                Some(json!([{"port": 22}, {"port": 8080}])),
            ),
            difference("properties.desired.a.b", Some(json!(1)), None),
            difference(
                "properties.desired.order",
                Some(json!([1, 2])),
                Some(json!([2, 1])),
            ),
            tags,
        ],
    }
}

#[test]
fn a_comparison_is_shown_as_lines_gone_and_come() {
    insta::assert_snapshot!("diff", text(&view()));
    insta::assert_snapshot!("diff_json", json(&view()));
}

#[test]
fn what_would_be_written_is_said_to_be_no_revision() {
    let mut view = view();
    view.to = Side::Proposed;
    view.differences.clear();
    insta::assert_snapshot!("proposed", text(&view));
    insta::assert_snapshot!("proposed_json", json(&view));
}

#[test]
fn on_a_terminal_what_went_is_red_and_what_came_is_green() {
    let paper = Paper {
        width: Some(80),
        color: true,
        now: jiff::Timestamp::from_second(1_790_000_000).unwrap(),
    };
    let text = view().text(&paper);
    let red = text.lines().filter(|line| line.starts_with("\u{1b}[31m-"));
    let green = text.lines().filter(|line| line.starts_with("\u{1b}[32m+"));
    assert_eq!((red.count(), green.count()), (4, 3), "{text}");
}

#[test]
fn documents_are_compared_leaf_by_leaf() {
    let check = |before: Value, after: Value, expected: &[&str]| {
        let mut found = Vec::new();
        compare("tags", Some(&before), Some(&after), &mut found);
        let print = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), Value::to_string);
        let lines: Vec<_> = found
            .iter()
            .map(|d| format!("{} {} {}", d.path, print(&d.before), print(&d.after)))
            .collect();
        assert_eq!(lines, expected, "{before} {after}");
    };
    check(json!({"a": 1}), json!({"a": 1}), &[]);
    check(
        json!({"a": 1, "b": {"c": 2}}),
        json!({"a": 3, "b": {}, "d": {"e": 4}}),
        &["tags.a 1 3", "tags.b.c 2 -", "tags.d.e - 4"],
    );
    check(
        json!({"a": {"b": 1}}),
        json!({"a": "x"}),
        &["tags.a - \"x\"", "tags.a.b 1 -"],
    );
    check(json!({}), json!({"a": {}}), &["tags.a - {}"]);
}
