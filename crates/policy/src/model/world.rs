//! Plays a story: the service as it is without NATS, twin-store's double, and beside them the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bus::Sequence;
use jiff::{SignedDuration, Timestamp};
use proptest::test_runner::TestCaseError;
use service_kit::client::ClientConfig;
use service_kit::clock::{Clock as _, ManualClock, SystemClock};
use service_kit::health::Health;
use service_kit::metrics::Registry;
use service_kit::shutdown::ShutdownToken;
use tempfile::TempDir;
use twin::{Partition, PartitionCount};
use wire::twin::v1::Change;

use super::double::{self, Double, PARTITIONS, TWINS};
use super::plain::{self, Cond, Content, InForce, Node, Path, Times, Tree};
use super::steps::{POLICIES, Sight, Step};
use crate::actions::Actions;
use crate::batches::Batches;
use crate::busy::Busy;
use crate::guard::{Guard, Limit};
use crate::look::Looker;
use crate::metrics::Metrics;
use crate::planning;
use crate::policies::Policies;
use crate::policy_doc::{Policy, PolicyId};
use crate::positions::Positions;
use crate::progress::Progress;
use crate::rejects::Rejects;
use crate::rollout::{Phase, Rollout, Seen, Tally, draw};
use crate::store::{By, Cause, Error, Store, StoredFreeze, StoredPolicy, StoredRollout};
use crate::sweep::Sweeper;
use crate::twin_store::TwinStore;
use crate::undecided::Undecided;
use crate::writer::Writer;

/// Stories go back and forth as they like.
const NO_GUARD: Limit = Limit {
    returns: 0,
    window: SignedDuration::from_mins(1),
};
/// When stories begin, in hours of January 2026: in the middle of all windows.
const BEGIN: u32 = 4 * 24 + OPEN;
/// An hour at which every window is open.
const OPEN: u32 = 10;
/// Nothing takes so long unless it has no end.
const SOON: Duration = Duration::from_mins(1);
/// Nothing is written so often unless it has no end.
const ROUNDS_MAX: usize = 60;

/// The service, between a start and a stop.
struct Service {
    policies: Policies,
    batches: Batches,
    positions: Positions,
    progress: Progress,
    rejects: Rejects,
    twins: TwinStore,
    metrics: Metrics,
    stop: ShutdownToken,
    /// How far it has read each partition.
    read: [u64; PARTITIONS],
}

impl Service {
    async fn start(folder: &TempDir, url: &str, clock: Arc<ManualClock>) -> Service {
        let store = Store::open(folder.path()).await.expect("a store");
        let stop = ShutdownToken::new();
        let contents = store.load(clock.now()).await.expect("its contents");
        let metrics = Metrics::register(&Registry::new().scope("policy"));
        let health = Health::new().component("twin-store");
        let twins = TwinStore::connect(&ClientConfig::to(url), health, stop.clone());
        let twins = twins.expect("an address");
        let policies = Policies::new(store.clone(), clock.clone(), &contents);
        let rejects = Rejects::counted_only(metrics.clone(), stop.clone());
        let writer = Writer::new(
            policies.clone(),
            twins.clone(),
            rejects.clone(),
            (
                Undecided::of_conditions(),
                Undecided::of_templates(),
                Guard::new(NO_GUARD),
            ),
            clock,
            metrics.clone(),
            stop.clone(),
        );
        // No policy of the model has actions, so nobody waits for the worker.
        let opened = Actions::open(
            store.clone(),
            policies.clone(),
            SystemClock::shared(),
            metrics.clone(),
        );
        let (actions, _) = opened.await.expect("no actions");
        let positions = Positions::new(store);
        let read = |partition: usize| {
            let partition = u16::try_from(partition).expect("few");
            contents.positions.get(&partition).map_or(0, |at| at.get())
        };
        if policies.has_hours() {
            // What opened or ended while nobody was there.
            policies.pass_edge(true).await.expect("it is kept");
        }
        Service {
            batches: Batches {
                policies: policies.clone(),
                writer,
                actions,
                rejects: rejects.clone(),
                positions: positions.clone(),
                metrics: metrics.clone(),
                writes_in_flight: 3,
                busy: Busy::default(),
                shutdown: stop.clone(),
            },
            progress: Progress::new(contents.sweep, SystemClock::shared()),
            read: std::array::from_fn(read),
            policies,
            positions,
            rejects,
            twins,
            metrics,
            stop,
        }
    }

