//! What the demo reads from a security twin, as `twinward twin watch -o json` prints it.
//!
//! Everything may be missing: a young twin has no posture, and a twin nobody tagged has no list.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use super::hops::Timeline;

/// One state of a security twin.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Twin {
    /// TCP sockets that listen; `None` before the first snapshot.
    pub(crate) listening: Option<BTreeSet<Listener>>,
    /// Ports of other protocols, only to be counted.
    pub(crate) other_sockets: usize,
    /// When the snapshot was observed.
    pub(crate) listening_at: Option<Timestamp>,
    /// `tags.allowedPorts`.
    pub(crate) allowed: Option<BTreeSet<u16>>,
    /// Desired settings with who wrote each.
    pub(crate) desired: BTreeMap<String, Setting>,
    /// Where the push stands.
    pub(crate) push: Push,
    /// The agent's collectors by name: their state, and why.
    pub(crate) collectors: BTreeMap<String, Collector>,
}

/// One listening TCP socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listener {
    pub(crate) port: u16,
    pub(crate) address: String,
    /// Empty when the agent may not see it.
    pub(crate) executable: String,
}

/// One desired setting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Setting {
    pub(crate) value: Value,
    pub(crate) by: String,
}

/// `posture.configuration`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Push {
    pub(crate) state: String,
    pub(crate) desired_version: u64,
    pub(crate) reason: String,
    pub(crate) timeline: Timeline,
    pub(crate) trace_parent: String,
}

/// One collector of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collector {
    pub(crate) state: String,
    pub(crate) reason: String,
}

impl Twin {
    /// Reads one line of a watch. `None`: it tells of something else.
    pub(crate) fn from_line(line: &str) -> Result<Option<Self>, serde_json::Error> {
        let line: Value = serde_json::from_str(line)?;
        Ok(line.get("twin").map(Self::read))
    }

