//! Hands the hints of the bus to the sessions that they concern.
//!
//! One subscription per kind for the whole instance: it is there before the first agent connects,
//! costs nothing per session, and hints for agents of other instances are dropped by a look into a
//! map. Hints may be lost, so after an outage of the bus, after we have read too slowly, and when twin-store
//! says that it left some out, every session looks again.

use std::pin::pin;
use std::time::Duration;

use bus::{Bus, Hint, HintError, Hints, LinkState};
use futures::future::{self, FusedFuture as _};
use futures::{FutureExt as _, StreamExt};
use jiff::Timestamp;
use prost::Message as _;
use service_kit::health::Component;
use service_kit::shutdown::ShutdownToken;
use wire::bus::v1 as bus_wire;
use wire::bus::v1::telemetry_entry::Content;
use wire::subjects;

use crate::auth::Authenticator;
use crate::sessions::Sessions;

/// How long after hints were dropped the sessions look again: more are dropped with them, and one look
/// is for all.
const DROPPED_PAUSE: Duration = Duration::from_secs(5);

/// The subscriptions.
pub(crate) struct Listening {
    hints: futures::stream::SelectAll<Hints>,
}

impl Listening {
    /// Subscribes to all hints.
    pub(crate) async fn begin(bus: &Bus) -> Result<Self, HintError> {
        let mut hints = futures::stream::SelectAll::new();
        for subject in [
            subjects::PUSH_SUBJECTS,
            subjects::IDENTITY_SUBJECTS,
            subjects::MESSAGE_SUBJECTS,
            subjects::SESSION_SUBJECTS,
            subjects::HINTS_LOST_SUBJECT,
        ] {
            hints.push(bus.listen(subject).await?);
        }
        Ok(Self { hints })
    }

    /// Hands hints on until told to stop.
    pub(crate) async fn run(
        mut self,
        sessions: Sessions,
        auth: Authenticator,
        shutdown: ShutdownToken,
    ) {
        let mut stop = pin!(shutdown.triggered());
        let mut looking = pin!(future::Fuse::terminated());
        loop {
            tokio::select! {
                () = &mut stop => return,
                () = &mut looking => look_for_dropped(&sessions, &auth),
                hint = self.hints.next() => match hint {
                    Some(hint) if hint.subject == subjects::HINTS_LOST_SUBJECT => {
                        if looking.is_terminated() {
                            looking.set(tokio::time::sleep(DROPPED_PAUSE).fuse());
                        }
                    }
                    Some(hint) => hand_on(&hint, &sessions, &auth),
                    // The bus was closed; we are stopping.
                    None => return,
                },
            }
        }
    }
}

/// Reports the link's state, and lets the sessions look again when it has been away, or when hints that
/// came over it were dropped. What is known of identities may be old by then.
pub(crate) async fn follow_link(
    bus: Bus,
    component: Component,
    (sessions, auth): (Sessions, Authenticator),
    shutdown: ShutdownToken,
) {
    let mut link = bus.link();
    let (mut generation, mut dropped) = (link.borrow().generation, link.borrow().dropped);
    loop {
        let now = *link.borrow_and_update();
        match now.state {
            LinkState::Up => component.serving(),
            LinkState::Down => component.failed("no NATS server answers"),
            LinkState::Closed => return,
        }
        if now.generation != generation {
            generation = now.generation;
            auth.forget_all();
            sessions.look_again();
        }
        if now.dropped != dropped {
            let pause = tokio::time::sleep(DROPPED_PAUSE);
            if shutdown.run_until(pause).await.is_none() {
                return;
            }
            dropped = link.borrow().dropped;
            look_for_dropped(&sessions, &auth);
        }
        if !matches!(shutdown.run_until(link.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

/// Looks for what dropped hints would have said.
fn look_for_dropped(sessions: &Sessions, auth: &Authenticator) {
    auth.forget_all();
    sessions.look_quietly();
}

fn hand_on(hint: &Hint, sessions: &Sessions, auth: &Authenticator) {
    let Some(identity) = subjects::identity_of_subject(&hint.subject) else {
        tracing::debug!(
            subject = hint.subject,
            "hint on a subject that names no identity"
        );
        return;
    };
    if hint.subject.starts_with("push.") {
        // A hint that cannot be read still says that something changed.
        let version = bus_wire::PushHint::decode(&*hint.payload).map_or(0, |it| it.desired_version);
        sessions.desired_changed(&identity, version);
    } else if hint.subject.starts_with("identity.") {
        auth.forget(&identity);
        sessions.identity_changed(&identity);
    } else if hint.subject.starts_with("message.") {
        sessions.message_waits(&identity);
    } else if let Some((instance, opened_at)) = read_notice(hint) {
        sessions.opened_elsewhere(&identity, &instance, opened_at);
    }
}

/// Who opened a session, and when.
fn read_notice(hint: &Hint) -> Option<(String, Timestamp)> {
    let entry = bus_wire::TelemetryEntry::decode(&*hint.payload).ok()?;
    let opened_at = wire::time::required("receive_time", entry.receive_time).ok()?;
    match entry.content? {
        Content::Session(notice) => Some((notice.instance, opened_at)),
        Content::Batch(_) | Content::SecurityMessage(_) => None,
    }
}
