//! A twin-store that keeps everything in a map. It speaks the real contracts over real gRPC, says
//! what it was asked, and can be told to be away.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Semaphore;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use wire::registry::v1 as registry;
use wire::registry::v1::credential_service_server::{CredentialService, CredentialServiceServer};
use wire::registry::v1::provisioning_service_server::{
    ProvisioningService, ProvisioningServiceServer,
};
use wire::twin::v1 as twins;
use wire::twin::v1::device_twin_service_server::{DeviceTwinService, DeviceTwinServiceServer};

/// Everything the store knows and was asked.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) identities: HashMap<String, registry::Credentials>,
    pub(crate) twins: HashMap<String, twins::DesiredSection>,
    pub(crate) acknowledged: Vec<twins::AcknowledgeDesiredRequest>,
    pub(crate) patches: Vec<twins::PatchReportedRequest>,
    pub(crate) redeemed: Vec<registry::RedeemEnrollmentTokenRequest>,
    pub(crate) registered: Vec<registry::RegistrationClaim>,
    pub(crate) credential_reads: usize,
    /// Reads of a desired section, or of what changed in it, by name.
    pub(crate) desired_reads: HashMap<String, usize>,
    /// The `traceparent` of the last acknowledgement.
    pub(crate) acknowledge_trace: Option<String>,
    /// Every patch takes one of these before it is stored, and waits for it.
    pub(crate) patch_permits: Option<Arc<Semaphore>>,
    /// Every lookup of what begins with the name takes one of these before it is answered.
    pub(crate) lookup_permits: Option<(&'static str, Arc<Semaphore>)>,
    /// Lookups and enrolments that were held, those that wait now, and the most that ever did.
    pub(crate) held: Held,
    /// Answer nothing but UNAVAILABLE.
    pub(crate) away: bool,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Held {
    pub(crate) all: usize,
    pub(crate) now: usize,
    pub(crate) most: usize,
}

#[derive(Clone)]
pub(crate) struct FakeStore {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl FakeStore {
    pub(crate) fn start() -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let store = Self {
            state: Arc::default(),
            address,
        };
        let serving = tonic::transport::Server::builder()
            .add_service(CredentialServiceServer::new(store.clone()))
            .add_service(DeviceTwinServiceServer::new(store.clone()))
            .add_service(ProvisioningServiceServer::new(store.clone()))
            .serve_with_incoming(incoming);
        tokio::spawn(serving);
        store
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set_desired(&self, name: &str, version: u64, document_json: &str) {
        let section = twins::DesiredSection {
            document_json: document_json.to_owned(),
            version,
            reported_json: "{}".to_owned(),
            reported_version: 1,
            trace_parent: TRACE_OF_CHANGE.to_owned(),
            changes: Vec::new(),
        };
        self.state().twins.insert(name.to_owned(), section);
    }

    /// Has patches wait until they are given permits.
    pub(crate) fn hold_patches(&self) -> Arc<Semaphore> {
        let permits = Arc::new(Semaphore::new(0));
        self.state().patch_permits = Some(Arc::clone(&permits));
        permits
    }

    /// Has lookups of what begins with a name (`devices/…`), and enrolments of it, wait until they are
    /// given permits.
    pub(crate) fn hold_lookups(&self, begins_with: &'static str) -> Arc<Semaphore> {
        let permits = Arc::new(Semaphore::new(0));
        self.state().lookup_permits = Some((begins_with, Arc::clone(&permits)));
        permits
    }

    async fn hold(&self, name: &str) -> Result<(), Status> {
        let permits = self.present()?.lookup_permits.clone();
        let Some((begins_with, permits)) = permits else {
            return Ok(());
        };
        if !name.starts_with(begins_with) {
            return Ok(());
        }
        {
            let held = &mut self.state().held;
            held.all += 1;
            held.now += 1;
            held.most = held.most.max(held.now);
        }
        let permit = permits.acquire().await;
        permit.expect("it is never closed").forget();
        self.state().held.now -= 1;
        Ok(())
    }

    fn present(&self) -> Result<MutexGuard<'_, State>, Status> {
        let state = self.state();
        if state.away {
            Err(Status::unavailable("away"))
        } else {
            Ok(state)
        }
    }
}

/// The trace context of every desired section.
pub(crate) const TRACE_OF_CHANGE: &str = "00-11111111111111111111111111111111-2222222222222222-01";

fn refuse(code: Code, reason: &str, message: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "twinward", HashMap::new());
    Status::with_error_details(code, message, details)
}