    /// Reads the document of a twin.
    pub(crate) fn read(twin: &Value) -> Self {
        let posture = &twin["posture"];
        let sockets = posture["listeningPorts"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let listeners: BTreeSet<_> = sockets.iter().filter_map(listener).collect();
        let listening_at = time(&posture["listeningPortsSnapshot"]["observedAt"]);
        Self {
            other_sockets: sockets.iter().filter(|it| it["protocol"] != "tcp").count(),
            listening: listening_at.map(|_| listeners),
            listening_at,
            allowed: ports(&twin["tags"]["allowedPorts"]),
            desired: settings(&twin["properties"]["desired"]),
            push: push(&posture["configuration"]),
            collectors: collectors(&posture["agent"]["collectors"]),
        }
    }

    /// Ports that listen.
    pub(crate) fn ports(&self) -> BTreeSet<u16> {
        self.listening.iter().flatten().map(|it| it.port).collect()
    }

    /// Ports that listen and are not allowed; none while nobody has said what is allowed.
    pub(crate) fn unexpected(&self) -> BTreeSet<u16> {
        let Some(allowed) = &self.allowed else {
            return BTreeSet::new();
        };
        self.ports().difference(allowed).copied().collect()
    }

    /// The settings that a policy wrote.
    pub(crate) fn settings_of(&self, policy: &str) -> BTreeMap<&str, &Setting> {
        let by = format!("policy:{policy}@");
        let mine = self
            .desired
            .iter()
            .filter(|(_, setting)| setting.by.starts_with(&by));
        mine.map(|(key, setting)| (key.as_str(), setting)).collect()
    }
}

fn listener(socket: &Value) -> Option<Listener> {
    if socket["protocol"] != "tcp" {
        return None;
    }
    Some(Listener {
        port: u16::try_from(socket["port"].as_u64()?).ok()?,
        address: text(&socket["address"]),
        executable: text(&socket["executable"]),
    })
}

fn ports(list: &Value) -> Option<BTreeSet<u16>> {
    let ports = list.as_array()?.iter();
    Some(
        ports
            .filter_map(Value::as_u64)
            .filter_map(|port| u16::try_from(port).ok())
            .collect(),
    )
}

fn settings(desired: &Value) -> BTreeMap<String, Setting> {
    let Some(members) = desired.as_object() else {
        return BTreeMap::new();
    };
    let own = members.iter().filter(|(key, _)| !key.starts_with('$'));
    let read = own.map(|(key, value)| {
        let by = text(&desired["$metadata"][key]["$lastUpdatedBy"]);
        (
            key.clone(),
            Setting {
                value: value.clone(),
                by,
            },
        )
    });
    read.collect()
}

fn push(configuration: &Value) -> Push {
    Push {
        state: text(&configuration["state"]),
        desired_version: configuration["desiredVersion"].as_u64().unwrap_or_default(),
        reason: text(&configuration["reason"]),
        timeline: Timeline::read(&configuration["timeline"]),
        trace_parent: text(&configuration["traceParent"]),
    }
}

fn collectors(all: &Value) -> BTreeMap<String, Collector> {
    let Some(all) = all.as_object() else {
        return BTreeMap::new();
    };
    let read = all.iter().map(|(name, it)| {
        let collector = Collector {
            state: text(&it["state"]),
            reason: text(&it["reason"]),
        };
        (name.clone(), collector)
    });
    read.collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Reads an instant; the services write RFC 3339.
pub(crate) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A twin as the CLI prints it, with the policy's settings pushed and applied.
    pub(crate) fn applied() -> Value {
        json!({
            "name": "devices/d/modules/DefenderIotMicroAgent",
            "tags": {"allowedPorts": [22, 8420]},
            "properties": {
                "desired": {
                    "FileSystem_Paths": "/etc",
                    "Process_Mode": 3,
                    "$version": 2,
                    "$metadata": {
                        "$lastUpdated": "2026-01-01T00:00:00Z",
                        "FileSystem_Paths": {"$lastUpdatedBy": "policy:unexpected-listener@1"},
                        "Process_Mode": {"$lastUpdatedBy": "operator:alice"},
                    },
                },
                "reported": {},
            },
            "posture": {
                "agent": {"collectors": {"Process": {"state": "degraded", "reason": "no rights"}}},
                "configuration": {
                    "state": "applied",
                    "desiredVersion": 2,
                    "appliedVersion": 2,
                    "timeline": {
                        "observedAt": "2026-01-01T00:00:00.100Z",
                        "receivedAt": "2026-01-01T00:00:00.101500Z",
                        "foldedAt": "2026-01-01T00:00:00.104Z",
                        "decidedAt": "2026-01-01T00:00:00.105Z",
                        "committedAt": "2026-01-01T00:00:00.106Z",
                        "pushedAt": "2026-01-01T00:00:00.107Z",
                        "appliedAt": "2026-01-01T00:00:00.109Z",
                        "acknowledgedAt": "2026-01-01T00:00:00.112Z",
                    },
                },
                "listeningPorts": [
                    {"protocol": "tcp", "port": 22, "address": "0.0.0.0", "executable": "/usr/sbin/sshd"},
                    {"protocol": "tcp", "port": 9999, "address": "127.0.0.1"},
                    {"protocol": "udp", "port": 68, "address": "0.0.0.0"},
                ],
                "listeningPortsSnapshot": {"count": 3, "observedAt": "2026-01-01T00:00:00.100Z"},
            },
        })
    }

    #[test]
    fn a_twin_is_read_as_the_command_line_prints_it() {
        let line = json!({"event": "changed", "twin": applied()}).to_string();
        let twin = Twin::from_line(&line).unwrap().unwrap();
        assert_eq!(twin.unexpected(), BTreeSet::from([9999]));
        assert_eq!(twin.other_sockets, 1);
        assert_eq!(
            (twin.push.state.as_str(), twin.push.desired_version),
            ("applied", 2)
        );
        assert_eq!(twin.collectors["Process"].reason, "no rights");
        let settings = twin.settings_of("unexpected-listener");
        assert_eq!(
            settings.keys().copied().collect::<Vec<_>>(),
            ["FileSystem_Paths"]
        );
        assert!(twin.settings_of("unexpected").is_empty());
    }

    #[test]
    fn a_twin_without_anything_is_read_too() {
        let twin = Twin::read(&json!({}));
        assert_eq!(twin, Twin::default());
        assert_eq!(twin.unexpected(), BTreeSet::new());
        let deleted = r#"{"event": "deleted", "name": "devices/d"}"#;
        assert_eq!(Twin::from_line(deleted).unwrap(), None);
        assert!(Twin::from_line("no json").is_err());
    }

    #[test]
    fn an_empty_snapshot_is_not_the_same_as_none() {
        let twin = Twin::read(&json!({"posture": {
            "listeningPorts": [],
            "listeningPortsSnapshot": {"observedAt": "2026-01-01T00:00:00Z"},
        }}));
        assert_eq!(twin.listening, Some(BTreeSet::new()));
    }
}
