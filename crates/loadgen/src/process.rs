//! What another process of this machine takes of memory, as the system counts it.

use std::fs;

use anyhow::{Context as _, Result};

/// Bytes that a process has in memory now.
pub fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    resident_in(&text).with_context(|| format!("{path} does not say VmRSS"))
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t  30 kB\nVmRSS:\t   12 kB\n";
        assert_eq!(resident_in(status), Some(12 << 10));
        assert_eq!(resident_in("Name:\tx\n"), None);
        assert!(resident(std::process::id()).unwrap() > 0);
    }
}
