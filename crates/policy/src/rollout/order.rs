//! What people tell a rollout to do.

use jiff::Timestamp;
use thiserror::Error;

use super::{Phase, Rollout, Seen};

/// What somebody wants of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Let it begin, as somebody else than its author.
    Approve,
    /// Nothing more is changed until somebody decides; what has the revision keeps it.
    Pause,
    /// Go on where it was paused; the devices of the last wave have their whole time again.
    Resume,
    /// Begin the next wave now, whatever the gates say.
    Skip,
    /// Take the revision back from every device that has it.
    Abort,
    /// Begin a rollout anew that was taken back.
    Retry,
}

impl Order {
    /// As the audit log and the command line spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Order::Approve => "approve",
            Order::Pause => "pause",
            Order::Resume => "resume",
            Order::Skip => "skip",
            Order::Abort => "abort",
            Order::Retry => "retry",
        }
    }
}

/// Why it is not done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    /// It cannot be done to a rollout that stands where this one does.
    #[error("a rollout that is {phase} cannot be told to {order}; it must be {allowed}", phase = .phase.as_str())]
    Phase {
        /// What was wanted.
        order: &'static str,
        /// Where it stands.
        phase: Phase,
        /// Where it may stand.
        allowed: &'static str,
    },
    /// A wave was named that is not the last that has begun.
    #[error("wave {asked} is not the last that has begun, which is wave {found}")]
    OtherWave {
        /// Which was named, from 1.
        asked: u32,
        /// Which it is, from 1; 0: none has begun.
        found: usize,
    },
    /// It is not as whoever directs it has seen it.
    #[error("the rollout has changed since it had the etag {expected:?}; look at it again")]
    Changed {
        /// The etag that was named.
        expected: String,
    },
    /// It would be stopped again at once.
    #[error(
        "it cannot be resumed, a gate still fails: {problem}; `skip` goes on in spite of it, `abort` takes it back"
    )]
    StillFails {
        /// Which gate, and why.
        problem: String,
    },
    /// The author wants to approve.
    #[error("{author} made this revision; somebody else must approve it")]
    OwnRevision {
        /// Who.
        author: String,
    },
}

impl Rollout {
    /// What becomes of it when somebody says so; `reason` is for people and may be empty. Repeating an
    /// order that took effect changes nothing.
    pub(crate) fn order(
        &self,
        order: Order,
        by: &str,
        reason: &str,
        at: Timestamp,
    ) -> Result<Rollout, Refusal> {
        let refuse = |allowed| {
            Err(Refusal::Phase {
                order: order.as_str(),
                phase: self.phase,
                allowed,
            })
        };
        let because = |what: &str| match reason {
            "" => format!("{what} by {by}"),
            reason => format!("{what} by {by}: {reason}"),
        };
        match (order, self.phase) {
            (Order::Pause, Phase::Paused) | (Order::Abort, Phase::RolledBack) => Ok(self.clone()),
            (Order::Approve, Phase::AwaitingApproval) if by == self.author => {
                Err(Refusal::OwnRevision {
                    author: self.author.clone(),
                })
            }
            (Order::Approve, Phase::AwaitingApproval) => Ok(Rollout {
                approver: by.to_owned(),
                ..self.next_wave(because("approved"), at)
            }),
            (Order::Pause, Phase::Rolling | Phase::Soaking) => {
                Ok(self.to(Phase::Paused, because("paused"), at))
            }
            (Order::Resume, Phase::Paused) => Ok(Rollout {
                wave_began: at,
                ..self.to(Phase::Rolling, because("resumed"), at)
            }),
            (Order::Skip, Phase::Rolling | Phase::Soaking | Phase::Paused) => Ok(Rollout {
                excused: self.released,
                ..self.next_wave(because("skipped"), at)
            }),
            (
                Order::Abort,
                Phase::Planning
                | Phase::AwaitingApproval
                | Phase::Rolling
                | Phase::Soaking
                | Phase::Paused,
            ) => Ok(self.to(Phase::RolledBack, because("aborted"), at)),
            (Order::Retry, Phase::RolledBack) => Ok(Rollout {
                waves: Vec::new(),
                released: 0,
                excused: 0,
                last: Vec::new(),
                wave_began: at,
                // Whoever approved did so of what failed.
                approver: String::new(),
                again: true,
                ..self.to(Phase::Planning, because("begun anew"), at)
            }),
            (Order::Approve, _) => refuse("awaiting-approval"),
            (Order::Pause, _) => refuse("rolling or soaking"),
            (Order::Resume, _) => refuse("paused"),
            (Order::Skip, _) => refuse("rolling, soaking or paused"),
            (Order::Abort, _) => refuse("one that has not ended"),
            (Order::Retry, _) => refuse("rolled-back"),
        }
    }

    /// Refuses to go on where what is seen would stop it again: whoever resumes it would be told that it
    /// rolls, and find it as it was.
    pub(crate) fn unless_it_fails(self, seen: &Seen, at: Timestamp) -> Result<Rollout, Refusal> {
        match self.step(seen, at) {
            Some(stopped) if matches!(stopped.phase, Phase::Paused | Phase::RolledBack) => {
                Err(Refusal::StillFails {
                    problem: stopped.reason,
                })
            }
            Some(_) | None => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests;
