//! Ends sessions of runs of ingestion that were killed: nobody else could say that they are over.
//!
//! Each run says every second that it is there. One that has not for `sessions_lost_after`, while the
//! bus was seen to work all that time, is taken for gone, and each replica ends the sessions of it
//! that its partitions hold (`apply::telemetry::lose_sessions`). That includes runs of which only the
//! twins tell, because this replica began, or took their partition, after they had ended. A run that
//! was only cut off is heard of again: then its roll is called, and it says of its sessions that they go
//! on (`ingestion/src/alive.rs`).
//!
//! Nothing is kept but in memory: a replica that begins looks at all twins that are connected, and
//! later only when a run is gone. Between those two it costs nothing but hearing the beats. A run that
//! stops and could tell the ends of all of its sessions says so, and nobody looks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{AskError, Bus, HintError, Outgoing};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};
use twin::query::Vocabulary;
use twin::{Condition, IdentityKey};
use wire::bus::v1::InstanceAlive;
use wire::subjects;

use crate::apply::telemetry::lose_sessions;
use crate::engine::{Engine, Tenure};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::record::Record;
use crate::store::{Estimates, Search, Selection, Source, Store};

mod runs;

use runs::{Runs, UNNAMED};

/// How often it hears whether the bus works, and looks whether a run is gone.
const EVERY: Duration = Duration::from_secs(1);
/// Between two attempts to listen, or to look.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a run may take to say that it calls its roll, and how many are asked at once.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
const ASKED_AT_ONCE: usize = 64;
/// Twins looked at at once, and the pause between two such pages: whoever shares the store goes on.
const PAGE: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// What is known of runs of ingestion. Clones share it.
#[derive(Debug, Clone)]
pub struct Presence {
    runs: Arc<Mutex<Runs>>,
}

impl Presence {
    /// A run is gone when it has been silent for so long.
    pub(crate) fn new(lost_after: Duration) -> Presence {
        Presence {
            runs: Arc::new(Mutex::new(Runs::new(lost_after))),
        }
    }

    /// A run has said something of a session: to be noted before it is folded. It may have ended long
    /// ago, for telemetry waits in its stream; then it is looked for once more.
    pub(crate) fn heard_of(&self, run: Option<&str>) {
        self.lock().heard(run.unwrap_or(UNNAMED), Instant::now());
    }

    /// The session of a run counts, of which nobody may have heard for long: it has its time.
    pub(crate) fn met(&self, run: &str) {
        self.lock().met(run, Instant::now());
    }

    /// Leaves those whose runs are gone now.
    fn still_gone(&self, mut lost: Vec<(IdentityKey, String)>) -> Vec<(IdentityKey, String)> {
        let (mut runs, now) = (self.lock(), Instant::now());
        lost.retain(|(_, run)| runs.is_gone_or_note(run, now));
        lost
    }

    /// Sessions were ended, and others count instead.
    fn ended(&self, lost: Vec<(IdentityKey, String)>, taken_up: &[String]) {
        let mut runs = self.lock();
        for (_, run) in lost {
            runs.lost(&run);
        }
        for run in taken_up {
            runs.met(run, Instant::now());
        }
    }

    /// Listens for beats until the service stops.
    pub(crate) async fn follow(self, bus: Bus, shutdown: ShutdownToken) {
        while let Some(ended) = shutdown.run_until(self.listen(&bus)).await {
            if let Err(error) = ended {
                let error = chain(&error);
                warn!(error, "cannot listen for runs of ingestion");
            }
            let pause = tokio::time::sleep(AGAIN_AFTER);
            if shutdown.run_until(pause).await.is_none() {
                return;
            }
        }
    }

