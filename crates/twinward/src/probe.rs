//! Looks at a part from outside: its HTTP pages of health and metrics, and the greeting of a NATS
//! server. Plain requests to addresses that the operator's own configuration names; no credentials.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Bytes of a page that are read: our metrics have few labels, so theirs is far smaller.
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// Why a part cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The address is not one we can ask.
    #[error("`{url}` is not http://host:port")]
    Url {
        /// The address.
        url: String,
    },
    /// Nobody answers there.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It takes too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Something else answers there.
    #[error("what answers there is not a part of Twinward: {0}")]
    Strange(String),
}

/// What `/readyz` says.
#[derive(Debug, Deserialize)]
pub(crate) struct Readiness {
    /// Whether the service should be sent work.
    pub(crate) ready: bool,
    /// Whether it is on its way out.
    #[serde(default)]
    pub(crate) stopping: bool,
    /// Its parts by name.
    #[serde(default)]
    pub(crate) components: BTreeMap<String, ComponentState>,
}

/// The state of a part of a service.
#[derive(Debug, Deserialize)]
pub(crate) struct ComponentState {
    /// `starting`, `serving`, `degraded` or `failed`.
    pub(crate) state: String,
    /// Why it is degraded or has failed.
    #[serde(default)]
    pub(crate) reason: String,
}

/// What a NATS server says of itself when somebody connects.
#[derive(Debug, Deserialize)]
pub(crate) struct NatsGreeting {
    /// For instance `2.15.1`.
    pub(crate) version: String,
    /// Whether JetStream is on.
    #[serde(default)]
    pub(crate) jetstream: bool,
}

/// Asks a service whether it is ready.
pub(crate) async fn readiness(base: &str, within: Duration) -> Result<Readiness, ProbeError> {
    let body = get(base, "/readyz", within).await?;
    serde_json::from_str(&body).map_err(|error| ProbeError::Strange(error.to_string()))
}

/// Reads a service's numbers, summed over their labels.
pub(crate) async fn metrics(
    base: &str,
    within: Duration,
) -> Result<BTreeMap<String, f64>, ProbeError> {
    Ok(parse_metrics(&get(base, "/metrics", within).await?))
}

/// Reads the greeting of a NATS server.
pub(crate) async fn nats(url: &str, within: Duration) -> Result<NatsGreeting, ProbeError> {
    let address = url.split_once("://").map_or(url, |(_, rest)| rest);
    let address = address
        .rsplit_once('@')
        .map_or(address, |(_, host)| host)
        .trim_end_matches('/');
    let greet = async {
        let mut line = String::new();
        let stream = TcpStream::connect(address).await?;
        BufReader::new(stream.take(PAGE_BYTES_MAX))
            .read_line(&mut line)
            .await?;
        Ok::<_, ProbeError>(line)
    };
    let line = tokio::time::timeout(within, greet)
        .await
        .map_err(|_| ProbeError::Timeout(within))??;
    line.strip_prefix("INFO ")
        .and_then(|json| serde_json::from_str(json).ok())
        .ok_or_else(|| ProbeError::Strange("it does not greet as a NATS server".to_owned()))
}

/// One GET. HTTP/1.0, so that the answer ends with the connection and comes in one piece.
async fn get(base: &str, path: &str, within: Duration) -> Result<String, ProbeError> {
    let address = base
        .strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'))
        .filter(|address| address.contains(':') && !address.contains('/'))
        .ok_or_else(|| ProbeError::Url {
            url: base.to_owned(),
        })?;
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream
            .take(PAGE_BYTES_MAX)
            .read_to_string(&mut answer)
            .await?;
        Ok::<_, ProbeError>(answer)
    };
    let answer = tokio::time::timeout(within, ask)
        .await
        .map_err(|_| ProbeError::Timeout(within))??;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.") => Ok(body.to_owned()),
        Some(_) | None => Err(ProbeError::Strange("it does not speak HTTP".to_owned())),
    }
}

/// Reads `name{labels} value` lines; what is not one is passed over.
fn parse_metrics(page: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name_end = line.find(['{', ' ']).unwrap_or(line.len());
        let rest = match line[name_end..].strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}').map_or("", |(_, rest)| rest),
            None => &line[name_end..],
        };
        let value = rest
            .split_whitespace()
            .next()
            .and_then(|text| text.parse::<f64>().ok());
        if let Some(value) = value {
            *sums.entry(line[..name_end].to_owned()).or_insert(0.0) += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let page = "# TYPE a gauge\n\
                    a{partition=\"1\"} 2\n\
                    a{partition=\"2\",text=\"x} y\"} 3.5\n\
                    b 7\n\
                    nonsense\n\
                    # EOF\n";
        let sums = parse_metrics(page);
        assert_eq!(sums.len(), 2);
        assert!((sums["a"] - 5.5).abs() < f64::EPSILON);
        assert!((sums["b"] - 7.0).abs() < f64::EPSILON);
    }

    #[tokio::test]
    async fn what_answers_but_is_not_ours_is_told_apart_from_nobody() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}");
        let stranger = async {
            let (mut peer, _) = listener.accept().await.unwrap();
            peer.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        };
        let (answer, ()) = tokio::join!(readiness(&url, Duration::from_secs(5)), stranger);
        let error = answer.unwrap_err();
        assert!(
            matches!(error, ProbeError::Strange(_) | ProbeError::Io(_)),
            "{error:?}"
        );
        drop(listener);
        let error = readiness(&url, Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, ProbeError::Io(_)), "{error:?}");
    }
}