fn not_found(name: &str) -> Status {
    refuse(
        Code::NotFound,
        "IDENTITY_NOT_FOUND",
        &format!("{name} is not registered"),
    )
}

#[tonic::async_trait]
impl CredentialService for FakeStore {
    async fn get_credentials(
        &self,
        request: Request<registry::GetCredentialsRequest>,
    ) -> Result<Response<registry::Credentials>, Status> {
        let name = request.into_inner().name;
        self.hold(&name).await?;
        let mut state = self.present()?;
        state.credential_reads += 1;
        state
            .identities
            .get(&name)
            .cloned()
            .map(Response::new)
            .ok_or_else(|| not_found(&name))
    }

    async fn redeem_enrollment_token(
        &self,
        request: Request<registry::RedeemEnrollmentTokenRequest>,
    ) -> Result<Response<registry::Module>, Status> {
        let request = request.into_inner();
        self.hold(&format!("devices/{}", request.device_id)).await?;
        let mut state = self.present()?;
        state.redeemed.push(request.clone());
        if request.token != "good-token" {
            return Err(refuse(
                Code::Unauthenticated,
                "TOKEN_UNKNOWN",
                "the token is unknown",
            ));
        }
        Ok(Response::new(registry::Module {
            name: format!(
                "devices/{}/modules/DefenderIotMicroAgent",
                request.device_id
            ),
            device_id: request.device_id,
            module_id: "DefenderIotMicroAgent".to_owned(),
            keys: Some(registry::SymmetricKeys {
                primary: "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned(),
                secondary: String::new(),
            }),
            ..registry::Module::default()
        }))
    }
}

#[tonic::async_trait]
impl DeviceTwinService for FakeStore {
    async fn get_desired(
        &self,
        request: Request<twins::GetDesiredRequest>,
    ) -> Result<Response<twins::DesiredSection>, Status> {
        let request = request.into_inner();
        let mut state = self.present()?;
        let reads = state.desired_reads.entry(request.name.clone());
        *reads.or_default() += 1;
        let mut section = state
            .twins
            .get(&request.name)
            .cloned()
            .ok_or_else(|| not_found(&request.name))?;
        if !request.include_reported {
            section.reported_json.clear();
            section.reported_version = 0;
        }
        if request.changes_after_version > 0 {
            let patch_json = std::mem::take(&mut section.document_json);
            if section.version > request.changes_after_version {
                section.changes.push(twins::DesiredChange {
                    version: section.version,
                    patch_json,
                });
            }
        }
        Ok(Response::new(section))
    }

