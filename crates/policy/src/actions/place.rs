//! Where one action of a policy stands on one twin, and what becomes of it. Pure.
//!
//! A cause is that the policy begins to hold for the twin, that the action becomes another call in a newer
//! revision, or that its time comes again. Each has a number, and goes from due to a call under way once:
//! whoever calls has made that step durable before, so what is under way when the service ends is never
//! called again, unless the action says that it may be.

use jiff::{SignedDuration, Timestamp};

/// How often one cause is called if nobody knows what became of it and the action may be repeated.
const TRIES_MAX: u32 = 3;

/// Where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    /// The newest revision of the twin that changed anything here; older ones are passed over.
    pub seen: u64,
    /// Whether the policy holds for the twin.
    pub holds: bool,
    /// The newest revision of the policy whose action this is.
    pub revision: u64,
    /// The call, as that revision says it.
    pub fingerprint: u64,
    /// The last cause; the first is 1.
    pub cause: u64,
    /// What is done about it.
    pub state: State,
    /// When that last changed.
    pub at: Timestamp,
}

/// What is done about a cause.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum State {
    /// Nothing more.
    Idle,
    /// Nothing before the next cause, which is that time has passed.
    Waiting {
        /// When.
        until: Timestamp,
    },
    /// It is to be called.
    Due(Due),
    /// It is being called.
    Calling {
        /// What it was before.
        due: Due,
        /// The revision whose call it is.
        revision: u64,
        /// Since when.
        begun: Timestamp,
        /// The next cause has come already.
        again: bool,
    },
}

/// A call that is to be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Due {
    /// Since when.
    pub since: Timestamp,
    /// Until when: then it is not called any more.
    pub until: Timestamp,
    /// How often it was called.
    pub tries: u32,
}

/// What a policy's file says of when an action is called.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Terms {
    /// How long it stays due.
    pub expires: SignedDuration,
    /// How long after a call it is called again.
    pub every: Option<SignedDuration>,
    /// Whether it may be repeated if nobody knows what became of it.
    pub retry: bool,
}

/// What a look at the twin found of the action.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Finding {
    /// A revision of the policy applies, and has it.
    Holds {
        /// Which one.
        revision: u64,
        /// Its call.
        fingerprint: u64,
        /// How long it may be due.
        expires: SignedDuration,
    },
    /// The policy does not apply.
    HoldsNot,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It never went out.
    NotSent,
    /// The device answered, or it was refused for good.
    Known,
    /// Nobody knows whether the device carried it out.
    Unknown,
}

impl Due {
    fn new(now: Timestamp, expires: SignedDuration) -> Due {
        Due {
            since: now,
            until: later(now, expires),
            tries: 0,
        }
    }
}

