//! The messages of micro agents: a FlatBuffer of schema 2.3 (namespace `AzureIoTSecurity`, root
//! `Message`), as Azure RTOS and the Linux micro agent send them.
//!
//! | table | slots |
//! |---|---|
//! | `Message` | 0 id of the agent, 1 its version, 2 time zone, 3 events |
//! | `Event` | 0 UUID, 1 time in Unix seconds, 2 interval of its collector, 3 kind of payload, 4 payload |
//! | `NetworkActivity` (1) | 0 flows over IPv4, 1 over IPv6; a flow: 0 addresses, 1 the rest (0 and 1 ports, 2 and 3 bytes in and out, 4 protocol, 5 process, 6 user, 7 executable, 8 command line) |
//! | `SystemInformation` (2) | 0 operating system, 1 kernel, 2 hardware |
//! | `ListeningPorts` (3) | 0 over IPv4, 1 over IPv6, as structs: address, port, protocol |
//! | `Heartbeat` (4) | |
//! | `Baseline` (5), `Log` (7) | a posture has no place for them |
//! | `Process` (6) | 0 executable, 1 id, 2 parent, 3 user id, 4 user, 5 command line, 6 fork, exec or exit, 7 how often (1 if absent) |
//!
//! Later agents have further kinds, whose schema was never published: they are rejected, each by
//! itself. Addresses are in network byte order. A flow says how many bytes went each way and not
//! who began it. ICMP has no ports and makes no connection; such flows are passed over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use posture::EventPayload;
use posture::event::{
    ConnectionActivity, Direction, ListeningPort, ListeningPorts, ProcessAction, ProcessActivity,
    Protocol, SystemInformation,
};
use posture::limits::COMMAND_LINE_BYTES_MAX;

use super::flat::{Broken, Buffer, Table};
use super::{Converted, EVENTS_MAX, Problem, Reason};

/// The kinds that postures have places for, for a message.
const KNOWN: &str = "NetworkActivity, SystemInformation, ListeningPorts, Heartbeat and Process";

/// Bytes of a listening port: address, port, protocol, and one to fill up.
const PORT_V4: usize = 8;
const PORT_V6: usize = 20;

/// Reads a message. What cannot be read of one event leaves the others alone.
pub(super) fn convert(body: &[u8]) -> Converted {
    let mut converted = Converted::default();
    let buffer = Buffer::new(body);
    let events = match envelope(&buffer) {
        Ok(events) => events,
        Err(problem) => {
            converted.reject(problem, body.to_vec());
            return converted;
        }
    };
    for (index, event) in events.into_iter().enumerate() {
        let path = format!("events[{index}]");
        let read = event.map_err(|broken| invalid(&path, broken));
        if let Err(problem) = read.and_then(|event| converted.read_flat(&path, &event)) {
            // The event is no piece of the body that could be cut out.
            converted.reject(problem, path.into_bytes());
        }
    }
    converted
}

type Events<'b> = Vec<Result<Table<'b>, Broken>>;

fn envelope<'b>(buffer: &'b Buffer<'b>) -> Result<Events<'b>, Problem> {
    let unusable = |broken: Broken| {
        let problem = format!("the body is no FlatBuffer of schema 2: {broken}");
        (Reason::InvalidMessage, problem)
    };
    let message = buffer.root().map_err(unusable)?;
    let events = message.tables(3).map_err(unusable)?;
    let events = events.ok_or_else(|| {
        let problem = "the message has no events (slot 3 of Message)".to_owned();
        (Reason::InvalidMessage, problem)
    })?;
    let count = events.to_come();
    if count == 0 || count > EVENTS_MAX {
        let problem = format!("the message has {count} events; allowed are 1 to {EVENTS_MAX}");
        return Err((Reason::InvalidMessage, problem));
    }
    Ok(events.collect())
}

