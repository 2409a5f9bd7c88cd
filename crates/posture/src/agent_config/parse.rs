//! Reads the keys of a desired section, lenient in form and strict in meaning.
//!
//! Lenient, because tables of the micro agent's documentation write `True` and `256` as text where
//! its examples use JSON's own forms, and consoles copy either. Strict, because a value that is
//! understood half would leave a machine in a state nobody asked for.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    AgentConfiguration, CollectorSettings, InvalidField, LoginSource, MessageTimeout,
    PriorityIntervals, ProcessMode, WatchDepth,
};
use crate::event::Lane;
use crate::limits;

pub(super) fn parse(desired: &Map<String, Value>) -> Result<AgentConfiguration, Vec<InvalidField>> {
    let mut config = AgentConfiguration::default();
    let mut invalid = Vec::new();
    for (key, value) in desired {
        if key.starts_with('$') || value.is_null() {
            continue;
        }
        match read_key(&mut config, key, value) {
            Ok(Known::Yes) => {}
            Ok(Known::No) => config.unknown_keys.push(key.clone()),
            Err(reason) => invalid.push(InvalidField {
                name: key.clone(),
                reason,
            }),
        }
    }
    config.unknown_keys.sort();
    if invalid.is_empty() {
        return Ok(config);
    }
    invalid.sort_by(|a, b| a.name.cmp(&b.name));
    Err(invalid)
}

enum Known {
    Yes,
    No,
}

/// The reason why a value cannot be used.
type Reason = String;

fn read_key(config: &mut AgentConfiguration, key: &str, value: &Value) -> Result<Known, Reason> {
    match key {
        "CollectorsCore_PriorityIntervals" => config.priority_intervals = intervals(value)?,
        "IothubModule_MessageTimeout" => {
            let minutes = number(value, 1, limits::MESSAGE_TIMEOUT_MINUTES_MAX)?;
            config.message_timeout = MessageTimeout(Duration::from_mins(minutes));
        }
        _ => {
            let Some((collector, field)) = key.split_once('_') else {
                return Ok(Known::No);
            };
            return read_collector(config, collector, field, value);
        }
    }
    Ok(Known::Yes)
}

fn read_collector(
    config: &mut AgentConfiguration,
    collector: &str,
    field: &str,
    value: &Value,
) -> Result<Known, Reason> {
    let Some(common) = common_of(config, collector) else {
        return Ok(Known::No);
    };
    match field {
        "Disabled" => common.enabled = !boolean(value)?,
        "MessageFrequency" => common.lane = lane(value)?,
        _ => return read_special(config, collector, field, value),
    }
    Ok(Known::Yes)
}

/// What every collector has, of the collector with that name.
fn common_of<'a>(
    config: &'a mut AgentConfiguration,
    collector: &str,
) -> Option<&'a mut CollectorSettings> {
    Some(match collector {
        "SystemInformation" => &mut config.system_information.collector,
        "Process" => &mut config.process.collector,
        "NetworkActivity" => &mut config.network_activity.collector,
        "ListeningPorts" => &mut config.listening_ports.collector,
        "Login" => &mut config.login.collector,
        "LocalUsers" => &mut config.local_users.collector,
        "Heartbeat" => &mut config.heartbeat.collector,
        "FileSystem" => &mut config.file_system.collector,
        "Baseline" => &mut config.baseline.collector,
        "SBoM" => &mut config.sbom.collector,
        "LogCollector" => &mut config.log_collector.collector,
        "Peripheral" => &mut config.peripheral.collector,
        "Statistics" => &mut config.statistics.collector,
        _ => return None,
    })
}

/// The keys that only some collectors have.
fn read_special(
    config: &mut AgentConfiguration,
    collector: &str,
    field: &str,
    value: &Value,
) -> Result<Known, Reason> {
    match (collector, field) {
        ("SystemInformation", _) => {
            let system = &mut config.system_information;
            let target = match field {
                "HardwareVendor" => &mut system.hardware_vendor,
                "HardwareModel" => &mut system.hardware_model,
                "HardwareSerialNumber" => &mut system.hardware_serial_number,
                "FirmwareVendor" => &mut system.firmware_vendor,
                "FirmwareVersion" => &mut system.firmware_version,
                _ => return Ok(Known::No),
            };
            *target = Some(name(value)?.to_owned());
        }
        ("Process", "Mode") => {
            config.process.mode = match number(value, 1, 3)? {
                1 => ProcessMode::Auto,
                2 => ProcessMode::Netlink,
                _ => ProcessMode::Polling,
            }
        }
        ("Process", "PollingInterval") => {
            let micros = number(
                value,
                limits::POLLING_INTERVAL_MICROS_MIN,
                limits::POLLING_INTERVAL_MICROS_MAX,
            )?;
            config.process.polling_interval = Duration::from_micros(micros);
        }
        ("Process", "CacheSize") => config.process.cache_size = cache_size(value)?,
        ("NetworkActivity", "Devices") => config.network_activity.devices = list(value)?,
        ("NetworkActivity", "CacheSize") => config.network_activity.cache_size = cache_size(value)?,
        ("NetworkActivity", "PacketBufferSize") => {
            config.network_activity.packet_buffer_bytes =
                number(value, 1, limits::PACKET_BUFFER_BYTES_MAX)?;
        }
        ("Login", "UsePAM") => {
            config.login.source = if boolean(value)? {
                LoginSource::Pam
            } else {
                LoginSource::Utmp
            };
        }
        ("FileSystem", "Recursive") => {
            config.file_system.depth = if boolean(value)? {
                WatchDepth::Recursive
            } else {
                WatchDepth::Single
            };
        }
        ("FileSystem", "Paths") => config.file_system.paths = paths(value)?,
        ("FileSystem", "CacheSize") => config.file_system.cache_size = cache_size(value)?,
        ("Baseline", "GroupsDisabled") => config.baseline.groups_disabled = list(value)?,
        ("Baseline", "ChecksDisabled") => config.baseline.checks_disabled = list(value)?,
        ("Peripheral", "CacheSize") => config.peripheral.cache_size = cache_size(value)?,
        ("Statistics", "CacheSize") => config.statistics.cache_size = cache_size(value)?,
        _ => return Ok(Known::No),
    }
    Ok(Known::Yes)
}

