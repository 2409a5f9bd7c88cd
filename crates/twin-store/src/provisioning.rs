//! Enrolments as they are kept: how devices prove themselves that are not registered yet, and what is
//! made for them. Another thing than the tokens of our own agent (`apply::enrollment`).
//!
//! A row's body is JSON under short stable names; what is new is optional when read. Keys in it are
//! sealed for the enrolment and its generation.

use iot_hub::RegistrationId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use twin::DeviceId;

use crate::record::{Damaged, IdentityEtag, Status};
use crate::secrets::Sealed;
use crate::store::{ProvisioningKey, ProvisioningKind, ProvisioningRow};

mod adopted;
mod error;
mod prove;

pub use adopted::{Adopted, Seen};
pub use error::ProvisioningError;
pub(crate) use prove::{Claim, Credentials, Proof, Proven, keys, prove};

/// Most certificates of authorities of a group: two, and their successors.
pub const AUTHORITIES_MAX: usize = 4;

/// Most enrolments that a group takes the devices over of: each is looked at with each of its devices.
pub const ADOPTS_MAX: usize = 16;

/// The enrolment of one device, or of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Enrollment {
    /// Of one device, or of a group.
    pub kind: ProvisioningKind,
    /// The registration id, or that of the group.
    pub id: RegistrationId,
    /// New each time it is made again.
    pub generation_id: String,
    /// Changes with each change.
    pub etag: IdentityEtag,
    /// Whether its devices may register.
    pub status: Status,
    /// How they prove themselves.
    pub attestation: Attestation,
    /// The device that is made, if it is not called as it registers; none of a group.
    pub device: Option<DeviceId>,
    /// Whether an IoT Edge device is made.
    pub iot_edge: bool,
    /// Whether its security module is made with it.
    pub security_module: bool,
    /// JSON objects with which the twin begins: tags, desired.
    pub tags: Option<String>,
    /// See `tags`.
    pub desired: Option<String>,
    /// What becomes of a device that registers again.
    pub reprovision: Reprovision,
    /// The enrolments whose devices a group takes over, once they are no more.
    pub adopts: Vec<Adopted>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// How devices of an enrolment prove themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attestation {
    /// By a token signed with one of two keys, or with keys derived from them.
    Keys {
        /// Sealed.
        primary: Sealed,
        /// Sealed.
        secondary: Sealed,
    },
    /// By a certificate of one of two thumbprints: of one device.
    Thumbprints {
        /// Always there.
        primary: String,
        /// May be absent.
        secondary: Option<String>,
    },
    /// By a certificate that one of these signed, in PEM: of a group.
    Authorities(String),
}

/// What becomes of a device that registers again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reprovision {
    /// It keeps its twin and gets the credentials that it has proven.
    #[default]
    Keep,
    /// It gets them, and its twin begins anew.
    Reset,
    /// It stays as it is.
    Never,
}

impl Enrollment {
    /// The row it lies in: the ids of single devices are equal whatever their case.
    pub fn key(&self) -> ProvisioningKey {
        key(self.kind, &self.id)
    }

    /// Its resource name.
    pub fn name(&self) -> String {
        name(self.kind, self.id.as_str())
    }

    /// Names of the enrolments whose devices it takes over.
    pub fn adopted_names(&self) -> Vec<String> {
        let adopted = self.adopts.iter();
        adopted.map(|adopted| adopted.name.clone()).collect()
    }

    /// What its keys are sealed for.
    pub fn owner(&self) -> String {
        format!("{}#{}", self.name(), self.generation_id)
    }

    /// Prints it.
    ///
    /// # Errors
    /// Nothing that there is causes one.
    pub fn row(&self) -> Result<ProvisioningRow, serde_json::Error> {
        let (keys, thumbprints, authorities) = match &self.attestation {
            Attestation::Keys { primary, secondary } => {
                (Some((primary.0.clone(), secondary.0.clone())), None, None)
            }
            Attestation::Thumbprints { primary, secondary } => {
                (None, Some((primary.clone(), secondary.clone())), None)
            }
            Attestation::Authorities(pem) => (None, None, Some(pem.clone())),
        };
        let body = Body {
            id: self.id.to_string(),
            generation: self.generation_id.clone(),
            etag: self.etag.number(),
            status: self.status.as_str().to_owned(),
            keys,
            thumbprints,
            authorities,
            device: self.device.as_ref().map(ToString::to_string),
            iot_edge: self.iot_edge,
            no_security_module: !self.security_module,
            tags: self.tags.clone(),
            desired: self.desired.clone(),
            reprovision: self.reprovision,
            adopts: self.adopts.iter().map(adopted::Body::of).collect(),
            created_at: self.created_at.to_string(),
            updated_at: self.updated_at.to_string(),
        };
        Ok(ProvisioningRow {
            key: self.key(),
            body: serde_json::to_string(&body)?,
        })
    }

