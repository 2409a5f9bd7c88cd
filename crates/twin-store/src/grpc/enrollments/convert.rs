//! Enrolments as messages, and messages as enrolments: every field is checked here.

use jiff::Timestamp;
use service_kit::tls::authorities::Authorities;
use twin::{DeviceId, Stamp, Twin, TwinPatch, Writer};
use wire::InvalidField;
use wire::registry::v1 as proto;
use wire::time::to_wire;

use super::Named;
use crate::encode;
use crate::error::Error;
use crate::grpc::authentication::{given_keys, given_thumbprints, new_key};
use crate::grpc::identity::View;
use crate::grpc::object;
use crate::provisioning::{
    ADOPTS_MAX, AUTHORITIES_MAX, Adopted, Attestation, Enrollment, Reprovision, key_of,
};
use crate::record::{IdentityEtag, Status};
use crate::secrets::Sealer;
use crate::store::ProvisioningKind;

/// Longest text with certificates of authorities.
const PEM_BYTES_MAX: usize = 32 * 1024;

/// Reads an enrolment that is to be made.
pub(super) fn read_new(
    sealer: &Sealer,
    named: Named,
    given: proto::Enrollment,
    now: Timestamp,
) -> Result<Enrollment, Error> {
    let mut enrollment = Enrollment {
        kind: named.kind,
        id: named.id,
        generation_id: uuid::Uuid::new_v4().to_string(),
        etag: IdentityEtag::begin(*sealer.random()?),
        status: status(given.status)?.unwrap_or(Status::Enabled),
        // It is what follows.
        attestation: Attestation::Authorities(String::new()),
        device: device(named.kind, &given.device_id)?,
        iot_edge: given.iot_edge,
        security_module: !given.without_security_module,
        tags: document("tags_json", &given.tags_json, now)?,
        desired: document("desired_json", &given.desired_json, now)?,
        reprovision: reprovision(given.reprovision_policy)?,
        adopts: adopts(named.kind, given.adopts)?,
        created_at: now,
        updated_at: now,
    };
    let only = |field: &str, with: &str| -> Error {
        InvalidField::new(
            format!("enrollment.{field}"),
            format!("is allowed only with {with}"),
        )
        .into()
    };
    let type_of = proto::AttestationType::try_from(given.attestation_type);
    enrollment.attestation = match (type_of, named.kind) {
        (Ok(proto::AttestationType::Unspecified | proto::AttestationType::SymmetricKey), _) => {
            if given.thumbprints.is_some() || !given.ca_certificates_pem.is_empty() {
                let x509 = "ATTESTATION_TYPE_X509";
                return Err(only("thumbprints and ca_certificates_pem", x509));
            }
            keys(sealer, &enrollment.owner(), given.keys)?
        }
        (Ok(proto::AttestationType::X509), kind) => {
            if given.keys.is_some() {
                return Err(only("keys", "ATTESTATION_TYPE_SYMMETRIC_KEY"));
            }
            let is_group = kind == ProvisioningKind::Group;
            if is_group && given.thumbprints.is_some() {
                return Err(only("thumbprints", "the enrolment of one device"));
            }
            if !is_group && !given.ca_certificates_pem.is_empty() {
                return Err(only("ca_certificates_pem", "the enrolment of a group"));
            }
            if is_group {
                authorities(given.ca_certificates_pem)?
            } else {
                thumbprints(given.thumbprints.as_ref())?
            }
        }
        (Err(_), _) => {
            let problem = format!("{} is none that is known", given.attestation_type);
            return Err(InvalidField::new("enrollment.attestation_type", problem).into());
        }
    };
    Ok(enrollment)
}

/// What is to be changed of an enrolment.
pub(super) struct Changes(Vec<Change>);

enum Change {
    Status(Status),
    Keys(Option<proto::SymmetricKeys>),
    Thumbprints(Attestation),
    Authorities(Attestation),
    Device(Option<DeviceId>),
    IotEdge(bool),
    SecurityModule(bool),
    Tags(Option<String>),
    Desired(Option<String>),
    Reprovision(Reprovision),
    Adopts(Vec<Adopted>),
}

