use proptest::prelude::*;

use super::*;

fn identity(path: &str) -> IdentityKey {
    IdentityKey::parse_path(path).unwrap()
}

fn parse(path: &str, topic: &str) -> Result<DeviceTopic, TopicError> {
    DeviceTopic::parse(topic, &identity(path))
}

fn telemetry(bag: &str) -> DeviceTopic {
    DeviceTopic::Telemetry(PropertyBag::parse(bag).unwrap())
}

#[test]
fn telemetry_is_read_in_every_spelling() {
    for (path, topic, bag) in [
        ("d", "devices/d/messages/events", ""),
        ("d", "devices/d/messages/events/", ""),
        ("d", "devices/d/messages/events/a=1", "a=1"),
        ("d", "devices/d/messages/events/?a=1", "a=1"),
        ("d", "devices/d/messages/events/a=1/", "a=1"),
        ("d/m", "devices/d/modules/m/messages/events/a=1", "a=1"),
        ("a?b", "devices/a?b/messages/events/", ""),
    ] {
        assert_eq!(parse(path, topic), Ok(telemetry(bag)), "{topic}");
    }
}

#[test]
fn requests_keep_their_id_as_it_stands() {
    let rid = "6f%2F-1";
    let get = DeviceTopic::TwinGet { rid: rid.into() };
    assert_eq!(
        parse("d", &format!("$iothub/twin/GET/?$rid={rid}")),
        Ok(get)
    );
    let patch = |base_version| DeviceTopic::TwinPatchReported {
        rid: "1".into(),
        base_version,
    };
    let topic = "$iothub/twin/PATCH/properties/reported/?$rid=1";
    assert_eq!(parse("d", topic), Ok(patch(None)));
    let versioned = format!("{topic}&$version=7");
    assert_eq!(parse("d", &versioned), Ok(patch(Some(7))));
    let escaped = "$iothub/twin/PATCH/properties/reported/?%24rid=1&%24version=7";
    assert_eq!(parse("d", escaped), Ok(patch(Some(7))));
    let response = DeviceTopic::MethodResponse {
        status: -1,
        rid: "a".into(),
    };
    assert_eq!(parse("d", "$iothub/methods/res/-1/?$rid=a"), Ok(response));
}

#[test]
fn other_topics_are_refused() {
    for topic in [
        "",
        "a",
        "devices/e/messages/events/",
        "devices/d/messages/eventsx",
        "devices/d/modules/m/messages/events/",
        "devices/d/messages/devicebound/",
        "$iothub/twin/get/?$rid=1",
        "$iothub/methods/res/200",
    ] {
        let refused = parse("d", topic);
        assert!(
            matches!(refused, Err(TopicError::Unknown { .. })),
            "{topic}"
        );
    }
    let long = format!("$iothub/twin/GET/?$rid={}", "a".repeat(RID_BYTES_MAX + 1));
    for topic in [
        "$iothub/twin/GET/",
        "$iothub/twin/GET/?$rid=",
        "$iothub/twin/GET/$rid=1",
        "$iothub/methods/res/ok/?$rid=1",
        "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=x",
        "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=0",
        &long,
    ] {
        let refused = parse("d", topic);
        assert!(
            matches!(refused, Err(TopicError::Malformed { .. })),
            "{topic}"
        );
    }
    assert_eq!(
        parse("d", "devices/d/messages/events/%zz"),
        Err(TopicError::Bag(BagError::Malformed { index: 0 }))
    );
}

#[test]
fn a_refusal_shows_the_beginning_of_a_topic_only() {
    let error = parse("d", &"\n\u{7}é".repeat(5000))
        .unwrap_err()
        .to_string();
    assert!(error.len() < 2000 && !error.contains('\n'), "{error}");
}

#[test]
fn the_services_topics_are_spelled_as_sdks_expect() {
    let rid = "r";
    let response = |status, version| ServiceTopic::TwinResponse {
        status,
        rid,
        version,
    };
    let bag = PropertyBag::parse("$.mid=1").unwrap();
    let to_device = ServiceTopic::DeviceBound {
        device: "d",
        properties: &bag,
    };
    let name = "re boot";
    for (topic, wanted) in [
        (response(200, None), "$iothub/twin/res/200/?$rid=r"),
        (
            response(204, Some(8)),
            "$iothub/twin/res/204/?$rid=r&$version=8",
        ),
        (
            ServiceTopic::DesiredChanged { version: 3 },
            "$iothub/twin/PATCH/properties/desired/?$version=3",
        ),
        (
            ServiceTopic::Method { name, rid },
            "$iothub/methods/POST/re%20boot/?$rid=r",
        ),
        (to_device, "devices/d/messages/devicebound/%24.mid=1"),
    ] {
        assert_eq!(topic.to_string(), wanted);
    }
}

fn any_topic() -> impl Strategy<Value = DeviceTopic> {
    let rid = || "[a-zA-Z0-9%+._-]{1,40}";
    let base = prop::option::of(1..u64::MAX);
    prop_oneof![
        prop::collection::vec((".{1,9}", ".{0,9}"), 0..5).prop_map(|pairs| {
            let mut bag = PropertyBag::default();
            for (name, value) in pairs {
                bag.push(name, value);
            }
            DeviceTopic::Telemetry(bag)
        }),
        rid().prop_map(|rid| DeviceTopic::TwinGet { rid }),
        (rid(), base)
            .prop_map(|(rid, base_version)| DeviceTopic::TwinPatchReported { rid, base_version }),
        (any::<i32>(), rid()).prop_map(|(status, rid)| DeviceTopic::MethodResponse { status, rid }),
    ]
}

proptest! {
    #[test]
    fn what_was_printed_is_read_back(topic in any_topic(), module in any::<bool>()) {
        let identity = identity(if module { "d.1/m?" } else { "d.1" });
        prop_assert_eq!(DeviceTopic::parse(&topic.to_topic(&identity), &identity), Ok(topic));
    }

    #[test]
    fn reading_never_panics(text in any::<String>()) {
        for root in ["", "devices/d/messages/events", "$iothub/twin/GET/", "$iothub/methods/res/"] {
            let _ = parse("d", &format!("{root}{text}"));
        }
    }
}
