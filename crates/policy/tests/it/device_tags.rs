//! Policies for modules that look at the tags of the device.

use serde_json::{Value, json};

use crate::world::{MODULE, SETTLE, World};

const SITE: &str = "\
kind: Policy
name: by-site
scope: modules
target: device.tags.site = 'Lyon'
settings: {upstream: 'https://{{device.tags.site}}.example', gate: '{{device.tags.gate}}'}
";

#[tokio::test]
async fn a_module_is_decided_on_by_the_tags_of_its_device_as_they_change() {
    let world = World::start().await;
    let device = "devices/cam-1";
    let tags = json!({"site": "Lyon", "gate": 1});
    world.twins.create(device, tags, Value::Null).await;
    // Tags of the module itself are others.
    let own = json!({"site": "Rome"});
    world.twins.create(MODULE, own, Value::Null).await;
    world.apply(SITE).await;
    let set = |gate: i32| json!({"upstream": "https://Lyon.example", "gate": gate});
    world.wait_desired(MODULE, set(1)).await;
    assert_eq!(world.twins.desired(device), json!({}), "it is for modules");

    let gate = |gate: i32| Some(json!({ "gate": gate }));
    world.twins.operate(device, gate(2), None).await;
    world.wait_desired(MODULE, set(2)).await;

    // A module that comes later is like the others.
    let later = "devices/cam-1/modules/later";
    world.twins.create(later, json!({}), Value::Null).await;
    world.wait_desired(later, set(2)).await;

    let away = Some(json!({"site": "Turin"}));
    world.twins.operate(device, away, None).await;
    for module in [MODULE, later] {
        world.wait_desired(module, json!({})).await;
    }
    let back = Some(json!({"site": "Lyon"}));
    world.twins.operate(device, back, None).await;
    world.wait_desired(MODULE, set(2)).await;
    // What a template names is gone: nothing half-filled is there.
    let without = Some(json!({"gate": null}));
    world.twins.operate(device, without, None).await;
    world.wait_desired(MODULE, json!({})).await;
}

#[tokio::test]
async fn a_device_that_is_gone_gives_its_tags_to_no_module_of_the_next_one() {
    let world = World::start().await;
    let device = "devices/cam-1";
    world.apply(SETTLE).await;
    world.apply(SITE).await;
    let tags = json!({"site": "Lyon", "gate": 1});
    world.twins.create(device, tags, Value::Null).await;
    world.twins.create(MODULE, json!({}), Value::Null).await;
    let set = json!({"upstream": "https://Lyon.example", "gate": 1});
    world.wait_desired(MODULE, set).await;
    world.twins.delete(MODULE).await;
    world.twins.delete(device).await;

    world.twins.create(device, json!({}), Value::Null).await;
    world.twins.create(MODULE, json!({}), Value::Null).await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({}));
}

#[tokio::test]
async fn policies_for_devices_are_told_which_tags_are_theirs() {
    for conditions in [
        "target: device.tags.site = 'Lyon'",
        "target: '*'\nwhen: IS_DEFINED(device.tags)",
    ] {
        let file =
            format!("kind: Policy\nname: p\nscope: devices\n{conditions}\nsettings: {{a: 1}}\n");
        let refused = policy::file::parse(&file).unwrap_err();
        assert!(
            refused.to_string().contains("the device's own"),
            "{refused}"
        );
    }
}
