//! Load balancers that pass connections on with the PROXY protocol (version 2): whose connections they
//! are, so that limits and logs are about devices and callers, and not about the balancer before them
//! all.
//!
//! The header is believed of configured addresses alone, because whoever may write it is whoever it
//! says. It never guesses: a connection of a balancer without a header is closed, and from elsewhere a
//! header is no TLS and fails as that.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::places::Bounds;

/// What each header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length of the rest.
const FIXED: usize = 16;
/// The most bytes that follow: addresses, and what balancers add to them (identities of endpoints, what
/// TLS told), which is passed over. Those of clouds have less than a hundred.
const REST_MAX: u16 = 4096;

/// Connections of balancers whose header may be waited for at the same time, of all and of one: it comes
/// with the connection. A balancer that hangs, or whatever else has an address of theirs, leaves half of
/// what there is to the others; most fleets have one before them, and all come back at once.
pub const HEADERS_MAX: Bounds = Bounds {
    all: 4096,
    of_network: 2048,
};

/// Addresses and networks of load balancers, separated by commas: `10.0.0.5, 10.1.0.0/16, fd00::/8`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Balancers(Vec<Network>);

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

/// What is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no address and no network; want for instance 10.0.0.5 or 10.1.0.0/16, separated by commas"
)]
pub struct NoNetwork {
    text: String,
}

/// Why a connection of a balancer is closed.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It ended first, as the looks of a balancer that only wants to know whether we listen do.
    #[error("the connection ended within the header of the PROXY protocol")]
    Ended(#[source] io::Error),
    /// It is no header of version 2.
    #[error("no header of the PROXY protocol (version 2): {0}")]
    Malformed(&'static str),
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let wrong = || NoNetwork {
            text: text.to_owned(),
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().map_err(|_| wrong())?;
        let most = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| wrong())?,
            None => most,
        };
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Network {
    fn has(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                // All of them differ by 0 bits: a shift by the whole width is none.
                let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                u32::from(ours) & mask == u32::from(theirs) & mask
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                u128::from(ours) & mask == u128::from(theirs) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl TryFrom<String> for Balancers {
    type Error = NoNetwork;

    fn try_from(text: String) -> Result<Self, NoNetwork> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        Ok(Self(parts.map(str::parse).collect::<Result<_, _>>()?))
    }
}

impl From<Balancers> for String {
    fn from(balancers: Balancers) -> String {
        let networks: Vec<_> = balancers.0.iter().map(Network::to_string).collect();
        networks.join(",")
    }
}

impl Balancers {
    /// Whether a connection comes from one of them.
    pub fn have(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.has(address))
    }
}

/// Reads the header of a connection that a balancer has made, and answers whose it is. That of the
/// balancer's own looks is the balancer's. Nothing behind the header is read.
///
/// # Errors
/// There is none, or the connection ended.
pub async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
    balancer: SocketAddr,
) -> Result<SocketAddr, HeaderError> {
    let mut fixed = [0; FIXED];
    // What does not begin as a header does is not waited for: TLS may have less to say.
    stream
        .read_exact(&mut fixed[..SIGNATURE.len()])
        .await
        .map_err(HeaderError::Ended)?;
    if fixed[..SIGNATURE.len()] != SIGNATURE {
        return Err(HeaderError::Malformed("it begins with something else"));
    }
    stream
        .read_exact(&mut fixed[SIGNATURE.len()..])
        .await
        .map_err(HeaderError::Ended)?;
    let [.., command, family, high, low] = fixed;
    let length = u16::from_be_bytes([high, low]);
    if length > REST_MAX {
        return Err(HeaderError::Malformed("it is too long"));
    }
    let mut rest = vec![0; usize::from(length)];
    stream
        .read_exact(&mut rest)
        .await
        .map_err(HeaderError::Ended)?;
    match (command, family) {
        // The balancer itself, or who cannot be told.
        (0x20, _) | (0x21, 0x00) => Ok(balancer),
        (0x21, 0x11) => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = first(&rest)?;
            let port = u16::from_be_bytes([high, low]);
            Ok(SocketAddr::from((Ipv4Addr::new(a, b, c, d), port)))
        }
        (0x21, 0x21) => {
            let all: [u8; 36] = first(&rest)?;
            let mut address = [0; 16];
            address.copy_from_slice(&all[..16]);
            let port = u16::from_be_bytes([all[32], all[33]]);
            let address = IpAddr::from(Ipv6Addr::from(address)).to_canonical();
            Ok(SocketAddr::new(address, port))
        }
        (0x21, _) => Err(HeaderError::Malformed("it is of no TCP connection")),
        (_, _) => Err(HeaderError::Malformed("it is of another version")),
    }
}

