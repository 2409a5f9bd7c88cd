//! The server's configuration file. It holds the token, so it is private.

use std::path::Path;

use service_kit::secret::Secret;

/// Name of the configuration file.
pub(super) const FILE_NAME: &str = "nats-server.conf";
/// Name of the log.
pub(super) const LOG_FILE: &str = "nats-server.log";
/// Name of the file with what is said before the log is open.
pub(super) const EARLY_LOG_FILE: &str = "nats-server.start.log";

/// What the server may keep on disk, in gigabytes. A stream reserves its bound when it is made, so
/// this must be above the sum of all bounds (16 partitions of 1.25 GiB); the server's own default,
/// three quarters of the free disk, would keep a small disk from starting at all.
const FILE_STORE_GB: u32 = 256;

/// The text of the file.
pub(super) fn text(directory: &Path, port: u16, token: &Secret) -> String {
    format!(
        r#"# Written by `twinward up` at every start; changes are lost.
server_name: twinward
listen: "127.0.0.1:{port}"
# Packed batches of events, with room; the default of 1 MiB is the least that is enough.
max_payload: 8MB
authorization {{
  token: {token}
}}
jetstream {{
  store_dir: {store}
  # Nothing is confirmed before it is on disk.
  sync_interval: always
  max_file_store: {FILE_STORE_GB}GB
}}
log_file: {log}
logfile_size_limit: 10MB
logfile_max_num: 3
"#,
        token = quote(token.expose()),
        store = quote(&directory.join("jetstream").to_string_lossy()),
        log = quote(&directory.join(LOG_FILE).to_string_lossy()),
    )
}

/// A string as the server reads it back.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
