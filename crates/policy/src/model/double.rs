//! twin-store in memory, over gRPC: settings, sections and versions are the pure functions of `twin`,
//! the filter of a list is the real condition, and each change is kept for whoever reads the stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use jiff::Timestamp;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use twin::query::{Attribute, Datum, Lookup, Vocabulary};
use twin::{
    Condition, IdentityKey, Map, NodeMeta, PolicyWrite, SectionKind, Stamp, Twin, TwinError,
    TwinPatch, TwinView, Version, Writer,
};
use wire::bus::v1::{TwinChange, TwinChanges};
use wire::names::{identity_name, parse_identity};
use wire::twin::v1 as proto;
use wire::twin::v1::Change;
use wire::twin::v1::policy_twin_service_server::{PolicyTwinService, PolicyTwinServiceServer};
use wire::twin::v1::twin_service_server::{TwinService, TwinServiceServer};

use super::plain::{Facts, Node, Path, Tree, status};

/// Partitions of the stream.
pub(super) const PARTITIONS: usize = 2;
/// Twins that there may be: of three devices, and of a module of each.
pub(super) const TWINS: usize = 6;
/// Who writes for operators.
const OPERATOR: &str = "alice";

/// The key of a twin: the even ones are devices.
pub(super) fn key(index: usize) -> IdentityKey {
    let device = index / 2;
    let path = if index.is_multiple_of(2) {
        format!("d{device}")
    } else {
        format!("d{device}/m")
    };
    IdentityKey::parse_path(&path).expect("a key")
}

/// The partition of a twin.
pub(super) fn partition(index: usize) -> usize {
    (index / 2) % PARTITIONS
}

#[derive(Debug)]
struct Kept {
    twin: Twin,
    facts: Facts,
}

#[derive(Debug, Default)]
pub(super) struct State {
    twins: BTreeMap<usize, Kept>,
    /// Each message of each partition; the first has the sequence 1.
    feed: [Vec<Bytes>; PARTITIONS],
    /// An operator writes this before the next call decides.
    interfere: Option<(Path, Option<i64>)>,
    /// What operators have written, until the model takes it in.
    pub operations: Vec<(usize, Path, Option<i64>)>,
    /// What broke a rule, as it is found.
    pub problems: Vec<String>,
    /// Calls that were answered with a change.
    pub written: u64,
    /// Calls, all of them.
    pub calls: u64,
}

/// The handle. Clones share the state.
#[derive(Debug, Clone)]
pub(super) struct Double {
    state: Arc<Mutex<State>>,
    calls: Arc<watch::Sender<u64>>,
}

impl Double {
    /// Serves an empty store, and says where.
    pub(super) async fn start() -> (Double, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let double = Double {
            state: Arc::default(),
            calls: Arc::new(watch::Sender::new(0)),
        };
        let server = tonic::transport::Server::builder()
            .add_service(TwinServiceServer::new(double.clone()))
            .add_service(PolicyTwinServiceServer::new(double.clone()));
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (double, format!("http://{address}"))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Returns after so many more calls.
    pub(super) async fn calls_more(&self, count: u64) {
        let mut calls = self.calls.subscribe();
        let goal = *calls.borrow_and_update() + count;
        let _ = calls.wait_for(|calls| *calls >= goal).await;
    }

    fn called(&self) {
        self.state().calls += 1;
        self.calls.send_modify(|calls| *calls += 1);
    }
}

impl State {
    pub(super) fn exists(&self, index: usize) -> bool {
        self.twins.contains_key(&index)
    }

    pub(super) fn create(&mut self, index: usize) {
        let kept = Kept {
            twin: Twin::new(Timestamp::UNIX_EPOCH),
            facts: Facts::default(),
        };
        self.twins.insert(index, kept);
        self.publish(index, &[Change::Created], false);
    }

    pub(super) fn delete(&mut self, index: usize) {
        if self.exists(index) {
            self.publish(index, &[Change::Deleted], true);
            self.twins.remove(&index);
        }
    }

    /// Changes what is beside desired.
    pub(super) fn change(&mut self, index: usize, what: Change, change: impl FnOnce(&mut Facts)) {
        if let Some(kept) = self.twins.get_mut(&index) {
            change(&mut kept.facts);
            self.publish(index, &[what], false);
        }
    }