    /// Looks at all twins as often as that is wanted.
    async fn sweep(&self) {
        let sweeper = Sweeper {
            policies: self.policies.clone(),
            twins: self.twins.clone(),
            looker: Looker {
                policies: self.policies.clone(),
                writer: self.batches.writer.clone(),
                actions: self.batches.actions.clone(),
                rejects: self.rejects.clone(),
                metrics: self.metrics.clone(),
            },
            progress: self.progress.clone(),
            metrics: self.metrics.clone(),
            writes_in_flight: 2,
            shutdown: self.stop.clone(),
        };
        let done = async {
            while self.progress.done() < self.policies.wanted().borrow().last() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = sweeper.run() => unreachable!("it works until the service stops"),
            () = done => {}
        }
    }

    /// Reads at most so many messages of a partition; none if there are none.
    async fn deliver(&mut self, double: &Double, partition: usize, count: usize) -> bool {
        let messages = double.state().read(partition, self.read[partition], count);
        let Some((last, _)) = messages.last() else {
            return false;
        };
        let batch = messages
            .iter()
            .map(|(at, bytes)| (Sequence::new(*at), bytes));
        let stream = format!("TWINS_{partition}");
        assert!(self.batches.take(place(partition), &stream, batch).await);
        self.read[partition] = *last;
        true
    }
}

fn place(partition: usize) -> Partition {
    let count = PartitionCount::new(u16::try_from(PARTITIONS).expect("few")).expect("some");
    count.partitions().nth(partition).expect("one of them")
}

/// What the model knows of a policy.
struct Known {
    content: Content,
    revision: u64,
    effective: u64,
    order: u64,
    /// What twins have that do not have the effective revision yet, if that is rolled out.
    base: Option<u64>,
}

struct World {
    folder: TempDir,
    url: String,
    double: Double,
    service: Service,
    clock: Arc<ManualClock>,
    /// Freezes that nobody has ended: their numbers, and of which policy.
    freezes: Vec<(u64, Option<usize>)>,
    /// What each closed policy had set on each twin when it closed.
    held: BTreeMap<usize, [BTreeSet<Place>; TWINS]>,
    policies: BTreeMap<usize, Known>,
    /// What each revision said that acts on twins, deleted policies' too.
    revisions: BTreeMap<(usize, u64), Content>,
    created: u64,
    /// What operators have set on each twin.
    operators: [BTreeMap<Path, i64>; TWINS],
}

/// Plays a story and says where it went wrong.
pub(super) async fn play(story: Vec<Step>) -> Result<(), TestCaseError> {
    let folder = TempDir::new().expect("a folder");
    let (double, url) = Double::start().await;
    let clock = ManualClock::at(instant(BEGIN));
    let service = Service::start(&folder, &url, Arc::clone(&clock)).await;
    let mut world = World {
        folder,
        url,
        double,
        service,
        clock,
        freezes: Vec::new(),
        held: BTreeMap::new(),
        policies: BTreeMap::new(),
        revisions: BTreeMap::new(),
        created: 0,
        operators: Default::default(),
    };
    for step in story {
        let told = format!("{step:?}");
        let done = tokio::time::timeout(SOON, Box::pin(world.step(step))).await;
        done.map_err(|_| TestCaseError::fail(format!("{told} has no end")))??;
    }
    world.settle().await?;
    world.open_all().await;
    world.settle().await?;
    for policy in 0..POLICIES {
        world.delete_policy(policy).await;
    }
    world.settle().await?;
    for index in 0..TWINS {
        let left = double::configurations(&world.double.state().desired(index));
        if !left.is_empty() {
            let problem = format!("{left:?} left something on {}", double::key(index));
            return Err(TestCaseError::fail(problem));
        }
    }
    Ok(())
}

/// So many hours after the beginning of January 2026, and half an hour: windows begin and end with the hour.
fn instant(hours: u32) -> Timestamp {
    let begin: Timestamp = "2026-01-01T00:30:00Z".parse().expect("a time");
    begin + SignedDuration::from_hours(i64::from(hours))
}

/// A leaf or an object of a policy, with who wrote it.
type Place = (Path, String);

