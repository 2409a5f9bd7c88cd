//! Runs one collector: asks it to look when its source stirs or its interval comes, and passes on
//! what it hands out. Decides when to look, never what it means.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use posture::Lane;
use service_kit::clock::SharedClock;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep_until};

use super::{Collector, Health, Observation, Wakeup};

/// Gathered observations live in memory only, where a kill loses them, so they are handed out at
/// least this often. Longer would gather more, shorter would lose less.
const GATHER_MAX: Duration = Duration::from_secs(10);

/// A look that takes long is made rarer, so that no collector takes more than a hundredth of a core.
const REST_PER_WORK: u32 = 100;

/// What the engine asks of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// The lane's interval came: hand out the full state and everything gathered.
    Snapshot,
    /// Hand out everything gathered.
    Flush,
}

/// What collectors tell the engine, in order.
#[derive(Debug)]
pub(crate) enum Report {
    /// Something was seen.
    Observed {
        lane: Lane,
        observations: Vec<Observation>,
    },
    /// The collector's health is now this.
    Health { name: &'static str, health: Health },
    /// A request was carried out; everything it yielded was told before.
    Answered { round: u64 },
}

/// One collector and its channels.
pub(crate) struct Driver {
    pub(crate) name: &'static str,
    pub(crate) lane: Lane,
    pub(crate) collector: Box<dyn Collector>,
    /// Each with the round in which it was asked. Closed when the collector is no longer wanted.
    pub(crate) requests: mpsc::Receiver<(Request, u64)>,
    pub(crate) reports: mpsc::Sender<Report>,
    pub(crate) clock: SharedClock,
}

/// Why the collector is asked.
enum Cause {
    Stirred,
    GatheredLongEnough,
    Asked(Request, u64),
    NoLongerWanted,
}

/// The engine is gone; there is nobody to tell.
struct Unheard;

impl Driver {
    /// Runs until the collector is no longer wanted.
    pub(crate) async fn run(mut self) {
        // An error means that the engine stops; so does this.
        let _ = self.follow().await;
    }

    fn health_report(&self, health: &Health) -> Report {
        Report::Health {
            name: self.name,
            health: health.clone(),
        }
    }

    async fn follow(&mut self) -> Result<(), Unheard> {
        let mut health = self.collector.health();
        tell(&self.reports, self.health_report(&health)).await?;
        let mut source = Source::of(self.collector.as_ref());
        let mut hand_out_at = Instant::now() + GATHER_MAX;
        loop {
            let cause = tokio::select! {
                request = self.requests.recv() => match request {
                    Some((request, round)) => Cause::Asked(request, round),
                    None => Cause::NoLongerWanted,
                },
                () = source.stirred() => Cause::Stirred,
                () = sleep_until(hand_out_at) => Cause::GatheredLongEnough,
            };
            let began = self.clock.monotonic();
            let now = self.clock.now();
            let mut out = Vec::new();
            // The sources are files and tables of the kernel: quick, but not to be waited for.
            block_in_place(|| match cause {
                Cause::Stirred => self.collector.observe(now, &mut out),
                Cause::Asked(Request::Snapshot, _) => self.collector.snapshot(now, &mut out),
                Cause::Asked(Request::Flush, _) => {
                    // What the kernel holds for us was seen under the old configuration, too.
                    self.collector.observe(now, &mut out);
                    self.collector.flush(&mut out);
                }
                Cause::GatheredLongEnough | Cause::NoLongerWanted => {
                    self.collector.flush(&mut out);
                }
            });
            source.rest(self.clock.monotonic().duration_since(began));
            if !matches!(cause, Cause::Stirred) {
                hand_out_at = Instant::now() + GATHER_MAX;
            }
            if !out.is_empty() {
                tell(
                    &self.reports,
                    Report::Observed {
                        lane: self.lane,
                        observations: out,
                    },
                )
                .await?;
            }
            let found = self.collector.health();
            if found != health {
                health = found;
                tell(&self.reports, self.health_report(&health)).await?;
                // A collector that changed its ways may have changed its source.
                source = Source::of(self.collector.as_ref());
            }
            match cause {
                Cause::Asked(_, round) => tell(&self.reports, Report::Answered { round }).await?,
                Cause::NoLongerWanted => return Ok(()),
                Cause::Stirred | Cause::GatheredLongEnough => {}
            }
        }
    }
}

/// Tells the engine, waiting while it has more than enough to do. Apart from the driver, because a
/// collector need not be safe to share between threads.
async fn tell(reports: &mpsc::Sender<Report>, report: Report) -> Result<(), Unheard> {
    reports.send(report).await.map_err(|_| Unheard)
}

/// When a collector wants to look.
enum Source {
    Polled { interval: Duration, next: Instant },
    Watched(AsyncFd<OwnedFd>),
    Silent,
}

impl Source {
    fn of(collector: &dyn Collector) -> Self {
        match collector.wakeup() {
            Wakeup::Every(interval) => Self::Polled {
                interval,
                next: Instant::now(),
            },
            Wakeup::Readable(descriptor) => match watch(descriptor) {
                Ok(watched) => Self::Watched(watched),
                Err(error) => {
                    // Only a runtime that ends refuses; the collector then still answers requests.
                    tracing::warn!(%error, "cannot wait for a collector's source");
                    Self::Silent
                }
            },
            Wakeup::Never => Self::Silent,
        }
    }

