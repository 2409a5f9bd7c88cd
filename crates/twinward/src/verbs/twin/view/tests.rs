use jiff::Timestamp;

use super::*;
use crate::output::golden::{json, text};

fn twin() -> api::Twin {
    let at = Timestamp::from_second(1_790_000_000 - 42).unwrap();
    api::Twin {
        name: "devices/cam-1/modules/DefenderIotMicroAgent".to_owned(),
        device_id: "cam-1".to_owned(),
        module_id: "DefenderIotMicroAgent".to_owned(),
        etag: "\"7\"".to_owned(),
        version: 7,
        tags_json: r#"{"site": "hall-3", "owner": {"team": "doors"}}"#.to_owned(),
        desired_json: r#"{"processFrequency": "PT1M", "rules": {"ports": [22, 443]}}"#.to_owned(),
        desired_version: 4,
        desired_metadata_json: r#"{
            "$lastUpdated": "2026-09-21T13:32:00Z", "$lastUpdatedVersion": 4,
            "processFrequency": {"$lastUpdatedVersion": 4, "$lastUpdatedBy": "policy:ports@2"},
            "rules": {"ports": {"$lastUpdatedVersion": 2, "$lastUpdatedBy": "operator:alice"}}
        }"#
        .to_owned(),
        reported_json: r#"{"latest_state": {"processFrequency": "PT5M"}}"#.to_owned(),
        reported_version: 9,
        reported_metadata_json: String::new(),
        posture_json: r#"{"listeningPorts": {"tcp": [22, 8080]}, "users": [{"uid": 0, "name": "root", "groups": ["root", "adm"]}], "count": 0, "note": "a\u001b[31m\nb"}"#
            .to_owned(),
        posture_version: 1042,
        update_time: Some(wire::time::to_wire(at)),
        status: "enabled".to_owned(), ..Default::default() }
}

#[test]
fn a_twin_shows_every_leaf_and_who_wrote_it_and_no_control_characters() {
    let view = TwinView::read(twin()).unwrap();
    let text = text(&view);
    assert!(!text.contains('\u{1b}'));
    insta::assert_snapshot!("twin", text);
}

#[test]
fn programs_get_a_twin_in_the_shape_of_iot_hub() {
    insta::assert_snapshot!("twin_json", json(&TwinView::read(twin()).unwrap()));
}

#[test]
fn a_new_twin_says_that_there_is_nothing_yet() {
    let new = api::Twin {
        name: "devices/cam-1".to_owned(),
        device_id: "cam-1".to_owned(),
        version: 1,
        desired_version: 1,
        reported_version: 1,
        status: "enabled".to_owned(),
        ..api::Twin::default()
    };
    insta::assert_snapshot!("new_twin", text(&TwinView::read(new).unwrap()));
}

#[test]
fn a_damaged_answer_names_the_field() {
    let damaged = api::Twin {
        posture_json: "{".to_owned(),
        ..twin()
    };
    let failure = TwinView::read(damaged).err().unwrap();
    assert!(
        failure.render().contains("posture_json"),
        "{}",
        failure.render()
    );
}
