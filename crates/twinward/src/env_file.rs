//! The file with which `twinward up` tells others where everything is: shell `export` lines.
//!
//! Shells source it; the CLI's other verbs read it with the parser here. The writer quotes every
//! value, and the file appears complete or not at all.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::private_file;

/// The file's name inside the data directory.
pub const FILE_NAME: &str = "twinward.env";

/// The names of the variables in the file.
pub mod variable {
    /// Name that goes into connection strings as `HostName`.
    pub const HOST: &str = "TWINWARD_HOST";
    /// Port of the door for devices, MQTT over TLS.
    pub const MQTTS_PORT: &str = "TWINWARD_MQTTS_PORT";
    /// Port of the REST API for back-end programs, HTTPS.
    pub const HTTPS_PORT: &str = "TWINWARD_HTTPS_PORT";
    /// What back-end programs are given: the access policy `iothubowner`, in Azure's format.
    pub const SERVICE_CONNECTION_STRING: &str = "TWINWARD_SERVICE_CONNECTION_STRING";
    /// What devices that register themselves have to be told: the id scope.
    pub const DPS_ID_SCOPE: &str = "TWINWARD_DPS_ID_SCOPE";
    /// The gRPC door for agents.
    pub const AGENT_URL: &str = "TWINWARD_AGENT_URL";
    /// gRPC of twin-store.
    pub const TWIN_STORE_URL: &str = "TWINWARD_TWIN_STORE_URL";
    /// gRPC of policy.
    pub const POLICY_URL: &str = "TWINWARD_POLICY_URL";
    /// The bearer token that may do everything.
    pub const ADMIN_TOKEN: &str = "TWINWARD_ADMIN_TOKEN";
    /// The NATS server, with its credentials in the address.
    pub const NATS_URL: &str = "TWINWARD_NATS_URL";
    /// Metrics and health of ingestion.
    pub const INGESTION_METRICS_URL: &str = "TWINWARD_INGESTION_METRICS_URL";
    /// Metrics and health of twin-store.
    pub const TWIN_STORE_METRICS_URL: &str = "TWINWARD_TWIN_STORE_METRICS_URL";
    /// Metrics and health of policy.
    pub const POLICY_METRICS_URL: &str = "TWINWARD_POLICY_METRICS_URL";
    /// Metrics and health of the gateway.
    pub const GATEWAY_METRICS_URL: &str = "TWINWARD_GATEWAY_METRICS_URL";
    /// The authority that signed the servers' certificates, when they use TLS.
    pub const CA_FILE: &str = "TWINWARD_CA_FILE";
    /// A file that holds a bearer token, in the place of the token itself.
    pub const TOKEN_FILE: &str = "TWINWARD_TOKEN_FILE";
    /// Our own certificate, for services that ask who we are.
    pub const CLIENT_CERT_FILE: &str = "TWINWARD_CLIENT_CERT_FILE";
    /// The key of our own certificate.
    pub const CLIENT_KEY_FILE: &str = "TWINWARD_CLIENT_KEY_FILE";
    /// Where everything is kept.
    pub const DATA_DIR: &str = "TWINWARD_DATA_DIR";

    /// All of them, in the order in which the file has those that `up` writes.
    pub const ALL: [&str; 19] = [
        HOST,
        MQTTS_PORT,
        HTTPS_PORT,
        SERVICE_CONNECTION_STRING,
        DPS_ID_SCOPE,
        AGENT_URL,
        TWIN_STORE_URL,
        POLICY_URL,
        ADMIN_TOKEN,
        NATS_URL,
        INGESTION_METRICS_URL,
        TWIN_STORE_METRICS_URL,
        POLICY_METRICS_URL,
        GATEWAY_METRICS_URL,
        CA_FILE,
        TOKEN_FILE,
        CLIENT_CERT_FILE,
        CLIENT_KEY_FILE,
        DATA_DIR,
    ];
}

/// A line that is not a comment, not empty, and not `export NAME='value'`.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is not of the form export NAME='value'")]
pub struct Malformed {
    /// Counted from 1.
    pub line: usize,
}

/// Prints the variables in the order given, each value in single quotes.
pub fn print(variables: &[(&str, String)]) -> String {
    let mut text = String::from(
        "# Written by `twinward up` when everything was ready to serve. Holds credentials.\n",
    );
    for (name, value) in variables {
        // Inside single quotes a shell reads everything as it stands but the quote itself.
        let quoted = value.replace('\'', r"'\''");
        text.push_str("export ");
        text.push_str(name);
        text.push_str("='");
        text.push_str(&quoted);
        text.push_str("'\n");
    }
    text
}

/// Writes the file for its owner alone, all at once: a reader sees the old one or the new one.
pub fn write(path: &Path, variables: &[(&str, String)]) -> io::Result<()> {
    private_file::replace(path, print(variables).as_bytes())
}

/// Reads what [`print()`] wrote.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, Malformed> {
    let mut variables = BTreeMap::new();
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let end = rest.find('\n').unwrap_or(rest.len());
        let first = rest[..end].trim();
        if first.is_empty() || first.starts_with('#') {
            rest = rest.get(end + 1..).unwrap_or("");
            line += 1;
            continue;
        }
        let (name, value, after) = assignment(rest.trim_start()).ok_or(Malformed { line })?;
        line += rest[..rest.len() - after.len()].matches('\n').count();
        variables.insert(name, value);
        rest = after;
    }
    Ok(variables)
}

/// Reads one `export NAME='value'`; the value may span lines. Returns what follows it.
fn assignment(text: &str) -> Option<(String, String, &str)> {
    let (name, mut rest) = text.strip_prefix("export ")?.split_once('=')?;
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    let mut value = String::new();
    loop {
        let (part, after) = rest.strip_prefix('\'')?.split_once('\'')?;
        value.push_str(part);
        match after.strip_prefix("\\'") {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None if after.is_empty() => return Some((name.to_owned(), value, after)),
            None => return Some((name.to_owned(), value, after.strip_prefix('\n')?)),
        }
    }
}

/// Where the file of a data directory is.
pub fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const ODD: &str = "it's $HOME `id` \\ \"x\"\n# two lines; 'quoted'";

    fn sample() -> Vec<(&'static str, String)> {
        vec![
            (variable::HOST, "localhost".to_owned()),
            (variable::DATA_DIR, ODD.to_owned()),
            (variable::CA_FILE, String::new()),
        ]
    }

    #[test]
    fn what_was_written_is_read_back() {
        let read = parse(&print(&sample())).unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!(read[variable::HOST], "localhost");
        assert_eq!(read[variable::DATA_DIR], ODD);
        assert_eq!(read[variable::CA_FILE], "");
    }

    #[test]
    fn a_shell_reads_the_same_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.env");
        write(&path, &sample()).unwrap();
        let script = format!(". '{}' && printf %s \"$TWINWARD_DATA_DIR\"", path.display());
        let out = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), ODD);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = parse("# fine\n\nexport A='1'\nexport B=2\n").unwrap_err();
        assert_eq!(error.line, 4);
        assert_eq!(parse("export A='open\n").unwrap_err().line, 1);
    }
}