    /// Hears the beats, and an echo of its own, by which it knows that beats would arrive.
    async fn listen(&self, bus: &Bus) -> Result<(), HintError> {
        let own = uuid::Uuid::new_v4().simple().to_string();
        let echo = Outgoing::new(subjects::echo_subject(&own), Vec::new());
        let mut echoes = bus.listen(&echo.subject).await?;
        let mut beats = bus.listen(subjects::INSTANCES_SUBJECT).await?;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut calls = FuturesUnordered::<Call>::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => bus.send_hint(echo.clone()).await?,
                Some((run, asked)) = calls.next() => self.called(&run, asked),
                heard = echoes.recv() => {
                    if heard.is_none() {
                        return Ok(());
                    }
                    self.lock().echoed(Instant::now());
                }
                beat = beats.recv() => {
                    let Some(beat) = beat else { return Ok(()) };
                    // What cannot be read comes from a version that we do not know.
                    if let Ok(alive) = InstanceAlive::decode(&*beat.payload) {
                        let has_room = calls.len() < ASKED_AT_ONCE;
                        if self.beat(&alive, Instant::now(), has_room) {
                            calls.push(call_roll(bus, alive.run));
                        }
                    }
                }
            }
        }
    }

    /// A run says that it is there, or that it has ended. Whether its roll is to be called, which may
    /// be only if there is room.
    fn beat(&self, alive: &InstanceAlive, now: Instant, has_room: bool) -> bool {
        let mut runs = self.lock();
        if alive.ended {
            runs.ended(&alive.run, now);
            return false;
        }
        runs.heard(&alive.run, now);
        has_room && runs.is_to_call(&alive.run)
    }

    /// What came of calling the roll of a run.
    fn called(&self, run: &str, asked: Result<Bytes, AskError>) {
        match asked {
            Ok(_) => info!(
                run,
                "an ingestion whose sessions were ended says which are open"
            ),
            Err(error) => {
                // With its next beat.
                self.lock().lost(run);
                let error = chain(&error);
                tracing::debug!(
                    run,
                    error,
                    "an ingestion was not asked which sessions are open"
                );
            }
        }
    }

    /// The guarded values are changed in steps that cannot panic in between.
    fn lock(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which run was asked, and what came of it.
type Call = BoxFuture<'static, (String, Result<Bytes, AskError>)>;

fn call_roll(bus: &Bus, run: String) -> Call {
    let question = Outgoing::new(subjects::roll_call_subject(&run), Vec::new());
    let bus = bus.clone();
    async move {
        let asked = bus.ask(question, ANSWERED_WITHIN).await;
        (run, asked)
    }
    .boxed()
}

/// The task that ends sessions.
pub(crate) struct Ending {
    presence: Presence,
    store: Arc<dyn Store>,
    engine: Engine,
    clock: SharedClock,
    metrics: Metrics,
    /// Of what was owned when all twins that are connected were looked at.
    looked: Option<Tenure>,
}

impl Ending {
    /// Has looked at nothing yet.
    pub(crate) fn new(
        presence: Presence,
        store: Arc<dyn Store>,
        engine: Engine,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Ending {
        Ending {
            presence,
            store,
            engine,
            clock,
            metrics,
            looked: None,
        }
    }

    /// Runs until shutdown. A failure is said and tried again: nothing is lost by waiting.
    pub(crate) async fn run(mut self, shutdown: ShutdownToken) {
        let looks = async {
            loop {
                tokio::time::sleep(EVERY).await;
                if let Err(error) = self.look_if_due().await {
                    let error = chain(&error);
                    warn!(error, "sessions of runs that are gone cannot be read");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        };
        // A look that is dropped in the middle has lost nothing.
        shutdown.run_until(looks).await;
    }

    async fn look_if_due(&mut self) -> Result<(), Error> {
        let tenure = self.engine.tenure();
        let (gone, listened) = {
            let now = Instant::now();
            let runs = self.presence.lock();
            (runs.gone(now), runs.has_listened(now))
        };
        // Of what is new to us, the sessions are of runs that may have ended before.
        let is_new = self.looked != Some(tenure);
        if gone.is_empty() && !(is_new && listened) {
            return Ok(());
        }
        let ended = self.look().await?;
        if ended > 0 {
            self.metrics.sessions_lost(ended);
            info!(
                sessions = ended,
                "sessions ended, because nothing is heard of the ingestion that held them"
            );
        }
        self.looked = Some(tenure);
        // What is heard of them later, telemetry that had to wait, has them looked for again.
        self.presence.lock().forget(&gone);
        Ok(())
    }

    /// Looks at all sessions of runs that are not heard of. Those of runs that are gone end; runs of
    /// which nothing was known have their time from now on. Answers how many it ended.
    async fn look(&self) -> Result<usize, Error> {
        let alive = self.presence.lock().alive(Instant::now());
        let Some(condition) = elsewhere(&alive) else {
            return Ok(0);
        };
        let (mut after, mut ended) = (None, 0);
        loop {
            let search = Search {
                source: Source::All,
                condition: condition.scope().clone(),
                now: self.clock.now(),
                after,
                limit: PAGE,
                estimates: Estimates::default(),
            };
            let page = self.store.search(search).await?;
            let lost = page.records.iter().filter_map(|record| self.lost(record));
            let lost: Vec<_> = lost.collect();
            if !lost.is_empty() {
                ended += self.end(lost).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(ended);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The session of a record, if it is ours to end and its run is gone.
    fn lost(&self, record: &Record) -> Option<(IdentityKey, String)> {
        let agent = &record.posture.agent;
        if !agent.connected {
            return None;
        }
        let run = agent.session_run.as_deref().unwrap_or(UNNAMED);
        let partition = self.engine.partition(&record.key);
        let is_ours = self.engine.logs().contains_key(&partition);
        let is_gone = is_ours && self.presence.lock().is_gone_or_note(run, Instant::now());
        is_gone.then(|| (record.key.clone(), run.to_owned()))
    }

    async fn end(&self, lost: Vec<(IdentityKey, String)>) -> Result<usize, Error> {
        let selections: Vec<_> = lost
            .iter()
            .map(|(key, _)| Selection::One(key.clone()))
            .collect();
        let presence = self.presence.clone();
        let ending = self.engine.decide(selections, move |overlay, now| {
            // One that says at this moment that it is there says next which sessions it has.
            let lost = presence.still_gone(lost);
            let (ended, taken_up) = lose_sessions(overlay, &lost, now);
            presence.ended(lost, &taken_up);
            Ok(ended)
        });
        match ending.await {
            // A partition is another's by now, who looks at what is new to it.
            Err(Error::NotOwned { .. } | Error::Stopping) => Ok(0),
            ended => ended,
        }
    }
}

/// Twins with a session of any run but these.
fn elsewhere(alive: &[String]) -> Option<Condition> {
    // An empty list is none in the language; no run has an empty name.
    let mut list = String::from("''");
    for run in alive {
        list.push_str(", '");
        list.push_str(run);
        list.push('\'');
    }
    let named = format!("posture.agent.sessionRun NIN [{list}]");
    let text = if alive.iter().any(|run| run == UNNAMED) {
        format!("connectionState = 'Connected' AND {named}")
    } else {
        let unnamed = "NOT IS_DEFINED(posture.agent.sessionRun)";
        format!("connectionState = 'Connected' AND ({unnamed} OR {named})")
    };
    match Condition::parse_in(&text, Vocabulary::Query) {
        Ok(condition) => Some(condition),
        Err(error) => {
            warn!(%error, "a condition of our own cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_can_be_read_however_many_runs_there_are() {
        assert!(elsewhere(&[]).is_some());
        assert!(elsewhere(&[UNNAMED.to_owned()]).is_some());
        let many: Vec<_> = (0..runs::ALIVE_MAX)
            .map(|number| format!("{number:064x}"))
            .collect();
        assert!(elsewhere(&many).is_some());
    }
}
