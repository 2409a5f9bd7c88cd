use super::*;
use crate::output::golden::{json, text};

fn paper(width: u16) -> Paper {
    Paper {
        width: Some(width),
        color: false,
        now: jiff::Timestamp::from_second(1_790_000_000).unwrap(),
    }
}

fn twin(device: &str, module: &str, tags: &str, connected: bool) -> TwinView {
    let name = match module {
        "" => format!("devices/{device}"),
        module => format!("devices/{device}/modules/{module}"),
    };
    TwinView::read(api::Twin {
        name,
        device_id: device.to_owned(),
        module_id: module.to_owned(),
        status: "enabled".to_owned(),
        connected,
        desired_version: 4,
        reported_version: 9,
        tags_json: tags.to_owned(),
        posture_json: r#"{"configuration":{"state":"applied","desiredVersion":4}}"#.to_owned(),
        update_time: Some(prost_types::Timestamp {
            seconds: 1_789_999_000,
            nanos: 0,
        }),
        last_activity_time: Some(prost_types::Timestamp {
            seconds: 1_789_900_000,
            nanos: 0,
        }),
        ..Default::default()
    })
    .unwrap()
}

#[test]
fn whole_twins_are_a_line_each_that_fits_the_terminal() {
    let twins = [
        twin(
            "cam-1",
            "",
            r#"{"site":"hall-3","owner":{"team":"doors"}}"#,
            true,
        ),
        twin("a-camera-with-a-name", "DefenderIotMicroAgent", "", false),
    ];
    for width in [80, 120] {
        let rows = twins
            .iter()
            .map(|twin| twin_row(twin, &paper(width)))
            .collect();
        let text = table::Pages::default().next(&paper(width), &TWIN_COLUMNS, rows);
        insta::assert_snapshot!(format!("twins_{width}"), text);
    }
}

#[test]
fn rows_keep_the_order_of_their_columns_and_a_missing_value_is_empty() {
    let rows = [
        r#"{"site":"hall-3","n":12,"ports":[{"port":22},{"port":80}]}"#.to_owned(),
        r#"{"site":null,"n":0.5}"#.to_owned(),
        r#"{"n":1,"site":"a\u001b[31m"}"#.to_owned(),
    ];
    let text = raw_table(&mut table::Pages::default(), &[], &rows, &paper(80)).unwrap();
    insta::assert_snapshot!("rows", text);
    let failure = raw_table(
        &mut table::Pages::default(),
        &[],
        &["[]".to_owned()],
        &paper(80),
    );
    assert!(failure.unwrap_err().render().contains("rows_json"));
}

#[test]
fn an_explanation_tells_what_the_store_does_and_what_is_left() {
    let mut answer = api::ExplainQueryResponse {
        canonical_query: "SELECT * FROM devices WHERE tags.site = 'hall-3'".to_owned(),
        sql: "SELECT device_id, module_id\nFROM twins WHERE …".to_owned(),
        compiled_condition: "tags.site = 'hall-3'".to_owned(),
        residual_condition: String::new(),
        indexes: vec!["twin_index(tags.site)".to_owned()],
        plan: vec!["SEARCH twin_index USING PRIMARY KEY (path=? AND value=?)".to_owned()],
    };
    insta::assert_snapshot!("explanation", text(&Explanation(answer.clone())));
    insta::assert_snapshot!("explanation_json", json(&Explanation(answer.clone())));
    answer.compiled_condition.clear();
    answer.indexes.clear();
    insta::assert_snapshot!("explanation_scan", text(&Explanation(answer)));
}
