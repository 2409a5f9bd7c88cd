//! Holds an event against the limits and says everything that is over.
//!
//! It checks what types cannot: lengths, counts, numbers in range. It changes nothing; cutting long
//! texts is the agent's business, because only it still has the whole.

use std::fmt;

use super::{EventPayload, ListeningPorts, LocalUsers, SecurityEvent, SystemInformation};
use crate::limits;

/// One thing wrong with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, from the event's root: `process.commandLine`, `listeningPorts.ports[3].executable`.
    pub path: String,
    /// What was found: a length, a count or a number.
    pub actual: u64,
    /// The least that is allowed.
    pub min: u64,
    /// The most that is allowed.
    pub max: u64,
    /// What the figures count: `bytes`, `entries`, or nothing for a plain number.
    pub unit: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            actual,
            min,
            max,
            unit,
        } = self;
        let space = if unit.is_empty() { "" } else { " " };
        write!(
            f,
            "{path} is {actual}{space}{unit}, allowed are {min} to {max}"
        )
    }
}

/// An event that is over its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEvent {
    /// Everything that is wrong with it, at least one; bounded, because one report must fit a log line.
    pub violations: Vec<Violation>,
}

/// Violations named per event; a sender with more has one bug, not many.
const VIOLATIONS_MAX: usize = 8;

impl fmt::Display for InvalidEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.violations.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            violation.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidEvent {}

impl SecurityEvent {
    /// Checks the event against [`crate::limits`].
    pub fn validate(&self) -> Result<(), InvalidEvent> {
        let mut check = Check::default();
        check.number("sequence", self.sequence, 1, limits::SEQUENCE_MAX);
        match &self.payload {
            EventPayload::SystemInformation(it) => system_information(&mut check, it),
            EventPayload::ProcessActivity(it) => {
                check.number("process.hitCount", it.hit_count.into(), 1, u32::MAX.into());
                check.name("process.user", it.user.as_deref());
                check.path("process.executable", Some(&it.executable));
                check.bytes(
                    "process.commandLine",
                    &it.command_line,
                    limits::COMMAND_LINE_BYTES_MAX,
                );
            }
            EventPayload::ListeningPorts(it) => listening_ports(&mut check, it),
            EventPayload::ConnectionActivity(it) => {
                check.number(
                    "connection.hitCount",
                    it.hit_count.into(),
                    1,
                    u32::MAX.into(),
                );
                check.path("connection.executable", it.executable.as_deref());
            }
            EventPayload::LoginActivity(it) => {
                check.name("login.user", Some(&it.user));
                check.name("login.terminal", it.terminal.as_deref());
                check.name("login.remoteAddress", it.remote_address.as_deref());
            }
            EventPayload::LocalUsers(it) => local_users(&mut check, it),
            EventPayload::Heartbeat => {}
            EventPayload::FileActivity(it) => {
                check.number("file.hitCount", it.hit_count.into(), 1, u32::MAX.into());
                check.path("file.path", Some(&it.path));
            }
            EventPayload::AgentStatus(it) => {
                check.name("agentStatus.agentVersion", Some(&it.agent_version));
                let list = "agentStatus.collectors";
                check.entries(list, it.collectors.len(), limits::COLLECTORS_MAX);
                for (index, collector) in it.collectors.iter().enumerate() {
                    check.name(At(list, index, "name"), Some(&collector.name));
                    if let Some(reason) = &collector.reason {
                        check.bytes(At(list, index, "reason"), reason, limits::REASON_BYTES_MAX);
                    }
                }
            }
        }
        check.finish()
    }
}

