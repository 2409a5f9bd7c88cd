use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{at, by_operator, map, patch};

fn tags(value: Value) -> TwinPatch {
    TwinPatch {
        tags: Some(map(value)),
        desired: None,
    }
}

fn desired(value: Value) -> TwinPatch {
    TwinPatch {
        tags: None,
        desired: Some(map(value)),
    }
}

fn written(twin: &Twin, patch: &TwinPatch) -> TwinWrite {
    twin.patch(patch, &by_operator("x", 1), None)
        .unwrap()
        .unwrap()
}

/// Etag counter, version of the twin, and versions of desired and reported.
fn counters(twin: &Twin) -> [u64; 4] {
    let section = |section: &Section| section.version().get();
    [
        twin.etag.counter(),
        twin.version.get(),
        section(&twin.desired),
        section(&twin.reported),
    ]
}

#[test]
fn counters_follow_the_worked_examples() {
    let twin = Twin::new(at(0));
    assert_eq!(counters(&twin), [1, 2, 1, 1]);
    let twin = written(&twin, &desired(json!({"a": 1}))).twin;
    assert_eq!(counters(&twin), [2, 3, 2, 1]);
    let twin = written(&twin, &tags(json!({"t": 1}))).twin;
    assert_eq!(counters(&twin), [3, 4, 2, 1]);
    let both = TwinPatch {
        tags: Some(map(json!({"t": 1}))),
        desired: Some(map(json!({"a": 1}))),
    };
    let twin = written(&twin, &both).twin;
    assert_eq!(
        counters(&twin),
        [4, 5, 3, 1],
        "once, however many sections and however equal"
    );
    let twin = twin.patch_reported(&Map::new(), at(1), None).unwrap();
    assert_eq!(
        counters(&twin),
        [4, 6, 3, 2],
        "a device never changes the etag"
    );
}

#[test]
fn a_patch_of_nothing_writes_nothing() {
    let twin = Twin::new(at(0));
    for patch in [
        TwinPatch::default(),
        desired(json!({})),
        desired(json!({"$version": 4, "$metadata": {}})),
        tags(json!({})),
    ] {
        assert_eq!(twin.patch(&patch, &by_operator("x", 1), None), Ok(None));
    }
    let write = written(
        &twin,
        &TwinPatch {
            tags: Some(map(json!({"t": 1}))),
            desired: Some(Map::new()),
        },
    );
    assert_eq!(counters(&write.twin), [2, 3, 1, 1]);
    assert_eq!(write.notification, None, "the device does not hear of tags");
}

#[test]
fn what_is_wrong_in_both_sections_is_told_at_once() {
    let twin = Twin::new(at(0));
    let wrong = TwinPatch {
        tags: Some(map(json!({"a b": 1}))),
        desired: Some(map(json!({"list": [null]}))),
    };
    let large_and_wrong = TwinPatch {
        tags: Some(map(json!({ "t": vec!["x".repeat(4096); 3] }))),
        desired: Some(map(json!({"list": [null]}))),
    };
    let stamp = by_operator("x", 1);
    for (patch, expected) in [
        (wrong, ["tags.[[a b]]", "properties.desired.list[0]"]),
        (large_and_wrong, ["tags", "properties.desired.list[0]"]),
    ] {
        for refused in [
            twin.patch(&patch, &stamp, None).unwrap_err(),
            twin.replace(&patch, &stamp, None).unwrap_err(),
        ] {
            // What is wrong goes before what is too large.
            assert_eq!(refused.error_code(), ErrorCode::ARGUMENT_INVALID);
            let TwinError::Rules(violations) = refused else {
                panic!("{refused}");
            };
            let paths: Vec<_> = violations.list().iter().map(|v| v.path.as_str()).collect();
            assert_eq!(paths, expected);
            assert_eq!(violations.kind(), crate::ViolationKind::Invalid);
        }
    }
    let flood = TwinPatch {
        tags: Some(map(json!({ "l": vec![Value::Null; 60] }))),
        desired: Some(map(json!({ "l": vec![Value::Null; 60] }))),
    };
    let Err(TwinError::Rules(violations)) = twin.patch(&flood, &stamp, None) else {
        panic!("accepted");
    };
    assert_eq!((violations.count(), violations.list().len()), (120, 64));
    assert!(
        violations.to_string().ends_with("and 56 more"),
        "{violations}"
    );
}

#[test]
fn a_device_hears_the_patch_as_sent() {
    let twin = written(&Twin::new(at(0)), &desired(json!({"a": 1}))).twin;
    let write = written(&twin, &desired(json!({"a": 1, "b": null, "$version": 9})));
    assert_eq!(write.notification, Some(map(json!({"a": 1, "b": null}))));
}

