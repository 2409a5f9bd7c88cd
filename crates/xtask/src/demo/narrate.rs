//! Tells what changes on the twin, as it changes: listeners, settings, the hops of each push,
//! collectors. Decides nothing.

use super::hops::Timeline;
use super::screen::{Screen, time};
use super::twin::{Push, Twin};

/// Tells what is new in each state of the twin.
#[derive(Debug)]
pub(crate) struct Narrator {
    screen: Screen,
    before: Twin,
    /// The push that is being told.
    telling: Option<Telling>,
}

/// A push whose hops are being told.
#[derive(Debug)]
struct Telling {
    version: u64,
    hops_told: usize,
}

impl Narrator {
    /// Everything in this state counts as told.
    pub(crate) fn new(screen: Screen, before: Twin) -> Self {
        Self {
            screen,
            before,
            telling: None,
        }
    }

    /// Tells what is new.
    pub(crate) fn tell(&mut self, twin: &Twin) {
        self.tell_listeners(twin);
        self.tell_push(twin);
        self.tell_collectors(twin);
        self.before = twin.clone();
    }

    fn tell_listeners(&self, twin: &Twin) {
        let (Some(before), Some(now)) = (&self.before.listening, &twin.listening) else {
            return;
        };
        for listener in now.difference(before) {
            let note = match &twin.allowed {
                Some(allowed) if allowed.contains(&listener.port) => ", which is allowed",
                Some(_) => ", which is not allowed",
                None => "",
            };
            self.screen.listener("listens", listener, note);
        }
        for listener in before.difference(now) {
            self.screen.listener("listens no more", listener, "");
        }
    }

    fn tell_push(&mut self, twin: &Twin) {
        let push = &twin.push;
        if push.desired_version > self.before.push.desired_version {
            self.tell_settings(twin);
            self.screen.hops_head();
            self.telling = Some(Telling {
                version: push.desired_version,
                hops_told: 0,
            });
        }
        let Some(telling) = &mut self.telling else {
            return;
        };
        if telling.version != push.desired_version {
            return;
        }
        let passed = push.timeline.passed();
        for hop in passed.iter().skip(telling.hops_told) {
            self.screen.hop(hop);
        }
        telling.hops_told = passed.len();
        if push.is_answered() {
            self.telling = None;
            self.tell_outcome(push);
        }
    }

    fn tell_settings(&self, twin: &Twin) {
        for (key, setting) in &twin.desired {
            if self.before.desired.get(key) != Some(setting) {
                self.screen.setting(key, setting);
            }
        }
        for key in self.before.desired.keys() {
            if !twin.desired.contains_key(key) {
                self.screen.fact("desired", &format!("{key} is taken out"));
            }
        }
    }

    fn tell_outcome(&self, push: &Push) {
        if push.state == "applied" {
            self.screen
                .success(&applied(push.desired_version, &push.timeline));
        } else {
            let reason = &push.reason;
            self.screen.say(&format!(
                "version {} is {}: {reason}",
                push.desired_version, push.state
            ));
        }
    }

    fn tell_collectors(&self, twin: &Twin) {
        for (name, collector) in &twin.collectors {
            if self
                .before
                .collectors
                .get(name)
                .is_some_and(|before| before != collector)
            {
                self.screen.collector(name, collector);
            }
        }
    }
}

fn applied(version: u64, timeline: &Timeline) -> String {
    match timeline.event_to_applied() {
        Some(took) => format!("version {version} applied, {} after the event", time(took)),
        None => format!("version {version} applied"),
    }
}

impl Push {
    /// Whether the agent has said what it made of the newest version.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.state.as_str(), "applied" | "rejected")
    }
}
