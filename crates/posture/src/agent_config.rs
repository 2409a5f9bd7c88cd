//! The agent's configuration: the micro agent's keys at the root of the desired section, typed.
//!
//! [`AgentConfiguration::parse`] reads a desired section whole or not at all: one bad value refuses
//! everything, and every bad key is named, so that an operator mends them in one go. Keys that are
//! not known are no mistake, because the section may serve other programs too; they are listed.
//!
//! The keys, their defaults and their meaning are the micro agent's. Ours in addition:
//! `ListeningPorts_*` and `LocalUsers_*` (the micro agent had no such collectors on Linux), and
//! decimals in `CollectorsCore_PriorityIntervals`, down to 0.05 minutes, for intervals of seconds.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::event::Lane;

mod parse;

/// A key whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct InvalidField {
    /// The key.
    pub name: String,
    /// What was found and what is wanted.
    pub reason: String,
}

/// The whole configuration, with defaults where the section says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentConfiguration {
    /// How often each lane is sent.
    pub priority_intervals: PriorityIntervals,
    /// How long unsent messages are kept.
    pub message_timeout: MessageTimeout,
    /// `SystemInformation_*`
    pub system_information: SystemInformationConfiguration,
    /// `Process_*`
    pub process: ProcessConfiguration,
    /// `NetworkActivity_*`: connections.
    pub network_activity: NetworkActivityConfiguration,
    /// `ListeningPorts_*`; our extension.
    pub listening_ports: ListeningPortsConfiguration,
    /// `Login_*`
    pub login: LoginConfiguration,
    /// `LocalUsers_*`; our extension.
    pub local_users: LocalUsersConfiguration,
    /// `Heartbeat_*`
    pub heartbeat: HeartbeatConfiguration,
    /// `FileSystem_*`
    pub file_system: FileSystemConfiguration,
    /// `Baseline_*`
    pub baseline: BaselineConfiguration,
    /// `SBoM_*`
    pub sbom: SbomConfiguration,
    /// `LogCollector_*`
    pub log_collector: LogCollectorConfiguration,
    /// `Peripheral_*`
    pub peripheral: PeripheralConfiguration,
    /// `Statistics_*`
    pub statistics: StatisticsConfiguration,
    /// Keys of the section that mean nothing to us, sorted.
    pub unknown_keys: Vec<String>,
}

impl AgentConfiguration {
    /// Reads a desired section. Names starting with `$` are the hub's and are passed over; `null`
    /// means the default, as a key that is absent does.
    pub fn parse(desired: &Map<String, Value>) -> Result<Self, Vec<InvalidField>> {
        parse::parse(desired)
    }
}

/// What every collector has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectorSettings {
    /// `{Collector}_Disabled`, turned around.
    pub enabled: bool,
    /// `{Collector}_MessageFrequency`: the lane its events take, whose interval is also how often a
    /// periodic collector collects.
    pub lane: Lane,
}

impl CollectorSettings {
    const fn enabled(lane: Lane) -> Self {
        Self {
            enabled: true,
            lane,
        }
    }
}

/// `CollectorsCore_PriorityIntervals`: `"<high>,<medium>,<low>"` in minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorityIntervals {
    /// Of the high lane; 30 minutes.
    pub high: Duration,
    /// Of the medium lane; 2 hours.
    pub medium: Duration,
    /// Of the low lane; 1 day.
    pub low: Duration,
}

impl PriorityIntervals {
    /// The interval of a lane.
    pub const fn of(&self, lane: Lane) -> Duration {
        match lane {
            Lane::High => self.high,
            Lane::Medium => self.medium,
            Lane::Low => self.low,
        }
    }
}

impl Default for PriorityIntervals {
    fn default() -> Self {
        Self {
            high: Duration::from_mins(30),
            medium: Duration::from_hours(2),
            low: Duration::from_hours(24),
        }
    }
}

/// `IothubModule_MessageTimeout`, in minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageTimeout(pub Duration);

impl Default for MessageTimeout {
    fn default() -> Self {
        Self(Duration::from_hours(48))
    }
}

macro_rules! plain_collector {
    ($(#[$doc:meta])* $name:ident, $lane:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            /// What every collector has.
            pub collector: CollectorSettings,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    collector: CollectorSettings::enabled($lane),
                }
            }
        }
    };
}

macro_rules! cached_collector {
    ($(#[$doc:meta])* $name:ident, $lane:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            /// What every collector has.
            pub collector: CollectorSettings,
            /// `_CacheSize`: events kept after aggregation; the oldest go first.
            pub cache_size: u64,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    collector: CollectorSettings::enabled($lane),
                    cache_size: CACHE_SIZE_DEFAULT,
                }
            }
        }
    };
}

/// Entries in a collector's cache, by the micro agent's documentation.
const CACHE_SIZE_DEFAULT: u64 = 256;