fn invalid(path: &str, problem: impl std::fmt::Display) -> Problem {
    (Reason::InvalidField, format!("{path}: {problem}"))
}

impl Converted {
    fn read_flat(&mut self, path: &str, event: &Table<'_>) -> Result<(), Problem> {
        let broken = |broken: Broken| invalid(path, broken);
        let at = i64::from(event.word(1, 0).map_err(broken)?);
        let at = Timestamp::from_second(at).map_err(|error| invalid(path, error))?;
        let kind = event.byte(3).map_err(broken)?;
        let payload = event.table(4).map_err(broken)?;
        let payload = payload.ok_or_else(|| invalid(path, "it has no payload"));
        let whole = match kind {
            1 => return self.network(path, at, &payload?),
            2 => EventPayload::SystemInformation(Box::new(system(path, &payload?)?)),
            3 => EventPayload::ListeningPorts(listening(path, &payload?)?),
            4 => EventPayload::Heartbeat,
            6 => EventPayload::ProcessActivity(process(path, &payload?)?),
            other => {
                let name = match other {
                    0 => "absent".to_owned(),
                    5 => "Baseline".to_owned(),
                    7 => "Log".to_owned(),
                    _ => format!("of the unknown kind {other}"),
                };
                let problem =
                    format!("{path}: its payload is {name}; a posture has places for {KNOWN}");
                return Err((Reason::UnknownKind, problem));
            }
        };
        self.take(path, at, whole)
    }

