//! Keeps snapshots below the size of an event. One that is over it would be refused whole, and with
//! it everything that could still be said: opening many ports would hide them all.
//!
//! Sizes are estimates that are never too small; what is shed is never guessed at later.

use posture::event::{ListeningPort, LocalUser};

/// Most bytes of the entries of a snapshot. The service takes events of 64 KiB by default, of which
/// the sequence, the time and the frame need a little.
const ENTRIES_BYTES_MAX: usize = 60 * 1024;

/// Most bytes of a port besides its program: frame, protocol, port, process id, longest address.
const PORT_BYTES: usize = 40;
const ADDRESS_V4_BYTES: usize = 15;

/// Most bytes of a user besides texts: frame, two numbers, keys and lengths.
const USER_BYTES: usize = 24;

/// Key and length of one text.
const TEXT_BYTES: usize = 4;

/// Fits a snapshot of ports. Names of programs go first, from the end: the port is what matters.
pub(crate) fn ports(ports: &mut Vec<ListeningPort>) {
    let bytes = |port: &ListeningPort| {
        let address = match port.address {
            std::net::IpAddr::V4(_) => ADDRESS_V4_BYTES,
            std::net::IpAddr::V6(_) => 3 * ADDRESS_V4_BYTES,
        };
        let executable = port.executable.as_ref().map_or(0, String::len);
        PORT_BYTES + address + executable
    };
    fit(ports, bytes, |port| port.executable = None);
}

/// Fits a snapshot of users. Groups and shells go first, from the end: the account is what matters.
pub(crate) fn users(users: &mut Vec<LocalUser>) {
    let bytes = |user: &LocalUser| {
        let groups: usize = user.groups.iter().map(|it| it.len() + TEXT_BYTES).sum();
        let shell = user.shell.as_ref().map_or(0, String::len);
        USER_BYTES + user.name.len() + groups + shell
    };
    fit(users, bytes, |user| {
        user.groups = Vec::new();
        user.shell = None;
    });
}

fn fit<T>(entries: &mut Vec<T>, bytes: impl Fn(&T) -> usize, shed: impl Fn(&mut T)) {
    let mut total: usize = entries.iter().map(&bytes).sum();
    for entry in entries.iter_mut().rev() {
        if total <= ENTRIES_BYTES_MAX {
            return;
        }
        total -= bytes(entry);
        shed(entry);
        total += bytes(entry);
    }
    while total > ENTRIES_BYTES_MAX
        && let Some(entry) = entries.pop()
    {
        total -= bytes(&entry);
    }
}

#[cfg(test)]
mod tests {
    use posture::event::{ListeningPorts, LocalUsers, Protocol};
    use posture::{EventPayload, SecurityEvent, limits};
    use prost::Message as _;

    use super::*;

    /// What ingestion takes by default.
    const EVENT_BYTES_MAX: usize = 64 * 1024;

    fn check(payload: EventPayload) {
        let event = SecurityEvent {
            sequence: limits::SEQUENCE_MAX,
            observed_at: jiff::Timestamp::MAX,
            payload,
        };
        event.validate().unwrap();
        let bytes = wire::events::event_to_wire(&event).encoded_len();
        assert!(bytes <= EVENT_BYTES_MAX, "{bytes}");
    }

    fn many_ports(address: &str, executable: usize) -> Vec<ListeningPort> {
        let port = |number: usize| ListeningPort {
            protocol: Protocol::Tcp,
            port: 65535 - u16::try_from(number).unwrap(),
            address: address.parse().unwrap(),
            pid: Some(u32::MAX),
            executable: Some("x".repeat(executable)),
        };
        (0..limits::LISTENING_PORTS_MAX).map(port).collect()
    }

    #[test]
    fn a_host_full_of_listeners_is_still_reported() {
        for (address, executable) in [("1.2.3.4", 60), ("127.127.127.127", 4096)] {
            let mut entries = many_ports(address, executable);
            ports(&mut entries);
            assert_eq!(entries.len(), limits::LISTENING_PORTS_MAX);
            assert!(entries[0].executable.is_some());
            check(EventPayload::ListeningPorts(ListeningPorts {
                ports: entries,
            }));
        }
        let mut entries = many_ports("1111:2222:3333:4444:5555:6666:7777:8888", 4096);
        ports(&mut entries);
        assert!(entries.len() > 700, "{}", entries.len());
        check(EventPayload::ListeningPorts(ListeningPorts {
            ports: entries,
        }));
    }

    #[test]
    fn a_host_full_of_users_is_still_reported() {
        for (groups, shell) in [(2, 9), (256, 255)] {
            let user = |number: usize| LocalUser {
                uid: u32::MAX,
                name: format!("user-{number:06}"),
                gid: u32::MAX,
                groups: vec!["g".repeat(32); groups],
                shell: Some("s".repeat(shell)),
            };
            let mut entries: Vec<_> = (0..limits::LOCAL_USERS_MAX).map(user).collect();
            users(&mut entries);
            assert_eq!(entries.len(), limits::LOCAL_USERS_MAX);
            check(EventPayload::LocalUsers(LocalUsers { users: entries }));
        }
    }

    #[test]
    fn what_fits_is_left_alone() {
        let mut entries = many_ports("1.2.3.4", 60);
        entries.truncate(100);
        let before = entries.clone();
        ports(&mut entries);
        assert_eq!(entries, before);
    }
}
