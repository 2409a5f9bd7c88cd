//! IoT Hub's doors in `up`: where they listen, and the certificate that they show.
//!
//! Devices and back-end programs always speak TLS, so without a configured certificate `up` makes an authority of its own
//! in the data directory. A configured one is never replaced.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use service_kit::clock::{Clock as _, SystemClock};
use service_kit::error::chain;

use crate::certs::Authority;
use crate::exit::Kind;
use crate::failure::Failure;

/// The port that SDKs of IoT Hub connect to.
pub(super) const MQTTS: u16 = 8883;

/// The port that back-end programs connect to.
pub(super) const HTTPS: u16 = 443;
/// The gateway's own.
const GATEWAY: u16 = 8450;

/// Certificates of our own, as files.
pub(super) struct Own {
    /// What devices must believe.
    pub(super) ca: PathBuf,
    /// The server's.
    pub(super) cert: PathBuf,
    /// The server's key.
    pub(super) key: PathBuf,
}

/// Where devices connect: as asked for, else the port that SDKs know, else any.
pub(super) fn listen(asked: Option<SocketAddr>, any_port: bool) -> SocketAddr {
    first_free(asked, any_port, &[MQTTS])
}

/// Where back-end programs connect: as asked for, else the port that SDKs know, which not everybody
/// may bind, else the gateway's own, else any.
pub(super) fn listen_https(asked: Option<SocketAddr>, any_port: bool) -> SocketAddr {
    first_free(asked, any_port, &[HTTPS, GATEWAY])
}

/// Another hub on this machine, or a broker, is no reason not to start.
fn first_free(asked: Option<SocketAddr>, any_port: bool, usual: &[u16]) -> SocketAddr {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match asked {
        Some(address) => address,
        None if any_port => local(0),
        None => usual
            .iter()
            .map(|port| local(*port))
            .find(|address| TcpListener::bind(address).is_ok())
            .unwrap_or(local(0)),
    }
}

/// Makes the certificates, with the names by which this machine is reached.
pub(super) fn certificates(
    data_dir: &Path,
    host: &str,
    listen: &[SocketAddr],
) -> Result<Own, Failure> {
    let mut names = vec![host.to_owned()];
    let reached = listen
        .iter()
        .map(SocketAddr::ip)
        .filter(|address| !address.is_unspecified())
        .map(|address| address.to_string());
    let usual = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    for name in reached.into_iter().chain(usual) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let made = Authority::open(&data_dir.join("certs"), SystemClock.now())
        .and_then(|authority| Ok((authority.ca_file(), authority.server(&names)?)));
    let (ca, server) = made.map_err(|error| {
        Failure::new(Kind::Failed, "cannot make a certificate for devices").because(chain(&error))
    })?;
    Ok(Own {
        ca,
        cert: server.cert,
        key: server.key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_taken_and_a_taken_port_is_not() {
        let asked = SocketAddr::from(([127, 0, 0, 7], 1));
        assert_eq!(listen(Some(asked), true), asked);
        assert_eq!(listen(None, true).port(), 0);
        let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, MQTTS));
        // Whether it is free here or not, it is taken now.
        let _taken = TcpListener::bind(usual);
        assert_eq!(listen(None, false).port(), 0);
    }
}
