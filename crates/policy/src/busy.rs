//! Whether changes of twins are being worked off, for whoever lets them go first.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How many batches of changes are being worked off. Clones share the number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Busy(Arc<watch::Sender<usize>>);

/// A batch that is being worked off, for as long as it lives.
#[derive(Debug)]
pub(crate) struct AtWork(Busy);

impl Busy {
    /// A batch begins.
    pub(crate) fn begin(&self) -> AtWork {
        self.0.send_modify(|count| *count += 1);
        AtWork(self.clone())
    }

    /// Waits until nothing is worked off, but no longer than this.
    pub(crate) async fn idle(&self, at_most: Duration) {
        let mut count = self.0.subscribe();
        // It ends by time or because it is quiet; for who waits both are the same.
        let _ = tokio::time::timeout(at_most, count.wait_for(|count| *count == 0)).await;
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0
            .0
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_when_all_batches_are_done_or_its_time_is_over() {
        let busy = Busy::default();
        let began = tokio::time::Instant::now();
        busy.idle(Duration::from_secs(1)).await;
        assert_eq!(began.elapsed(), Duration::ZERO);

        let (one, other) = (busy.begin(), busy.begin());
        busy.idle(Duration::from_secs(1)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        drop(one);
        let waiting = busy.idle(Duration::from_mins(1));
        let ending = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(other);
        };
        tokio::join!(waiting, ending);
        assert_eq!(began.elapsed(), Duration::from_secs(2));
    }
}
