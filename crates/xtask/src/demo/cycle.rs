//! One full loop, played on this machine: a port that is not allowed opens, the configuration comes;
//! the port closes, the configuration goes. Each hop has a deadline, and the one that is late is
//! named.
//!
//! Other programs open ports too. What they do is told apart by the events' times and by the ports
//! in the posture; a loop that one of them spoilt is played again.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};

use super::events::Events;
use super::hops::{Hop, Timeline};
use super::narrate::Narrator;
use super::screen::Screen;
use super::setup::{self, POLICY, Ready};
use super::twin::Twin;

/// How long one hop may take. The agent looks four times a second; the rest takes milliseconds, but
/// a lost push hint costs up to 30 s.
const HOP_WITHIN: Duration = Duration::from_secs(45);
/// How long until nothing unexpected listens and no push is under way.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// How long loops that other programs spoilt are played again.
const PLAYED_WITHIN: Duration = Duration::from_mins(3);

/// A hop that did not happen in time, or went wrong.
#[derive(Debug)]
pub(crate) struct HopFailed {
    pub(crate) hop: Hop,
    pub(crate) why: String,
}

impl fmt::Display for HopFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the hop {} failed: {}", self.hop.name(), self.why)
    }
}

impl std::error::Error for HopFailed {}

/// One half of the loop, done.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) desired_version: u64,
    pub(crate) timeline: Timeline,
    /// From the change on the machine to the agent seeing it.
    pub(crate) noticed_after: SignedDuration,
    pub(crate) trace_parent: String,
}

/// The loop, done.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) port: u16,
    pub(crate) opened: Change,
    pub(crate) closed: Change,
}

/// What is done to the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Opened,
    Closed,
}

/// How one half ended; `None`: another program's port was in play.
type Half = Option<Change>;