fn first<const N: usize>(rest: &[u8]) -> Result<[u8; N], HeaderError> {
    let found = rest.first_chunk().copied();
    found.ok_or(HeaderError::Malformed("its addresses are cut off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BALANCER: ([u8; 4], u16) = ([10, 0, 0, 5], 4711);

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    /// Whose connection it is, and what is left to be read.
    async fn read(bytes: &[u8]) -> Result<(SocketAddr, Vec<u8>), HeaderError> {
        let mut stream = bytes;
        let whose = read_header(&mut stream, SocketAddr::from(BALANCER)).await?;
        Ok((whose, stream.to_vec()))
    }

    #[tokio::test]
    async fn whose_a_connection_is_is_read_and_nothing_of_what_follows() {
        let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0x30, 0x39, 0x22, 0xb3];
        let mut v6 = Vec::from("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend([0x30, 0x39, 0x22, 0xb3]);
        let mut with_more = v4.to_vec();
        with_more.extend([0x04, 0x00, 0x01, 0x00]);
        for (head, wanted) in [
            (header(0x21, 0x11, &v4), "203.0.113.7:12345"),
            (header(0x21, 0x11, &with_more), "203.0.113.7:12345"),
            (header(0x21, 0x21, &v6), "[2001:db8::7]:12345"),
            (header(0x20, 0x00, &[]), "10.0.0.5:4711"),
            (header(0x21, 0x00, &[]), "10.0.0.5:4711"),
        ] {
            let mut bytes = head;
            bytes.extend(b"\x16\x03\x01");
            let (whose, rest) = read(&bytes).await.expect(wanted);
            assert_eq!(whose.to_string(), wanted);
            assert_eq!(rest, b"\x16\x03\x01");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_with_the_reason() {
        let long = vec![0; usize::from(REST_MAX) + 1];
        for (bytes, wanted) in [
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00".to_vec(),
                "something else",
            ),
            (
                b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\n".to_vec(),
                "something else",
            ),
            (header(0x11, 0x11, &[0; 12]), "another version"),
            (header(0x21, 0x12, &[0; 12]), "no TCP connection"),
            (header(0x21, 0x11, &[0; 11]), "cut off"),
            (header(0x21, 0x21, &[0; 35]), "cut off"),
            (header(0x21, 0x11, &long), "too long"),
            (SIGNATURE.to_vec(), "ended"),
            (header(0x21, 0x11, &[0; 12])[..20].to_vec(), "ended"),
            (Vec::new(), "ended"),
        ] {
            let error = read(&bytes).await.expect_err(wanted);
            assert!(error.to_string().contains(wanted), "{error} {bytes:?}");
        }
    }

    #[test]
    fn networks_are_read_and_have_what_begins_as_they_do() {
        let text = "10.0.0.5, 10.1.0.0/16,fd00::/8,";
        let balancers = Balancers::try_from(text.to_owned()).expect("networks");
        for (address, wanted) in [
            ("10.0.0.5", true),
            ("::ffff:10.0.0.5", true),
            ("10.0.0.6", false),
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("fdff::1", true),
            ("fe00::1", false),
        ] {
            assert_eq!(
                balancers.have(address.parse().unwrap()),
                wanted,
                "{address}"
            );
        }
        let printed = String::from(balancers.clone());
        assert_eq!(printed, "10.0.0.5/32,10.1.0.0/16,fd00::/8");
        assert_eq!(Balancers::try_from(printed), Ok(balancers));
        let all = Balancers::try_from("0.0.0.0/0".to_owned()).expect("a network");
        assert!(all.have(Ipv4Addr::BROADCAST.into()) && !all.have(Ipv6Addr::LOCALHOST.into()));
        assert!(!Balancers::default().have(Ipv4Addr::LOCALHOST.into()));
        for wrong in ["balancer", "10.0.0.0/33", "10.0.0.0/x", "10.0.0/8"] {
            let error = Balancers::try_from(wrong.to_owned()).expect_err(wrong);
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}
