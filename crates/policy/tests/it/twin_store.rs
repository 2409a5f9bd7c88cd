//! A twin-store in memory: sections, settings and versions are the pure functions of `twin`, the
//! changes are really published. Calls of methods are answered as a test says. Only durability, and what the policy service never calls, is
//! missing. It can be told to fail.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bus::{Bus, Outgoing, StreamSpec};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use prost::Message as _;
use serde_json::{Value, json};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use twin::{
    IdentityKey, PartitionCount, PolicyApplied, PolicyWrite, Stamp, Twin, TwinError, TwinPatch,
    Version, Writer, partition_of,
};
use wire::bus::v1::{TwinChange, TwinChanges};
use wire::device::v1 as device;
use wire::device::v1::device_command_service_server::{
    DeviceCommandService, DeviceCommandServiceServer,
};
use wire::names::{identity_name, parse_identity};
use wire::registry::v1 as registry;
use wire::registry::v1::audit_service_server::{AuditService, AuditServiceServer};
use wire::subjects::{twins_stream, twins_subject};
use wire::time::to_wire;
use wire::twin::v1 as proto;
use wire::twin::v1::Change;
use wire::twin::v1::policy_twin_service_server::{PolicyTwinService, PolicyTwinServiceServer};
use wire::twin::v1::twin_service_server::{TwinService, TwinServiceServer};

/// The trace of every change that a test makes.
pub(crate) const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// What a test may be interested in of a call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub request: proto::ApplyPolicySettingsRequest,
    pub traceparent: String,
}

struct Kept {
    twin: Twin,
    posture: Value,
    configurations: Vec<proto::ConfigurationState>,
    /// Of the last change.
    revision: u64,
}

#[derive(Default)]
struct State {
    twins: BTreeMap<IdentityKey, Kept>,
    calls: Vec<Call>,
    /// Answers to the next calls of `ApplyPolicySettings`, instead of doing it.
    failures: VecDeque<Status>,
    /// Writes an operator's leaf before the next call, so that its version does not match.
    interfere: Vec<Value>,
    away: bool,
    /// Pages of counts that were asked for.
    counts: usize,
    /// Pages of twins from here on are not answered.
    pages_end: Option<usize>,
    /// Entries of the audit log about this are refused.
    unwritten: Option<String>,
    /// Calls for this twin fail.
    broken: Option<String>,
    revision: u64,
    /// What the audit log holds.
    recorded: Vec<registry::RecordAuditEntryRequest>,
    /// Methods that were called.
    invoked: Vec<device::InvokeMethodRequest>,
    /// Answers to the next calls, instead of 200; none of the inner ones: there is never an answer.
    answers: VecDeque<Option<Result<device::InvokeMethodResponse, Status>>>,
}

#[derive(Clone)]
pub(crate) struct TwinStore {
    bus: Bus,
    partitions: PartitionCount,
    state: Arc<Mutex<State>>,
    /// Held by whoever keeps counts waiting.
    counting: Arc<tokio::sync::Mutex<()>>,
    pub address: SocketAddr,
}

