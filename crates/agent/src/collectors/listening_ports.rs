//! Listening ports: a full list at each interval, and at once when it changed.
//!
//! There is no notification for a socket that begins to listen that works without rights, so the
//! kernel is asked four times a second; that takes some 0.05 ms.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use posture::event::{ListeningPort, ListeningPorts as Snapshot};
use posture::{EventPayload, limits};

use super::machine::Machine;
use super::sockets::{self, Owner, Socket};
use super::{Collector, Health, Observation, Wakeup, fit};

/// How soon an open port is noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Follows the set of listening sockets.
#[derive(Debug)]
pub(crate) struct ListeningPorts {
    machine: Machine,
    /// Owners of the sockets of the last look; a socket keeps its inode as long as it lives.
    owners: HashMap<u64, Option<Owner>>,
    /// UDP sockets of the last look. One counts only when it is there twice, because whoever asks a
    /// name server holds one for milliseconds.
    udp_before: HashSet<u64>,
    reported: Option<Vec<ListeningPort>>,
    health: Health,
}

impl ListeningPorts {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            owners: HashMap::new(),
            udp_before: HashSet::new(),
            reported: None,
            health: Health::running(),
        }
    }

    /// Reads the tables; `None` when they cannot be read.
    fn look(&mut self) -> Option<Vec<ListeningPort>> {
        let found = sockets::listening(&self.machine)
            .and_then(|tcp| Ok((tcp, sockets::udp_receiving(&self.machine)?)));
        let (tcp, udp) = match found {
            Ok(found) => found,
            Err(error) => {
                self.health = Health::failed(format!("cannot list the machine's sockets: {error}"));
                return None;
            }
        };
        let udp_now: HashSet<u64> = udp.iter().map(|socket| socket.inode).collect();
        let settled = |socket: &Socket| self.udp_before.contains(&socket.inode);
        let listening: Vec<Socket> = tcp
            .into_iter()
            .chain(udp.into_iter().filter(settled))
            .collect();
        self.udp_before = udp_now;
        self.find_owners(&listening);

        let mut ports: Vec<_> = listening.iter().map(|socket| self.port(socket)).collect();
        ports.sort_unstable();
        ports.dedup_by(|one, other| {
            (one.protocol, one.port, one.address) == (other.protocol, other.port, other.address)
        });
        ports.truncate(limits::LISTENING_PORTS_MAX);
        fit::ports(&mut ports);
        Some(ports)
    }

    fn find_owners(&mut self, listening: &[Socket]) {
        let present: HashSet<u64> = listening.iter().map(|socket| socket.inode).collect();
        self.owners.retain(|inode, _| present.contains(inode));
        let unknown: HashSet<u64> = present
            .iter()
            .copied()
            .filter(|inode| !self.owners.contains_key(inode))
            .collect();
        let mut found = sockets::owners(&self.machine, &unknown);
        for inode in unknown {
            // An owner that may not be seen is not looked for again while the socket lives.
            self.owners.insert(inode, found.remove(&inode));
        }
        let hidden = self.owners.values().filter(|owner| owner.is_none()).count();
        self.health = if hidden == 0 {
            Health::running()
        } else {
            Health::degraded(if rustix::process::geteuid().is_root() {
                "owners of some sockets are not visible: they run in other namespaces"
            } else {
                "owners of some sockets are not visible without root"
            })
        };
    }

    fn port(&self, socket: &Socket) -> ListeningPort {
        let owner = self.owners.get(&socket.inode).and_then(Option::as_ref);
        ListeningPort {
            protocol: socket.protocol,
            port: socket.local.port(),
            address: socket.local.ip(),
            pid: owner.map(|owner| owner.pid),
            executable: owner.and_then(|owner| owner.executable.clone()),
        }
    }
}

impl Collector for ListeningPorts {
    fn wakeup(&self) -> Wakeup {
        Wakeup::Every(POLL_INTERVAL)
    }

