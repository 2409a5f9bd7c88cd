//! `EnrollmentService`: enrolments of devices and groups, for operators. Another thing than enrolment
//! tokens (`grpc/enrollment.rs`).

use iot_hub::RegistrationId;
use jiff::Timestamp;
use tonic::{Request, Response, Status};
use wire::InvalidField;
use wire::registry::v1 as proto;
use wire::registry::v1::enrollment_service_server::EnrollmentService;

use super::caller::Caller;
use super::etag::etag;
use super::identity::View;
use super::repeatable::Repeatable;
use super::{Api, page_size, refuse, report_damaged};
use crate::apply::Mode;
use crate::apply::provisioning::{create, delete, ensure_scope, update};
use crate::error::Error;
use crate::provisioning::{
    self, Adopted, Enrollment, ProvisioningError, key_of, new_scope, read_scope,
};
use crate::store::{Loaded, ProvisioningKey, ProvisioningKind, Selection};

mod convert;
pub(crate) mod individuals;
mod reseal;

use convert::{Changes, message, read_new};

/// A checked name of an enrolment.
#[derive(Debug, Clone)]
struct Named {
    kind: ProvisioningKind,
    id: RegistrationId,
}

impl Named {
    fn read(field: &str, name: &str) -> Result<Named, Error> {
        let parts = name.split_once('/');
        let kind = match parts {
            Some(("enrollments", _)) => ProvisioningKind::Individual,
            Some(("enrollmentGroups", _)) => ProvisioningKind::Group,
            _ => {
                let problem = format!(
                    "{name:?} is not a resource name; allowed are \"enrollments/{{registration}}\" \
                     and \"enrollmentGroups/{{group}}\""
                );
                return Err(InvalidField::new(field, problem).into());
            }
        };
        let id = parts.map(|(_, id)| id).unwrap_or_default();
        let id = RegistrationId::parse(id)
            .map_err(|error| InvalidField::new(field, format!("{id:?} {error}")))?;
        Ok(Named { kind, id })
    }

    fn key(&self) -> ProvisioningKey {
        provisioning::key(self.kind, &self.id)
    }

    fn name(&self) -> String {
        provisioning::name(self.kind, self.id.as_str())
    }
}

impl Api {
    async fn create_one(
        &self,
        caller: &Caller,
        request: proto::CreateEnrollmentRequest,
    ) -> Result<proto::Enrollment, Error> {
        let id = &request.request_id;
        let repeatable = Repeatable::read("CreateEnrollment", caller, id, &request)?;
        let mode = Mode::new(request.validate_only);
        let cause = caller.cause(id);
        let given = request.enrollment;
        let given = given.ok_or_else(|| InvalidField::new("enrollment", "is missing"))?;
        let named = Named::read("enrollment.name", &given.name)?;
        let enrollment = read_new(&self.sealer, named, given, self.clock.now())?;
        let own = [Selection::Groups, Selection::Provisioning(enrollment.key())];
        let adopted = enrollment.adopts.iter().filter_map(Adopted::key);
        let selections = own.into_iter().chain(adopted.map(Selection::Provisioning));
        let selections: Vec<_> = selections.collect();
        let sealer = self.sealer.clone();
        let repeatable = repeatable.filter(|_| mode == Mode::Write);
        let individuals =
            (enrollment.kind == ProvisioningKind::Individual).then(|| self.individuals.clone());
        if let Some(individuals) = &individuals {
            individuals.count(&self.engine, self.store.as_ref()).await?;
        }
        self.decide_once(repeatable, selections, move |overlay, now| {
            if let Some(individuals) = &individuals {
                individuals.admit()?;
            }
            create(overlay, &enrollment, mode, now, &cause)?;
            if let Some(individuals) = individuals.filter(|_| mode == Mode::Write) {
                individuals.made();
            }
            let view = match mode {
                Mode::Write => View::Full,
                // Nobody will ever have keys that are not kept.
                Mode::Validate => View::Basic,
            };
            message(&sealer, &enrollment, view)
        })
        .await
    }

    async fn read_one(&self, named: &Named) -> Result<Enrollment, Error> {
        let selections = vec![Selection::Provisioning(named.key())];
        match self.store.load(selections).await?.pop() {
            Some(Loaded::Provisioning(row)) => Ok(Enrollment::read(&row)?),
            Some(Loaded::Damaged(_, damaged)) => Err(damaged.into()),
            Some(_) | None => Err(ProvisioningError::NotFound(named.name()).into()),
        }
    }

