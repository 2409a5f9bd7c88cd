//! Every limit of events and postures, with its reason.
//!
//! A limit here bounds what one event may hold or what one posture may keep. Limits of messages
//! and queues live with the services that own them.

/// Most bytes of a file path or an executable: Linux's own `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;

/// Most bytes of a command line. Longer ones exist, but what tells programs apart stands in front;
/// agents cut to this length before they send, so an event stays far below a message's limit.
pub const COMMAND_LINE_BYTES_MAX: usize = 4096;

/// Most bytes of a name: user, group, terminal, collector, interface, version. Linux allows 32 for
/// users and 255 for file and host names; the larger serves all.
pub const NAME_BYTES_MAX: usize = 255;

/// Most bytes of a free text such as the reason of a collector's state.
pub const REASON_BYTES_MAX: usize = 1024;

/// Most entries in one snapshot of listening ports. A host with more is a port scanner's honeypot
/// or broken; the agent sends the first 1024 of its sorted list.
pub const LISTENING_PORTS_MAX: usize = 1024;

/// Most entries in one snapshot of local users.
pub const LOCAL_USERS_MAX: usize = 1024;

/// Most groups of one local user; Linux allows 65536 but NFS and most tools stop at 16-64.
pub const USER_GROUPS_MAX: usize = 256;

/// Most network interfaces in one system information event: container hosts have hundreds.
pub const INTERFACES_MAX: usize = 256;

/// Most addresses of one network interface.
pub const INTERFACE_ADDRESSES_MAX: usize = 64;

/// Most collectors in one agent status. The micro agent documents twelve.
pub const COLLECTORS_MAX: usize = 64;

/// Highest sequence number of a lane: the largest integer that JSON readers keep exactly (2^53-1).
/// At a million events a second a lane needs 285 years to reach it.
pub const SEQUENCE_MAX: u64 = (1 << 53) - 1;

/// Most missing ranges kept per lane epoch. More than a few mean a broken link or a full spool; past
/// the bound the oldest range is given up and counts as lost, so that a posture stays small.
pub const MISSING_RANGES_MAX: usize = 32;

/// Earlier epochs of a lane that are still told apart, so that a late batch of an agent that was
/// reinstalled takes effect once. More reinstallations within one redelivery are not credible.
pub const PREVIOUS_EPOCHS_MAX: usize = 4;

/// Security messages of IoT Hub that a posture remembers by their keys. A device sends again what was
/// not acknowledged; ingestion reads at most 16 ahead of their acknowledgements, and as many again
/// may be lost with a connection.
pub const MESSAGE_KEYS_MAX: usize = 32;

/// Most recent entries a posture keeps per activity: enough for a person to see what is going on;
/// the full record is the event stream.
pub const RECENT_MAX: usize = 16;

/// Most listening ports a posture shows. Every change of a twin carries the whole document, so its
/// size is paid with each event; the number beside the list says how many there are in all.
pub const POSTURE_LISTENING_PORTS_MAX: usize = 256;

/// Most local users a posture shows, for the same reason.
pub const POSTURE_LOCAL_USERS_MAX: usize = 256;

/// Most bytes of a text in a recent entry; longer ones are cut with an ellipsis.
pub const POSTURE_TEXT_BYTES_MAX: usize = 256;

/// Most invalid fields kept of one rejected configuration: there are about fifty known keys.
pub const INVALID_FIELDS_MAX: usize = 64;

/// Shortest priority interval. The micro agent's unit is the minute and its least value 1; we
/// accept decimals down to 0.05 min (3 s), because a posture that should be seconds old needs
/// agents that may send every few seconds.
pub const PRIORITY_INTERVAL_MINUTES_MIN: f64 = 0.05;

/// Longest priority interval, one year: a longer one is a mistake.
pub const PRIORITY_INTERVAL_MINUTES_MAX: f64 = 525_600.0;

/// Largest cache a collector may be given, in entries: bounds the agent's memory.
pub const COLLECTOR_CACHE_MAX: u64 = 1_000_000;

/// Largest packet buffer, in bytes (1 GiB).
pub const PACKET_BUFFER_BYTES_MAX: u64 = 1 << 30;

/// Longest time the agent may keep unsent messages, in minutes (one year).
pub const MESSAGE_TIMEOUT_MINUTES_MAX: u64 = 525_600;

/// Longest polling interval of the process collector, in microseconds (one hour).
pub const POLLING_INTERVAL_MICROS_MAX: u64 = 3_600_000_000;

/// Shortest polling interval of the process collector, in microseconds: reading all of `/proc` takes
/// about this long on a small device, and a shorter interval would take a whole core.
pub const POLLING_INTERVAL_MICROS_MIN: u64 = 1_000;

/// Most entries of a comma-separated list (paths, interfaces, checks).
pub const LIST_ENTRIES_MAX: usize = 256;