plain_collector! {
    /// Listening sockets. High, because an open port is what policies react to.
    ListeningPortsConfiguration, Lane::High
}
plain_collector! {
    /// Local accounts. High, as listening ports are.
    LocalUsersConfiguration, Lane::High
}
plain_collector! {
    /// Heartbeats.
    HeartbeatConfiguration, Lane::Low
}
plain_collector! {
    /// Software bill of materials; kept, not collected yet.
    SbomConfiguration, Lane::Low
}
plain_collector! {
    /// The agent's own log; kept, not collected yet.
    LogCollectorConfiguration, Lane::Low
}
cached_collector! {
    /// Peripherals; kept, not collected yet.
    PeripheralConfiguration, Lane::Low
}
cached_collector! {
    /// Statistics of collectors; kept, not collected yet.
    StatisticsConfiguration, Lane::Low
}

/// System information.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemInformationConfiguration {
    /// What every collector has.
    pub collector: CollectorSettings,
    /// Used where the machine does not tell.
    pub hardware_vendor: Option<String>,
    /// As above.
    pub hardware_model: Option<String>,
    /// As above.
    pub hardware_serial_number: Option<String>,
    /// As above.
    pub firmware_vendor: Option<String>,
    /// As above.
    pub firmware_version: Option<String>,
}

impl Default for SystemInformationConfiguration {
    fn default() -> Self {
        Self {
            collector: CollectorSettings::enabled(Lane::Low),
            hardware_vendor: None,
            hardware_model: None,
            hardware_serial_number: None,
            firmware_vendor: None,
            firmware_version: None,
        }
    }
}

/// Processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessConfiguration {
    /// What every collector has.
    pub collector: CollectorSettings,
    /// How processes are noticed.
    pub mode: ProcessMode,
    /// How often `/proc` is read when polling.
    pub polling_interval: Duration,
    /// Events kept after aggregation; the oldest go first.
    pub cache_size: u64,
}

impl Default for ProcessConfiguration {
    fn default() -> Self {
        Self {
            collector: CollectorSettings::enabled(Lane::Medium),
            mode: ProcessMode::Auto,
            polling_interval: Duration::from_millis(100),
            cache_size: CACHE_SIZE_DEFAULT,
        }
    }
}

/// `Process_Mode`: how processes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessMode {
    /// 1: netlink where it is allowed, else polling.
    Auto,
    /// 2: the netlink process connector only.
    Netlink,
    /// 3: reading `/proc` only.
    Polling,
}

/// Network activity: connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkActivityConfiguration {
    /// What every collector has.
    pub collector: CollectorSettings,
    /// Interfaces to watch. The micro agent captured packets of these alone; a collector that reads
    /// the kernel's tables of sockets sees all and may pass this over.
    pub devices: Vec<String>,
    /// Events kept after aggregation; the oldest go first.
    pub cache_size: u64,
    /// Capture buffer in bytes; kept for capturing collectors.
    pub packet_buffer_bytes: u64,
}

impl Default for NetworkActivityConfiguration {
    fn default() -> Self {
        Self {
            collector: CollectorSettings::enabled(Lane::Medium),
            devices: vec!["eth0".to_owned()],
            cache_size: CACHE_SIZE_DEFAULT,
            packet_buffer_bytes: 2_097_152,
        }
    }
}

/// Logins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginConfiguration {
    /// What every collector has.
    pub collector: CollectorSettings,
    /// Where logins are read from.
    pub source: LoginSource,
}

impl Default for LoginConfiguration {
    fn default() -> Self {
        Self {
            collector: CollectorSettings::enabled(Lane::Medium),
            source: LoginSource::Utmp,
        }
    }
}

/// `Login_UsePAM`: where logins are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginSource {
    /// `false`: wtmp and btmp.
    Utmp,
    /// `true`: the PAM hook's log.
    Pam,
}

/// Watched files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystemConfiguration {
    /// What every collector has.
    pub collector: CollectorSettings,
    /// Whether directories below are watched too.
    pub depth: WatchDepth,
    /// What is watched; nothing by default.
    pub paths: Vec<String>,
    /// Events kept after aggregation; the oldest go first.
    pub cache_size: u64,
}

impl Default for FileSystemConfiguration {
    fn default() -> Self {
        Self {
            collector: CollectorSettings::enabled(Lane::Low),
            depth: WatchDepth::Recursive,
            paths: Vec::new(),
            cache_size: CACHE_SIZE_DEFAULT,
        }
    }
}

/// `FileSystem_Recursive`: whether directories below are watched too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchDepth {
    /// `true`: they are.
    Recursive,
    /// `false`: only the directory itself.
    Single,
}

/// Baseline checks; kept, not collected yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaselineConfiguration {
    /// What every collector has.
    pub collector: CollectorSettings,
    /// Groups left out.
    pub groups_disabled: Vec<String>,
    /// Checks left out.
    pub checks_disabled: Vec<String>,
}

impl Default for BaselineConfiguration {
    fn default() -> Self {
        Self {
            collector: CollectorSettings::enabled(Lane::Low),
            groups_disabled: Vec::new(),
            checks_disabled: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
