//! How many files this program may have open: each connection is one.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};

/// File descriptors for everything but the connections.
const OTHERS: u64 = 256;

/// Sees to it that so many connections are allowed: many systems give a process 1024 files at first.
pub fn allow(connections: u32) -> Result<()> {
    let needed = u64::from(connections) + OTHERS;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        ensure!(
            limit.maximum.is_none_or(|maximum| maximum >= needed),
            "{connections} connections need {needed} open files, and this system allows {:?}; raise \
             the hard limit (`ulimit -Hn`, LimitNOFILE of systemd)",
            limit.maximum
        );
        limit.current = limit.maximum.or(Some(needed));
        setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")?;
    }
    Ok(())
}