impl Changes {
    /// Reads what a mask names.
    pub(super) fn read(
        sealer: &Sealer,
        named: &Named,
        given: &proto::Enrollment,
        mask: &[String],
        now: Timestamp,
    ) -> Result<Changes, Error> {
        if mask.is_empty() {
            let problem = "is missing; name the fields that are to be set";
            return Err(InvalidField::new("update_mask", problem).into());
        }
        let mut changes = Vec::new();
        for path in mask {
            changes.push(match path.as_str() {
                "status" => Change::Status(status(given.status)?.ok_or_else(|| {
                    let problem = "must be STATUS_ENABLED or STATUS_DISABLED";
                    InvalidField::new("enrollment.status", problem)
                })?),
                "keys" => {
                    // Refused before anything is decided, if they are none.
                    keys(sealer, &named.name(), given.keys.clone())?;
                    Change::Keys(given.keys.clone())
                }
                "thumbprints" => Change::Thumbprints(thumbprints(given.thumbprints.as_ref())?),
                "ca_certificates_pem" => {
                    Change::Authorities(authorities(given.ca_certificates_pem.clone())?)
                }
                "device_id" => Change::Device(device(named.kind, &given.device_id)?),
                "iot_edge" => Change::IotEdge(given.iot_edge),
                "without_security_module" => Change::SecurityModule(!given.without_security_module),
                "tags_json" => Change::Tags(document("tags_json", &given.tags_json, now)?),
                "desired_json" => {
                    Change::Desired(document("desired_json", &given.desired_json, now)?)
                }
                "reprovision_policy" => Change::Reprovision(reprovision(given.reprovision_policy)?),
                "adopts" => Change::Adopts(adopts(named.kind, given.adopts.clone())?),
                other => {
                    let problem = format!(
                        "{other:?} cannot be set; allowed are status, keys, thumbprints, \
                         ca_certificates_pem, device_id, iot_edge, without_security_module, \
                         tags_json, desired_json, reprovision_policy and adopts"
                    );
                    return Err(InvalidField::new("update_mask", problem).into());
                }
            });
        }
        Ok(Changes(changes))
    }

    /// Makes the changes. How devices prove themselves stays what it was.
    pub(super) fn apply(self, sealer: &Sealer, enrollment: &mut Enrollment) -> Result<(), Error> {
        for change in self.0 {
            match change {
                Change::Status(status) => enrollment.status = status,
                Change::Keys(given) => {
                    let anew = keys(sealer, &enrollment.owner(), given)?;
                    set(enrollment, anew, "keys")?;
                }
                Change::Thumbprints(new) => set(enrollment, new, "thumbprints")?,
                Change::Authorities(new) => set(enrollment, new, "ca_certificates_pem")?,
                Change::Device(device) => enrollment.device = device,
                Change::IotEdge(iot_edge) => enrollment.iot_edge = iot_edge,
                Change::SecurityModule(is_made) => enrollment.security_module = is_made,
                Change::Tags(tags) => enrollment.tags = tags,
                Change::Desired(desired) => enrollment.desired = desired,
                Change::Reprovision(policy) => enrollment.reprovision = policy,
                Change::Adopts(names) => enrollment.adopts = names,
            }
        }
        Ok(())
    }
}

fn set(enrollment: &mut Enrollment, new: Attestation, field: &str) -> Result<(), Error> {
    if std::mem::discriminant(&enrollment.attestation) != std::mem::discriminant(&new) {
        let problem = "is not how devices of this enrolment prove themselves, which cannot be \
                       changed; delete the enrolment and make another";
        return Err(InvalidField::new(format!("enrollment.{field}"), problem).into());
    }
    enrollment.attestation = new;
    Ok(())
}

/// An enrolment as a message.
pub(super) fn message(
    sealer: &Sealer,
    enrollment: &Enrollment,
    view: View,
) -> Result<proto::Enrollment, Error> {
    let mut message = proto::Enrollment {
        name: enrollment.name(),
        etag: enrollment.etag.to_string(),
        status: encode::status(enrollment.status).into(),
        attestation_type: proto::AttestationType::X509.into(),
        device_id: enrollment
            .device
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        iot_edge: enrollment.iot_edge,
        without_security_module: !enrollment.security_module,
        tags_json: enrollment.tags.clone().unwrap_or_default(),
        desired_json: enrollment.desired.clone().unwrap_or_default(),
        reprovision_policy: match enrollment.reprovision {
            Reprovision::Keep => proto::ReprovisionPolicy::Keep,
            Reprovision::Reset => proto::ReprovisionPolicy::Reset,
            Reprovision::Never => proto::ReprovisionPolicy::Never,
        }
        .into(),
        adopts: enrollment.adopted_names(),
        create_time: Some(to_wire(enrollment.created_at)),
        update_time: Some(to_wire(enrollment.updated_at)),
        ..proto::Enrollment::default()
    };
    match &enrollment.attestation {
        Attestation::Keys { primary, secondary } => {
            message.attestation_type = proto::AttestationType::SymmetricKey.into();
            if view == View::Full {
                let owner = enrollment.owner();
                message.keys = Some(proto::SymmetricKeys {
                    primary: sealer.open_sealed(&owner, primary)?.to_string(),
                    secondary: sealer.open_sealed(&owner, secondary)?.to_string(),
                });
            }
        }
        Attestation::Thumbprints { primary, secondary } => {
            message.thumbprints = Some(proto::Thumbprints {
                primary: primary.clone(),
                secondary: secondary.clone().unwrap_or_default(),
            });
        }
        Attestation::Authorities(pem) => message.ca_certificates_pem.clone_from(pem),
    }
    Ok(message)
}

