//! `ProvisioningService`: devices that register themselves, at the doors of ingestion and gateway.
//!
//! The doors pass on what a device shows; whether it proves anything is decided here, so that the keys
//! of enrolments never leave.

use iot_hub::{RegistrationId, SasToken};
use jiff::Timestamp;
use tonic::{Request, Response, Status};
use twin::{DeviceId, IdentityKey, TwinPatch, Writer};
use wire::InvalidField;
use wire::registry::v1 as proto;
use wire::registry::v1::provisioning_service_server::ProvisioningService;
use wire::registry::v1::registration_claim::Proof as GivenProof;
use wire::time::to_wire;

use super::authentication::{Wanted, has_credentials};
use super::caller::Caller;
use super::identity::{new_identity, plain_identity};
use super::{Api, object, refuse};
use crate::apply::provisioning::{Registering, register, security_module};
use crate::error::Error;
use crate::provisioning::{
    Adopted, Claim, Enrollment, Proof, Proven, ProvisioningError, key, prove, read_scope,
};
use crate::record::{IdentityEtag, Record, Status as RecordStatus};
use crate::store::{Loaded, ProvisioningKey, ProvisioningKind, Selection};

/// Most certificates of a chain; and most bytes of each.
const CHAIN_MAX: usize = 8;
/// See `CHAIN_MAX`. An RSA certificate of 4096 bits with all its extensions has 3 KB.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// How often a registration is tried while its enrolment changes at the same moment.
const TRIES: usize = 4;

/// Who registers, as far as it can be read.
struct Claimed {
    id_scope: String,
    registration: RegistrationId,
    proof: Proof,
}

impl Claimed {
    fn read(claim: Option<proto::RegistrationClaim>) -> Result<Claimed, Error> {
        let claim = claim.ok_or_else(|| InvalidField::new("claim", "is missing"))?;
        let registration = RegistrationId::parse(&claim.registration_id)
            .map_err(|error| InvalidField::new("claim.registration_id", error))?;
        let proof = match claim.proof {
            // What is no token proves as little as a wrong one.
            Some(GivenProof::SasToken(text)) => {
                let token = SasToken::parse(&text);
                Proof::Token(token.map_err(|_| ProvisioningError::Refused)?)
            }
            Some(GivenProof::Chain(chain)) => {
                let certificates = chain.certificates;
                let is_small = |one: &Vec<u8>| one.len() <= CERTIFICATE_BYTES_MAX;
                if certificates.len() > CHAIN_MAX || !certificates.iter().all(is_small) {
                    let problem = format!(
                        "allowed are {CHAIN_MAX} certificates of {CERTIFICATE_BYTES_MAX} bytes"
                    );
                    return Err(InvalidField::new("claim.chain", problem).into());
                }
                Proof::Chain(certificates)
            }
            None => return Err(ProvisioningError::Refused.into()),
        };
        Ok(Claimed {
            id_scope: claim.id_scope,
            registration,
            proof,
        })
    }

    /// The device that belongs to an enrolment. Of one device the spelling of the enrolment counts.
    fn device(&self, enrollment: &Enrollment) -> Result<DeviceId, Error> {
        let id = match (&enrollment.device, enrollment.kind) {
            (Some(device), _) => return Ok(device.clone()),
            (None, ProvisioningKind::Individual) => &enrollment.id,
            (None, ProvisioningKind::Group | ProvisioningKind::Scope) => &self.registration,
        };
        // Every registration id is one of a device, too.
        let id = DeviceId::parse(id.as_str());
        Ok(id.map_err(|error| InvalidField::new("claim.registration_id", error))?)
    }
}