fn system_information(check: &mut Check, it: &SystemInformation) {
    for (path, value) in [
        ("systemInformation.hostName", &it.host_name),
        ("systemInformation.osName", &it.os_name),
        ("systemInformation.osVersion", &it.os_version),
        ("systemInformation.osPlatform", &it.os_platform),
        ("systemInformation.osArchitecture", &it.os_architecture),
        ("systemInformation.kernelVersion", &it.kernel_version),
        ("systemInformation.hardwareVendor", &it.hardware_vendor),
        ("systemInformation.hardwareModel", &it.hardware_model),
        (
            "systemInformation.hardwareSerialNumber",
            &it.hardware_serial_number,
        ),
        ("systemInformation.firmwareVendor", &it.firmware_vendor),
        ("systemInformation.firmwareVersion", &it.firmware_version),
    ] {
        check.name(path, value.as_deref());
    }
    if let Some(memory) = it.total_memory_kib {
        // Same bound as sequences: what JSON readers keep exactly.
        check.number(
            "systemInformation.totalMemoryKib",
            memory,
            0,
            limits::SEQUENCE_MAX,
        );
    }
    let list = "systemInformation.interfaces";
    check.entries(list, it.interfaces.len(), limits::INTERFACES_MAX);
    for (index, interface) in it.interfaces.iter().enumerate() {
        check.name(At(list, index, "name"), Some(&interface.name));
        check.name(At(list, index, "mac"), interface.mac.as_deref());
        check.entries(
            At(list, index, "addresses"),
            interface.addresses.len(),
            limits::INTERFACE_ADDRESSES_MAX,
        );
    }
}

fn listening_ports(check: &mut Check, it: &ListeningPorts) {
    let list = "listeningPorts.ports";
    check.entries(list, it.ports.len(), limits::LISTENING_PORTS_MAX);
    for (index, port) in it.ports.iter().enumerate() {
        check.number(
            At(list, index, "port"),
            port.port.into(),
            1,
            u16::MAX.into(),
        );
        check.path(At(list, index, "executable"), port.executable.as_deref());
    }
}

fn local_users(check: &mut Check, it: &LocalUsers) {
    let list = "localUsers.users";
    check.entries(list, it.users.len(), limits::LOCAL_USERS_MAX);
    for (index, user) in it.users.iter().enumerate() {
        check.name(At(list, index, "name"), Some(&user.name));
        check.path(At(list, index, "shell"), user.shell.as_deref());
        check.entries(
            At(list, index, "groups"),
            user.groups.len(),
            limits::USER_GROUPS_MAX,
        );
        for group in &user.groups {
            check.name(At(list, index, "groups"), Some(group));
        }
    }
}

/// A field of a list's entry; becomes text only when something is wrong there.
struct At(&'static str, usize, &'static str);

impl From<At> for String {
    fn from(At(list, index, field): At) -> Self {
        format!("{list}[{index}].{field}")
    }
}

#[derive(Default)]
struct Check {
    violations: Vec<Violation>,
}

impl Check {
    fn range(
        &mut self,
        path: impl Into<String>,
        actual: u64,
        (min, max): (u64, u64),
        unit: &'static str,
    ) {
        if (min..=max).contains(&actual) || self.violations.len() == VIOLATIONS_MAX {
            return;
        }
        self.violations.push(Violation {
            path: path.into(),
            actual,
            min,
            max,
            unit,
        });
    }

    fn number(&mut self, path: impl Into<String>, actual: u64, min: u64, max: u64) {
        self.range(path, actual, (min, max), "");
    }

    fn entries(&mut self, path: impl Into<String>, actual: usize, max: usize) {
        self.range(path, count(actual), (0, count(max)), "entries");
    }

    fn bytes(&mut self, path: impl Into<String>, text: &str, max: usize) {
        self.range(path, count(text.len()), (0, count(max)), "bytes");
    }

    fn name(&mut self, path: impl Into<String>, text: Option<&str>) {
        if let Some(text) = text {
            self.bytes(path, text, limits::NAME_BYTES_MAX);
        }
    }

    fn path(&mut self, path: impl Into<String>, text: Option<&str>) {
        if let Some(text) = text {
            self.bytes(path, text, limits::PATH_BYTES_MAX);
        }
    }

    fn finish(self) -> Result<(), InvalidEvent> {
        if self.violations.is_empty() {
            return Ok(());
        }
        Err(InvalidEvent {
            violations: self.violations,
        })
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