    async fn list_some(
        &self,
        request: proto::ListEnrollmentsRequest,
    ) -> Result<proto::ListEnrollmentsResponse, Error> {
        let limit = page_size(request.page_size)?;
        let kind = match proto::EnrollmentKind::try_from(request.kind) {
            Ok(proto::EnrollmentKind::Unspecified | proto::EnrollmentKind::Individual) => {
                ProvisioningKind::Individual
            }
            Ok(proto::EnrollmentKind::Group) => ProvisioningKind::Group,
            Err(_) => {
                let problem = format!("{} is none that is known", request.kind);
                return Err(InvalidField::new("kind", problem).into());
            }
        };
        let id = match request.page_token.as_str() {
            "" => String::new(),
            token => {
                let after = Named::read("page_token", token)?;
                if after.kind != kind {
                    let problem = "is of a list of the other kind; start again without it";
                    return Err(InvalidField::new("page_token", problem).into());
                }
                after.key().id
            }
        };
        let after = ProvisioningKey { kind, id };
        let page = self.store.provisioning(after, limit).await?;
        let mut answer = proto::ListEnrollmentsResponse {
            next_page_token: page
                .next
                .map(|key| provisioning::name(kind, &key.id))
                .unwrap_or_default(),
            ..proto::ListEnrollmentsResponse::default()
        };
        let mut damaged = page.damaged;
        for row in &page.records {
            match Enrollment::read(row) {
                Ok(enrollment) => {
                    let one = message(&self.sealer, &enrollment, View::Basic)?;
                    answer.enrollments.push(one);
                }
                Err(unreadable) => damaged.push(unreadable),
            }
        }
        report_damaged(&damaged);
        for one in damaged {
            let id = one.key.rsplit('/').next().unwrap_or_default();
            answer.damaged.push(provisioning::name(kind, id));
        }
        Ok(answer)
    }

    async fn update_one(
        &self,
        caller: &Caller,
        request: proto::UpdateEnrollmentRequest,
    ) -> Result<proto::Enrollment, Error> {
        let id = &request.request_id;
        let repeatable = Repeatable::read("UpdateEnrollment", caller, id, &request)?;
        let mode = Mode::new(request.validate_only);
        let cause = caller.cause(id);
        let given = request.enrollment;
        let given = given.ok_or_else(|| InvalidField::new("enrollment", "is missing"))?;
        let named = Named::read("enrollment.name", &given.name)?;
        let expected = etag(&given.etag);
        let mask = request.update_mask.unwrap_or_default().paths;
        let now = self.clock.now();
        let changes = Changes::read(&self.sealer, &named, &given, &mask, now)?;
        let own = [Selection::Groups, Selection::Provisioning(named.key())];
        let changes_adopted = mask.iter().any(|path| path == "adopts");
        let adopted = given.adopts.iter().filter(|_| changes_adopted);
        let adopted = adopted.filter_map(|name| key_of(name));
        let selections = own.into_iter().chain(adopted.map(Selection::Provisioning));
        let selections: Vec<_> = selections.collect();
        let sealer = self.sealer.clone();
        let repeatable = repeatable.filter(|_| mode == Mode::Write);
        self.decide_once(repeatable, selections, move |overlay, now| {
            let (key, name) = (named.key(), named.name());
            let of = (&key, name.as_str());
            let change = |enrollment: &mut Enrollment| changes.apply(&sealer, enrollment);
            let expected = expected.as_deref();
            let enrollment = update(overlay, of, change, expected, mode, now, &cause)?;
            message(&sealer, &enrollment, View::Basic)
        })
        .await
    }

    async fn delete_one(
        &self,
        caller: &Caller,
        request: proto::DeleteEnrollmentRequest,
    ) -> Result<(), Error> {
        let id = &request.request_id;
        let repeatable = Repeatable::read("DeleteEnrollment", caller, id, &request)?;
        let mode = Mode::new(request.validate_only);
        let cause = caller.cause(id);
        let named = Named::read("name", &request.name)?;
        let expected = etag(&request.etag);
        let selections = [Selection::Groups, Selection::Provisioning(named.key())];
        let repeatable = repeatable.filter(|_| mode == Mode::Write);
        self.decide_once(repeatable, selections, move |overlay, _| {
            let (key, name) = (named.key(), named.name());
            delete(overlay, (&key, &name), expected.as_deref(), mode, &cause)
        })
        .await
    }

