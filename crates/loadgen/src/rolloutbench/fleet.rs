//! All the agents: which of them fail, which are cut off, and who was told what.

use std::time::Duration;

use anyhow::{Result, ensure};
use loadgen::devices;
use loadgen::hub::Hub;
use service_kit::shutdown::ShutdownToken;
use service_kit::tasks::{OnFailure, Tasks};
use tokio::time::{Instant, sleep};

use crate::agent::{Agent, Kind};
use crate::api::Api;

/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Sessions that are opened in one go, and the pause behind them: as many as a device management's
/// restart would bring, not all at the same instant.
const AT_ONCE: usize = 50;
const PAUSE: Duration = Duration::from_millis(50);
/// How long all may take to be connected, or to be known as cut off.
const CONNECTED_WITHIN: Duration = Duration::from_mins(5);

/// Who is in the fleet.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// Those that stay connected.
    pub(crate) staying: Vec<Agent>,
    /// Those that are cut off now and then.
    pub(crate) leaving: Vec<Agent>,
}

impl Fleet {
    /// Registers the devices: of twenty one fails, of ten one leaves. Every second of those that fail is
    /// silent, if that is wanted.
    pub(crate) async fn register(
        hub: &Hub,
        prefix: &str,
        count: u32,
        silent: bool,
    ) -> Result<Fleet> {
        let (mut staying, mut leaving) = (Vec::new(), Vec::new());
        for device in devices::register(hub, prefix, count).await? {
            let index = device.index;
            let agent = Agent::new(hub, device, kind(index, silent))?;
            if leaves(index) {
                leaving.push(agent);
            } else {
                staying.push(agent);
            }
        }
        Ok(Fleet { staying, leaving })
    }

    /// Everybody.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Agent> {
        self.staying.iter().chain(&self.leaving)
    }

    /// How many of a kind there are.
    pub(crate) fn count(&self, kind: Kind) -> u64 {
        let of_kind = self.all().filter(|agent| agent.kind == kind);
        of_kind.map(|_| 1).sum()
    }
}

fn leaves(index: u32) -> bool {
    index % 10 == 3
}

fn kind(index: u32, silent: bool) -> Kind {
    match index % 40 {
        27 if silent => Kind::Silent,
        7 | 27 => Kind::Rejects,
        _ => Kind::Good,
    }
}

/// Connects agents until they are cut off.
pub(crate) async fn connect(agents: &[Agent], tasks: &Tasks, cut: &ShutdownToken) {
    for group in agents.chunks(AT_ONCE) {
        for agent in group {
            let name = agent.device.id().to_owned();
            let running = agent.clone().run(cut.clone());
            tasks.spawn(name, OnFailure::Log, running);
        }
        sleep(PAUSE).await;
    }
}

/// Waits until the hub knows so many of the fleet's devices as connected; how long that took.
pub(crate) async fn connected(api: &Api, prefix: &str, wanted: usize) -> Result<Duration> {
    let began = Instant::now();
    let query = format!(
        "SELECT COUNT() AS found FROM devices WHERE STARTSWITH(deviceId, '{prefix}-') \
         AND connectionState = 'Connected'"
    );
    loop {
        let found = api.count(&query).await?;
        if usize::try_from(found) == Ok(wanted) {
            return Ok(began.elapsed());
        }
        ensure!(
            began.elapsed() < CONNECTED_WITHIN,
            "{found} devices are connected, and {wanted} should be"
        );
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_twenty_fails_one_in_ten_leaves_and_nobody_does_both() {
        let fails = |index: &u32| kind(*index, true) != Kind::Good;
        assert_eq!((0..1000).filter(fails).count(), 50);
        assert_eq!((0..1000).filter(|index| leaves(*index)).count(), 100);
        assert!(!(0..1000).any(|index| fails(&index) && leaves(index)));
        let silent = |index: &u32| kind(*index, true) == Kind::Silent;
        assert_eq!((0..1000).filter(silent).count(), 25);
        assert!(!(0..1000).any(|index| kind(index, false) == Kind::Silent));
    }
}