    /// Waits until there is something to look at. Safe to drop at any time.
    async fn stirred(&mut self) {
        match self {
            Self::Polled { next, .. } => sleep_until(*next).await,
            Self::Watched(watched) => match watched.readable().await {
                // The collector reads until nothing is left, so readiness may be forgotten now:
                // what comes later makes it ready again.
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => std::future::pending().await,
            },
            Self::Silent => std::future::pending().await,
        }
    }

    /// Plans the next look after one that took so long.
    fn rest(&mut self, took: Duration) {
        if let Self::Polled { interval, next } = self {
            *next = Instant::now() + (*interval).max(took * REST_PER_WORK);
        }
    }
}

#[expect(
    deprecated,
    reason = "deprecated because it trusts its argument to keep its descriptor, which an OwnedFd \
              does; the replacement is unsafe"
)]
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use posture::EventPayload;
    use posture::agent_config::FileSystemConfiguration;
    use service_kit::clock::SystemClock;
    use service_kit::tasks::{OnFailure, Tasks};
    use tokio::time::timeout;

    use super::*;
    use crate::collectors::file_system::FileSystem;
    use crate::collectors::heartbeat::Heartbeat;

    struct Running {
        requests: mpsc::Sender<(Request, u64)>,
        reports: mpsc::Receiver<Report>,
    }

    fn start(collector: impl Collector + 'static) -> Running {
        let (requests, receiver) = mpsc::channel(4);
        let (sender, reports) = mpsc::channel(4);
        let driver = Driver {
            name: "Test",
            lane: Lane::Low,
            collector: Box::new(collector),
            requests: receiver,
            reports: sender,
            clock: SystemClock::shared(),
        };
        Tasks::default().spawn("driver", OnFailure::Log, driver.run());
        Running { requests, reports }
    }

    impl Running {
        async fn next(&mut self) -> Option<Report> {
            timeout(Duration::from_secs(10), self.reports.recv())
                .await
                .expect("a report in time")
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_comes_after_what_it_yielded_and_the_end_after_a_last_flush() {
        let mut running = start(Heartbeat);
        assert!(matches!(
            running.next().await,
            Some(Report::Health { name: "Test", .. })
        ));
        running.requests.send((Request::Snapshot, 7)).await.unwrap();
        let Some(Report::Observed { lane, observations }) = running.next().await else {
            panic!("no observation");
        };
        assert_eq!(
            (lane, &observations[0].payload),
            (Lane::Low, &EventPayload::Heartbeat)
        );
        assert!(matches!(
            running.next().await,
            Some(Report::Answered { round: 7 })
        ));
        drop(running.requests);
        assert!(running.reports.recv().await.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_source_that_stirs_is_looked_at_and_handed_out_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let settings = FileSystemConfiguration {
            paths: vec![dir.path().to_str().unwrap().to_owned()],
            // Full with two, so that a stirred source hands out on its own.
            cache_size: 2,
            ..FileSystemConfiguration::default()
        };
        let mut running = start(FileSystem::new(&settings, dir.path().join("own")));
        assert!(matches!(running.next().await, Some(Report::Health { .. })));
        fs::write(dir.path().join("a"), "text").unwrap();
        assert!(matches!(
            running.next().await,
            Some(Report::Observed { .. })
        ));
    }
}