    /// An operator writes one place of desired, or takes it out.
    pub(super) fn operate(&mut self, index: usize, path: &[String], value: Option<i64>) {
        let Some(kept) = self.twins.get_mut(&index) else {
            return;
        };
        let leaf = value.map_or(Value::Null, Value::from);
        let written = path.iter().rev().fold(leaf, |inner, key| {
            Value::Object([(key.clone(), inner)].into_iter().collect())
        });
        let change = TwinPatch {
            desired: written.as_object().cloned(),
            tags: None,
        };
        let stamp = Stamp {
            at: Timestamp::UNIX_EPOCH,
            by: Writer::Operator(OPERATOR.to_owned()),
        };
        if let Some(write) = kept.twin.patch(&change, &stamp, None).expect("it is small") {
            kept.twin = write.twin;
        }
        self.operations.push((index, path.to_vec(), value));
        self.publish(index, &[Change::Desired], false);
    }

    pub(super) fn interfere(&mut self, path: Path, value: Option<i64>) {
        self.interfere = Some((path, value));
    }

    /// What there is besides desired.
    pub(super) fn facts(&self, index: usize) -> Option<Facts> {
        Some(self.twins.get(&index)?.facts.clone())
    }

    /// The desired section as it is, with who wrote what.
    pub(super) fn desired(&self, index: usize) -> Tree {
        let mut tree = Tree::new();
        if let Some(kept) = self.twins.get(&index) {
            let desired = &kept.twin.desired;
            tree_of(desired.document(), desired.metadata(), &[], &mut tree);
        }
        tree
    }

    /// The messages of a partition from behind a sequence, at most so many.
    pub(super) fn read(&self, partition: usize, after: u64, count: usize) -> Vec<(u64, Bytes)> {
        let feed = (1..).zip(&self.feed[partition]);
        let behind = feed.filter(|(sequence, _)| *sequence > after).take(count);
        behind
            .map(|(sequence, bytes)| (sequence, bytes.clone()))
            .collect()
    }

    /// The last sequence of a partition.
    pub(super) fn last(&self, partition: usize) -> u64 {
        u64::try_from(self.feed[partition].len()).expect("few")
    }

    fn publish(&mut self, index: usize, changes: &[Change], deleted: bool) {
        let kept = &self.twins[&index];
        let change = TwinChange {
            twin: Some(print(&key(index), kept, Form::Stored)),
            deleted,
            changes: changes.iter().map(|change| (*change).into()).collect(),
            ..TwinChange::default()
        };
        let message = TwinChanges {
            partition: u32::try_from(partition(index)).expect("few"),
            changes: vec![change],
        };
        self.feed[partition(index)].push(message.encode_to_vec().into());
    }

    fn apply(
        &mut self,
        request: &proto::ApplyPolicySettingsRequest,
    ) -> Result<proto::ApplyPolicySettingsResponse, Status> {
        let name = parse_identity("name", &request.name).expect("a name");
        let index = (0..TWINS).find(|index| key(*index) == name).expect("ours");
        if let Some((path, value)) = self.interfere.take() {
            self.operate(index, &path, value);
        }
        let writes = request.policies.iter().map(|one| PolicyWrite {
            policy: one.policy_id.clone(),
            revision: one.policy_revision,
            settings: serde_json::from_str(&one.settings_json).expect("an object"),
        });
        let writes: Vec<PolicyWrite> = writes.collect();
        let Some(kept) = self.twins.get_mut(&index) else {
            return Err(Status::not_found("no such twin"));
        };
        let expected = Version::new(request.expected_desired_version).expect("a version");
        let before = kept.twin.desired.clone();
        let applied = kept
            .twin
            .apply_policies(&writes, Timestamp::UNIX_EPOCH, Some(expected))
            .map_err(|error| match error {
                TwinError::VersionMismatch { .. } => Status::aborted(error.to_string()),
                other => Status::invalid_argument(other.to_string()),
            })?;
        let changed = applied.write.is_some();
        if let Some(write) = applied.write {
            let after = &write.twin.desired;
            if after.version() <= before.version() {
                self.problems
                    .push(format!("{name}: a version did not grow"));
            }
            kept.twin = write.twin;
            self.written += 1;
            self.publish(index, &[Change::Desired], false);
        } else if !hides_its_maker(before.metadata()) {
            let is = Value::Object(before.document().clone());
            let problem = format!("{name}: a call changed nothing: {writes:?} on {is}");
            self.problems.push(problem);
        }
        Ok(proto::ApplyPolicySettingsResponse {
            changed,
            desired_version: self.twins[&index].twin.desired.version().get(),
            lost: Vec::new(),
        })
    }
}

fn tree_of(document: &Map, meta: &NodeMeta, above: &[String], tree: &mut Tree) {
    for (name, value) in document {
        let mut path = above.to_vec();
        path.push(name.clone());
        let node = &meta.children[name];
        let writer = node.by.to_string();
        if let Value::Object(inner) = value {
            tree.insert(path.clone(), Node::Object(writer));
            tree_of(inner, node, &path, tree);
        } else {
            tree.insert(path, Node::Leaf(value.clone(), writer));
        }
    }
}

/// In which form the metadata goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As changes carry it.
    Stored,
    /// As calls answer it.
    Public,
}

