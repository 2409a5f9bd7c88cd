use super::*;
use crate::output::golden::{json, text};

fn at(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: 1_790_000_000 + seconds,
        nanos: 0,
    }
}

fn operation(state: api::OperationState) -> api::Operation {
    api::Operation {
        name: "operations/0193f2c1".to_owned(),
        state: state.into(),
        bulk_update: Some(api::BulkUpdate {
            source: "devices".to_owned(),
            condition: "tags.site = 'hall-3'".to_owned(),
            tags_patch_json: r#"{"site":"hall-4"}"#.to_owned(),
            desired_patch_json: String::new(),
            method: None,
        }),
        total: 1200,
        succeeded: 1100,
        failed: 2,
        skipped: 1,
        create_time: Some(at(-300)),
        update_time: Some(at(-10)),
        end_time: None,
        actor: "operator:eve".to_owned(),
        ..Default::default()
    }
}

#[test]
fn an_operation_says_how_far_it_is() {
    let view = OperationView(operation(api::OperationState::Running));
    insta::assert_snapshot!("operation", text(&view));
    insta::assert_snapshot!("operation_json", json(&view));
}

#[test]
fn operations_are_listed_with_what_went_wrong() {
    let undo = api::Operation {
        name: "operations/0193f2d0".to_owned(),
        undo_of: "operations/0193f2c1".to_owned(),
        failed: 0,
        skipped: 0,
        end_time: Some(at(-5)),
        ..operation(api::OperationState::Succeeded)
    };
    let view = OperationsView(vec![undo, operation(api::OperationState::Failed)]);
    insta::assert_snapshot!("operations", text(&view));
    assert!(text(&OperationsView(Vec::new())).contains("bulk update"));
}

#[test]
fn a_wait_counts_as_done_only_when_every_twin_was_written() {
    let ended = |state, failed| {
        verdict(&api::Operation {
            failed,
            error: "the store is full".to_owned(),
            ..operation(state)
        })
    };
    assert!(ended(api::OperationState::Succeeded, 0).is_none());
    for (state, words) in [
        (
            api::OperationState::Succeeded,
            "2 twins could not be written",
        ),
        (api::OperationState::Cancelled, "cancelled"),
        (api::OperationState::Failed, "the store is full"),
    ] {
        let failure = ended(state, 2).unwrap();
        assert_eq!(failure.kind(), Kind::Failed);
        assert!(failure.render().contains(words), "{}", failure.render());
    }
}

#[test]
fn results_tell_why_a_twin_was_left_alone() {
    let skipped = api::OperationResult {
        twin: "devices/cam-1/modules/lens".to_owned(),
        outcome: api::Outcome::Skipped.into(),
        reason: "it was deleted meanwhile".to_owned(),
        revision: 0,
        time: Some(at(-4)),
        method: None,
    };
    let rows = vec![result_row(&skipped)];
    let paper = crate::output::Paper {
        width: Some(100),
        color: false,
        now: jiff::Timestamp::from_second(1_790_000_000).unwrap(),
    };
    insta::assert_snapshot!("results", table::table(&paper, &RESULT_COLUMNS, rows));
    insta::assert_snapshot!("result_json", json(&ResultView(skipped)));
}

#[test]
fn a_dry_run_says_how_many_match() {
    assert_eq!(
        text(&Matching(operation(api::OperationState::Unspecified))),
        "1200 twins match; nothing was written\n"
    );
    let undo = api::Operation {
        undo_of: "operations/0193f2c1".to_owned(),
        ..operation(api::OperationState::Unspecified)
    };
    let view = Foreseen(undo);
    assert_eq!(
        text(&view),
        "1100 twins would be written, 2 failed, 1 skipped; nothing was begun\n"
    );
    let expected = serde_json::json!({
        "dryRun": true, "undoOf": "operations/0193f2c1",
        "total": 1200, "succeeded": 1100, "failed": 2, "skipped": 1
    });
    assert_eq!(
        serde_json::from_str::<Value>(&json(&view)).unwrap(),
        expected
    );
}