    /// Flows, each for itself: one that cannot be read does not take the others with it.
    fn network(&mut self, path: &str, at: Timestamp, activity: &Table<'_>) -> Result<(), Problem> {
        for (slot, list) in [(0, "ipv4"), (1, "ipv6")] {
            let flows = activity.tables(slot);
            let flows = flows.map_err(|broken| invalid(path, broken))?;
            for (index, flow) in flows.into_iter().flatten().enumerate() {
                let path = format!("{path}.{list}[{index}]");
                let read = flow.map_err(|broken| invalid(&path, broken));
                let read = read.and_then(|flow| connection(&path, &flow, slot == 1));
                let taken = read.and_then(|read| match read {
                    _ if self.events.len() + self.rejected.len() >= EVENTS_MAX => {
                        let problem = format!("the message has more than {EVENTS_MAX} flows");
                        Err(invalid(&path, problem))
                    }
                    Some(connection) => {
                        self.take(&path, at, EventPayload::ConnectionActivity(connection))
                    }
                    None => Ok(()),
                });
                if let Err(problem) = taken {
                    self.reject(problem, path.into_bytes());
                    if self.rejected.len() >= EVENTS_MAX {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

fn system(path: &str, it: &Table<'_>) -> Result<SystemInformation, Problem> {
    Ok(SystemInformation {
        os_name: text(path, it, 0)?,
        kernel_version: text(path, it, 1)?,
        hardware_model: text(path, it, 2)?,
        ..SystemInformation::default()
    })
}

fn process(path: &str, it: &Table<'_>) -> Result<ProcessActivity, Problem> {
    let broken = |broken: Broken| invalid(path, broken);
    let action = match it.byte(6).map_err(broken)? {
        0 => ProcessAction::Fork,
        1 => ProcessAction::Exec,
        2 => ProcessAction::Exit,
        other => {
            let problem = format!("event_type is {other}; allowed are 0 FORK, 1 EXEC and 2 EXIT");
            return Err(invalid(path, problem));
        }
    };
    Ok(ProcessActivity {
        action,
        pid: it.word(1, 0).map_err(broken)?,
        parent_pid: it.word(2, 0).map_err(broken)?,
        uid: it.word(3, 0).map_err(broken)?,
        user: text(path, it, 4)?,
        executable: text(path, it, 0)?.unwrap_or_default(),
        command_line: text(path, it, 5)?.unwrap_or_default(),
        hit_count: it.word(7, 1).map_err(broken)?.max(1),
    })
}

/// One flow; none of ICMP.
fn connection(
    path: &str,
    flow: &Table<'_>,
    is_v6: bool,
) -> Result<Option<ConnectionActivity>, Problem> {
    let broken = |broken: Broken| invalid(path, broken);
    let addresses = if is_v6 {
        let both = flow.inline::<32>(0).map_err(broken)?;
        both.map(|both| (v6(&both[..16]), v6(&both[16..])))
    } else {
        let both = flow.inline::<8>(0).map_err(broken)?;
        both.map(|both| (v4(&both[..4]), v4(&both[4..])))
    };
    let (Some((local_address, remote_address)), Some(common)) =
        (addresses, flow.table(1).map_err(broken)?)
    else {
        return Err(invalid(path, "it has no addresses, or no ports"));
    };
    let Some(protocol) = transport(path, common.byte(4).map_err(broken)?)? else {
        return Ok(None);
    };
    let pid = common.short(5).map_err(broken)?;
    Ok(Some(ConnectionActivity {
        direction: Direction::Unknown,
        protocol,
        local_address,
        local_port: common.short(0).map_err(broken)?,
        remote_address,
        remote_port: common.short(1).map_err(broken)?,
        pid: Some(u32::from(pid)).filter(|pid| *pid != 0),
        executable: text(path, &common, 7)?,
        hit_count: 1,
    }))
}

fn listening(path: &str, it: &Table<'_>) -> Result<ListeningPorts, Problem> {
    let broken = |broken: Broken| invalid(path, broken);
    let over_v4 = it.structs::<PORT_V4>(0).map_err(broken)?;
    let over_v4 = over_v4.iter().map(|port| (v4(&port[..4]), &port[4..]));
    let over_v6 = it.structs::<PORT_V6>(1).map_err(broken)?;
    let over_v6 = over_v6.iter().map(|port| (v6(&port[..16]), &port[16..]));
    let mut ports = Vec::new();
    for (address, rest) in over_v4.chain(over_v6) {
        let [low, high, protocol, _] = rest else {
            continue;
        };
        let Some(protocol) = transport(path, *protocol)? else {
            return Err(invalid(path, "nothing listens on a port of ICMP"));
        };
        ports.push(ListeningPort {
            protocol,
            port: u16::from_le_bytes([*low, *high]),
            address,
            pid: None,
            executable: None,
        });
    }
    Ok(ListeningPorts { ports })
}

/// None: ICMP.
fn transport(path: &str, protocol: u8) -> Result<Option<Protocol>, Problem> {
    match protocol {
        0 => Ok(Some(Protocol::Tcp)),
        1 => Ok(Some(Protocol::Udp)),
        2 => Ok(None),
        other => {
            let problem = format!("protocol is {other}; allowed are 0 TCP, 1 UDP and 2 ICMP");
            Err(invalid(path, problem))
        }
    }
}

/// A text within the longest that events have; a longer one is not even copied.
fn text(path: &str, it: &Table<'_>, slot: usize) -> Result<Option<String>, Problem> {
    let text = it.text(slot).map_err(|broken| invalid(path, broken))?;
    let Some(text) = text else {
        return Ok(None);
    };
    if text.len() > COMMAND_LINE_BYTES_MAX {
        let found = text.len();
        let problem =
            format!("a text has {found} bytes; at most {COMMAND_LINE_BYTES_MAX} are allowed");
        return Err(invalid(path, problem));
    }
    Ok(Some(text.to_owned()))
}

fn v4(octets: &[u8]) -> IpAddr {
    let octets = <[u8; 4]>::try_from(octets).unwrap_or_default();
    Ipv4Addr::from(octets).into()
}

fn v6(octets: &[u8]) -> IpAddr {
    let octets = <[u8; 16]>::try_from(octets).unwrap_or_default();
    Ipv6Addr::from(octets).into()
}

#[cfg(test)]
mod tests;
