//! The devices: connect, subscribe once, then only listen; whoever is cut off comes back at once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use loadgen::devices::Device;
use loadgen::mqtt::{Client, DESIRED_TOPIC, Door, NotConnected, Session};
use rmqtt_codec::v3::{Connect, Packet};
use service_kit::tasks::{OnFailure, Tasks};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::args::Arguments;

/// What is written to every device in the end.
pub(crate) const MARK: &str = "storm";
/// Between two attempts: as fast as they can, but not in a busy loop when nobody listens.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What became of the devices. Written by each of them.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    connected: AtomicU64,
    cut: AtomicU64,
    /// Connections that came without the session of before.
    forgotten: AtomicU64,
    /// Connections that ended though nobody here wanted it.
    ended: AtomicU64,
    told: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
}

impl Counts {
    pub(crate) fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    pub(crate) fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Attempts that failed, by reason.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        let failures = self.failures.lock();
        failures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failed(&self, error: &NotConnected) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(error.reason()).or_default() += 1;
    }
}

fn up(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What all of them are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Be connected, for the first time or again.
    Connected {
        /// How often all were cut off.
        cuts: u32,
    },
    /// Go.
    Gone,
}

/// All devices.
pub(crate) struct Fleet {
    wanted: watch::Sender<Wanted>,
}

impl Fleet {
    /// Starts them, one after the other.
    pub(crate) fn start(
        door: &Door,
        arguments: &Arguments,
        devices: &[Device],
        counts: &Arc<Counts>,
        tasks: &Tasks,
    ) -> Self {
        let (wanted, _) = watch::channel(Wanted::Connected { cuts: 0 });
        for device in devices {
            let one = One {
                door: door.clone(),
                from: source(arguments, device.index),
                hello: hello(door, arguments, device),
                ping_every: Duration::from_secs(arguments.keep_alive.into()).mul_f64(0.75),
                counts: Arc::clone(counts),
                wanted: wanted.subscribe(),
            };
            let after = after(device.index, arguments.connect_rate);
            tasks.spawn(device.id().to_owned(), OnFailure::Log, async move {
                sleep(after).await;
                one.run().await;
            });
        }
        Self { wanted }
    }

    /// Cuts all connections, without a word.
    pub(crate) fn cut(&self) {
        self.wanted.send_modify(|wanted| {
            if let Wanted::Connected { cuts } = wanted {
                *cuts += 1;
            }
        });
    }

    /// Lets all of them go.
    pub(crate) fn end(&self) {
        self.wanted.send_replace(Wanted::Gone);
    }
}

/// When the device of this number connects for the first time.
pub(crate) fn after(index: u32, per_second: u32) -> Duration {
    Duration::from_secs(1) * index / per_second
}

/// Where a device comes from.
pub(crate) fn source(arguments: &Arguments, index: u32) -> Ipv4Addr {
    let site = index % u32::from(arguments.addresses);
    let site = u8::try_from(site + 1).unwrap_or(u8::MAX);
    Ipv4Addr::new(127, 1, 0, site)
}

/// What a device says first.
pub(crate) fn hello(door: &Door, arguments: &Arguments, device: &Device) -> Connect {
    door.hello(device, Session::Kept, arguments.keep_alive)
}

/// One device.
struct One {
    door: Door,
    from: Ipv4Addr,
    hello: Connect,
    ping_every: Duration,
    counts: Arc<Counts>,
    wanted: watch::Receiver<Wanted>,
}

impl One {
    async fn run(mut self) {
        let mut subscribed = false;
        while *self.wanted.borrow_and_update() != Wanted::Gone {
            match self.connect(&mut subscribed).await {
                Ok(client) => {
                    up(&self.counts.connected);
                    self.listen(client).await;
                    self.counts.connected.fetch_sub(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.counts.failed(&error);
                    sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    /// Subscribes on the first connection only.
    async fn connect(&self, subscribed: &mut bool) -> Result<Client, NotConnected> {
        let connecting = self.door.connect(self.from, self.hello.clone());
        let (mut client, present) = connecting.await?;
        if *subscribed && !present {
            up(&self.counts.forgotten);
        }
        if !*subscribed {
            client.subscribe().await?;
            *subscribed = true;
        }
        Ok(client)
    }

    /// Until it is cut off, by us or by the hub.
    async fn listen(&mut self, mut client: Client) {
        let mut ping = Box::pin(sleep(self.ping_every));
        loop {
            tokio::select! {
                // Nobody is there any more only when the run is over.
                _ = self.wanted.changed() => {
                    up(&self.counts.cut);
                    return;
                }
                received = client.next() => match received {
                    Ok(Packet::Publish(publish)) => self.on_publish(&publish.topic, &publish.payload),
                    Ok(_) => {}
                    Err(_) => break,
                },
                () = &mut ping => {
                    ping.as_mut().reset(Instant::now() + self.ping_every);
                    if client.send(Packet::PingRequest).await.is_err() {
                        break;
                    }
                }
            }
        }
        up(&self.counts.ended);
        // As everybody does who is cut off, so that the storm is not ours alone.
        sleep_until(Instant::now() + AGAIN_AFTER).await;
    }

    fn on_publish(&self, topic: &str, payload: &[u8]) {
        let change = serde_json::from_slice::<serde_json::Value>(payload);
        if topic.starts_with(DESIRED_TOPIC) && change.is_ok_and(|it| it.get(MARK).is_some()) {
            up(&self.counts.told);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn devices_are_spread_over_time_and_addresses() {
        assert_eq!(after(0, 500), Duration::ZERO);
        assert_eq!(after(10_000, 500), Duration::from_secs(20));
        let line = ["storm", "--env-file", "f", "--pid", "1", "--addresses", "3"];
        let arguments = Arguments::parse_from(line);
        assert_eq!(source(&arguments, 0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(source(&arguments, 5), Ipv4Addr::new(127, 1, 0, 3));
    }
}
