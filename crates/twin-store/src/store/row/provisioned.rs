//! How a device registered itself, as it lies in a row.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use twin::IdentityKey;

use crate::record::{Damaged, Provisioned};

/// Names are frozen, as those of the row around it.
#[derive(Serialize, Deserialize)]
pub(super) struct RowProvisioned {
    registration: String,
    enrollment: String,
    operation: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reset: bool,
    count: u64,
    first_at: String,
    last_at: String,
}

impl RowProvisioned {
    pub(super) fn of(provisioned: &Provisioned) -> RowProvisioned {
        RowProvisioned {
            registration: provisioned.registration_id.clone(),
            enrollment: provisioned.enrollment.clone(),
            operation: provisioned.operation_id.clone(),
            reset: provisioned.was_reset,
            count: provisioned.count,
            first_at: provisioned.first_at.to_string(),
            last_at: provisioned.last_at.to_string(),
        }
    }

    pub(super) fn read(self, key: &IdentityKey) -> Result<Provisioned, Damaged> {
        let instant = |text: &str| {
            text.parse::<Timestamp>().map_err(|error| Damaged {
                key: key.to_string(),
                part: "provisioned",
                problem: error.to_string(),
            })
        };
        Ok(Provisioned {
            first_at: instant(&self.first_at)?,
            last_at: instant(&self.last_at)?,
            registration_id: self.registration,
            enrollment: self.enrollment,
            operation_id: self.operation,
            was_reset: self.reset,
            count: self.count,
        })
    }
}
