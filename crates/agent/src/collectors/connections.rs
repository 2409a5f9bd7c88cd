//! TCP connections, aggregated by both addresses, both ports and direction.
//!
//! The kernel is asked once a second and new connections are those that were not in it
//! before; one that begins and ends between two looks is not seen. Connections over loopback are
//! passed over unless the `lo` interface is configured. Other interface names do not matter: the
//! micro agent captured packets and had to name interfaces, the table has them all.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use posture::EventPayload;
use posture::agent_config::NetworkActivityConfiguration;
use posture::event::{ConnectionActivity, Direction};

use super::aggregate::Aggregate;
use super::machine::Machine;
use super::sockets::{self, Owner, Socket};
use super::{Collector, Health, Observation, Wakeup};

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The interface that must be named for loopback connections to count.
const LOOPBACK: &str = "lo";

/// Follows established connections.
#[derive(Debug)]
pub(crate) struct Connections {
    machine: Machine,
    loopback: Loopback,
    before: HashSet<Socket>,
    seen: Aggregate<(Socket, Direction), (Socket, Direction, Option<Owner>)>,
    health: Health,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loopback {
    Counts,
    PassedOver,
}

impl Connections {
    pub(crate) fn new(machine: Machine, settings: &NetworkActivityConfiguration) -> Self {
        let loopback = if settings.devices.iter().any(|device| device == LOOPBACK) {
            Loopback::Counts
        } else {
            Loopback::PassedOver
        };
        Self {
            machine,
            loopback,
            before: HashSet::new(),
            seen: Aggregate::new(settings.cache_size),
            health: Health::running(),
        }
    }

    fn counts(&self, socket: &Socket) -> bool {
        match self.loopback {
            Loopback::Counts => true,
            Loopback::PassedOver => {
                !socket.remote.ip().to_canonical().is_loopback()
                    && !socket.local.ip().to_canonical().is_loopback()
            }
        }
    }
}

impl Collector for Connections {
    fn wakeup(&self) -> Wakeup {
        Wakeup::Every(POLL_INTERVAL)
    }

    fn observe(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        let found = sockets::established(&self.machine)
            .and_then(|established| Ok((established, sockets::listening(&self.machine)?)));
        let (established, listening) = match found {
            Ok(found) => found,
            Err(error) => {
                self.health = Health::failed(format!("cannot list the machine's sockets: {error}"));
                return;
            }
        };
        self.health = Health::running();
        let listening: HashSet<u16> = listening.iter().map(|socket| socket.local.port()).collect();
        let established: HashSet<Socket> = established
            .into_iter()
            .filter(|socket| self.counts(socket))
            .collect();
        let new: Vec<Socket> = established.difference(&self.before).copied().collect();
        let inodes = new
            .iter()
            .map(|socket| socket.inode)
            .filter(|inode| *inode > 0)
            .collect();
        let mut owners: HashMap<u64, Owner> = sockets::owners(&self.machine, &inodes);
        for socket in new {
            let direction = if listening.contains(&socket.local.port()) {
                Direction::Inbound
            } else {
                Direction::Outbound
            };
            let owner = owners.remove(&socket.inode);
            // A connection that comes again has another inode and is still the same one.
            let key = (Socket { inode: 0, ..socket }, direction);
            self.seen.add(now, key, (socket, direction, owner));
            if self.seen.is_full() {
                self.flush(out);
            }
        }
        self.before = established;
    }

    fn snapshot(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        self.observe(now, out);
        self.flush(out);
    }

    fn flush(&mut self, out: &mut Vec<Observation>) {
        for entry in self.seen.drain() {
            let (socket, direction, owner) = entry.first;
            let payload = EventPayload::ConnectionActivity(ConnectionActivity {
                direction,
                protocol: socket.protocol,
                local_address: socket.local.ip(),
                local_port: socket.local.port(),
                remote_address: socket.remote.ip(),
                remote_port: socket.remote.port(),
                pid: owner.as_ref().map(|owner| owner.pid),
                executable: owner.and_then(|owner| owner.executable),
                hit_count: entry.hit_count,
            });
            out.push(Observation::routine(entry.first_at, payload));
        }
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::collectors::testing::{Fixture, at};

    fn watching(machine: Machine, device: &str) -> Connections {
        let settings = NetworkActivityConfiguration {
            devices: vec![device.to_owned()],
            ..NetworkActivityConfiguration::default()
        };
        Connections::new(machine, &settings)
    }

    fn flushed(collector: &mut Connections) -> Vec<ConnectionActivity> {
        let mut out = Vec::new();
        collector.flush(&mut out);
        out.into_iter()
            .map(|seen| match seen.payload {
                EventPayload::ConnectionActivity(connection) => connection,
                other => panic!("not a connection: {other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_real_connection_is_seen_from_both_ends_with_its_direction() {
        let mut collector = watching(Machine::this(), "lo");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap();
        collector.observe(at(1), &mut Vec::new());
        let connections = flushed(&mut collector);
        let served = listener.local_addr().unwrap().port();
        let from = stream.local_addr().unwrap().port();
        let direction = |local, remote| {
            let found = connections
                .iter()
                .find(|entry| (entry.local_port, entry.remote_port) == (local, remote))
                .unwrap();
            (found.direction, found.pid)
        };
        let me = Some(std::process::id());
        assert_eq!(direction(served, from), (Direction::Inbound, me));
        assert_eq!(direction(from, served), (Direction::Outbound, me));
        drop(accepted);
    }

    #[test]
    fn loopback_counts_only_when_it_is_named_and_a_connection_counts_once_while_it_lasts() {
        let machine = Fixture::new();
        machine.write("proc/net/tcp", TCP);
        let mut collector = watching(machine.machine(), "eth0");
        let mut out = Vec::new();
        collector.observe(at(1), &mut out);
        collector.observe(at(2), &mut out);
        let connections = flushed(&mut collector);
        assert_eq!(connections.len(), 1);
        assert_eq!(connections[0].remote_address.to_string(), "192.0.2.1");
        assert_eq!(
            (connections[0].remote_port, connections[0].hit_count),
            (443, 1)
        );

        machine.write("proc/net/tcp", TCP.replace(" 7003 ", " 7004 "));
        collector.observe(at(3), &mut out);
        machine.write("proc/net/tcp", TCP.replace(" 7003 ", " 7005 "));
        collector.observe(at(4), &mut out);
        assert_eq!(flushed(&mut collector)[0].hit_count, 2);
    }

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:A0CC 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 7002 1 0000000000000000 20 4 30 10 -1
   1: 0A00000A:A0CD 010200C0:01BB 01 00000000:00000000 00:00000000 00000000     0        0 7003 1 0000000000000000 20 4 30 10 -1
";
}
