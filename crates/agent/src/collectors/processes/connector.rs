//! The kernel's process connector: a netlink socket that says when a process forks, execs or exits.
//!
//! Needs `CAP_NET_ADMIN` and the machine's first process and user namespaces. A kernel that will
//! not tell answers the subscription with nothing (inside a container) or an error, so opening waits
//! for its confirmation, which is queued before `send` returns.
//!
//! Layout of a message, native byte order: netlink header 16 bytes; connector header 20 (`idx`,
//! `val`, `seq`, `ack`, `len` u16, `flags` u16); event 16 (`what`, `cpu`, time u64); then its data.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, send,
    socket_with, sockopt,
};

/// `CN_IDX_PROC`: the multicast group and the first half of the connector's id.
const GROUP: u32 = 1;
/// `CN_VAL_PROC`: the second half.
const VALUE: u32 = 1;
/// `PROC_CN_MCAST_LISTEN`.
const LISTEN: u32 = 1;
/// `NLMSG_DONE`, which the connector uses for every message.
const DONE: u16 = 3;

const NETLINK_HEADER: usize = 16;
const CONNECTOR_HEADER: usize = 20;
const EVENT: usize = NETLINK_HEADER + CONNECTOR_HEADER;
const DATA: usize = EVENT + 16;

/// Holds a few thousand events, so that a burst does not outrun us.
const RECEIVE_BUFFER_BYTES: usize = 1024 * 1024;

/// What happened to a process (not to one of its threads).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Fork { parent: u32, child: u32 },
    Exec { process: u32 },
    Exit { process: u32 },
}

/// The open socket.
#[derive(Debug)]
pub(super) struct Connector {
    socket: OwnedFd,
}

/// What one read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Event(Event),
    /// A message that says nothing about a process.
    Other,
    /// The kernel had to drop events.
    Overrun,
    /// Nothing more now.
    Empty,
}

impl Connector {
    /// Subscribes; an error says why the kernel will not tell.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::CONNECTOR),
        )?;
        // The larger one needs rights; without it the kernel's own limit applies.
        sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES))?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        send(&socket, &subscription(), SendFlags::empty())?;
        let connector = Self { socket };
        connector.await_confirmation()?;
        Ok(connector)
    }

    /// A descriptor that becomes readable with events.
    pub(super) fn readiness(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Reads one message without waiting.
    pub(super) fn read(&self) -> io::Result<Read> {
        match self.receive()? {
            Received::Message(What::Process(event)) => Ok(Read::Event(event)),
            Received::Message(What::Confirmation(_) | What::Other) => Ok(Read::Other),
            Received::Overrun => Ok(Read::Overrun),
            Received::Empty => Ok(Read::Empty),
        }
    }

    fn await_confirmation(&self) -> io::Result<()> {
        loop {
            match self.receive()? {
                Received::Message(What::Confirmation(0)) => return Ok(()),
                Received::Message(What::Confirmation(code)) => {
                    return Err(io::Error::from_raw_os_error(
                        i32::try_from(code).unwrap_or(0),
                    ));
                }
                Received::Message(What::Process(_) | What::Other) | Received::Overrun => {}
                Received::Empty => {
                    return Err(io::Error::new(
                        io::ErrorKind::Unsupported,
                        "the kernel did not confirm (not in the machine's first namespaces?)",
                    ));
                }
            }
        }
    }

    fn receive(&self) -> io::Result<Received> {
        let mut bytes = [0_u8; 1024];
        match recvfrom(&self.socket, &mut bytes, RecvFlags::empty()) {
            Ok((length, _, from)) => {
                // Only the kernel has port 0; another sender could invent processes.
                let kernel = from
                    .and_then(|from| SocketAddrNetlink::try_from(from).ok())
                    .is_some_and(|from| from.pid() == 0);
                let message = bytes.get(..length).unwrap_or_default();
                Ok(Received::Message(if kernel {
                    parse(message)
                } else {
                    What::Other
                }))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Empty),
            Err(Errno::NOBUFS) => Ok(Received::Overrun),
            Err(error) => Err(error.into()),
        }
    }
}

enum Received {
    Message(What),
    Overrun,
    Empty,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Process(Event),
    /// Of the subscription; an error number, or 0.
    Confirmation(u32),
    Other,
}

fn subscription() -> Vec<u8> {
    let mut message = Vec::with_capacity(EVENT + 4);
    let length = u32::try_from(EVENT + 4).unwrap_or(0);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&DONE.to_ne_bytes());
    message.extend_from_slice(&0_u16.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&GROUP.to_ne_bytes());
    message.extend_from_slice(&VALUE.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&4_u16.to_ne_bytes());
    message.extend_from_slice(&0_u16.to_ne_bytes());
    message.extend_from_slice(&LISTEN.to_ne_bytes());
    message
}

fn parse(message: &[u8]) -> What {
    let word = |at: usize| {
        message
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_ne_bytes)
    };
    let read = || {
        if word(NETLINK_HEADER)? != GROUP || word(NETLINK_HEADER + 4)? != VALUE {
            return None;
        }
        let process = |pid: u32, group: u32| (pid == group).then_some(group);
        Some(match word(EVENT)? {
            0 => What::Confirmation(word(DATA)?),
            1 => What::Process(Event::Fork {
                parent: word(DATA + 4)?,
                child: process(word(DATA + 8)?, word(DATA + 12)?)?,
            }),
            2 => What::Process(Event::Exec {
                process: word(DATA + 4)?,
            }),
            0x8000_0000 => What::Process(Event::Exit {
                process: process(word(DATA)?, word(DATA + 4)?)?,
            }),
            _ => What::Other,
        })
    };
    read().unwrap_or(What::Other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(words: &[u32]) -> Vec<u8> {
        let mut message = vec![0; NETLINK_HEADER];
        for word in [GROUP, VALUE, 0, 0, 0].iter().chain(words) {
            message.extend_from_slice(&word.to_ne_bytes());
        }
        message
    }

    #[test]
    fn messages_about_processes_are_told_from_those_about_threads() {
        let event = |words: &[u32]| parse(&message(words));
        let fork = [1, 0, 0, 0, 10, 10, 20, 20];
        assert_eq!(
            event(&fork),
            What::Process(Event::Fork {
                parent: 10,
                child: 20
            })
        );
        assert_eq!(event(&[1, 0, 0, 0, 10, 10, 21, 20]), What::Other);
        assert_eq!(
            event(&[2, 0, 0, 0, 21, 20]),
            What::Process(Event::Exec { process: 20 })
        );
        let exit = [0x8000_0000, 0, 0, 0, 20, 20];
        assert_eq!(event(&exit), What::Process(Event::Exit { process: 20 }));
        assert_eq!(event(&[0x8000_0000, 0, 0, 0, 21, 20]), What::Other);
        assert_eq!(event(&[0, 0, 0, 0, 1]), What::Confirmation(1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            parse(&bytes);
        }
    }
}
