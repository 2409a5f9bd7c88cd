use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(value: &Value) -> Result<AgentConfiguration, Vec<InvalidField>> {
    AgentConfiguration::parse(value.as_object().unwrap())
}

fn refused(value: &Value) -> Vec<String> {
    parse(value)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn an_empty_section_is_the_documented_defaults() {
    let config = parse(&json!({})).unwrap();
    assert_eq!(config, AgentConfiguration::default());
    assert_eq!(
        config.priority_intervals.of(Lane::High),
        Duration::from_mins(30)
    );
    assert_eq!(
        config.priority_intervals.of(Lane::Medium),
        Duration::from_hours(2)
    );
    assert_eq!(
        config.priority_intervals.of(Lane::Low),
        Duration::from_hours(24)
    );
    assert_eq!(config.message_timeout.0, Duration::from_hours(48));
    assert_eq!(config.process.collector.lane, Lane::Medium);
    assert_eq!(config.process.mode, ProcessMode::Auto);
    assert_eq!(config.process.polling_interval, Duration::from_millis(100));
    assert_eq!(config.process.cache_size, 256);
    assert_eq!(config.network_activity.devices, ["eth0"]);
    assert_eq!(
        config.listening_ports.collector,
        CollectorSettings::enabled(Lane::High)
    );
    assert_eq!(
        config.local_users.collector,
        CollectorSettings::enabled(Lane::High)
    );
    assert_eq!(config.login.source, LoginSource::Utmp);
    assert!(config.file_system.collector.enabled);
    assert!(config.file_system.paths.is_empty(), "nothing watched");
    assert_eq!(config.file_system.depth, WatchDepth::Recursive);
}

#[test]
fn every_known_key_has_its_effect() {
    let config = parse(&json!({
        "CollectorsCore_PriorityIntervals": "0.05, 1,1440",
        "IothubModule_MessageTimeout": 10,
        "Baseline_GroupsDisabled": "Time Synchronization, Network Parameters Host",
        "Baseline_ChecksDisabled": "3.3.5,2.2.1.1",
        "SystemInformation_HardwareVendor": "Acme",
        "SystemInformation_HardwareModel": "M1",
        "SystemInformation_HardwareSerialNumber": "1",
        "SystemInformation_FirmwareVendor": "F",
        "SystemInformation_FirmwareVersion": "2",
        "Login_UsePAM": "True",
        "Login_MessageFrequency": "High",
        "NetworkActivity_Devices": "eth0,wlan0",
        "NetworkActivity_CacheSize": "17",
        "NetworkActivity_PacketBufferSize": 4096,
        "Process_Disabled": "False",
        "Process_Mode": 3,
        "Process_PollingInterval": 500_000,
        "Process_CacheSize": 18,
        "Process_MessageFrequency": "low",
        "FileSystem_Recursive": false,
        "FileSystem_Paths": "/etc, /usr/bin,",
        "FileSystem_CacheSize": 19,
        "Peripheral_Disabled": true,
        "Peripheral_CacheSize": 20,
        "Statistics_CacheSize": 21,
        "SBoM_Disabled": "true",
        "Heartbeat_MessageFrequency": "Medium",
        "LogCollector_Disabled": true,
        "ListeningPorts_Disabled": true,
        "LocalUsers_MessageFrequency": "Low",
    }))
    .unwrap();
    assert_eq!(config.unknown_keys, Vec::<String>::new());

    let mut expected = AgentConfiguration::default();
    expected.priority_intervals.high = Duration::from_secs(3);
    expected.priority_intervals.medium = Duration::from_mins(1);
    expected.message_timeout = MessageTimeout(Duration::from_mins(10));
    expected.baseline.groups_disabled = vec![
        "Time Synchronization".to_owned(),
        "Network Parameters Host".to_owned(),
    ];
    expected.baseline.checks_disabled = vec!["3.3.5".to_owned(), "2.2.1.1".to_owned()];
    expected.system_information.hardware_vendor = Some("Acme".to_owned());
    expected.system_information.hardware_model = Some("M1".to_owned());
    expected.system_information.hardware_serial_number = Some("1".to_owned());
    expected.system_information.firmware_vendor = Some("F".to_owned());
    expected.system_information.firmware_version = Some("2".to_owned());
    expected.login.source = LoginSource::Pam;
    expected.login.collector.lane = Lane::High;
    expected.network_activity.devices = vec!["eth0".to_owned(), "wlan0".to_owned()];
    expected.network_activity.cache_size = 17;
    expected.network_activity.packet_buffer_bytes = 4096;
    expected.process.mode = ProcessMode::Polling;
    expected.process.polling_interval = Duration::from_millis(500);
    expected.process.cache_size = 18;
    expected.process.collector.lane = Lane::Low;
    expected.file_system.depth = WatchDepth::Single;
    expected.file_system.paths = vec!["/etc".to_owned(), "/usr/bin".to_owned()];
    expected.file_system.cache_size = 19;
    expected.peripheral.collector.enabled = false;
    expected.peripheral.cache_size = 20;
    expected.statistics.cache_size = 21;
    expected.sbom.collector.enabled = false;
    expected.heartbeat.collector.lane = Lane::Medium;
    expected.log_collector.collector.enabled = false;
    expected.listening_ports.collector.enabled = false;
    expected.local_users.collector.lane = Lane::Low;
    assert_eq!(config, expected);
}

#[test]
fn unknown_keys_are_listed_and_the_hubs_own_are_not() {
    let config = parse(&json!({
        "$version": 4, "$metadata": {}, "zone": "a", "Process_Colour": "red", "Other_Disabled": true,
        "SystemInformation_Nothing": 1, "Process_Mode": null,
    }))
    .unwrap();
    assert_eq!(
        config.unknown_keys,
        [
            "Other_Disabled",
            "Process_Colour",
            "SystemInformation_Nothing",
            "zone"
        ]
    );
    assert_eq!(config.process, ProcessConfiguration::default());
}

#[test]
fn one_bad_value_refuses_all_and_every_bad_one_is_named() {
    assert_eq!(
        refused(&json!({
            "CollectorsCore_PriorityIntervals": "30,120",
            "Heartbeat_Disabled": "yes",
            "Process_Disabled": true,
            "Process_Mode": 4,
            "Login_MessageFrequency": "Sometimes",
            "NetworkActivity_Devices": ["eth0"],
            "FileSystem_Paths": "/etc,bin",
            "Peripheral_CacheSize": 0,
        })),
        [
            "CollectorsCore_PriorityIntervals: want \"<high>,<medium>,<low>\" in minutes, \
             each from 0.05 to 525600, found \"30,120\"",
            "FileSystem_Paths: want absolute paths, found \"bin\"",
            "Heartbeat_Disabled: want true or false, found \"yes\"",
            "Login_MessageFrequency: want \"Low\", \"Medium\" or \"High\", found \"Sometimes\"",
            "NetworkActivity_Devices: want a text, found [\"eth0\"]",
            "Peripheral_CacheSize: want a whole number from 1 to 1000000, found 0",
            "Process_Mode: want a whole number from 1 to 3, found 4",
        ]
    );
}

#[test]
fn intervals_need_three_plain_decimals_in_range() {
    let of = |text: &str| parse(&json!({ "CollectorsCore_PriorityIntervals": text }));
    assert!(of("0.05,0.1,1.5").is_ok());
    for text in [
        "",
        "1",
        "1,2",
        "1,2,3,4",
        "1,2,",
        "0,1,2",
        "0.04,1,2",
        "-1,1,2",
        "1e3,1,2",
        "inf,1,2",
        "NaN,1,2",
        "1,2,525601",
        "1,2,1.2.3",
        "1,.,2",
        "a,b,c",
    ] {
        assert!(of(text).is_err(), "{text}");
    }
    assert!(parse(&json!({ "CollectorsCore_PriorityIntervals": 30 })).is_err());
}

#[test]
fn what_an_error_shows_is_bounded() {
    let errors = refused(&json!({ "Login_UsePAM": "é".repeat(5_000) }));
    assert!(errors[0].len() < 200, "{}", errors[0]);
}

/// Any JSON, in any depth that matters here.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[0-9.,/ -]{0,20}".prop_map(Value::from),
        Just(json!([1])),
        Just(json!({ "a": 1 })),
    ]
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(CollectorsCore|IothubModule|Process|NetworkActivity|FileSystem|SBoM|Login|Baseline|SystemInformation)\
         _(PriorityIntervals|MessageTimeout|Disabled|MessageFrequency|Mode|PollingInterval|CacheSize|Paths|Devices|UsePAM|GroupsDisabled|HardwareVendor)",
    ]
}

proptest! {
    #[test]
    fn reading_never_panics_and_is_whole_or_nothing(
        section in proptest::collection::hash_map(any_key(), any_value(), 0..20),
    ) {
        let section: Map<String, Value> = section.into_iter().collect();
        match AgentConfiguration::parse(&section) {
            Ok(config) => prop_assert!(config.unknown_keys.iter().all(|key| section.contains_key(key))),
            Err(invalid) => {
                prop_assert!(!invalid.is_empty());
                // Without the keys that were named, the rest is good.
                let mut rest = section.clone();
                for field in &invalid {
                    prop_assert!(rest.remove(&field.name).is_some());
                }
                prop_assert!(AgentConfiguration::parse(&rest).is_ok());
            }
        }
    }
}
