//! The machine's sockets, and which process owns a socket.
//!
//! The kernel is asked by netlink; its tables in `/proc/net` serve where it cannot be.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;

use posture::event::Protocol;
use procfs::net::{TcpNetEntries, TcpState, UdpNetEntries};
use procfs::process::{FDTarget, Process, all_processes_with_root};
use procfs::{FromReadSI, ProcError, current_system_info};

use super::machine::Machine;
use super::text;

mod diag;

/// One socket of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Socket {
    pub(crate) protocol: Protocol,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) inode: u64,
}

/// The process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) pid: u32,
    pub(crate) executable: Option<String>,
}

/// Lists the TCP sockets that listen.
pub(crate) fn listening(machine: &Machine) -> io::Result<Vec<Socket>> {
    if machine.is_this()
        && let Ok(found) = diag::sockets(Protocol::Tcp, diag::State::Listen)
    {
        return Ok(found);
    }
    tcp_table(machine, &TcpState::Listen)
}

/// Lists the TCP connections.
pub(crate) fn established(machine: &Machine) -> io::Result<Vec<Socket>> {
    if machine.is_this()
        && let Ok(found) = diag::sockets(Protocol::Tcp, diag::State::Established)
    {
        return Ok(found);
    }
    tcp_table(machine, &TcpState::Established)
}

/// Lists the UDP sockets that receive from anybody: bound and not connected.
pub(crate) fn udp_receiving(machine: &Machine) -> io::Result<Vec<Socket>> {
    if machine.is_this()
        && let Ok(mut found) = diag::sockets(Protocol::Udp, diag::State::Closed)
    {
        found.retain(|socket| socket.remote.port() == 0);
        return Ok(found);
    }
    let mut sockets = Vec::new();
    for file in ["proc/net/udp", "proc/net/udp6"] {
        let read = UdpNetEntries::from_file(machine.path(file), current_system_info());
        let entries = present(read)?.map(|entries| entries.0).unwrap_or_default();
        sockets.extend(
            entries
                .iter()
                .filter(|entry| entry.remote_address.port() == 0)
                .map(|entry| Socket {
                    protocol: Protocol::Udp,
                    local: entry.local_address,
                    remote: entry.remote_address,
                    inode: entry.inode,
                }),
        );
    }
    Ok(sockets)
}

/// Reads both TCP tables. A kernel without IPv6 has no second one.
fn tcp_table(machine: &Machine, state: &TcpState) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for file in ["proc/net/tcp", "proc/net/tcp6"] {
        let read = TcpNetEntries::from_file(machine.path(file), current_system_info());
        let entries = present(read)?.map(|entries| entries.0).unwrap_or_default();
        sockets.extend(
            entries
                .iter()
                .filter(|entry| entry.state == *state)
                .map(|entry| Socket {
                    protocol: Protocol::Tcp,
                    local: entry.local_address,
                    remote: entry.remote_address,
                    inode: entry.inode,
                }),
        );
    }
    Ok(sockets)
}

/// Finds who holds the given sockets. A process that may not be looked into holds none.
pub(crate) fn owners(machine: &Machine, inodes: &HashSet<u64>) -> HashMap<u64, Owner> {
    let mut owners = HashMap::new();
    if inodes.is_empty() {
        return owners;
    }
    let Ok(processes) = all_processes_with_root(machine.path("proc")) else {
        return owners;
    };
    for process in processes.flatten() {
        let Ok(descriptors) = process.fd() else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            if let FDTarget::Socket(inode) = descriptor.target
                && inodes.contains(&inode)
            {
                owners.entry(inode).or_insert_with(|| owner(&process));
            }
        }
        if owners.len() == inodes.len() {
            break;
        }
    }
    owners
}

fn owner(process: &Process) -> Owner {
    let executable = process
        .exe()
        .ok()
        .map(|path| text::path(&path))
        .or_else(|| process.stat().ok().and_then(|stat| text::name(&stat.comm)));
    Owner {
        pid: u32::try_from(process.pid).unwrap_or(0),
        executable,
    }
}

fn present<T>(read: Result<T, ProcError>) -> io::Result<Option<T>> {
    match read {
        Ok(table) => Ok(Some(table)),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(ProcError::Io(error, _)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(ProcError::Io(error, _)) => Err(error),
        Err(error) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            error.to_string(),
        )),
    }
}