impl Api {
    /// The enrolment that a device has proven to belong to.
    async fn proven(&self, claimed: &Claimed) -> Result<Proven, Error> {
        let own = key(ProvisioningKind::Individual, &claimed.registration);
        let scope = Selection::Provisioning(ProvisioningKey::scope());
        let selections = vec![scope, Selection::Provisioning(own)];
        let mut enrollments = Vec::new();
        let mut is_here = false;
        for loaded in self.store.load(selections).await? {
            match loaded {
                Loaded::Provisioning(row) if row.key.kind == ProvisioningKind::Scope => {
                    is_here = read_scope(&row)?.eq_ignore_ascii_case(&claimed.id_scope);
                }
                Loaded::Provisioning(row) => enrollments.push(Enrollment::read(&row)?),
                Loaded::Damaged(_, damaged) => return Err(damaged.into()),
                Loaded::Whole(_)
                | Loaded::Token(..)
                | Loaded::Request(_)
                | Loaded::Operation(_) => {}
            }
        }
        if !is_here {
            return Err(ProvisioningError::Refused.into());
        }
        // A device with an enrolment of its own belongs to no group.
        if enrollments.is_empty() {
            for loaded in self.store.load(vec![Selection::Groups]).await? {
                if let Loaded::Provisioning(row) = loaded {
                    match Enrollment::read(&row) {
                        Ok(group) => enrollments.push(group),
                        // Other groups' devices are not to suffer for it.
                        Err(damaged) => super::report_damaged(&[damaged]),
                    }
                }
            }
        }
        let claim = Claim {
            id_scope: &claimed.id_scope,
            registration: &claimed.registration,
            proof: &claimed.proof,
        };
        let proven = prove(&self.sealer, enrollments, &claim, self.clock.now())?;
        let proven = proven.ok_or(ProvisioningError::Refused)?;
        if proven.enrollment.status == RecordStatus::Disabled {
            return Err(ProvisioningError::Disabled {
                registration: claimed.registration.to_string(),
            }
            .into());
        }
        Ok(proven)
    }

    async fn register_device(
        &self,
        caller: &Caller,
        request: proto::RegisterDeviceRequest,
    ) -> Result<proto::Registration, Error> {
        let claimed = Claimed::read(request.claim)?;
        for _ in 1..TRIES {
            match self.register_once(caller, &claimed).await {
                // The enrolment changed at the same moment: look at it again.
                Err(Error::Overtaken) => {}
                done => return done,
            }
        }
        self.register_once(caller, &claimed).await
    }

    async fn register_once(
        &self,
        caller: &Caller,
        claimed: &Claimed,
    ) -> Result<proto::Registration, Error> {
        let proven = self.proven(claimed).await?;
        let enrollment = proven.enrollment.clone();
        let own = key(ProvisioningKind::Individual, &claimed.registration);
        let instead = (enrollment.kind == ProvisioningKind::Group).then_some(own);
        let asked = self.registering(claimed, proven, instead.clone())?;
        let mut selections = vec![
            Selection::Family(asked.device.clone()),
            Selection::Provisioning(enrollment.key()),
        ];
        selections.extend(instead.map(Selection::Provisioning));
        // Whether those are gone whose devices it adopts.
        let adopted = enrollment.adopts.iter().filter_map(Adopted::key);
        selections.extend(adopted.map(Selection::Provisioning));
        // What the twin begins with was written by whoever made the enrolment.
        let cause = caller.cause_as(Writer::Operator(enrollment.name()), "");
        self.engine
            .decide(selections, move |overlay, now| {
                let record = register(overlay, asked, now, &cause)?;
                registration(&record)
            })
            .await
    }