    fn observe(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        let Some(ports) = self.look() else { return };
        if self.reported.as_ref() != Some(&ports) {
            self.reported = Some(ports.clone());
            let payload = EventPayload::ListeningPorts(Snapshot { ports });
            out.push(Observation::immediate(now, payload));
        }
    }

    fn snapshot(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        let Some(ports) = self.look() else { return };
        self.reported = Some(ports.clone());
        out.push(Observation::routine(
            now,
            EventPayload::ListeningPorts(Snapshot { ports }),
        ));
    }

    fn flush(&mut self, _out: &mut Vec<Observation>) {}

    fn health(&self) -> Health {
        self.health.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use posture::event::Protocol;

    use super::*;
    use crate::collectors::testing::{Fixture, at};

    fn ports(observation: &Observation) -> Vec<(Protocol, String, u16)> {
        let EventPayload::ListeningPorts(snapshot) = &observation.payload else {
            panic!("not a snapshot of ports: {observation:?}");
        };
        snapshot
            .ports
            .iter()
            .map(|port| (port.protocol, port.address.to_string(), port.port))
            .collect()
    }

    #[test]
    fn a_real_listener_is_reported_at_once_with_its_owner_and_its_end_too() {
        let mut collector = ListeningPorts::new(Machine::this());
        let mut out = Vec::new();
        collector.observe(at(1), &mut out);
        out.clear();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        collector.observe(at(2), &mut out);
        let EventPayload::ListeningPorts(snapshot) = &out[0].payload else {
            panic!("{out:?}")
        };
        let found = snapshot
            .ports
            .iter()
            .find(|entry| entry.port == port)
            .unwrap();
        assert_eq!(found.pid, Some(std::process::id()));
        assert!(
            found.executable.as_ref().unwrap().contains("agent"),
            "{found:?}"
        );
        assert_eq!(out[0].urgency, super::super::Urgency::Immediate);

        drop(listener);
        out.clear();
        collector.observe(at(3), &mut out);
        assert!(
            out.iter()
                .all(|seen| ports(seen).iter().all(|(_, _, found)| *found != port))
        );
    }

    #[test]
    fn an_unchanged_set_is_said_once_but_every_interval_has_the_full_list() {
        let machine = Fixture::new();
        machine.write("proc/net/tcp", TCP);
        let mut collector = ListeningPorts::new(machine.machine());
        let mut out = Vec::new();
        collector.observe(at(1), &mut out);
        collector.observe(at(2), &mut out);
        assert_eq!(out.len(), 1);
        assert_eq!(
            ports(&out[0]),
            [(Protocol::Tcp, "0.0.0.0".to_owned(), 8080)]
        );
        collector.snapshot(at(3), &mut out);
        assert_eq!(out.len(), 2);
        assert_eq!(
            collector.health().state,
            posture::event::CollectorState::Degraded
        );
    }

    #[test]
    fn a_udp_socket_counts_when_it_stays() {
        let mut collector = ListeningPorts::new(Machine::this());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut out = Vec::new();
        collector.observe(at(1), &mut out);
        assert!(!ports(&out[0]).contains(&(Protocol::Udp, "127.0.0.1".to_owned(), port)));
        out.clear();
        collector.observe(at(2), &mut out);
        assert!(ports(&out[0]).contains(&(Protocol::Udp, "127.0.0.1".to_owned(), port)));
    }

    #[test]
    fn tables_that_make_no_sense_are_said_not_fatal() {
        let machine = Fixture::new();
        machine.write("proc/net/tcp", "header\n0: zzzz\n");
        let mut collector = ListeningPorts::new(machine.machine());
        let mut out = Vec::new();
        collector.observe(at(1), &mut out);
        assert!(out.is_empty());
        assert_eq!(
            collector.health().state,
            posture::event::CollectorState::Failed
        );
    }

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7001 1 0000000000000000 100 0 0 10 0
   1: 0100007F:A0CC 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 7002 1 0000000000000000 20 4 30 10 -1
";
}
