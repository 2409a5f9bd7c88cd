//! What a server asks of the operating system: to remember connections that it has not accepted yet,
//! and to let it have many files open. Never changes what concerns other processes.

use std::io;
use std::net::SocketAddr;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted. Whoever finds no place there hears nothing and tries
/// again after one, three, seven seconds and so on, so that a fleet that comes back at once would
/// take minutes. The system may allow less (`net.core.somaxconn`, 4096 by default).
const BACKLOG: u32 = 16_384;

/// Listens at an address, with room for a crowd. To be called inside the runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Else a restart would have to wait until the last connections are forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Raises this process's limit of open files as far as it may: each connection is one, and many
/// systems begin with 1024. Answers how many there may be; none: any number.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit.current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_is_reached_at_once_after_another_one_on_its_port() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let (client, served) =
            tokio::join!(tokio::net::TcpStream::connect(address), first.accept());
        // The server's side closes first and is remembered by the system.
        drop(served.unwrap());
        drop((client.unwrap(), first));
        assert_eq!(listen(address).unwrap().local_addr().unwrap(), address);
        assert!(listen("[::1]:0".parse().unwrap()).is_ok());
    }

    #[test]
    fn all_files_that_there_may_be_are_allowed() {
        let allowed = raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, allowed);
    }
}