/// The numbers that there are, by name.
fn numbers(name: &str, values: [Option<i64>; 2]) -> Map {
    let values = values.iter().enumerate();
    let there = values.filter_map(|(n, value)| Some((format!("{name}{n}"), json!((*value)?))));
    there.collect()
}

/// Whether an object below has a maker who is no policy, which the public form of metadata does not tell: on such a
/// twin a decision may cost a call that changes nothing (`twin_document::node`).
fn hides_its_maker(meta: &NodeMeta) -> bool {
    let mut below = meta.children.values();
    below.any(|node| (!node.children.is_empty() && !node.by.is_policy()) || hides_its_maker(node))
}

fn print(key: &IdentityKey, kept: &Kept, form: Form) -> proto::Twin {
    let (twin, facts) = (&kept.twin, &kept.facts);
    let text = |map: Map| Value::Object(map).to_string();
    let module = key.module.as_ref().map(ToString::to_string);
    let desired = &twin.desired;
    let public = || text(desired.metadata().to_public_json(SectionKind::Desired));
    proto::Twin {
        name: identity_name(key),
        device_id: key.device.to_string(),
        module_id: module.unwrap_or_default(),
        version: twin.version.get(),
        tags_json: text(numbers("t", facts.tags)),
        desired_json: text(desired.document().clone()),
        desired_version: desired.version().get(),
        desired_metadata_json: match form {
            Form::Stored => desired.metadata_to_json().to_string(),
            Form::Public => public(),
        },
        reported_json: text(numbers("r", facts.reported)),
        reported_version: 1,
        posture_json: text(numbers("p", facts.posture)),
        status: status(facts.disabled).to_owned(),
        ..proto::Twin::default()
    }
}

/// A twin as twin-store's search sees it.
struct Searched<'a> {
    view: TwinView<'a>,
    configurations: Map,
}

impl Lookup for Searched<'_> {
    fn attribute(&self, attribute: Attribute) -> Datum<'_> {
        match attribute {
            Attribute::Configurations if self.configurations.is_empty() => Datum::Undefined,
            Attribute::Configurations => Datum::object(&self.configurations),
            other => self.view.attribute(other),
        }
    }

    fn section(&self, kind: SectionKind) -> Option<&Map> {
        self.view.section(kind)
    }

    fn section_version(&self, kind: SectionKind) -> Option<u64> {
        self.view.section_version(kind)
    }

    fn section_metadata(&self, kind: SectionKind) -> Option<&NodeMeta> {
        self.view.section_metadata(kind)
    }

    fn posture(&self) -> Option<&Value> {
        self.view.posture()
    }

    fn device_tags(&self) -> Option<&Map> {
        self.view.device_tags()
    }
}

