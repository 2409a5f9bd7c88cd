//! Whether a device may stay: its proof has an end, and is looked at again.

use std::time::Duration;

use super::Running;
use crate::auth::AuthError;
use crate::mqtt::end::End;

/// The longest single sleep until the proof ends. The wall clock may be stepped meanwhile, and
/// timers have a limit that tokens do not have.
const PROOF_SLEEP_MAX: Duration = Duration::from_hours(1);

impl Running {
    pub(super) fn on_proven(&mut self, outcome: Result<(), AuthError>) -> Result<(), End> {
        self.proving = false;
        if std::mem::take(&mut self.prove_once_more) {
            self.prove_again();
        }
        match outcome {
            // That twin-store is away proves nothing; the next look asks again.
            Ok(()) | Err(AuthError::Unavailable(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How long to sleep until the proof may have ended.
    pub(super) fn proof_left(&self) -> Duration {
        let now = self.door.parts.clock.now();
        let left = self.proof.ends_at().duration_since(now);
        Duration::try_from(left)
            .unwrap_or(Duration::ZERO)
            .min(PROOF_SLEEP_MAX)
    }

    pub(super) fn check_proof_time(&self) -> Result<(), End> {
        self.proof.check_time(self.door.parts.clock.now())?;
        Ok(())
    }
}
