//! How a device registered itself, as it lies in a row.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use twin::IdentityKey;

use crate::record::{Damaged, EnrolledBy, Provisioned};

/// Names are frozen, as those of the row around it.
#[derive(Serialize, Deserialize)]
pub(super) struct RowProvisioned {
    registration: String,
    enrollment: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<RowEnrolledBy>,
    operation: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reset: bool,
    count: u64,
    first_at: String,
    last_at: String,
}

/// A group that had the device before.
#[derive(Serialize, Deserialize)]
struct RowEnrolledBy {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
}

impl RowProvisioned {
    pub(super) fn of(provisioned: &Provisioned) -> RowProvisioned {
        RowProvisioned {
            registration: provisioned.registration_id.clone(),
            enrollment: provisioned.enrollment.name.clone(),
            generation: provisioned.enrollment.generation.clone(),
            group: provisioned.group.clone().map(|group| RowEnrolledBy {
                name: group.name,
                generation: group.generation,
            }),
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
            enrollment: EnrolledBy {
                name: self.enrollment,
                generation: self.generation,
            },
            group: self.group.map(|group| EnrolledBy {
                name: group.name,
                generation: group.generation,
            }),
            operation_id: self.operation,
            was_reset: self.reset,
            count: self.count,
        })
    }
}