/// The policies that wrote anything that is said in public.
pub(super) fn configurations(tree: &Tree) -> BTreeSet<String> {
    let writers = super::plain::writers(tree).into_iter();
    let policies = writers.filter_map(|(_, writer)| {
        let id = writer.strip_prefix("policy:")?;
        Some(id.split('@').next()?.to_owned())
    });
    policies.collect()
}

fn matches(condition: Option<&Condition>, index: usize, state: &State) -> bool {
    let Some(condition) = condition else {
        return true;
    };
    let (kept, key) = (&state.twins[&index], key(index));
    let facts = &kept.facts;
    let (tags, reported) = (numbers("t", facts.tags), numbers("r", facts.reported));
    let posture = Value::Object(numbers("p", facts.posture));
    let applied = configurations(&state.desired(index)).into_iter();
    let searched = Searched {
        view: TwinView {
            device_id: key.device.as_str(),
            module_id: key.module.as_ref().map(twin::ModuleId::as_str),
            status: status(facts.disabled),
            tags: &tags,
            desired: kept.twin.desired.document(),
            desired_version: kept.twin.desired.version().get(),
            reported: &reported,
            reported_version: 1,
            posture: &posture,
            device_tags: None,
        },
        configurations: applied
            .map(|id| (id, json!({"status": "Applied"})))
            .collect(),
    };
    condition.matches(&searched)
}

#[tonic::async_trait]
impl PolicyTwinService for Double {
    async fn apply_policy_settings(
        &self,
        request: Request<proto::ApplyPolicySettingsRequest>,
    ) -> Result<Response<proto::ApplyPolicySettingsResponse>, Status> {
        let answer = self.state().apply(request.get_ref());
        self.called();
        answer.map(Response::new)
    }
}

#[tonic::async_trait]
impl TwinService for Double {
    type WatchTwinsStream = tokio_stream::Empty<Result<proto::WatchTwinsResponse, Status>>;

    async fn get_twin(
        &self,
        request: Request<proto::GetTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        self.called();
        let name = parse_identity("name", &request.get_ref().name).expect("a name");
        let state = self.state();
        let mut twins = state.twins.iter();
        let found = twins.find(|(index, _)| key(**index) == name);
        let (_, kept) = found.ok_or_else(|| Status::not_found("no such twin"))?;
        Ok(Response::new(print(&name, kept, Form::Public)))
    }

    async fn list_twins(
        &self,
        request: Request<proto::ListTwinsRequest>,
    ) -> Result<Response<proto::ListTwinsResponse>, Status> {
        self.called();
        let request = request.into_inner();
        let filter = Some(request.filter.as_str()).filter(|text| !text.is_empty());
        let filter = filter.map(|text| Condition::parse_in(text, Vocabulary::Query));
        let filter = filter.transpose();
        let filter = filter.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let state = self.state();
        // Pages of two: one that changes between pages is seen as it is then.
        let from: usize = request.page_token.parse().unwrap_or(0);
        let rest = (from..TWINS).filter(|index| state.exists(*index));
        let page: Vec<usize> = rest
            .filter(|index| matches(filter.as_ref(), *index, &state))
            .take(2)
            .collect();
        let next = page.get(1).map(|last| (last + 1).to_string());
        let print = |index: &usize| print(&key(*index), &state.twins[index], Form::Public);
        Ok(Response::new(proto::ListTwinsResponse {
            twins: page.iter().map(print).collect(),
            next_page_token: next.unwrap_or_default(),
            ..Default::default()
        }))
    }

    async fn batch_get_twins(
        &self,
        _: Request<proto::BatchGetTwinsRequest>,
    ) -> Result<Response<proto::BatchGetTwinsResponse>, Status> {
        Err(Status::unimplemented("policy does not ask for this"))
    }

    async fn replace_twin(
        &self,
        _: Request<proto::ReplaceTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        Err(Status::unimplemented("policy never replaces"))
    }

    async fn patch_twin(
        &self,
        _: Request<proto::PatchTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        Err(Status::unimplemented("policy never patches"))
    }

    async fn watch_twins(
        &self,
        _: Request<proto::WatchTwinsRequest>,
    ) -> Result<Response<Self::WatchTwinsStream>, Status> {
        Err(Status::unimplemented("nothing is counted here"))
    }
}