    async fn derive(
        &self,
        request: proto::DeriveDeviceKeysRequest,
    ) -> Result<proto::DeriveDeviceKeysResponse, Error> {
        let named = Named::read("name", &request.name)?;
        if named.kind != ProvisioningKind::Group {
            let problem = "is of one device, whose keys are its own; allowed is \
                           \"enrollmentGroups/{group}\"";
            return Err(InvalidField::new("name", problem).into());
        }
        let registration = RegistrationId::parse(&request.registration_id)
            .map_err(|error| InvalidField::new("registration_id", error))?;
        let enrollment = self.read_one(&named).await?;
        let keys = provisioning::keys(&self.sealer, &enrollment, &registration)?;
        let (primary, secondary) =
            keys.ok_or_else(|| ProvisioningError::NoKeys(enrollment.name()))?;
        Ok(proto::DeriveDeviceKeysResponse {
            keys: Some(proto::SymmetricKeys {
                primary: primary.to_base64().to_string(),
                secondary: secondary.to_base64().to_string(),
            }),
        })
    }

    async fn scope(&self, caller: &Caller) -> Result<proto::Provisioning, Error> {
        let selection = Selection::Provisioning(ProvisioningKey::scope());
        let known = self.store.load(vec![selection.clone()]).await?.pop();
        let id_scope = match known {
            Some(Loaded::Provisioning(row)) => read_scope(&row)?,
            Some(Loaded::Damaged(_, damaged)) => return Err(damaged.into()),
            Some(_) | None => {
                let fresh = new_scope(*self.sealer.random()?);
                let cause = caller.cause("");
                let selections = [Selection::Groups, selection];
                let made = move |overlay: &mut crate::apply::Overlay, _: Timestamp| {
                    ensure_scope(overlay, fresh, &cause)
                };
                self.engine.decide(selections, made).await?
            }
        };
        Ok(proto::Provisioning { id_scope })
    }
}

#[tonic::async_trait]
impl EnrollmentService for Api {
    async fn create_enrollment(
        &self,
        request: Request<proto::CreateEnrollmentRequest>,
    ) -> Result<Response<proto::Enrollment>, Status> {
        let caller = Caller::of(&request);
        answer(self.create_one(&caller, request.into_inner()).await)
    }

    async fn get_enrollment(
        &self,
        request: Request<proto::GetEnrollmentRequest>,
    ) -> Result<Response<proto::Enrollment>, Status> {
        let view = View::permitted(&request, request.get_ref().view)?;
        let named = Named::read("name", &request.get_ref().name).map_err(refuse)?;
        let enrollment = self.read_one(&named).await.map_err(refuse)?;
        answer(message(&self.sealer, &enrollment, view))
    }

    async fn list_enrollments(
        &self,
        request: Request<proto::ListEnrollmentsRequest>,
    ) -> Result<Response<proto::ListEnrollmentsResponse>, Status> {
        answer(self.list_some(request.into_inner()).await)
    }

    async fn update_enrollment(
        &self,
        request: Request<proto::UpdateEnrollmentRequest>,
    ) -> Result<Response<proto::Enrollment>, Status> {
        let caller = Caller::of(&request);
        answer(self.update_one(&caller, request.into_inner()).await)
    }

    async fn delete_enrollment(
        &self,
        request: Request<proto::DeleteEnrollmentRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request);
        answer(self.delete_one(&caller, request.into_inner()).await)
    }

    async fn derive_device_keys(
        &self,
        request: Request<proto::DeriveDeviceKeysRequest>,
    ) -> Result<Response<proto::DeriveDeviceKeysResponse>, Status> {
        answer(self.derive(request.into_inner()).await)
    }

    async fn get_provisioning(
        &self,
        request: Request<proto::GetProvisioningRequest>,
    ) -> Result<Response<proto::Provisioning>, Status> {
        let caller = Caller::of(&request);
        let proto::GetProvisioningRequest {} = request.into_inner();
        answer(self.scope(&caller).await)
    }

    async fn reseal_enrollments(
        &self,
        request: Request<proto::ResealEnrollmentsRequest>,
    ) -> Result<Response<proto::ResealEnrollmentsResponse>, Status> {
        let caller = Caller::of(&request);
        answer(self.reseal_some(&caller, request.into_inner()).await)
    }
}

/// Answers a call with what a method of [`Api`] made of it.
fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(refuse)
}
