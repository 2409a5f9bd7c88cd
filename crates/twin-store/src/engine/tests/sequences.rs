//! Random sequences of operations on a real store, restarts among them, against a plain model.

use std::collections::BTreeMap;

use posture::configuration::{AckOutcome, Acknowledgement};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::apply::telemetry::fold_entries;
use crate::apply::{Mode, pushes};
use crate::record::Status;
use crate::store::sample::sound;
use crate::store::sqlite::SqliteStore;
use crate::store::{HistoryRead, Source, everything};
use crate::testing::{entry, heartbeats, new_device, operator_write};
use crate::{audit, history};

const KEYS: [&str; 5] = ["a", "a/m", "a/n", "b", "b/m"];

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Delete(usize),
    Disable(usize),
    Desire(usize, Value),
    Report(usize, Value),
    Policy(usize, Option<u8>),
    Acknowledge(usize),
    /// Heartbeats from, count; overlapping ranges are repetitions.
    Fold(usize, u64, u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let of = 0..KEYS.len();
    let value = prop_oneof![
        Just(Value::Null),
        (0..3_u8).prop_map(|n| json!(n)),
        (0..3_u8).prop_map(|n| json!({ "deep": n })),
    ];
    let patch = proptest::collection::btree_map("[xyz]", value, 1..3)
        .prop_map(|map| Value::Object(map.into_iter().collect()));
    prop_oneof![
        4 => of.clone().prop_map(Step::Create),
        1 => of.clone().prop_map(Step::Delete),
        1 => of.clone().prop_map(Step::Disable),
        4 => (of.clone(), patch.clone()).prop_map(|(of, patch)| Step::Desire(of, patch)),
        3 => (of.clone(), patch).prop_map(|(of, patch)| Step::Report(of, patch)),
        3 => (of.clone(), proptest::option::of(0..3_u8)).prop_map(|(of, n)| Step::Policy(of, n)),
        2 => of.clone().prop_map(Step::Acknowledge),
        4 => (of, 1..20_u64, 0..6_u64).prop_map(|(of, from, count)| Step::Fold(of, from, count)),
        1 => Just(Step::Restart),
    ]
}

/// What the model knows of one identity.
#[derive(Debug, Clone, Default, PartialEq)]
struct Plain {
    generation: u64,
    disabled: bool,
    desired: Value,
    desired_version: u64,
    reported: Value,
    reported_version: u64,
    acknowledged: Option<u64>,
    events: std::collections::BTreeSet<u64>,
}

/// RFC 7396, written out once more.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().unwrap();
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[derive(Default)]
struct Model {
    twins: BTreeMap<&'static str, Plain>,
    generations: u64,
    sequence: u64,
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('/').map(|(device, _)| device)
}

