//! What a gRPC server that is open to the internet keeps of those who have proven nothing. What their calls
//! bring is bounded in `auth/layer/strangers.rs`; here it is what lies on a connection.

use super::GrpcServer;

/// What a connection of strangers may have sent that nobody has read yet, while it is found out who it
/// is: the least that HTTP/2 knows. An agent far away (100 ms) may still send 640 KiB/s.
const STRANGERS_WINDOW: u32 = 65_535;

/// Calls that such a connection may have open. Agents have one, and a device's link is one.
const STRANGERS_STREAMS: u32 = 32;

impl GrpcServer {
    /// Prepares for strangers on the internet: what may be under way for somebody who has proven nothing
    /// is bounded tightly. `reads_first` are calls of open services (`/package.Service/Method`) that read
    /// a whole message before they know who calls; it has to be a small one.
    #[must_use]
    pub fn for_strangers(mut self, reads_first: &[&'static str]) -> Self {
        self.auth = self.auth.reads_first(reads_first);
        self.server = self
            .server
            .initial_stream_window_size(STRANGERS_WINDOW)
            .initial_connection_window_size(STRANGERS_WINDOW)
            .max_concurrent_streams(STRANGERS_STREAMS);
        self
    }
}
