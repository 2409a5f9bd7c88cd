//! Which instances of ingestion there are, so that a device that none of them holds is known to be
//! away at once, and not by their silence.
//!
//! Each says every second that it is there; one that has not for a while may have ended. Nothing
//! is decided on it but how long a search goes on: where it is wrong, a search takes longer, or a
//! device that came in this second to an instance that began in it is called absent.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Bus, HintError};
use prost::Message as _;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tokio::time::Instant;
use wire::bus::v1::InstanceAlive;
use wire::subjects;

/// How long an instance that is not heard of is waited for: three of its beats.
const FORGET_AFTER: Duration = Duration::from_secs(3);

/// How long it must have listened to know all of them.
const LISTENED_FOR: Duration = Duration::from_secs(2);

/// Between two attempts to listen.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The instances, by where each takes calls. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roster {
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    /// Since when it listens without a gap.
    since: Option<Instant>,
    last: HashMap<String, Instant>,
}

impl Roster {
    /// Listens until the service stops.
    pub(crate) async fn follow(self, bus: Bus, shutdown: ShutdownToken) {
        while let Some(ended) = shutdown.run_until(self.listen(&bus)).await {
            if let Err(error) = ended {
                let error = chain(&error);
                tracing::warn!(error, "cannot listen for instances of ingestion");
            }
            self.lock().since = None;
            let pause = tokio::time::sleep(AGAIN_AFTER);
            if shutdown.run_until(pause).await.is_none() {
                return;
            }
        }
    }

    async fn listen(&self, bus: &Bus) -> Result<(), HintError> {
        let mut link = bus.link();
        let mut beats = bus.listen(subjects::INSTANCES_SUBJECT).await?;
        self.lock().since = Some(Instant::now());
        loop {
            tokio::select! {
                beat = beats.recv() => {
                    let Some(beat) = beat else { return Ok(()) };
                    // What cannot be read comes from a version that we do not know.
                    if let Ok(alive) = InstanceAlive::decode(&*beat.payload) {
                        if alive.ended {
                            self.lock().last.remove(&alive.subject);
                        } else {
                            self.heard(alive.subject, Instant::now());
                        }
                    }
                }
                // Beats that were sent while we were cut off are lost.
                changed = link.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.lock().since = Some(Instant::now());
                }
            }
        }
    }

    fn heard(&self, subject: String, now: Instant) {
        let mut heard = self.lock();
        heard
            .last
            .retain(|_, last| now.duration_since(*last) < FORGET_AFTER);
        heard.last.insert(subject, now);
    }

    /// Whether these are all that there are.
    pub(super) fn is_whole(&self, those: &BTreeSet<String>, now: Instant) -> bool {
        let heard = self.lock();
        let listened = heard
            .since
            .is_some_and(|since| now.duration_since(since) >= LISTENED_FOR);
        let alive = heard.last.iter();
        let mut alive = alive.filter(|(_, last)| now.duration_since(**last) < FORGET_AFTER);
        listened && alive.all(|(subject, _)| those.contains(subject))
    }

    /// The guarded maps are changed in steps that cannot panic in between.
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn those(subjects: &[&str]) -> BTreeSet<String> {
        subjects.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_are_those_that_were_heard_of_lately() {
        let roster = Roster::default();
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        roster.heard("a".to_owned(), begin);
        assert!(
            !roster.is_whole(&those(&["a"]), begin),
            "it has not listened"
        );
        roster.lock().since = Some(begin);
        assert!(
            !roster.is_whole(&those(&["a"]), after(1)),
            "not for long enough"
        );
        assert!(roster.is_whole(&those(&["a"]), after(2)));
        roster.heard("b".to_owned(), after(2));
        assert!(!roster.is_whole(&those(&["a"]), after(2)), "b may have it");
        assert!(roster.is_whole(&those(&["a", "b"]), after(2)));
        assert!(roster.is_whole(&those(&["b"]), after(4)), "a has ended");
        roster.heard("b".to_owned(), after(4));
        assert_eq!(roster.lock().last.len(), 1, "it is forgotten");
    }
}