    async fn patch_reported(
        &self,
        request: Request<twins::PatchReportedRequest>,
    ) -> Result<Response<twins::PatchReportedResponse>, Status> {
        let request = request.into_inner();
        let permits = self.present()?.patch_permits.clone();
        if let Some(permits) = permits {
            permits
                .acquire()
                .await
                .expect("it is never closed")
                .forget();
        }
        let mut state = self.present()?;
        if !request.patch_json.starts_with('{') {
            let mut details =
                ErrorDetails::with_bad_request_violation("patch_json", "must be a JSON object");
            // As twin-store says it (spec iot-hub-twins §2.5): JSON of another form is an argument.
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&request.patch_json);
            let (number, name) = if is_json.is_ok() {
                ("400004", "ArgumentInvalid")
            } else {
                ("400006", "IotHubFormatError")
            };
            let code = [("iot_hub_code", number), ("iot_hub_name", name)];
            let code = code.map(|(key, value)| (key.to_owned(), value.to_owned()));
            details.set_error_info("INVALID_PATCH", "twinward", HashMap::from(code));
            let message = "the patch cannot be merged";
            return Err(Status::with_error_details(
                Code::InvalidArgument,
                message,
                details,
            ));
        }
        state.patches.push(request);
        let version = u64::try_from(state.patches.len()).unwrap() + 1;
        Ok(Response::new(twins::PatchReportedResponse { version }))
    }

    async fn acknowledge_desired(
        &self,
        request: Request<twins::AcknowledgeDesiredRequest>,
    ) -> Result<Response<twins::AcknowledgeDesiredResponse>, Status> {
        let trace = request.metadata().get("traceparent");
        let trace = trace.map(|it| it.to_str().unwrap().to_owned());
        let mut state = self.present()?;
        state.acknowledge_trace = trace;
        state.acknowledged.push(request.into_inner());
        Ok(Response::new(twins::AcknowledgeDesiredResponse {}))
    }
}

/// What the fake calls the one operation that it knows.
pub(crate) const OPERATION: &str = "4.0011.one";

impl FakeStore {
    /// Devices called `sn-..` may register with a token that says `good`, or with any certificate.
    fn proven(
        &self,
        claim: Option<registry::RegistrationClaim>,
    ) -> Result<registry::RegistrationClaim, Status> {
        use registry::registration_claim::Proof;
        drop(self.present()?);
        let claim = claim.expect("there is a claim");
        let is_good = match claim.proof.as_ref() {
            Some(Proof::SasToken(token)) => token == "good",
            Some(Proof::Chain(chain)) => !chain.certificates.is_empty(),
            None => false,
        };
        if claim.id_scope == "0neTEST" && claim.registration_id.starts_with("sn-") && is_good {
            return Ok(claim);
        }
        let message = "the registration is refused";
        Err(refuse(
            Code::Unauthenticated,
            "REGISTRATION_REFUSED",
            message,
        ))
    }
}

#[tonic::async_trait]
impl ProvisioningService for FakeStore {
    async fn check_registration(
        &self,
        request: Request<registry::CheckRegistrationRequest>,
    ) -> Result<Response<registry::CheckRegistrationResponse>, Status> {
        self.proven(request.into_inner().claim)?;
        Ok(Response::new(registry::CheckRegistrationResponse {}))
    }

    async fn register_device(
        &self,
        request: Request<registry::RegisterDeviceRequest>,
    ) -> Result<Response<registry::Registration>, Status> {
        let claim = self.proven(request.into_inner().claim)?;
        if claim.registration_id == "sn-taken" {
            let message = "devices/sn-taken exists already";
            return Err(refuse(
                Code::AlreadyExists,
                "DEVICE_ALREADY_EXISTS",
                message,
            ));
        }
        self.state().registered.push(claim);
        Ok(Response::new(registry::Registration {
            operation_id: OPERATION.to_owned(),
            ..registry::Registration::default()
        }))
    }

    async fn get_registration(
        &self,
        request: Request<registry::GetRegistrationRequest>,
    ) -> Result<Response<registry::Registration>, Status> {
        let request = request.into_inner();
        let claim = self.proven(request.claim)?;
        if request.operation_id != OPERATION {
            return Err(refuse(Code::NotFound, "NOT_REGISTERED", "register first"));
        }
        Ok(Response::new(registry::Registration {
            device_id: format!("device-of-{}", claim.registration_id),
            registration_id: claim.registration_id,
            operation_id: request.operation_id,
            etag: "MQ==".to_owned(),
            substatus: "initialAssignment".to_owned(),
            ..registry::Registration::default()
        }))
    }
}
