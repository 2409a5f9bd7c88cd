//! Places before and after every durable step, where a test can end the process as a power cut or
//! `kill -9` would. Compiled into tests of this crate only; elsewhere a call is nothing.

/// The places in the order in which a life of the embedded store comes by.
#[cfg(test)]
pub(crate) const SQLITE: &[&str] = &[
    "migrate.written",
    "migrate.durable",
    "claim.written",
    "claim.durable",
    "writer.decided",
    "commit.begun",
    "commit.fenced",
    "commit.twins",
    "commit.written",
    "commit.durable",
    "writer.committed",
    "writer.answered",
    "trim.written",
    "trim.durable",
    "release.written",
    "release.durable",
    "close.readers",
    "close.writer",
];

/// Those of the shared store. The statements of one commit run beside each other, so those between
/// `fenced` and `written` come in any order, and with each another part of the rest is done.
#[cfg(test)]
pub(crate) const POSTGRES: &[&str] = &[
    "migrate.written",
    "migrate.durable",
    "claim.written",
    "claim.durable",
    "writer.decided",
    "commit.begun",
    "commit.fenced",
    "commit.twins",
    "commit.cleared",
    "commit.indexed",
    "commit.moved",
    "commit.logged",
    "commit.kept",
    "commit.audited",
    "commit.told",
    "commit.counted",
    "commit.written",
    "commit.durable",
    "writer.committed",
    "writer.answered",
    "trim.written",
    "trim.durable",
    "release.written",
    "release.durable",
];

/// Those between NATS and the store.
#[cfg(test)]
pub(crate) const BUS: &[&str] = &[
    "consumer.fetched",
    "consumer.folded",
    "outbox.read",
    "outbox.published",
    "outbox.told",
];

/// Those of a note that a twin is damaged.
#[cfg(test)]
pub(crate) const QUARANTINE: &[&str] = &["quarantine.written", "quarantine.durable"];

/// Those of taking a note away whose row is gone.
#[cfg(test)]
pub(crate) const SWEEP: &[&str] = &["sweep.written", "sweep.durable"];

/// Those of a start that makes an index anew which a process before it could not rely on.
#[cfg(test)]
pub(crate) const MEND: &[&str] = &["mend.begun", "mend.noted", "mend.made", "mend.durable"];

/// Those of the first start, when the master key is made.
#[cfg(test)]
pub(crate) const MASTER_KEY: &[&str] = &["key.written", "key.synced", "key.named", "key.durable"];

/// Those of a restore; in a database there is no file to be put together and named.
#[cfg(test)]
pub(crate) const RESTORE: &[&str] = &[
    "restore.written",
    "restore.durable",
    "restore.checkpointed",
    "restore.named",
];

#[cfg(test)]
static ARMED: std::sync::Mutex<Option<(String, u32)>> = std::sync::Mutex::new(None);

/// Ends the process when this place is come by for the `nth` time from now on.
#[cfg(test)]
pub(crate) fn arm(name: &str, nth: u32) {
    *ARMED.lock().expect("nobody panics with it") = Some((name.to_owned(), nth));
}

/// Comes by a place.
#[cfg(test)]
pub(crate) fn hit(name: &'static str) {
    let mut armed = ARMED.lock().expect("nobody panics with it");
    if let Some((at, left)) = armed.as_mut()
        && at == name
    {
        *left -= 1;
        if *left == 0 {
            std::process::abort();
        }
    }
}

/// Comes by a place.
#[cfg(not(test))]
#[inline]
pub(crate) const fn hit(_: &'static str) {}