fn later(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

impl Place {
    /// What a look at the twin, as it was in its revision `age`, makes of it; none: nothing new.
    pub(crate) fn look(
        known: Option<&Place>,
        finding: Finding,
        age: u64,
        now: Timestamp,
    ) -> Option<Place> {
        let holds = match finding {
            Finding::HoldsNot => None,
            Finding::Holds {
                revision,
                fingerprint,
                expires,
            } => Some((revision, fingerprint, Due::new(now, expires))),
        };
        match (known, holds) {
            (None, None) => None,
            (Some(known), _) if age < known.seen => None,
            (None, Some((revision, fingerprint, due))) => Some(Place {
                seen: age,
                holds: true,
                revision,
                fingerprint,
                cause: 1,
                state: State::Due(due),
                at: now,
            }),
            (Some(known), None) => known.holds.then(|| known.lapsed(age, now)),
            (Some(known), Some((revision, fingerprint, due))) => {
                let is_other = revision > known.revision && fingerprint != known.fingerprint;
                if known.holds && !is_other {
                    return None;
                }
                Some(Place {
                    seen: age,
                    holds: true,
                    revision: revision.max(known.revision),
                    fingerprint,
                    ..known.next_cause(due, now)
                })
            }
        }
    }

    /// The policy does not hold any more: what is due is not called, what is under way ends.
    fn lapsed(&self, age: u64, now: Timestamp) -> Place {
        let state = match self.state {
            State::Calling {
                due,
                revision,
                begun,
                again: _,
            } => State::Calling {
                due,
                revision,
                begun,
                again: false,
            },
            State::Idle | State::Waiting { .. } | State::Due(_) => State::Idle,
        };
        Place {
            seen: age,
            holds: false,
            state,
            at: now,
            ..self.clone()
        }
    }

    /// The next cause is there. While a call is under way it waits for the end of that.
    fn next_cause(&self, due: Due, now: Timestamp) -> Place {
        let (cause, state) = match self.state {
            State::Calling {
                due,
                revision,
                begun,
                again: _,
            } => {
                let calling = State::Calling {
                    due,
                    revision,
                    begun,
                    again: true,
                };
                (self.cause, calling)
            }
            State::Idle | State::Waiting { .. } | State::Due(_) => {
                (self.cause.saturating_add(1), State::Due(due))
            }
        };
        Place {
            cause,
            state,
            at: now,
            ..self.clone()
        }
    }

    /// It is called now, as this revision says; none: it is not due. Durable before anything goes out.
    pub(crate) fn begin(&self, revision: u64, now: Timestamp) -> Option<Place> {
        let State::Due(due) = self.state else {
            return None;
        };
        if !self.holds || due.until <= now {
            return None;
        }
        let due = Due {
            tries: due.tries.saturating_add(1),
            ..due
        };
        Some(Place {
            state: State::Calling {
                due,
                revision,
                begun: now,
                again: false,
            },
            at: now,
            ..self.clone()
        })
    }

    /// The call that is under way has ended. Without `terms` there is no such action any more.
    pub(crate) fn end(&self, ended: Ended, terms: Option<Terms>, now: Timestamp) -> Place {
        let State::Calling {
            due, begun, again, ..
        } = self.state
        else {
            return self.clone();
        };
        let may_repeat = terms.is_some_and(|terms| terms.retry) && due.tries < TRIES_MAX;
        let same_again = match ended {
            Ended::NotSent => Some(Due {
                tries: due.tries.saturating_sub(1),
                ..due
            }),
            Ended::Unknown if may_repeat => Some(due),
            Ended::Unknown | Ended::Known => None,
        };
        let state = match same_again.filter(|due| self.holds && !again && now < due.until) {
            Some(due) => State::Due(due),
            None => return self.after(begun, again, terms, now),
        };
        Place {
            state,
            at: now,
            ..self.clone()
        }
    }

    /// What comes after a cause that has been dealt with.
    fn after(&self, begun: Timestamp, again: bool, terms: Option<Terms>, now: Timestamp) -> Place {
        let (cause, state) = match terms.filter(|_| self.holds) {
            Some(terms) if again => {
                let due = Due::new(now, terms.expires);
                (self.cause.saturating_add(1), State::Due(due))
            }
            Some(Terms {
                every: Some(every), ..
            }) => {
                let until = later(begun, every).max(now);
                (self.cause, State::Waiting { until })
            }
            Some(_) | None => (self.cause, State::Idle),
        };
        Place {
            cause,
            state,
            at: now,
            ..self.clone()
        }
    }

    /// What time makes of it; none: nothing yet.
    pub(crate) fn tick(&self, terms: Option<Terms>, now: Timestamp) -> Option<Place> {
        match self.state {
            State::Waiting { until } if until <= now => Some(match terms {
                Some(terms) if terms.every.is_some() && self.holds => {
                    self.next_cause(Due::new(now, terms.expires), now)
                }
                Some(_) | None => Place {
                    state: State::Idle,
                    at: now,
                    ..self.clone()
                },
            }),
            State::Due(due) if due.until <= now => Some(self.after(now, false, terms, now)),
            State::Idle | State::Waiting { .. } | State::Due(_) | State::Calling { .. } => None,
        }
    }

    /// Whether it is due and its time is over.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Due(due) if due.until <= now)
    }

    /// When time makes something of it; none: never.
    pub(crate) fn wakes(&self) -> Option<Timestamp> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Due(due) => Some(due.until),
            State::Idle | State::Calling { .. } => None,
        }
    }

    /// Whether there is nothing left but that it was there.
    pub(crate) fn is_over(&self) -> bool {
        !self.holds && self.state == State::Idle
    }
}

#[cfg(test)]
mod tests;