/// The twin, followed and told.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    events: &'a Events,
    screen: Screen,
    ready: Ready,
    narrator: Narrator,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(ready: Ready, events: &'a Events, screen: Screen) -> Self {
        let narrator = Narrator::new(screen, ready.twin.clone());
        Self {
            events,
            screen,
            ready,
            narrator,
        }
    }

    /// The newest state.
    pub(crate) fn twin(&self) -> &Twin {
        &self.ready.twin
    }

    /// Whose twin it is.
    pub(crate) fn device(&self) -> &str {
        &self.ready.device
    }

    /// The program that talks to the hub.
    pub(crate) fn program(&self) -> PathBuf {
        self.ready.cli.program.clone()
    }

    /// Waits for the next state and tells what is new; false when the deadline has passed.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<bool> {
        let Some(twin) = self.events.twin(deadline)? else {
            return Ok(false);
        };
        self.narrator.tell(&twin);
        self.ready.twin = *twin;
        Ok(true)
    }

    /// Waits until a state fulfils the condition; false when it did not within the time.
    pub(crate) fn until(
        &mut self,
        within: Duration,
        condition: impl Fn(&Twin) -> bool,
    ) -> Result<bool> {
        let deadline = Instant::now() + within;
        while !condition(&self.ready.twin) {
            if !self.next(Some(deadline))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Plays the loop until nobody spoilt it.
    pub(crate) fn play(&mut self) -> Result<Round> {
        let deadline = Instant::now() + PLAYED_WITHIN;
        while Instant::now() < deadline {
            self.settle(None)?;
            if let Some(round) = self.attempt()? {
                return Ok(round);
            }
            let again = "another program opened a port in the middle of it; once more";
            self.screen.aside(again);
        }
        bail!("other programs opened ports all the time; no loop in {PLAYED_WITHIN:?} was ours")
    }

    fn attempt(&mut self) -> Result<Option<Round>> {
        let listener = open_port(self.twin().allowed.as_ref())?;
        let port = listener.local_addr()?.port();
        self.narrator.focus(Some(port));
        let round = self.open_and_close(listener, port)?;
        if round.is_none() {
            // Gone by now; but the posture may not say so yet, and would take it for another's.
            self.until(HOP_WITHIN, |twin| !twin.ports().contains(&port))?;
        }
        self.narrator.focus(None);
        Ok(round)
    }

    fn open_and_close(&mut self, listener: TcpListener, port: u16) -> Result<Option<Round>> {
        self.screen.heading(&format!("The demo opens port {port}"));
        let Some(opened) = self.half(Want::Opened, port, now())? else {
            return Ok(None);
        };
        // What others opened meanwhile would hold the configuration in place.
        self.settle(Some(port))?;
        self.screen.heading(&format!("The demo closes port {port}"));
        let closed_at = now();
        let before = self.twin().push.desired_version;
        drop(listener);
        let Some(closed) = self.half_after(Want::Closed, port, closed_at, before)? else {
            return Ok(None);
        };
        Ok(Some(Round {
            port,
            opened,
            closed,
        }))
    }

    fn half(&mut self, want: Want, port: u16, at: Timestamp) -> Result<Half> {
        let before = self.twin().push.desired_version;
        self.half_after(want, port, at, before)
    }

    /// Follows one change of the port to the agent's answer.
    fn half_after(&mut self, want: Want, port: u16, at: Timestamp, before: u64) -> Result<Half> {
        let opened = want == Want::Opened;
        if !self.until(HOP_WITHIN, |twin| twin.ports().contains(&port) == opened)? {
            let is = if opened {
                "not in the posture"
            } else {
                "still in the posture"
            };
            return failed(
                Hop::Posture,
                format!("port {port} was {is} after {HOP_WITHIN:?}"),
            );
        }
        let decided = |twin: &Twin| {
            twin.push.desired_version > before && twin.settings_of(POLICY).is_empty() != opened
        };
        // When ours is closed and another is open, the configuration rightly stays.
        let held = |twin: &Twin| !opened && !twin.unexpected().is_empty();
        if !self.until(HOP_WITHIN, |twin| decided(twin) || held(twin))? {
            let why = format!("the twin had no new configuration after {HOP_WITHIN:?}");
            return failed(Hop::Policy, why);
        }
        if !decided(self.twin()) {
            return Ok(None);
        }
        let version = self.twin().push.desired_version;
        let over = |twin: &Twin| twin.push.desired_version != version || twin.push.is_answered();
        if !self.until(HOP_WITHIN, over)? {
            return failed(
                Hop::Applied,
                format!("the agent did not answer within {HOP_WITHIN:?}"),
            );
        }
        let push = self.twin().push.clone();
        if push.desired_version != version {
            return Ok(None);
        }
        if push.state == "rejected" {
            return failed(
                Hop::Applied,
                format!("the agent refused the configuration: {}", push.reason),
            );
        }
        // An event from before our change cannot be our change.
        let Some(noticed_after) = push
            .timeline
            .at(Hop::Event)
            .map(|event| event.duration_since(at))
        else {
            return Ok(None);
        };
        if noticed_after.is_negative() {
            return Ok(None);
        }
        let (timeline, trace_parent) = (push.timeline, push.trace_parent);
        Ok(Some(Change {
            desired_version: version,
            timeline,
            noticed_after,
            trace_parent,
        }))
    }

    /// Waits until every listener but ours is allowed and the configuration is what follows from
    /// that. What other programs opened is allowed from now on.
    fn settle(&mut self, ours: Option<u16>) -> Result<()> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            let twin = self.twin();
            let unexpected: BTreeSet<u16> = twin
                .unexpected()
                .into_iter()
                .filter(|port| Some(*port) != ours)
                .collect();
            let quiet = twin.settings_of(POLICY).is_empty() == ours.is_none()
                && twin.push.state != "pending"
                && twin.allowed.is_some();
            if unexpected.is_empty() && quiet {
                return Ok(());
            }
            if !unexpected.is_empty() {
                let listed = setup::list(&unexpected);
                self.screen
                    .aside(&format!("{listed} opened meanwhile; allowed from now on"));
                let allowed = twin
                    .allowed
                    .iter()
                    .flatten()
                    .chain(&unexpected)
                    .copied()
                    .collect();
                setup::allow(&self.ready.cli, &self.ready.device, &allowed)?;
            }
            if !self.next(Some(deadline))? {
                bail!("the twin did not settle within {SETTLED_WITHIN:?}");
            }
        }
    }
}

fn failed(hop: Hop, why: String) -> Result<Half> {
    Err(HopFailed { hop, why }.into())
}

/// Opens a port of our own that nobody allowed.
fn open_port(allowed: Option<&BTreeSet<u16>>) -> Result<TcpListener> {
    // Held until a good one is found, so that the system does not hand out the same one again.
    let mut taken = Vec::new();
    loop {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port can be opened")?;
        let port = listener.local_addr()?.port();
        if allowed.is_none_or(|allowed| !allowed.contains(&port)) {
            return Ok(listener);
        }
        taken.push(listener);
    }
}

fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_that_is_opened_is_none_that_is_allowed() {
        let allowed: BTreeSet<u16> = (1..=u16::MAX).filter(|port| port % 2 == 0).collect();
        let listener = open_port(Some(&allowed)).unwrap();
        assert_eq!(listener.local_addr().unwrap().port() % 2, 1);
    }

    #[test]
    fn a_failed_hop_names_itself() {
        let failed = HopFailed {
            hop: Hop::Policy,
            why: "no answer".to_owned(),
        };
        assert_eq!(failed.to_string(), "the hop policy failed: no answer");
    }
}