impl Model {
    /// Performs a step on both and says whether it should have succeeded.
    async fn perform(&mut self, engine: &Engine, step: &Step) -> Result<(), TestCaseError> {
        let cause = Cause::default();
        match step.clone() {
            Step::Create(of) => {
                let name = KEYS[of];
                self.generations += 1;
                let generation = self.generations;
                let orphan = parent(name).is_some_and(|device| !self.twins.contains_key(device));
                let allowed = !self.twins.contains_key(name) && !orphan;
                let done = engine
                    .decide(Selection::Family(key(name).device), move |overlay, now| {
                        let fresh = identity(&generation.to_string());
                        let key = key(name);
                        if key.module.is_some() {
                            let mode = Mode::Write;
                            devices::create_module(overlay, &key, fresh, mode, now, &cause)
                        } else {
                            let new = new_device(name, &generation.to_string());
                            devices::create_device(overlay, new, Mode::Write, now, &cause)
                        }
                    })
                    .await;
                prop_assert_eq!(done.is_ok(), allowed);
                if allowed {
                    let plain = Plain {
                        generation,
                        desired: json!({}),
                        desired_version: 1,
                        reported: json!({}),
                        reported_version: 1,
                        ..Plain::default()
                    };
                    self.twins.insert(name, plain);
                }
            }
            Step::Delete(of) => {
                let name = KEYS[of];
                let done = engine
                    .decide(Selection::Family(key(name).device), move |overlay, _| {
                        devices::delete(overlay, &key(name), None, Mode::Write, &cause)
                    })
                    .await;
                prop_assert_eq!(done.is_ok(), self.twins.remove(name).is_some());
                self.twins.retain(|other, _| parent(other) != Some(name));
            }
            Step::Disable(of) => {
                let device = key(KEYS[of]).device;
                let name = device.to_string();
                let done = engine
                    .decide(Selection::Family(device.clone()), move |overlay, now| {
                        let update = devices::DeviceUpdate {
                            status: Some((Status::Disabled, String::new())),
                            ..devices::DeviceUpdate::default()
                        };
                        let mode = Mode::Write;
                        devices::update_device(overlay, &device, update, None, mode, now, &cause)
                    })
                    .await;
                prop_assert_eq!(done.is_ok(), self.twins.contains_key(name.as_str()));
                // Its modules stay as they are.
                if let Some(plain) = self.twins.get_mut(name.as_str()) {
                    plain.disabled = true;
                }
            }
            Step::Desire(of, patch) => {
                let name = KEYS[of];
                let sections = twin::TwinPatch {
                    tags: None,
                    desired: Some(object(patch.clone())),
                };
                let write = operator_write(twins::Form::Patch, sections);
                let done = engine
                    .decide(Selection::One(key(name)), move |overlay, now| {
                        twins::write(overlay, &key(name), &write, now, &cause)
                    })
                    .await;
                let known = self.twins.get_mut(name);
                prop_assert_eq!(done.is_ok(), known.is_some());
                if let Some(plain) = known {
                    merge(&mut plain.desired, &patch);
                    plain.desired_version += 1;
                }
            }
            Step::Report(of, patch) => {
                let name = KEYS[of];
                let write = object(patch.clone());
                let done = engine
                    .decide(Selection::One(key(name)), move |overlay, now| {
                        let report = twins::Report {
                            patch: &write,
                            expected: None,
                            told: 0,
                        };
                        twins::patch_reported(overlay, &key(name), &report, now, &cause)
                    })
                    .await;
                let known = self.twins.get_mut(name);
                prop_assert_eq!(done.is_ok(), known.is_some());
                if let Some(plain) = known {
                    merge(&mut plain.reported, &patch);
                    plain.reported_version += 1;
                    prop_assert_eq!(done.unwrap().get(), plain.reported_version);
                }
            }
            Step::Policy(of, wanted) => self.policy(engine, KEYS[of], wanted).await?,
            Step::Acknowledge(of) => {
                let name = KEYS[of];
                let version = self
                    .twins
                    .get(name)
                    .map_or(1, |plain| plain.desired_version);
                let done = engine
                    .decide(Selection::One(key(name)), move |overlay, now| {
                        let answer = Acknowledgement {
                            version,
                            outcome: AckOutcome::Applied,
                            at: now,
                            pushed_at: None,
                            applied_at: None,
                        };
                        pushes::acknowledge(overlay, &key(name), &answer, &cause)
                    })
                    .await;
                prop_assert_eq!(done.is_ok(), self.twins.contains_key(name));
                if let Some(plain) = self.twins.get_mut(name) {
                    plain.acknowledged = Some(version);
                }
            }
            Step::Fold(of, from, events) => {
                let name = KEYS[of];
                self.sequence += 1;
                let generation = self.twins.get(name).map_or(0, |plain| plain.generation);
                let entry = entry(
                    name,
                    &generation.to_string(),
                    self.sequence,
                    heartbeats(from..from + events),
                );
                let partition = engine.partition(&key(name));
                let folded = engine
                    .fold(
                        vec![Selection::One(key(name))],
                        (partition, self.sequence),
                        move |overlay, now| fold_entries(overlay, partition, &[entry], now),
                    )
                    .await
                    .expect("a fold is not refused");
                prop_assert_eq!(folded.refused.is_empty(), self.twins.contains_key(name));
                if let Some(plain) = self.twins.get_mut(name) {
                    plain.events.extend(from..from + events);
                }
            }
            Step::Restart => {}
        }
        Ok(())
    }

    async fn policy(
        &mut self,
        engine: &Engine,
        name: &'static str,
        wanted: Option<u8>,
    ) -> Result<(), TestCaseError> {
        let writes: Vec<_> = wanted
            .map(|number| twin::PolicyWrite {
                policy: "p".to_owned(),
                revision: 1,
                settings: object(json!({ "policy": number })),
            })
            .into_iter()
            .collect();
        let wanted_there = twins::Wanted {
            settings: Some(writes),
            ..twins::Wanted::default()
        };
        let applied = engine
            .decide(Selection::One(key(name)), move |overlay, now| {
                let cause = Cause::default();
                twins::apply_policies(overlay, &key(name), &wanted_there, None, now, &cause)
            })
            .await;
        let known = self.twins.get_mut(name);
        prop_assert_eq!(applied.is_ok(), known.is_some());
        let Some(plain) = known else { return Ok(()) };
        let mut after = plain.desired.clone();
        merge(&mut after, &json!({ "policy": wanted }));
        let changes = after != plain.desired;
        plain.desired = after;
        plain.desired_version += u64::from(changes);
        prop_assert_eq!(applied.unwrap().changed, changes);
        Ok(())
    }

