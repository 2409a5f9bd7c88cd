//! Patches of the reported section: acknowledged when it is known what became of them.
//!
//! A `PUBACK` tells a device that it may forget what it has sent. So it goes out after twin-store has
//! stored the patch, or has refused it for good. If twin-store is away, a device that hears answers
//! is told so by one; any other finds its connection closed and sends again.

use futures::FutureExt;
use rmqtt_codec::v3::Packet;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use tokio::sync::oneshot;

use super::Running;
use super::perform::Stored;
use crate::mqtt::answer;
use crate::mqtt::end::End;
use crate::mqtt::session::Effect;
use crate::twins::Refused;

/// Where it is told what became of a patch.
pub(super) type Waiting = oneshot::Sender<Result<(), End>>;

impl Running {
    /// Acknowledges a patch in turn, when it is known what became of it.
    pub(super) fn acknowledge_patch(&mut self, packet_id: std::num::NonZeroU16) {
        let (told, outcome) = oneshot::channel();
        self.patches.push_back(told);
        let acknowledging = async move {
            // Nobody tells of what is not asked for any more.
            let never = |_| Err(End::NotStored(bus::PackError::Closed));
            Stored {
                ack: Some(packet_id),
                bytes: 0,
                outcome: outcome.await.unwrap_or_else(never),
            }
        };
        self.acks.push_back(acknowledging.boxed());
    }

    /// A patch was stored, or not.
    pub(super) fn on_patched(
        &mut self,
        rid: &str,
        acknowledged: bool,
        outcome: Result<u64, Refused>,
    ) -> Result<Vec<Effect>, End> {
        let (reply, known) = match outcome {
            Ok(version) => (Some(answer::patched(rid, version)), Ok(())),
            Err(error) if is_away(&error) && !self.session.hears_answers() => {
                self.note_refusal(&error);
                (None, Err(End::NotPatched(error)))
            }
            Err(error) => (Some(self.refuse(rid, &error)), Ok(())),
        };
        if acknowledged && let Some(waiting) = self.patches.pop_front() {
            // It waits as long as the connection does.
            let _ = waiting.send(known);
            self.acknowledge_what_is_known()?;
        }
        Ok(match reply {
            Some(packet) => self.session.on_twin_answer(packet),
            None => self.session.on_no_twin_answer(),
        })
    }

    /// Sends the acknowledgements that are due before anything else goes out: IoT Hub's come before
    /// the answers.
    fn acknowledge_what_is_known(&mut self) -> Result<(), End> {
        use futures::StreamExt as _;
        while let Some(Some(stored)) = self.acks.next().now_or_never() {
            self.on_stored(stored)?;
        }
        Ok(())
    }

    pub(super) fn refuse(&mut self, rid: &str, error: &RemoteError) -> Packet {
        let id = service_kit::trace::correlation_id();
        self.note_refusal(error);
        answer::refused(rid, error, &id, self.door.parts.clock.now())
    }
}

/// Whether the refusal says nothing of the patch, so that the same may be stored later.
fn is_away(error: &RemoteError) -> bool {
    match error.kind() {
        // A quota of IoT Hub's has IoT Hub's number, and stays what it is.
        Kind::ResourceExhausted => !answer::has_iot_hubs_number(error),
        // That we may not call is nothing that the device has done.
        Kind::Unavailable
        | Kind::DeadlineExceeded
        | Kind::Unauthenticated
        | Kind::PermissionDenied => true,
        // Sent again, it would meet the same defect or the same damage.
        Kind::Internal
        | Kind::DataLoss
        | Kind::InvalidArgument
        | Kind::NotFound
        | Kind::AlreadyExists
        | Kind::FailedPrecondition
        | Kind::OutOfRange
        | Kind::Aborted
        | Kind::Unimplemented => false,
    }
}
