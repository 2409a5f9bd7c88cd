//! Asking the kernel for sockets by state (`NETLINK_SOCK_DIAG`), which needs no rights.
//!
//! `/proc/net/tcp` walks the whole hash table of connections, milliseconds on a machine with much
//! memory even when there are none; this asks for what is wanted and takes microseconds.
//!
//! Layout, native byte order but for ports and addresses, which are in network order. Request: netlink
//! header 16 bytes; family u8, protocol u8, extensions u8, padding u8, states u32, id 48. Answer:
//! netlink header; family u8, state u8, timer u8, retransmits u8; id: local port u16, remote port u16,
//! local address 16, remote address 16, interface u32, cookie 8; expires, queues and user, 4 bytes
//! each; inode u32.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use posture::event::Protocol;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::Socket;

const HEADER: usize = 16;
const MESSAGE: usize = 72;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Larger than any part of an answer: the kernel fills at most 32 KB at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// What a socket does, as the kernel numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Established = 1,
    /// For UDP: bound and not connected.
    Closed = 7,
    Listen = 10,
}

/// Lists the sockets of both address families in a state.
pub(super) fn sockets(protocol: Protocol, state: State) -> io::Result<Vec<Socket>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        dump(&socket, family, protocol, state, &mut found)?;
    }
    Ok(found)
}

fn dump(
    socket: &OwnedFd,
    family: u8,
    protocol: Protocol,
    state: State,
    found: &mut Vec<Socket>,
) -> io::Result<()> {
    send(
        socket,
        &request(family, protocol, state),
        SendFlags::empty(),
    )?;
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    loop {
        let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        if parse(buffer.get(..length).unwrap_or_default(), protocol, found)? == More::No {
            return Ok(());
        }
    }
}

fn request(family: u8, protocol: Protocol, state: State) -> Vec<u8> {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let mut request = vec![72, 0, 0, 0];
    request[..4].copy_from_slice(&72_u32.to_ne_bytes());
    request.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[family, number, 0, 0]);
    request.extend_from_slice(&(1_u32 << (state as u8)).to_ne_bytes());
    request.extend_from_slice(&[0; 48]);
    request
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

/// Reads one part of an answer.
fn parse(mut part: &[u8], protocol: Protocol, found: &mut Vec<Socket>) -> io::Result<More> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed answer of sock_diag");
    while !part.is_empty() {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(part.get(at..at + 4)?.try_into().ok()?))
        };
        let length = word(0)
            .and_then(|length| usize::try_from(length).ok())
            .ok_or_else(malformed)?;
        if length < HEADER || length > part.len() {
            return Err(malformed());
        }
        let kind = u16::from_ne_bytes([part[4], part[5]]);
        match kind {
            NLMSG_DONE => return Ok(More::No),
            NLMSG_ERROR => {
                let code = word(HEADER).unwrap_or(0).cast_signed();
                return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
            BY_FAMILY => {
                let message = part.get(HEADER..length).unwrap_or_default();
                found.push(socket(message, protocol).ok_or_else(malformed)?);
            }
            _ => {}
        }
        // Messages are aligned to four bytes.
        part = part.get((length + 3) & !3..).unwrap_or_default();
    }
    Ok(More::Yes)
}

fn socket(message: &[u8], protocol: Protocol) -> Option<Socket> {
    if message.len() < MESSAGE {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        match message[0] {
            AF_INET => {
                let bytes: [u8; 4] = message.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            }
            AF_INET6 => {
                let bytes: [u8; 16] = message.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).into())
            }
            _ => None,
        }
    };
    let port = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let inode = u32::from_ne_bytes(message.get(68..72)?.try_into().ok()?);
    Some(Socket {
        protocol,
        local: SocketAddr::new(address(8)?, port(4)),
        remote: SocketAddr::new(address(24)?, port(6)),
        inode: inode.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn real_sockets_of_both_families_are_listed() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let listening = sockets(Protocol::Tcp, State::Listen).unwrap();
        let local = four.local_addr().unwrap();
        assert!(
            listening
                .iter()
                .any(|socket| socket.local == local && socket.inode > 0)
        );
        if let Ok(six) = TcpListener::bind("[::1]:0") {
            let local = six.local_addr().unwrap();
            let listening = sockets(Protocol::Tcp, State::Listen).unwrap();
            assert!(listening.iter().any(|socket| socket.local == local));
        }
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = udp.local_addr().unwrap();
        let bound = sockets(Protocol::Udp, State::Closed).unwrap();
        assert!(
            bound
                .iter()
                .any(|socket| socket.local == local && socket.remote.port() == 0)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, Protocol::Tcp, &mut Vec::new());
        }
    }
}