impl TwinStore {
    /// Serves an empty store and makes the streams, as the real one does.
    pub(crate) async fn start(bus: Bus, partitions: PartitionCount) -> TwinStore {
        let streams: Vec<StreamSpec> = partitions
            .partitions()
            .map(|one| StreamSpec::twins(twins_stream(one), twins_subject(one), 1 << 28))
            .collect();
        bus.ensure_streams(&streams).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = TwinStore {
            bus,
            partitions,
            state: Arc::default(),
            counting: Arc::default(),
            address,
        };
        let server = tonic::transport::Server::builder()
            .add_service(TwinServiceServer::new(store.clone()))
            .add_service(AuditServiceServer::new(store.clone()))
            .add_service(DeviceCommandServiceServer::new(store.clone()))
            .add_service(PolicyTwinServiceServer::new(store.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        store
    }

    /// Creates a twin.
    pub(crate) async fn create(&self, name: &str, tags: Value, posture: Value) {
        let key = parse_identity("name", name).unwrap();
        let twin = Twin::new(Timestamp::now());
        self.state().twins.insert(
            key.clone(),
            Kept {
                twin,
                posture,
                configurations: Vec::new(),
                revision: 0,
            },
        );
        self.patch(&key, Some(tags), None);
        self.publish(&key, &[Change::Created, Change::Tags], None, false)
            .await;
    }

    /// A fold came to another posture.
    pub(crate) async fn fold(&self, name: &str, posture: Value) {
        let key = parse_identity("name", name).unwrap();
        self.state().twins.get_mut(&key).unwrap().posture = posture;
        let now = Some(to_wire(Timestamp::now()));
        let timeline = proto::Timeline {
            observe_time: now,
            receive_time: now,
            fold_time: now,
            ..proto::Timeline::default()
        };
        self.publish(&key, &[Change::Posture], Some(timeline), false)
            .await;
    }

    /// An operator writes tags or desired properties.
    pub(crate) async fn operate(&self, name: &str, tags: Option<Value>, desired: Option<Value>) {
        let key = parse_identity("name", name).unwrap();
        let changes: Vec<Change> = [(&tags, Change::Tags), (&desired, Change::Desired)]
            .into_iter()
            .filter_map(|(section, change)| section.as_ref().map(|_| change))
            .collect();
        let hands_down = tags.is_some() && key.module.is_none();
        self.patch(&key, tags, desired);
        self.publish(&key, &changes, None, false).await;
        if hands_down {
            let state = || self.state().twins.keys().cloned().collect::<Vec<_>>();
            for module in state() {
                if module.device == key.device && module.module.is_some() {
                    let changes = [Change::DeviceTags];
                    self.publish(&module, &changes, None, false).await;
                }
            }
        }
    }

    /// The device reports something.
    pub(crate) async fn report(&self, name: &str, reported: Value) {
        let key = parse_identity("name", name).unwrap();
        {
            let mut state = self.state();
            let kept = state.twins.get_mut(&key).unwrap();
            let patch = reported.as_object().unwrap();
            kept.twin = kept
                .twin
                .patch_reported(patch, Timestamp::now(), None)
                .unwrap();
        }
        self.publish(&key, &[Change::Reported], None, false).await;
    }

    /// Removes a twin.
    pub(crate) async fn delete(&self, name: &str) {
        let key = parse_identity("name", name).unwrap();
        self.publish(&key, &[], None, true).await;
        self.state().twins.remove(&key);
    }

    pub(crate) fn desired(&self, name: &str) -> Value {
        let key = parse_identity("name", name).unwrap();
        Value::Object(self.state().twins[&key].twin.desired.document().clone())
    }

    pub(crate) fn desired_version(&self, name: &str) -> u64 {
        let key = parse_identity("name", name).unwrap();
        self.state().twins[&key].twin.desired.version().get()
    }

    /// Where configurations stand.
    pub(crate) fn configurations(&self, name: &str) -> Vec<(String, proto::ConfigurationStatus)> {
        let key = parse_identity("name", name).unwrap();
        let state = self.state();
        let states = state.twins[&key].configurations.iter();
        states.map(|one| (one.id.clone(), one.status())).collect()
    }

    /// Who wrote a leaf.
    pub(crate) fn writer(&self, name: &str, leaf: &str) -> String {
        let key = parse_identity("name", name).unwrap();
        let state = self.state();
        state.twins[&key]
            .twin
            .desired
            .metadata()
            .at([leaf])
            .unwrap()
            .by
            .to_string()
    }

    /// The calls of `ApplyPolicySettings` so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// What the audit log holds.
    pub(crate) fn recorded(&self) -> Vec<registry::RecordAuditEntryRequest> {
        self.state().recorded.clone()
    }

    /// The methods that were called so far, with the twin and the payload.
    pub(crate) fn invoked(&self) -> Vec<(String, String, String)> {
        let state = self.state();
        let invoked = state.invoked.iter().cloned();
        invoked
            .map(|one| (one.name, one.method_name, one.payload_json))
            .collect()
    }

    /// In whose names.
    pub(crate) fn invokers(&self) -> Vec<String> {
        let state = self.state();
        let invoked = state.invoked.iter();
        invoked.map(|one| one.operator.clone()).collect()
    }

    /// The next call ends so; with none it never does.
    pub(crate) fn answer_next(&self, answer: Option<Result<(i32, &str), Status>>) {
        let answer = answer.map(|answer| {
            answer.map(|(status, payload)| device::InvokeMethodResponse {
                status,
                payload_json: payload.to_owned(),
            })
        });
        self.state().answers.push_back(answer);
    }

    pub(crate) fn fail_next(&self, status: Status) {
        self.state().failures.push_back(status);
    }

    pub(crate) fn interfere_next(&self, desired: Value) {
        self.state().interfere.push(desired);
    }

    pub(crate) fn break_twin(&self, name: &str) {
        self.state().broken = Some(name.to_owned());
    }

    pub(crate) fn refuse_entries_of(&self, resource: &str) {
        self.state().unwritten = Some(resource.to_owned());
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// Keeps counts of twins waiting for as long as what this answers is held.
    pub(crate) async fn hold_counts(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.counting).lock_owned().await
    }

    /// How many pages were asked for by those who only count.
    pub(crate) fn counts(&self) -> usize {
        self.state().counts
    }

    /// Pages of twins from this one on are not answered, until it is called with none.
    pub(crate) fn end_pages_at(&self, twin: Option<usize>) {
        self.state().pages_end = twin;
    }

    /// Changes what is desired without telling anybody, as no real store does.
    pub(crate) fn spoil(&self, name: &str, desired: Value) {
        self.patch(&parse_identity("name", name).unwrap(), None, Some(desired));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn patch(&self, key: &IdentityKey, tags: Option<Value>, desired: Option<Value>) {
        let object = |value: Option<Value>| value.map(|value| value.as_object().unwrap().clone());
        let patch = TwinPatch {
            tags: object(tags),
            desired: object(desired),
        };
        let stamp = Stamp {
            at: Timestamp::now(),
            by: Writer::Operator("alice".to_owned()),
        };
        let mut state = self.state();
        let kept = state.twins.get_mut(key).unwrap();
        // A patch that touches nothing writes nothing.
        if let Some(write) = kept.twin.patch(&patch, &stamp, None).unwrap() {
            kept.twin = write.twin;
        }
    }

    /// Says in the posture what is frozen; false if it says so already.
    async fn tell_frozen(&self, key: &IdentityKey, frozen: &[proto::FrozenSetting]) -> bool {
        let frozen = frozen.iter().map(|one| posture::FrozenPath {
            path: one.path.clone(),
            writers: one.writers.clone(),
            at: wire::time::optional("at", one.freeze_time)
                .unwrap()
                .unwrap(),
        });
        let frozen = json!(frozen.collect::<Vec<_>>());
        {
            let mut state = self.state();
            let posture = &mut state.twins.get_mut(key).unwrap().posture;
            let known = posture["configuration"]["frozen"].clone();
            if known == frozen || (known.is_null() && frozen == json!([])) {
                return false;
            }
            posture["configuration"]["frozen"] = frozen;
        }
        self.publish(key, &[Change::ConfigurationState], None, false)
            .await;
        true
    }

    pub(crate) fn posture(&self, name: &str) -> Value {
        let key = parse_identity("name", name).unwrap();
        self.state().twins[&key].posture.clone()
    }

    async fn publish(
        &self,
        key: &IdentityKey,
        changes: &[Change],
        timeline: Option<proto::Timeline>,
        deleted: bool,
    ) {
        let partition = partition_of(&key.device, self.partitions);
        let message = {
            let mut state = self.state();
            state.revision += 1;
            let revision = state.revision;
            if let Some(kept) = state.twins.get_mut(key) {
                kept.revision = revision;
            }
            let change = TwinChange {
                revision: state.revision,
                twin: Some(print(key, &state.twins)),
                deleted,
                changes: changes.iter().map(|change| (*change).into()).collect(),
                trace_parent: format!("00-{TRACE_ID}-00f067aa0ba902b7-01"),
                timeline,
                ..TwinChange::default()
            };
            TwinChanges {
                partition: partition.get().into(),
                changes: vec![change],
            }
        };
        let message = Outgoing::new(twins_subject(partition), message.encode_to_vec());
        self.bus.publish(message).await.unwrap();
    }
}

fn print(key: &IdentityKey, twins: &BTreeMap<IdentityKey, Kept>) -> proto::Twin {
    let kept = &twins[key];
    let text = |map: &twin::Map| Value::Object(map.clone()).to_string();
    let twin = &kept.twin;
    let device = twins.get(&IdentityKey::new_device(key.device.clone()));
    let device = device.filter(|_| key.module.is_some());
    proto::Twin {
        name: identity_name(key),
        device_id: key.device.to_string(),
        module_id: key
            .module
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        etag: twin.etag.to_string(),
        version: twin.version.get(),
        tags_json: text(twin.tags.document()),
        desired_json: text(twin.desired.document()),
        desired_version: twin.desired.version().get(),
        desired_metadata_json: twin.desired.metadata_to_json().to_string(),
        reported_json: text(twin.reported.document()),
        reported_version: twin.reported.version().get(),
        posture_json: kept.posture.to_string(),
        status: "enabled".to_owned(),
        configurations: kept.configurations.clone(),
        device_tags_json: device
            .map_or_else(String::new, |device| text(device.twin.tags.document())),
        revision: kept.revision,
        ..proto::Twin::default()
    }
}

#[tonic::async_trait]
impl AuditService for TwinStore {
    async fn record_audit_entry(
        &self,
        request: Request<registry::RecordAuditEntryRequest>,
    ) -> Result<Response<registry::RecordAuditEntryResponse>, Status> {
        let mut state = self.state();
        if state.away {
            return Err(Status::unavailable("on holiday"));
        }
        let entry = request.into_inner();
        if state.unwritten.as_ref() == Some(&entry.resource) {
            return Err(Status::invalid_argument("not about that"));
        }
        state.recorded.push(entry);
        Ok(Response::new(registry::RecordAuditEntryResponse {}))
    }

    async fn list_audit_entries(
        &self,
        _: Request<registry::ListAuditEntriesRequest>,
    ) -> Result<Response<registry::ListAuditEntriesResponse>, Status> {
        Err(Status::unimplemented("not asked for by the policy service"))
    }

    async fn verify_audit(
        &self,
        _: Request<registry::VerifyAuditRequest>,
    ) -> Result<Response<registry::VerifyAuditResponse>, Status> {
        Err(Status::unimplemented("not asked for by the policy service"))
    }
}

#[tonic::async_trait]
impl DeviceCommandService for TwinStore {
    type InvokeMethodStream = BoxStream<'static, Result<device::InvokeMethodResponse, Status>>;

    async fn invoke_method(
        &self,
        request: Request<device::InvokeMethodRequest>,
    ) -> Result<Response<Self::InvokeMethodStream>, Status> {
        let mut state = self.state();
        state.invoked.push(request.into_inner());
        let ok = Ok(device::InvokeMethodResponse {
            status: 200,
            payload_json: "{}".to_owned(),
        });
        Ok(Response::new(match state.answers.pop_front() {
            None => futures::stream::once(async { ok }).boxed(),
            Some(None) => futures::stream::pending().boxed(),
            Some(Some(answer)) => futures::stream::once(async { answer }).boxed(),
        }))
    }

    async fn send_message(
        &self,
        _: Request<device::SendMessageRequest>,
    ) -> Result<Response<device::SendMessageResponse>, Status> {
        Err(Status::unimplemented("not asked for by the policy service"))
    }

    async fn list_messages(
        &self,
        _: Request<device::ListMessagesRequest>,
    ) -> Result<Response<device::ListMessagesResponse>, Status> {
        Err(Status::unimplemented("not asked for by the policy service"))
    }

    async fn count_messages(
        &self,
        _: Request<device::CountMessagesRequest>,
    ) -> Result<Response<device::CountMessagesResponse>, Status> {
        Err(Status::unimplemented("not asked for by the policy service"))
    }

    async fn purge_messages(
        &self,
        _: Request<device::PurgeMessagesRequest>,
    ) -> Result<Response<device::PurgeMessagesResponse>, Status> {
        Err(Status::unimplemented("not asked for by the policy service"))
    }
}

#[tonic::async_trait]
impl PolicyTwinService for TwinStore {
    async fn apply_policy_settings(
        &self,
        request: Request<proto::ApplyPolicySettingsRequest>,
    ) -> Result<Response<proto::ApplyPolicySettingsResponse>, Status> {
        let traceparent = request.metadata().get("traceparent");
        let traceparent = traceparent.map(|value| value.to_str().unwrap().to_owned());
        let request = request.into_inner();
        let key = parse_identity("name", &request.name).unwrap();
        let interfere = {
            let mut state = self.state();
            if state.away {
                return Err(Status::unavailable("on holiday"));
            }
            let traceparent = traceparent.unwrap_or_default();
            state.calls.push(Call {
                request: request.clone(),
                traceparent,
            });
            if state.broken.as_ref() == Some(&request.name) {
                return Err(Status::data_loss("this twin cannot be read"));
            }
            if let Some(status) = state.failures.pop_front() {
                return Err(status);
            }
            state.interfere.pop()
        };
        if let Some(desired) = interfere {
            self.operate(&request.name, None, Some(desired)).await;
        }
        let writes: Vec<PolicyWrite> = request
            .policies
            .iter()
            .map(|one| PolicyWrite {
                policy: one.policy_id.clone(),
                revision: one.policy_revision,
                settings: serde_json::from_str(&one.settings_json).unwrap(),
            })
            .collect();
        let (changed, desired_version) = {
            let mut state = self.state();
            let kept = state
                .twins
                .get_mut(&key)
                .ok_or_else(|| Status::not_found("no such twin"))?;
            let expected = Version::new(request.expected_desired_version).unwrap();
            let applied = if request.keep_settings {
                let same = kept.twin.expect_desired(Some(expected));
                same.map(|()| PolicyApplied {
                    write: None,
                    lost: Vec::new(),
                })
            } else {
                let twin = &kept.twin;
                twin.apply_policies(&writes, Timestamp::now(), Some(expected))
            };
            let applied = applied.map_err(|error| match error {
                TwinError::VersionMismatch { .. } => Status::aborted(error.to_string()),
                other => Status::invalid_argument(other.to_string()),
            })?;
            let noted = kept.configurations != request.configurations;
            kept.configurations = request.configurations;
            let changed = applied.write.is_some() || noted;
            if let Some(write) = applied.write {
                kept.twin = write.twin;
            }
            let asked = kept.posture["configuration"]["drift"]["pushAskedAt"].is_string();
            let pushes = request.push_again && asked;
            if pushes {
                kept.twin = kept
                    .twin
                    .repeat_desired(&[], Timestamp::now())
                    .unwrap()
                    .twin;
                kept.posture["configuration"] = json!({"state": "pending"});
            }
            (changed || pushes, kept.twin.desired.version().get())
        };
        if changed {
            let mut timeline = request.timeline.unwrap_or_default();
            timeline.commit_time = Some(to_wire(Timestamp::now()));
            self.publish(&key, &[Change::Desired], Some(timeline), false)
                .await;
        }
        let told = self.tell_frozen(&key, &request.frozen).await;
        let changed = changed || told;
        let lost = Vec::new();
        Ok(Response::new(proto::ApplyPolicySettingsResponse {
            changed,
            desired_version,
            lost,
        }))
    }
}

#[tonic::async_trait]
impl TwinService for TwinStore {
    type WatchTwinsStream = tokio_stream::Empty<Result<proto::WatchTwinsResponse, Status>>;

    async fn batch_get_twins(
        &self,
        _request: Request<proto::BatchGetTwinsRequest>,
    ) -> Result<Response<proto::BatchGetTwinsResponse>, Status> {
        Err(Status::unimplemented("policy does not ask for this"))
    }

    async fn replace_twin(
        &self,
        _request: Request<proto::ReplaceTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        Err(Status::unimplemented("policy does not ask for this"))
    }

    async fn get_twin(
        &self,
        request: Request<proto::GetTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        let key = parse_identity("name", &request.get_ref().name).unwrap();
        let state = self.state();
        if !state.twins.contains_key(&key) {
            return Err(Status::not_found("no such twin"));
        }
        Ok(Response::new(print(&key, &state.twins)))
    }

    async fn list_twins(
        &self,
        request: Request<proto::ListTwinsRequest>,
    ) -> Result<Response<proto::ListTwinsResponse>, Status> {
        let request = request.into_inner();
        let mask = request.read_mask.as_ref();
        if mask.is_some_and(|mask| mask.paths == ["name"]) {
            self.state().counts += 1;
            drop(self.counting.lock().await);
        }
        let state = self.state();
        if state.away {
            return Err(Status::unavailable("on holiday"));
        }
        let start: usize = request.page_token.parse().unwrap_or(0);
        if state.pages_end.is_some_and(|end| start >= end) {
            return Err(Status::unavailable("no further"));
        }
        // Small pages, so that several are needed.
        let size = usize::try_from(request.page_size).unwrap().min(3);
        let twins: Vec<_> = state
            .twins
            .keys()
            .skip(start)
            .take(size)
            .map(|key| print(key, &state.twins))
            .collect();
        let end = start + twins.len();
        let twins = twins
            .into_iter()
            .filter(|twin| is_found(&request.filter, twin));
        let twins = twins.collect();
        let next_page_token = if end < state.twins.len() {
            end.to_string()
        } else {
            String::new()
        };
        Ok(Response::new(proto::ListTwinsResponse {
            twins,
            next_page_token,
            ..Default::default()
        }))
    }

    async fn patch_twin(
        &self,
        _: Request<proto::PatchTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        Err(Status::unimplemented("the policy service never patches"))
    }

    async fn watch_twins(
        &self,
        _: Request<proto::WatchTwinsRequest>,
    ) -> Result<Response<Self::WatchTwinsStream>, Status> {
        Err(Status::unimplemented("the policy service never watches"))
    }
}

/// A posture with these TCP listeners.
/// Whether a search finds a twin. This store keeps no `configurations`: a search by them finds all.
fn is_found(filter: &str, found: &proto::Twin) -> bool {
    if filter.is_empty() || filter.contains("configurations") {
        return true;
    }
    let condition =
        twin::Condition::parse_in(filter, twin::query::Vocabulary::Query).expect("a good filter");
    let object = |text: &str| -> twin::Map { serde_json::from_str(text).expect("an object") };
    let device_tags = Some(&*found.device_tags_json).filter(|text| !text.is_empty());
    let device_tags = device_tags.map(object);
    let posture = serde_json::from_str(&found.posture_json).unwrap_or_default();
    condition.matches(&twin::TwinView {
        device_id: &found.device_id,
        module_id: Some(&*found.module_id).filter(|id| !id.is_empty()),
        status: &found.status,
        tags: &object(&found.tags_json),
        desired: &object(&found.desired_json),
        desired_version: found.desired_version,
        reported: &object(&found.reported_json),
        reported_version: found.reported_version,
        posture: &posture,
        device_tags: device_tags.as_ref(),
    })
}

pub(crate) fn listening(ports: &[u16]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"protocol": "tcp", "port": port}))
        .collect();
    json!({"listeningPorts": ports})
}