/// What of a twin a policy has written.
fn places(policy: usize, found: &Tree) -> BTreeSet<Place> {
    let prefix = format!("policy:p{policy}@");
    let own = found.iter().filter_map(|(path, node)| match node {
        Node::Leaf(value, writer) => {
            let told = format!("{writer} {value}");
            writer.starts_with(&prefix).then(|| (path.clone(), told))
        }
        Node::Object(_) => None,
    });
    own.collect()
}

fn id(policy: usize) -> PolicyId {
    PolicyId::parse(&format!("p{policy}")).expect("an id")
}

fn by() -> By {
    By {
        actor: "operator:ann".to_owned(),
        request_id: uuid::Uuid::now_v7().to_string(),
        trace_parent: String::new(),
    }
}

impl World {
    async fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Create(twin) => {
                let mut state = self.double.state();
                if !state.exists(twin) {
                    state.create(twin);
                }
            }
            Step::Delete(twin) => {
                self.double.state().delete(twin);
                self.operators[twin].clear();
            }
            Step::Tag(twin, key, value) => {
                let mut state = self.double.state();
                state.change(twin, Change::Tags, |facts| facts.tags[key] = value);
            }
            Step::Report(twin, key, value) => {
                let mut state = self.double.state();
                state.change(twin, Change::Reported, |facts| facts.reported[key] = value);
            }
            Step::Fold(twin, key, value) => {
                let mut state = self.double.state();
                state.change(twin, Change::Posture, |facts| facts.posture[key] = value);
            }
            Step::Disable(twin, off) => {
                let mut state = self.double.state();
                state.change(twin, Change::Status, |facts| facts.disabled = off);
            }
            Step::Operate(twin, path, value) => {
                self.double.state().operate(twin, &path, value);
            }
            Step::Interfere(path, value) => self.double.state().interfere(path, value),
            Step::Apply(policy, content) => self.apply(policy, content).await?,
            Step::Reword(policy, words) => {
                if let Some(known) = self.policies.get(&policy) {
                    let content = known.content.clone();
                    self.apply(policy, Content { words, ..content }).await?;
                }
            }
            Step::DeletePolicy(policy) => self.delete_policy(policy).await,
            Step::Plan(policy) => self.plan(policy).await?,
            Step::See(policy, sight) => self.see(policy, sight).await,
            Step::Order(policy, order) => {
                let at = Timestamp::UNIX_EPOCH;
                let order = move |now: &Rollout| now.order(order, "operator:bob", "", at);
                self.change_rollout(policy, order).await;
            }
            Step::Deliver {
                partition,
                count,
                again,
            } => {
                let read = &mut self.service.read[partition];
                *read = read.saturating_sub(again);
                self.service.deliver(&self.double, partition, count).await;
            }
            Step::Lose(partition, count) => {
                let last = self.double.state().last(partition);
                let read = &mut self.service.read[partition];
                *read = last.min(*read + count);
                let to = Sequence::new(*read);
                assert!(self.service.batches.skip_to(place(partition), to).await);
            }
            Step::Sweep => self.service.sweep().await,
            Step::SweepAndDeliver => Box::pin(self.sweep_and_deliver()).await,
            Step::KillInSweep(calls) => {
                tokio::select! {
                    () = self.double.calls_more(calls) => {}
                    () = self.service.sweep() => {}
                }
                self.start_again().await;
            }
            Step::Restart => {
                self.service.positions.flush().await;
                self.start_again().await;
            }
            Step::Kill => self.start_again().await,
            Step::Freeze(policy) => self.freeze(policy).await,
            Step::Unfreeze => {
                self.unfreeze().await;
            }
            Step::Clock(hours) => self.pass(hours).await,
            Step::Settle => self.settle().await?,
        }
        self.take_in_operators();
        self.note_closed();
        Ok(())
    }

    async fn freeze(&mut self, policy: Option<usize>) {
        let now = self.clock.now();
        let freeze = StoredFreeze {
            number: 0,
            policies: policy.iter().map(|policy| id(*policy)).collect(),
            from: now,
            to: None,
            reason: String::new(),
            author: by().actor,
            created_at: now,
        };
        let made = self.service.policies.create_freeze(freeze, by()).await;
        let made = made.expect("there is room");
        self.freezes.push((made.number, policy));
    }

    /// Ends the oldest freeze; false if there is none.
    async fn unfreeze(&mut self) -> bool {
        if self.freezes.is_empty() {
            return false;
        }
        let (number, _) = self.freezes.remove(0);
        let ended = self.service.policies.end_freeze(number, by()).await;
        ended.expect("it is there");
        true
    }

    /// Time passes, and the service notices.
    async fn pass(&mut self, hours: u32) {
        let length = u64::from(hours) * 3600;
        self.clock.advance(Duration::from_secs(length));
        let policies = &self.service.policies;
        while policies.is_behind(self.clock.now()) {
            policies.pass_edge(false).await.expect("it is kept");
        }
    }

    /// Ends all freezes, and waits for an hour at which every window is open.
    async fn open_all(&mut self) {
        while self.unfreeze().await {}
        let hour = self.hours() % 24;
        self.pass((24 + OPEN - hour) % 24).await;
        self.note_closed();
    }

    /// Hours since the beginning of January 2026.
    fn hours(&self) -> u32 {
        let since = self.clock.now().duration_since(instant(0));
        u32::try_from(since.as_hours()).expect("after it")
    }

    fn times(&self, policy: usize) -> Times {
        let Some(known) = self.policies.get(&policy) else {
            return Times::Over;
        };
        let hours = known.content.hours;
        let times = hours.map_or(Times::Open, |hours| hours.at(self.hours()));
        let mut freezes = self.freezes.iter();
        let is_frozen = freezes.any(|(_, of)| of.is_none_or(|of| of == policy));
        if times == Times::Open && is_frozen {
            return Times::Closed;
        }
        times
    }

    /// Remembers what policies have set that close now.
    fn note_closed(&mut self) {
        for policy in 0..POLICIES {
            if self.times(policy) != Times::Closed {
                self.held.remove(&policy);
            } else if !self.held.contains_key(&policy) {
                let state = self.double.state();
                let of_twin = |index| places(policy, &state.desired(index));
                self.held.insert(policy, std::array::from_fn(of_twin));
            }
        }
    }

    async fn start_again(&mut self) {
        self.service = Service::start(&self.folder, &self.url, Arc::clone(&self.clock)).await;
    }

    async fn sweep_and_deliver(&mut self) {
        // Two handles to one service: the sweep works while batches are taken.
        let service = &self.service;
        let mut read = service.read;
        let deliver = async {
            for (partition, read) in read.iter_mut().enumerate() {
                let messages = self.double.state().read(partition, *read, 64);
                let batch = messages
                    .iter()
                    .map(|(at, bytes)| (Sequence::new(*at), bytes));
                let stream = format!("TWINS_{partition}");
                assert!(service.batches.take(place(partition), &stream, batch).await);
                *read = messages.last().map_or(*read, |(last, _)| *last);
            }
        };
        tokio::join!(service.sweep(), deliver);
        self.service.read = read;
    }

    /// What operators wrote, as it was carried out; also in the middle of the service's writes.
    fn take_in_operators(&mut self) {
        let operations = std::mem::take(&mut self.double.state().operations);
        for (index, path, value) in operations {
            let leaves = &mut self.operators[index];
            leaves.retain(|leaf, _| !leaf.starts_with(&path) && !path.starts_with(leaf));
            if let Some(value) = value {
                leaves.insert(path, value);
            }
        }
    }

    async fn apply(&mut self, policy: usize, content: Content) -> Result<(), TestCaseError> {
        let checked = Policy::check(content.spec(id(policy).as_str()));
        let checked = checked.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let phase = self.rollout(policy).map(|stored| stored.rollout.phase);
        let applied = self
            .service
            .policies
            .apply(checked, by(), (String::new(), None), None);
        let applied = applied.await;
        let goes_on = matches!(phase, Some(Phase::Rolling | Phase::Soaking));
        let acts = self
            .policies
            .get(&policy)
            .is_some_and(|known| known.content != content && !known.content.acts_as(&content));
        if goes_on && acts {
            // What goes on well is not taken back by the way.
            return match applied {
                Err(Error::UnderWay { .. }) => Ok(()),
                other => Err(TestCaseError::fail(format!(
                    "p{policy} is on its way: {other:?}"
                ))),
            };
        }
        let stored = applied.expect("it is taken").stored;
        let revision = match self.policies.get_mut(&policy) {
            Some(known) if known.content == content => known.revision,
            Some(known) if known.content.acts_as(&content) => {
                known.revision += 1;
                known.content = content;
                known.revision
            }
            Some(known) => {
                if phase.is_none_or(|phase| phase == Phase::Completed) {
                    known.base = Some(known.effective);
                }
                known.revision += 1;
                known.effective = known.revision;
                self.revisions
                    .insert((policy, known.revision), content.clone());
                known.content = content;
                known.revision
            }
            None => {
                let of_it = (policy, 0)..(policy + 1, 0);
                let last = self.revisions.range(of_it).next_back();
                // Rewording takes numbers, too; what counts is that they grow.
                let above = last.map_or(0, |((_, revision), _)| *revision);
                if stored.revision <= above {
                    return Err(TestCaseError::fail("a revision was given twice"));
                }
                self.created += 1;
                self.revisions
                    .insert((policy, stored.revision), content.clone());
                let known = Known {
                    content,
                    revision: stored.revision,
                    effective: stored.revision,
                    order: self.created,
                    base: None,
                };
                self.policies.insert(policy, known);
                stored.revision
            }
        };
        let known = &self.policies[&policy];
        let found = (stored.revision, stored.effective_revision);
        if found != (revision, known.effective) {
            let expected = (revision, known.effective);
            let problem = format!("p{policy} is at {found:?}, expected {expected:?}");
            return Err(TestCaseError::fail(problem));
        }
        let rollout = stored.rollout.filter(|one| one.revision == known.effective);
        if let Some(stored) = rollout.filter(|one| one.rollout.phase != Phase::Completed)
            && stored.rollout.from != known.base
        {
            let (from, base) = (stored.rollout.from, known.base);
            let problem = format!("p{policy} is rolled out from {from:?}, expected {base:?}");
            return Err(TestCaseError::fail(problem));
        }
        Ok(())
    }

    async fn delete_policy(&mut self, policy: usize) {
        let any = |_| Ok::<(), Error>(());
        if self.policies.remove(&policy).is_some() {
            let deleted = self.service.policies.delete(id(policy), None, by(), any);
            deleted.await.expect("it is there");
        } else {
            let deleted = self.service.policies.delete(id(policy), None, by(), any);
            let deleted = deleted.await;
            assert!(
                matches!(deleted, Err(Error::NotFound { .. })),
                "{deleted:?}"
            );
        }
    }

    fn stored(&self, policy: usize) -> Option<StoredPolicy> {
        self.service.policies.get(&id(policy))
    }

    fn rollout(&self, policy: usize) -> Option<std::sync::Arc<StoredRollout>> {
        self.stored(policy)?.rollout
    }

    async fn plan(&mut self, policy: usize) -> Result<(), TestCaseError> {
        let Some(stored) = self.stored(policy) else {
            return Ok(());
        };
        let Some(rollout) = stored.rollout.clone() else {
            return Ok(());
        };
        if rollout.rollout.phase != Phase::Planning {
            return Ok(());
        }
        let always = || true;
        let planned = planning::waves(&self.service.twins, &stored, &rollout, always, |_| ()).await;
        let waves = planned
            .expect("they are read")
            .expect("they are wanted")
            .waves;
        let counted: u64 = waves.iter().map(|wave| wave.twins).sum();
        let expected = self.changed_by(policy, rollout.rollout.from);
        if counted != expected {
            let problem = format!("p{policy} changes {expected} twins, and {counted} were counted");
            return Err(TestCaseError::fail(problem));
        }
        let planned = move |now: &Rollout| Ok(now.planned(waves, Timestamp::UNIX_EPOCH));
        self.change_rollout(policy, planned).await;
        Ok(())
    }

    /// Twins that the newest revision or the one before is for.
    fn changed_by(&self, policy: usize, from: Option<u64>) -> u64 {
        let effective = self.policies[&policy].effective;
        let revisions = [Some(effective), from].into_iter().flatten();
        let contents: Vec<&Content> = revisions
            .map(|revision| &self.revisions[&(policy, revision)])
            .collect();
        let state = self.double.state();
        let changed = (0..TWINS).filter(|index| {
            let Some(facts) = state.facts(*index) else {
                return false;
            };
            let desired = state.desired(*index);
            let is_for = |content: &&Content| {
                content.modules != index.is_multiple_of(2) && content.gives(&facts, &desired)
            };
            contents.iter().any(is_for)
        });
        changed.count() as u64
    }

    /// The devices of the waves that have begun are seen like this, long after.
    async fn see(&mut self, policy: usize, sight: Sight) {
        let later = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1);
        let see = move |now: &Rollout| {
            let if_it_is = |sights: &[Sight]| u64::from(sights.contains(&sight));
            let waves = now.waves.iter().map(|_| Tally {
                applied: if_it_is(&[Sight::Applied, Sight::ClosedAndWell]),
                rejected: if_it_is(&[Sight::Rejected, Sight::ClosedAndRejected]),
                left: if_it_is(&[Sight::Left]),
                incomplete: if_it_is(&[Sight::Incomplete]),
                lost: if_it_is(&[Sight::Lost]),
                ..Tally::default()
            });
            let seen = Seen {
                waves: waves.collect(),
                open_since: None,
                looked_since: None,
                partly: matches!(sight, Sight::ClosedAndWell | Sight::ClosedAndRejected),
            };
            let next = now.step(&seen, later).unwrap_or_else(|| now.clone());
            if next != *now {
                let goes_back = matches!(next.phase, Phase::RolledBack | Phase::Paused);
                let fails = match sight {
                    // A wave for which nobody was planned has nobody to lose.
                    Sight::Applied | Sight::Left | Sight::Nobody => false,
                    Sight::ClosedAndWell => panic!("{now:?} went on while it was closed"),
                    Sight::Rejected
                    | Sight::Incomplete
                    | Sight::Lost
                    | Sight::ClosedAndRejected => now.excused < now.released,
                };
                assert_eq!(goes_back, fails, "{now:?} became {next:?} by {sight:?}");
            }
            Ok(next)
        };
        self.change_rollout(policy, see).await;
    }

    async fn change_rollout(
        &mut self,
        policy: usize,
        change: impl FnOnce(&Rollout) -> Result<Rollout, crate::rollout::Refusal> + Send + 'static,
    ) {
        let Some(before) = self.rollout(policy) else {
            return;
        };
        let cause = Cause {
            action: "rollout.step".to_owned(),
            by: by(),
            at: Timestamp::UNIX_EPOCH,
        };
        let policies = &self.service.policies;
        let changed = policies.change_rollout(id(policy), before.revision, cause, change);
        // What is refused changes nothing, which the model sees.
        if let Ok(after) = changed.await {
            let version = after.rollout.map_or(0, |stored| stored.version);
            assert!(version >= before.version, "a rollout went back");
        }
    }

    /// Works everything off, and compares.
    async fn settle(&mut self) -> Result<(), TestCaseError> {
        self.work_off().await?;
        self.compare()?;
        // What holds is neither written nor asked for again.
        let written = self.double.state().written;
        let read = Sequence::new(self.service.read[0]);
        let missed = self.service.policies.changes_missed(0, read);
        missed.await.expect("it is noted");
        self.work_off().await?;
        let again = self.double.state().written - written;
        if again > 0 {
            let problem = format!("{again} twins were written that were as they should be");
            return Err(TestCaseError::fail(problem));
        }
        self.compare()
    }

    async fn work_off(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..ROUNDS_MAX {
            self.service.sweep().await;
            let mut any = false;
            for partition in 0..PARTITIONS {
                any |= self.service.deliver(&self.double, partition, 3).await;
            }
            let wanted = self.service.policies.wanted().borrow().last();
            if !any && self.service.progress.done() >= wanted {
                self.take_in_operators();
                return Ok(());
            }
        }
        Err(TestCaseError::fail("it never comes to rest"))
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let state = self.double.state();
        if let Some(problem) = state.problems.first() {
            return Err(TestCaseError::fail(problem.clone()));
        }
        for index in 0..TWINS {
            let Some(facts) = state.facts(index) else {
                continue;
            };
            let found = state.desired(index);
            let mut given = self.of_operators(index, &found);
            self.check_held(index, &found, &mut given)?;
            let revisions = self.in_force(index, &facts);
            let expected = plain::desired(&given, &facts, revisions);
            let told = |tree: &Tree| (plain::document(tree), plain::writers(tree));
            if told(&found) != told(&expected) {
                let problem = format!(
                    "{} is\n{:?}, expected\n{:?}\nwith {facts:?} and {:?}",
                    double::key(index),
                    told(&found),
                    told(&expected),
                    self.service.policies.set(),
                );
                return Err(TestCaseError::fail(problem));
            }
        }
        Ok(())
    }

    /// What closed policies have set is taken as it is, before what anybody else wants; but nothing may have come
    /// to it.
    fn check_held(
        &self,
        index: usize,
        found: &Tree,
        given: &mut Tree,
    ) -> Result<(), TestCaseError> {
        for (policy, held) in &self.held {
            let now = places(*policy, found);
            let is_spreading = self.rollout(*policy).is_some_and(|stored| {
                // What was taken back goes also while the policy is closed.
                stored.rollout.phase != Phase::Completed
            });
            if !is_spreading && let Some(added) = now.difference(&held[index]).next() {
                let twin = double::key(index);
                let problem = format!("p{policy} is closed and set {added:?} on {twin}");
                return Err(TestCaseError::fail(problem));
            }
            let prefix = format!("policy:p{policy}@");
            let own = found.iter().filter(|(_, node)| match node {
                Node::Leaf(_, writer) | Node::Object(writer) => writer.starts_with(&prefix),
            });
            for (path, node) in own {
                given.entry(path.clone()).or_insert_with(|| node.clone());
            }
        }
        Ok(())
    }

    /// What operators have set, and the objects that they have made on the way: whether an object was
    /// made by a patch depends on what stood there then, so those are taken as they are.
    fn of_operators(&self, index: usize, found: &Tree) -> Tree {
        let is_theirs = |writer: &str| !writer.starts_with("policy:");
        let objects = found
            .iter()
            .filter(|(_, node)| matches!(node, Node::Object(writer) if is_theirs(writer)));
        let mut tree: Tree = objects
            .map(|(path, node)| (path.clone(), node.clone()))
            .collect();
        for (path, value) in &self.operators[index] {
            for length in 1..path.len() {
                let object = || Node::Object("operator:alice".to_owned());
                tree.entry(path[..length].to_vec()).or_insert_with(object);
            }
            let leaf = Node::Leaf((*value).into(), "operator:alice".to_owned());
            tree.insert(path.clone(), leaf);
        }
        tree
    }

    /// The revision of each policy that is for a twin.
    fn in_force(&self, index: usize, facts: &plain::Facts) -> Vec<InForce<'_>> {
        let open = self.policies.iter();
        let open = open.filter(|(policy, _)| self.times(**policy) == Times::Open);
        let all = open.filter_map(|(policy, known)| {
            let rollout = self.rollout(*policy);
            let rollout = rollout.map(|stored| stored.rollout.clone());
            let rollout = rollout.filter(|rollout| rollout.phase != Phase::Completed);
            let has_new = rollout.is_none_or(|rollout| {
                let begun = match rollout.phase {
                    Phase::Rolling | Phase::Soaking | Phase::Paused => rollout.released,
                    Phase::Planning
                    | Phase::AwaitingApproval
                    | Phase::RolledBack
                    | Phase::Superseded
                    | Phase::Completed => 0,
                };
                let wave = self.wave_of(&rollout, (*policy, known.effective), index, facts);
                wave.is_some_and(|wave| wave < begun)
            });
            let revision = if has_new {
                known.effective
            } else {
                known.base?
            };
            let content = &self.revisions[&(*policy, revision)];
            (content.modules != index.is_multiple_of(2)).then(|| InForce {
                writer: format!("policy:p{policy}@{revision}"),
                rank: (content.priority, known.order),
                content,
            })
        });
        all.collect()
    }

    fn wave_of(
        &self,
        rollout: &Rollout,
        (policy, revision): (usize, u64),
        index: usize,
        facts: &plain::Facts,
    ) -> Option<usize> {
        use crate::rollout::Border;
        let content = &self.revisions[&(policy, revision)];
        let drawn = draw(&id(policy), revision, &double::key(index));
        rollout.waves.iter().position(|wave| match &wave.border {
            Border::Draw(draw) => drawn <= *draw,
            Border::Where(text) => {
                let waves = content.waves.iter().flatten();
                let conditions = waves.filter_map(|wave| match wave {
                    plain::Wave::Where(condition) => Some(condition),
                    plain::Wave::Count(_) => None,
                });
                let mut conditions = conditions.filter(|condition| condition.text() == *text);
                let condition: Option<&Cond> = conditions.next();
                condition.is_some_and(|condition| condition.holds(facts, &Tree::new()))
            }
            Border::All => true,
        })
    }
}