/// The keys given, or fresh ones, sealed for an enrolment.
fn keys(
    sealer: &Sealer,
    owner: &str,
    given: Option<proto::SymmetricKeys>,
) -> Result<Attestation, Error> {
    let (primary, secondary) = match given {
        Some(keys) => {
            let keys = given_keys(keys)?;
            (keys.primary, keys.secondary)
        }
        None => (new_key(sealer)?, new_key(sealer)?),
    };
    Ok(Attestation::Keys {
        primary: sealer.seal(owner, &primary)?,
        secondary: sealer.seal(owner, &secondary)?,
    })
}

fn thumbprints(given: Option<&proto::Thumbprints>) -> Result<Attestation, Error> {
    let missing = "is required with ATTESTATION_TYPE_X509 of one device";
    let given = given.ok_or_else(|| InvalidField::new("enrollment.thumbprints", missing))?;
    let (primary, secondary) = given_thumbprints(given)?;
    Ok(Attestation::Thumbprints { primary, secondary })
}

fn authorities(pem: String) -> Result<Attestation, Error> {
    let refuse = |problem: String| InvalidField::new("enrollment.ca_certificates_pem", problem);
    if pem.len() > PEM_BYTES_MAX {
        let problem = format!("has {} bytes; allowed are {PEM_BYTES_MAX}", pem.len());
        return Err(refuse(problem).into());
    }
    let count = Authorities::parse(&pem)
        .map_err(|error| refuse(error.to_string()))?
        .count();
    if count > AUTHORITIES_MAX {
        let problem = format!("holds {count} certificates; allowed are {AUTHORITIES_MAX}");
        return Err(refuse(problem).into());
    }
    Ok(Attestation::Authorities(pem))
}

fn status(status: i32) -> Result<Option<Status>, Error> {
    match proto::Status::try_from(status) {
        Ok(proto::Status::Unspecified) => Ok(None),
        Ok(proto::Status::Enabled) => Ok(Some(Status::Enabled)),
        Ok(proto::Status::Disabled) => Ok(Some(Status::Disabled)),
        Err(_) => {
            let problem = format!("{status} is none that is known");
            Err(InvalidField::new("enrollment.status", problem).into())
        }
    }
}

fn reprovision(policy: i32) -> Result<Reprovision, Error> {
    use proto::ReprovisionPolicy as Policy;
    match Policy::try_from(policy) {
        Ok(Policy::Unspecified | Policy::Keep) => Ok(Reprovision::Keep),
        Ok(Policy::Reset) => Ok(Reprovision::Reset),
        Ok(Policy::Never) => Ok(Reprovision::Never),
        Err(_) => {
            let problem = format!("{policy} is none that is known");
            Err(InvalidField::new("enrollment.reprovision_policy", problem).into())
        }
    }
}

fn device(kind: ProvisioningKind, id: &str) -> Result<Option<DeviceId>, Error> {
    let refuse = |problem: String| InvalidField::new("enrollment.device_id", problem);
    match (id, kind) {
        ("", _) => Ok(None),
        (_, ProvisioningKind::Group) => {
            let problem = "is for one device; those of a group are called as they register";
            Err(refuse(problem.to_owned()).into())
        }
        (id, _) => {
            let device = DeviceId::parse(id);
            Ok(Some(device.map_err(|error| refuse(error.to_string()))?))
        }
    }
}

/// Reads whose devices a group takes over.
fn adopts(kind: ProvisioningKind, names: Vec<String>) -> Result<Vec<Adopted>, Error> {
    let refuse = |problem: String| Error::from(InvalidField::new("enrollment.adopts", problem));
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if kind != ProvisioningKind::Group {
        let problem = "is for groups; the enrolment of one device has that device anyhow";
        return Err(refuse(problem.to_owned()));
    }
    if names.len() > ADOPTS_MAX {
        let count = names.len();
        return Err(refuse(format!(
            "names {count} enrolments; allowed are {ADOPTS_MAX}"
        )));
    }
    if let Some(wrong) = names.iter().find(|name| key_of(name).is_none()) {
        return Err(refuse(format!(
            "{wrong:?} is no enrolment; allowed are enrollmentGroups/{{group}} and \
             enrollments/{{registration}}"
        )));
    }
    Ok(names.into_iter().map(Adopted::unseen).collect())
}

/// Reads what a section begins with, and refuses what no twin could begin with.
fn document(field: &str, text: &str, now: Timestamp) -> Result<Option<String>, Error> {
    let Some(document) = object(&format!("enrollment.{field}"), text)? else {
        return Ok(None);
    };
    let mut sections = TwinPatch::default();
    match field {
        "tags_json" => sections.tags = Some(document),
        _ => sections.desired = Some(document),
    }
    let stamp = Stamp {
        at: now,
        by: Writer::System,
    };
    let begun = Twin::new(now).replace(&sections, &stamp, None);
    begun.map_err(|source| Error::Bulk { source })?;
    Ok(Some(text.to_owned()))
}
