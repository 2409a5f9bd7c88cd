//! Tells what changes on the twin, as it changes: listeners, settings, the hops of each push,
//! collectors. Decides nothing.

use std::collections::BTreeSet;

use super::hops::Timeline;
use super::screen::{Screen, time};
use super::twin::{Listener, Push, Twin};

/// Listeners that are named at once; a machine that runs a test suite opens dozens.
const LISTENERS_NAMED: usize = 4;

/// Tells what is new in each state of the twin.
#[derive(Debug)]
pub(crate) struct Narrator {
    screen: Screen,
    before: Twin,
    /// Listeners that were told; they wait while a push is told, so that its hops stand together.
    listening: Option<BTreeSet<Listener>>,
    /// The push that is being told.
    telling: Option<Telling>,
    /// The only port whose listeners are told, while the demo plays with it.
    focus: Option<u16>,
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
        let listening = before.listening.clone();
        Self {
            screen,
            before,
            listening,
            telling: None,
            focus: None,
        }
    }

    /// From now on tells of the listeners of one port alone, or of all.
    pub(crate) fn focus(&mut self, port: Option<u16>) {
        self.focus = port;
    }

    /// Tells what is new.
    pub(crate) fn tell(&mut self, twin: &Twin) {
        self.tell_listeners(twin);
        self.tell_push(twin);
        self.tell_collectors(twin);
        self.before = twin.clone();
    }

    fn tell_listeners(&mut self, twin: &Twin) {
        if self.telling.is_some() {
            return;
        }
        let before = self.listening.take();
        self.listening.clone_from(&twin.listening);
        let (Some(before), Some(now)) = (before, &twin.listening) else {
            return;
        };
        let opened = now.difference(&before).map(|listener| {
            let note = match &twin.allowed {
                Some(allowed) if allowed.contains(&listener.port) => ", which is allowed",
                Some(_) => ", which is not allowed",
                None => "",
            };
            ("listens", listener, note)
        });
        let closed = before
            .difference(now)
            .map(|listener| ("listens no more", listener, ""));
        let told = |listener: &Listener| self.focus.is_none_or(|port| port == listener.port);
        let all = opened
            .chain(closed)
            .filter(|(_, listener, _)| told(listener));
        let all: Vec<_> = all.collect();
        if self.focus.is_none() && !all.is_empty() {
            self.screen.gap();
        }
        for (verb, listener, note) in all.iter().take(LISTENERS_NAMED) {
            self.screen.listener(verb, listener, note);
        }
        if let Some(more) = all
            .len()
            .checked_sub(LISTENERS_NAMED)
            .filter(|more| *more > 0)
        {
            self.screen
                .fact("", &format!("and {more} more ports came or went"));
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
                self.screen.changed_collector(name, collector);
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