    fn registering(
        &self,
        claimed: &Claimed,
        proven: Proven,
        instead: Option<ProvisioningKey>,
    ) -> Result<Registering, Error> {
        let Proven {
            enrollment,
            credentials,
        } = proven;
        let device = claimed.device(&enrollment)?;
        let wanted = Wanted::proven(credentials.clone());
        let key = IdentityKey::new_device(device.clone());
        let mut new_device = new_identity(&self.sealer, &key, wanted, RecordStatus::Enabled)?;
        new_device.iot_edge = enrollment.iot_edge;
        new_device.sections = TwinPatch {
            tags: object("tags_json", enrollment.tags.as_deref().unwrap_or_default())?,
            desired: object(
                "desired_json",
                enrollment.desired.as_deref().unwrap_or_default(),
            )?,
        };
        let new_module = if enrollment.security_module {
            Some(plain_identity(&self.sealer, &security_module(&device))?)
        } else {
            None
        };
        let (sealer, again) = (self.sealer.clone(), credentials.clone());
        let (other, shown) = (self.sealer.clone(), credentials);
        Ok(Registering {
            enrollment,
            instead,
            registration_id: claimed.registration.to_string(),
            device,
            operation_id: self.operation_id()?,
            new_device,
            new_module,
            has_credentials: Box::new(move |record| has_credentials(&other, record, &shown)),
            authenticate: Box::new(move |record| Wanted::proven(again).for_record(&sealer, record)),
        })
    }

    /// In the form that Azure's have: `4.{16 hex digits}.{UUID}`.
    fn operation_id(&self) -> Result<String, Error> {
        let random = self.sealer.random::<8>()?;
        let number = u64::from_be_bytes(*random);
        Ok(format!("4.{number:016x}.{}", uuid::Uuid::new_v4()))
    }

    async fn registration_of(
        &self,
        request: proto::GetRegistrationRequest,
    ) -> Result<proto::Registration, Error> {
        let claimed = Claimed::read(request.claim)?;
        let proven = self.proven(&claimed).await?;
        let not_registered = || ProvisioningError::NotRegistered {
            registration: claimed.registration.to_string(),
        };
        let device = claimed.device(&proven.enrollment)?;
        let record = self.store.get(IdentityKey::new_device(device)).await?;
        let record = record.ok_or_else(not_registered)?;
        let known = record.identity.provisioned.as_ref();
        let is_meant = known.is_some_and(|known| {
            let id = &known.registration_id;
            let asked = &request.operation_id;
            id.eq_ignore_ascii_case(claimed.registration.as_str())
                && known
                    .enrollment
                    .is(&proven.enrollment.name(), &proven.enrollment.generation_id)
                && (asked.is_empty() || known.operation_id == *asked)
        });
        if !is_meant {
            return Err(not_registered().into());
        }
        registration(&record)
    }
}

/// How a device registered, as a message.
fn registration(record: &Record) -> Result<proto::Registration, Error> {
    let known = record.identity.provisioned.as_ref();
    let known = known.ok_or_else(|| ProvisioningError::NotRegistered {
        registration: record.key.device.to_string(),
    })?;
    let time = |at: Timestamp| Some(to_wire(at));
    let substatus = if known.was_reset {
        "deviceDataReset"
    } else {
        "initialAssignment"
    };
    Ok(proto::Registration {
        registration_id: known.registration_id.clone(),
        device_id: record.key.device.to_string(),
        operation_id: known.operation_id.clone(),
        create_time: time(known.first_at),
        update_time: time(known.last_at),
        etag: IdentityEtag::from_number(known.count).to_string(),
        substatus: substatus.to_owned(),
    })
}

#[tonic::async_trait]
impl ProvisioningService for Api {
    async fn check_registration(
        &self,
        request: Request<proto::CheckRegistrationRequest>,
    ) -> Result<Response<proto::CheckRegistrationResponse>, Status> {
        let claimed = Claimed::read(request.into_inner().claim).map_err(refuse)?;
        self.proven(&claimed).await.map_err(refuse)?;
        Ok(Response::new(proto::CheckRegistrationResponse {}))
    }

    async fn register_device(
        &self,
        request: Request<proto::RegisterDeviceRequest>,
    ) -> Result<Response<proto::Registration>, Status> {
        let caller = Caller::of(&request);
        let registered = self.register_device(&caller, request.into_inner()).await;
        registered.map(Response::new).map_err(refuse)
    }

    async fn get_registration(
        &self,
        request: Request<proto::GetRegistrationRequest>,
    ) -> Result<Response<proto::Registration>, Status> {
        let known = self.registration_of(request.into_inner()).await;
        known.map(Response::new).map_err(refuse)
    }
}
