use super::*;
use crate::output::Paper;
use crate::output::golden::{json, text};

fn revision(number: u64, changes: &[api::Change], patch: &str) -> api::TwinRevision {
    let at = 1_789_990_000 + i64::try_from(number).unwrap();
    api::TwinRevision {
        name: "devices/cam-1".to_owned(),
        revision: number,
        first_revision: number,
        commit_time: Some(prost_types::Timestamp {
            seconds: at,
            nanos: 5_000_000,
        }),
        first_commit_time: Some(prost_types::Timestamp {
            seconds: at - 60,
            nanos: 0,
        }),
        actor: "operator:eve".to_owned(),
        cause: "request:a956746b-ff93-4330-9600-941acda97e5c".to_owned(),
        changes: changes.iter().map(|change| (*change).into()).collect(),
        patch_json: patch.to_owned(),
        trace_parent: String::new(),
        problem: String::new(),
    }
}

fn revisions() -> Vec<api::TwinRevision> {
    let mut telemetry = revision(
        1042,
        &[api::Change::Posture],
        r#"{"posture":{"eventCount":90,"listeningPorts":[22,8080]}}"#,
    );
    telemetry.first_revision = 1017;
    telemetry.actor = "device".to_owned();
    telemetry.cause = "events:3/9918".to_owned();
    vec![
        telemetry,
        revision(
            12,
            &[api::Change::Tags, api::Change::Desired],
            r#"{"tags":{"site":"hall-3","note":"a\u001b[31mb"},"desired":{"old":null},"desiredVersion":4}"#,
        ),
        revision(
            3,
            &[api::Change::Created],
            r#"{"status":"enabled","statusReason":"","tags":{"site":"hall-2"}}"#,
        ),
    ]
}

#[test]
fn revisions_tell_who_changed_what_and_why() {
    let view = Revisions::read(revisions()).unwrap();
    for width in [80, 120] {
        let paper = Paper {
            width: Some(width),
            color: false,
            now: jiff::Timestamp::from_second(1_790_000_000).unwrap(),
        };
        insta::assert_snapshot!(format!("revisions_{width}"), view.text(&paper));
    }
    insta::assert_snapshot!("revisions_json", json(&view));
}

#[test]
fn every_revision_says_what_it_is() {
    let view = Revisions::read(vec![
        revision(9, &[api::Change::Deleted], "null"),
        revision(8, &[], "{}"),
        revision(7, &[api::Change::Identity], r#"{"deviceEtag":12}"#),
        revision(
            6,
            &[api::Change::Identity],
            r#"{"authenticationType":"selfSigned","capabilities":{"iotEdge":true},"deviceEtag":11,
                "x509Thumbprint":{"primaryThumbprint":"AB","secondaryThumbprint":""}}"#,
        ),
    ]);
    let shown = text(&view.unwrap());
    let what: Vec<_> = shown
        .lines()
        .skip(1)
        .map(|line| line.split_once("…  ").map_or(line, |(_, what)| what.trim()))
        .collect();
    // A line ends where the paper does.
    let signed = "authenticationType=selfSigned  x50…";
    let expected = ["deleted", "nothing that twins show", "identity", signed];
    assert_eq!(what, expected, "{shown}");
}

#[test]
fn a_damaged_patch_is_told_and_not_shown() {
    let failure = Revisions::read(vec![revision(7, &[], "{")]).err().unwrap();
    assert!(
        failure.render().contains("revision 7"),
        "{}",
        failure.render()
    );
}

#[test]
fn no_revisions_are_no_empty_table() {
    assert_eq!(
        text(&Revisions::read(Vec::new()).unwrap()),
        "no revisions\n"
    );
}

#[test]
fn a_revision_that_cannot_be_read_says_so_in_its_place() {
    let hole = api::TwinRevision {
        name: "devices/cam-1".to_owned(),
        revision: 7,
        first_revision: 7,
        problem: "its checksum does not match".to_owned(),
        ..api::TwinRevision::default()
    };
    let read = Revisions::read(vec![hole]).expect("it can be shown");
    let shown = text(&read);
    assert!(
        shown.contains('7') && shown.contains("cannot be read: its checksum does not match"),
        "{shown}"
    );
}
