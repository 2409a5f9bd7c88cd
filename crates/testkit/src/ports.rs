//! Free ports for programs that can only be told a number.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below it live the well-known services of a machine.
const LOWEST: u16 = 10_240;
/// Where the kernel takes the ports of outgoing connections from, if it does not say.
const EPHEMERAL: u16 = 32_768;
/// How far apart two processes begin to look, so that they seldom try the same port.
const STRIDE: u32 = 577;

static GIVEN: AtomicU32 = AtomicU32::new(0);

/// A TCP port on loopback that was free a moment ago and that no other caller in this process got.
///
/// It lies below the range of outgoing connections: a port that the kernel hands out when asked
/// for "any" may be the next connection's own before the caller listens on it. Another process may
/// still take it; prefer binding port 0 and reading the real address.
///
/// # Panics
/// When every port of the range is taken.
pub fn free_port() -> u16 {
    let range = range();
    let count = u32::from(range.end - range.start);
    let start = std::process::id().wrapping_mul(STRIDE);
    for _ in 0..count {
        let offset = start.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % count;
        let port = u16::try_from(offset).map(|offset| range.start + offset);
        let port = port.expect("an offset into a range of ports is small");
        if TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok() {
            return port;
        }
    }
    panic!("every port of {range:?} on loopback is taken");
}

/// The ports between the well-known ones and those of outgoing connections.
fn range() -> Range<u16> {
    let said = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = said
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok());
    match first {
        Some(first) if first > 2 * LOWEST => LOWEST..first,
        _ => LOWEST..EPHEMERAL,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_are_free_apart_and_outside_the_range_of_outgoing_connections() {
        let ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        let outgoing = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let outgoing = outgoing.local_addr().expect("an address").port();
        for port in ports {
            assert!(range().contains(&port), "{port}");
            assert!(!range().contains(&outgoing), "{outgoing}");
        }
    }
}
