//! What others leave word of for a session, and the slow tick that stands in for words that were lost.

use tokio::time::Instant;

use super::perform::Audience;
use super::{LOOK, Running};
use crate::looks::Looks;
use crate::mqtt::end::End;
use crate::sessions::Mail;

/// When a session says again that it is here.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// The twin could not be told that the session began.
    pub(super) untold: bool,
    looks: Looks,
}

impl Running {
    pub(super) fn on_mail(&mut self, mail: Mail) -> Result<(), End> {
        if mail.taken_over {
            self.decline(mail.calls);
            return Err(End::TakenOver);
        }
        if mail.identity_changed {
            self.prove_once_more = self.proving;
            self.prove_again();
        }
        if mail.messages {
            self.session.on_message_hint();
        }
        // Whoever does not read what it is sent would have us keep calls that nobody waits for.
        if self.wire.writer.has_room() {
            for call in mail.calls {
                let effects = self.session.on_call(call);
                self.perform(effects)?;
            }
        } else {
            self.decline(mail.calls);
        }
        if let Some(version) = mail.desired {
            self.session.on_hint(version);
        }
        if mail.tell_again {
            self.tell(Audience::TwinToo);
        } else if mail.announce {
            self.tell(Audience::Instances);
        }
        Ok(())
    }

    pub(super) fn on_look(&mut self) {
        self.look_later();
        self.prove_again();
        let announces = self.telling.looks.announces();
        if std::mem::take(&mut self.telling.untold) {
            self.tell(Audience::TwinToo);
        } else if announces {
            self.tell(Audience::Instances);
        }
        self.session.on_tick();
    }

    pub(super) fn look_later(&mut self) {
        // Without a budget there is always another delay.
        let delay = self.look_backoff.next_delay().unwrap_or(LOOK.cap);
        self.look.as_mut().reset(Instant::now() + delay);
    }
}
