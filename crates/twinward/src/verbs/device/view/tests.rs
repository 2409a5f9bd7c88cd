use jiff::Timestamp;
use prost_types::Timestamp as WireTimestamp;

use super::*;
use crate::output::golden::{json, text};

fn at(seconds: i64) -> WireTimestamp {
    wire::time::to_wire(Timestamp::from_second(1_790_000_000 + seconds).unwrap())
}

fn device(id: &str, status: api::Status) -> api::Device {
    api::Device {
        name: format!("devices/{id}"),
        device_id: id.to_owned(),
        generation_id: "8c5b".to_owned(),
        etag: "\"3\"".to_owned(),
        status: status.into(),
        status_reason: if status == api::Status::Disabled {
            "stolen".to_owned()
        } else {
            String::new()
        },
        // Never to be seen: views print connection strings, and only those they were given.
        keys: Some(api::SymmetricKeys {
            primary: "KEY1".into(),
            secondary: "KEY2".into(),
        }),
        create_time: Some(at(-300_000)),
        update_time: Some(at(-90)),
        ..Default::default()
    }
}

#[test]
fn devices_are_listed_without_their_keys() {
    let view = Devices(vec![
        device("cam-1", api::Status::Enabled),
        device("a-camera-with-a-long-name", api::Status::Disabled),
    ]);
    let (text, json) = (text(&view), json(&view));
    assert!(!text.contains("KEY") && !json.contains("KEY"));
    insta::assert_snapshot!("devices", text);
    insta::assert_snapshot!("devices_json", json);
}

#[test]
fn no_devices_say_how_to_make_one() {
    insta::assert_snapshot!("no_devices", text(&Devices(Vec::new())));
}

#[test]
fn a_device_shows_its_connection_string_only_when_it_was_asked_for() {
    let mut view = DeviceView {
        device: device("cam-1", api::Status::Disabled),
        connection_string: None,
    };
    insta::assert_snapshot!("device", text(&view));
    view.connection_string = Some("HostName=hub;DeviceId=cam-1;SharedAccessKey=S1".to_owned());
    insta::assert_snapshot!("device_with_keys", text(&view));
}

#[test]
fn a_new_device_comes_with_what_its_owner_needs_next() {
    let module = api::Module {
        name: "devices/cam-1/modules/DefenderIotMicroAgent".to_owned(),
        module_id: "DefenderIotMicroAgent".to_owned(),
        ..api::Module::default()
    };
    let view = Created {
        device: device("cam-1", api::Status::Enabled),
        device_connection: Some("HostName=hub;DeviceId=cam-1;SharedAccessKey=S1".to_owned()),
        module: Some(module),
        module_connection: Some(
            "HostName=hub;DeviceId=cam-1;ModuleId=DefenderIotMicroAgent;SharedAccessKey=S2"
                .to_owned(),
        ),
        agent_url: Some("https://hub:8420".to_owned()),
    };
    insta::assert_snapshot!("created", text(&view));
    insta::assert_snapshot!("created_json", json(&view));
}