    /// The store holds what the model says, and nothing else.
    async fn compare(&self, store: &dyn Store) -> Result<(), TestCaseError> {
        let page = store
            .search(everything(Source::All, None, 100, now()))
            .await
            .expect("a list");
        let names: Vec<_> = page
            .records
            .iter()
            .map(|record| record.key.to_string())
            .collect();
        let expected: Vec<_> = self.twins.keys().map(ToString::to_string).collect();
        prop_assert_eq!(names, expected);
        for (record, plain) in page.records.iter().zip(self.twins.values()) {
            let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
            let found = Plain {
                generation: record.identity.generation_id.parse().expect("a number"),
                disabled: record.identity.status == Status::Disabled,
                desired: parse(&record.twin.desired.document),
                desired_version: record.twin.desired.version.get(),
                reported: parse(&record.twin.reported.document),
                reported_version: record.twin.reported.version.get(),
                acknowledged: record.posture.configuration.applied_version,
                events: plain.events.clone(),
            };
            prop_assert_eq!(&found, plain, "{}", record.key);
            prop_assert_eq!(record.posture.event_count, plain.events.len() as u64);
            prop_assert_eq!(
                record.posture.configuration.desired_version,
                Some(plain.desired_version)
            );
            record
                .twin
                .parse(&record.key)
                .expect("it can be read whole");
        }
        Ok(())
    }
}

/// What may only rise as long as the identity is the same one.
fn rising(record: &Record) -> [u64; 5] {
    [
        record.revision.get(),
        record.identity.etag.number(),
        record.twin.version.get(),
        record.twin.etag.counter(),
        record.posture.version,
    ]
}

/// Every document that was seen, under its revision.
#[derive(Default)]
struct Past(BTreeMap<(&'static str, u64), Value>);

impl Past {
    fn note(&mut self, name: &'static str, record: &Record) {
        let document = history::document(record).expect("it can be read");
        self.0.insert((name, record.revision.get()), document);
    }

    /// The history leads back to each of them that ends a revision and to nothing before the first,
    /// and every chain of audit entries is whole.
    async fn compare(&self, store: &dyn Store) -> Result<(), TestCaseError> {
        for name in KEYS {
            let read = HistoryRead {
                key: key(name),
                before: None,
                from: None,
                to: None,
                limit: 10_000,
            };
            let entries = sound(store.history(read).await.expect("a history"));
            let present = store.get(key(name)).await.expect("read");
            let mut document = present.map_or(Value::Null, |record| {
                history::document(&record).expect("it can be read")
            });
            for entry in &entries {
                if let Some(seen) = self.0.get(&(name, entry.revision.get())) {
                    prop_assert_eq!(&document, seen, "{} at {}", name, entry.revision);
                }
                document = history::rewind(document, [entry]).expect("it can be rewound");
            }
            prop_assert_eq!(&document, &Value::Null, "{} before its creation", name);
        }
        for partition in PartitionCount::new(4).expect("a count").partitions() {
            let page = store.audit(partition, 0, 10_000).await.expect("a chain");
            prop_assert_eq!(audit::verify(&sound(page.entries), page.head), Ok(()));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_ends_as_a_plain_model_says_and_no_version_goes_down(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let folder = tempfile::tempdir().expect("a folder");
            let open = || Arc::new(SqliteStore::open(folder.path()).expect("it opens"));
            let mut store = open();
            let mut running = Running::start(store.clone()).await;
            let mut model = Model::default();
            let mut past = Past::default();
            let mut known: BTreeMap<(String, String), [u64; 5]> = BTreeMap::new();
            for step in &steps {
                if matches!(step, Step::Restart) {
                    running.stop().await.expect("a good end");
                    drop(store);
                    store = open();
                    running = Running::start(store.clone()).await;
                }
                model.perform(&running.engine, step).await?;
                for name in KEYS {
                    let Some(record) = store.get(key(name)).await.expect("read") else {
                        continue;
                    };
                    past.note(name, &record);
                    let identity = (name.to_owned(), record.identity.generation_id.clone());
                    let before = known.insert(identity, rising(&record)).unwrap_or_default();
                    let risen = before.iter().zip(rising(&record)).all(|(old, new)| *old <= new);
                    prop_assert!(risen, "{}: {:?} after {:?}", name, rising(&record), before);
                }
            }
            model.compare(&*store).await?;
            running.stop().await.expect("a good end");
            let store = open();
            past.compare(&*store).await?;
            model.compare(&*store).await
        })?;
    }
}