#[test]
fn a_replacement_tells_what_is_gone_and_leaves_absent_sections_alone() {
    let twin = written(&Twin::new(at(0)), &tags(json!({"t": 1}))).twin;
    let twin = written(&twin, &desired(json!({"a": 1, "b": {"c": 2, "d": 3}}))).twin;
    let new = desired(json!({"a": 1, "b": {"c": 100}}));
    let write = twin
        .replace(&new, &by_operator("x", 2), None)
        .unwrap()
        .unwrap();
    assert_eq!(
        write.notification,
        Some(map(json!({"a": 1, "b": {"c": 100, "d": null}})))
    );
    assert_eq!(write.twin.tags, twin.tags);
    let emptied = write
        .twin
        .replace(&tags(json!({})), &by_operator("x", 2), None);
    assert!(emptied.unwrap().unwrap().twin.tags.document().is_empty());
    assert_eq!(
        twin.replace(&TwinPatch::default(), &by_operator("x", 2), None),
        Ok(None)
    );
}

#[test]
fn a_write_under_a_condition_that_does_not_hold_is_refused() {
    let twin = Twin::new(at(0));
    let error = twin.patch(
        &tags(json!({"a": 1})),
        &by_operator("x", 1),
        Some(Etag::FIRST.next()),
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "the twin changed in between: its etag is AAAAAAAAAAE=, the write expects AAAAAAAAAAI="
    );
    assert!(
        twin.patch(
            &tags(json!({"a": 1})),
            &by_operator("x", 1),
            Some(twin.etag)
        )
        .is_ok()
    );
    let error = twin
        .patch_reported(&Map::new(), at(1), Version::FIRST.next())
        .unwrap_err();
    assert_eq!(error.error_code().to_string(), "412001 PreconditionFailed");
    assert_eq!(
        error.to_string(),
        "properties.reported changed in between: its version is 1, the write expects 2"
    );
    assert!(
        twin.apply_policies(&[], at(1), Version::FIRST.next())
            .is_err()
    );
}

#[test]
fn a_refused_section_refuses_the_whole_write() {
    let twin = Twin::new(at(0));
    let patch = TwinPatch {
        tags: Some(map(json!({"fine": 1}))),
        desired: Some(map(json!({"not fine": 1}))),
    };
    let error = twin.patch(&patch, &by_operator("x", 1), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "properties.desired.[[not fine]]: a key with ' ' at character 4 \
         (a key holds no control character, no white space and none of . $ #)"
    );
}

#[test]
fn policies_write_once_and_then_hold() {
    let twin = Twin::new(at(0));
    let writes = [PolicyWrite {
        policy: "p".into(),
        revision: 1,
        settings: map(json!({"a": 1})),
    }];
    let applied = twin
        .apply_policies(&writes, at(1), Some(Version::FIRST))
        .unwrap();
    let write = applied.write.unwrap();
    assert_eq!(counters(&write.twin), [2, 3, 2, 1]);
    assert_eq!(write.notification, Some(map(json!({"a": 1}))));
    let again = write.twin.apply_policies(&writes, at(2), None).unwrap();
    assert_eq!(
        again,
        PolicyApplied {
            write: None,
            lost: vec![]
        }
    );
}

proptest! {
    #[test]
    fn a_device_that_follows_its_notifications_has_the_desired_section(
        writes in prop::collection::vec((patch(), any::<bool>()), 1..8),
    ) {
        let mut twin = Twin::new(at(0));
        let mut device = Map::new();
        for (sent, whole) in writes {
            let sections = TwinPatch { tags: None, desired: Some(sent) };
            let stamp = by_operator("x", 1);
            let written = if whole {
                twin.replace(&sections, &stamp, None).unwrap()
            } else {
                twin.patch(&sections, &stamp, None).unwrap()
            };
            let Some(write) = written else { continue };
            crate::patch::apply_to_object(&write.notification.unwrap(), &mut device);
            twin = write.twin;
            prop_assert_eq!(&device, twin.desired.document());
        }
    }

    #[test]
    fn counters_only_rise_and_each_by_one(
        patches in prop::collection::vec((patch(), 0..3_u8), 1..8),
    ) {
        let mut twin = Twin::new(at(0));
        for (patch, kind) in patches {
            let before = counters(&twin);
            let service = |patch: TwinPatch| twin.patch(&patch, &by_operator("x", 1), None);
            let next = match kind {
                0 => service(TwinPatch { tags: Some(patch), desired: None }).unwrap(),
                1 => service(TwinPatch { tags: None, desired: Some(patch) }).unwrap(),
                _ => {
                    let next = twin.patch_reported(&patch, at(1), None).unwrap();
                    Some(TwinWrite { twin: next, notification: None })
                }
            };
            let Some(TwinWrite { twin: next, .. }) = next else { continue };
            let service = u64::from(kind != 2);
            let expected = [service, 1, u64::from(kind == 1), 1 - service];
            let risen = counters(&next);
            for (index, rise) in expected.into_iter().enumerate() {
                prop_assert_eq!(risen[index], before[index] + rise);
            }
            twin = next;
        }
    }
}