    /// Reads it back.
    ///
    /// # Errors
    /// What cannot be read; nothing but a damaged store causes it.
    pub fn read(row: &ProvisioningRow) -> Result<Enrollment, Damaged> {
        let damaged = |problem: String| Damaged {
            key: row.key.to_string(),
            part: "body",
            problem,
        };
        let body: Body =
            serde_json::from_str(&row.body).map_err(|error| damaged(error.to_string()))?;
        let instant = |text: &str| {
            text.parse::<Timestamp>()
                .map_err(|error| damaged(error.to_string()))
        };
        let adopts = body.adopts.into_iter().map(adopted::Body::read);
        let device = body.device.as_deref().map(DeviceId::parse).transpose();
        let status = Status::parse(&body.status);
        let attestation = match (body.keys, body.thumbprints, body.authorities) {
            (Some((primary, secondary)), None, None) => Attestation::Keys {
                primary: Sealed(primary),
                secondary: Sealed(secondary),
            },
            (None, Some((primary, secondary)), None) => {
                Attestation::Thumbprints { primary, secondary }
            }
            (None, None, Some(pem)) => Attestation::Authorities(pem),
            _ => return Err(damaged("it has not exactly one attestation".to_owned())),
        };
        Ok(Enrollment {
            kind: row.key.kind,
            id: RegistrationId::parse(&body.id).map_err(|error| damaged(error.to_string()))?,
            generation_id: body.generation,
            etag: IdentityEtag::from_number(body.etag),
            status: status.ok_or_else(|| damaged(format!("{:?} is no status", body.status)))?,
            attestation,
            device: device.map_err(|error| damaged(error.to_string()))?,
            iot_edge: body.iot_edge,
            security_module: !body.no_security_module,
            tags: body.tags,
            desired: body.desired,
            reprovision: body.reprovision,
            adopts: adopts.collect::<Result<_, _>>().map_err(damaged)?,
            created_at: instant(&body.created_at)?,
            updated_at: instant(&body.updated_at)?,
        })
    }
}

/// The row of an enrolment with this id.
pub fn key(kind: ProvisioningKind, id: &RegistrationId) -> ProvisioningKey {
    let id = match kind {
        ProvisioningKind::Individual => id.folded(),
        ProvisioningKind::Group | ProvisioningKind::Scope => id.to_string(),
    };
    ProvisioningKey { kind, id }
}

/// The resource name of an enrolment.
pub fn name(kind: ProvisioningKind, id: &str) -> String {
    match kind {
        ProvisioningKind::Individual => format!("enrollments/{id}"),
        ProvisioningKind::Group => format!("enrollmentGroups/{id}"),
        ProvisioningKind::Scope => "provisioning".to_owned(),
    }
}

/// The row of the enrolment with this resource name; none if it is no such name.
pub fn key_of(name: &str) -> Option<ProvisioningKey> {
    let (kind, id) = name.split_once('/')?;
    let kind = match kind {
        "enrollments" => ProvisioningKind::Individual,
        "enrollmentGroups" => ProvisioningKind::Group,
        _ => return None,
    };
    Some(key(kind, &RegistrationId::parse(id).ok()?))
}

#[derive(Serialize, Deserialize)]
struct Body {
    id: String,
    generation: String,
    etag: u64,
    status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thumbprints: Option<(String, Option<String>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authorities: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    iot_edge: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    no_security_module: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    desired: Option<String>,
    #[serde(default)]
    reprovision: Reprovision,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    adopts: Vec<adopted::Body>,
    created_at: String,
    updated_at: String,
}

/// The id scope as its row has it.
#[derive(Serialize, Deserialize)]
struct Scope {
    id_scope: String,
}

/// The row of the hub's id scope.
///
/// # Errors
/// Nothing that there is causes one.
pub fn scope_row(id_scope: &str) -> Result<ProvisioningRow, serde_json::Error> {
    let scope = Scope {
        id_scope: id_scope.to_owned(),
    };
    Ok(ProvisioningRow {
        key: ProvisioningKey::scope(),
        body: serde_json::to_string(&scope)?,
    })
}

/// Reads the hub's id scope.
///
/// # Errors
/// What cannot be read; nothing but a damaged store causes it.
pub fn read_scope(row: &ProvisioningRow) -> Result<String, Damaged> {
    let scope: Scope = serde_json::from_str(&row.body).map_err(|error| Damaged {
        key: row.key.to_string(),
        part: "body",
        problem: error.to_string(),
    })?;
    Ok(scope.id_scope)
}

/// An id scope of random bytes, in the form that Azure's have.
pub fn new_scope(random: [u8; 4]) -> String {
    format!("0ne{:08X}", u32::from_be_bytes(random))
}

/// What nothing that there is causes.
pub(crate) fn unprintable(error: serde_json::Error) -> crate::error::Error {
    crate::error::Error::Store(crate::store::Error::Engine {
        action: "print an enrolment",
        source: error.into(),
    })
}

#[cfg(test)]
mod tests;