fn boolean(value: &Value) -> Result<bool, Reason> {
    let wanted = || format!("want true or false, found {}", shown(value));
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Value::String(_) | Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(wanted())
        }
    }
}

fn lane(value: &Value) -> Result<Lane, Reason> {
    let text = value.as_str().unwrap_or_default();
    Lane::ALL
        .into_iter()
        .find(|lane| text.eq_ignore_ascii_case(lane.as_str()))
        .ok_or_else(|| {
            format!(
                "want \"Low\", \"Medium\" or \"High\", found {}",
                shown(value)
            )
        })
}

fn number(value: &Value, min: u64, max: u64) -> Result<u64, Reason> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| {
            format!(
                "want a whole number from {min} to {max}, found {}",
                shown(value)
            )
        })
}

fn cache_size(value: &Value) -> Result<u64, Reason> {
    number(value, 1, limits::COLLECTOR_CACHE_MAX)
}

fn name(value: &Value) -> Result<&str, Reason> {
    let text = string(value)?;
    if text.len() > limits::NAME_BYTES_MAX {
        return Err(format!(
            "has {} bytes, allowed are {}",
            text.len(),
            limits::NAME_BYTES_MAX
        ));
    }
    Ok(text)
}

/// A comma-separated list; blanks around entries and empty entries do not count.
fn list(value: &Value) -> Result<Vec<String>, Reason> {
    entries(value, limits::NAME_BYTES_MAX)
}

fn entries(value: &Value, bytes_max: usize) -> Result<Vec<String>, Reason> {
    let mut entries = Vec::new();
    for entry in string(value)?.split(',') {
        let entry = entry.trim();
        if entry.is_empty() {
            continue;
        }
        if entry.len() > bytes_max {
            return Err(format!(
                "entry {} has {} bytes, allowed are {bytes_max}",
                entries.len() + 1,
                entry.len()
            ));
        }
        if entries.len() == limits::LIST_ENTRIES_MAX {
            return Err(format!("has over {} entries", limits::LIST_ENTRIES_MAX));
        }
        entries.push(entry.to_owned());
    }
    Ok(entries)
}

fn paths(value: &Value) -> Result<Vec<String>, Reason> {
    let paths = entries(value, limits::PATH_BYTES_MAX)?;
    if let Some(relative) = paths.iter().find(|path| !path.starts_with('/')) {
        return Err(format!(
            "want absolute paths, found {}",
            shown(&Value::String(relative.clone()))
        ));
    }
    Ok(paths)
}

fn string(value: &Value) -> Result<&str, Reason> {
    value
        .as_str()
        .ok_or_else(|| format!("want a text, found {}", shown(value)))
}

fn intervals(value: &Value) -> Result<PriorityIntervals, Reason> {
    let wanted = || {
        format!(
            "want \"<high>,<medium>,<low>\" in minutes, each from {} to {}, found {}",
            limits::PRIORITY_INTERVAL_MINUTES_MIN,
            limits::PRIORITY_INTERVAL_MINUTES_MAX,
            shown(value)
        )
    };
    let text = value.as_str().ok_or_else(wanted)?;
    let mut durations = Vec::with_capacity(3);
    for part in text.split(',') {
        durations.push(minutes(part.trim()).ok_or_else(wanted)?);
    }
    let [high, medium, low] = durations[..] else {
        return Err(wanted());
    };
    Ok(PriorityIntervals { high, medium, low })
}

/// Minutes as a decimal number: digits with at most one point. No sign, exponent or `inf`, which a
/// floating-point parser would take.
fn minutes(text: &str) -> Option<Duration> {
    const SECONDS_PER_MINUTE: f64 = 60.0;
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return None;
    }
    let minutes: f64 = text.parse().ok()?;
    let allowed = limits::PRIORITY_INTERVAL_MINUTES_MIN..=limits::PRIORITY_INTERVAL_MINUTES_MAX;
    if !allowed.contains(&minutes) {
        return None;
    }
    Duration::try_from_secs_f64(minutes * SECONDS_PER_MINUTE).ok()
}

/// A value as an error shows it: JSON, cut short, because it came from outside.
fn shown(value: &Value) -> String {
    const SHOWN_BYTES_MAX: usize = 80;
    crate::posture::cut(&value.to_string(), SHOWN_BYTES_MAX)
}
