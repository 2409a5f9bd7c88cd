//! Random twins are written to a store; random conditions are decided by SQL and by the evaluator.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use twin::query::Expr;

use super::generate::{by_own_numbers, conditions, served, twins};
use super::*;
use crate::lookup;
use crate::record::Record;
use crate::store::postgres::testing::open as open_postgres;
use crate::store::sqlite::SqliteStore;
use crate::store::{Commit, Replica, ReplicaId, Store, Upsert};

/// Stores filled anew, each with other twins.
const ROUNDS: usize = 24;
/// The same for PostgreSQL, where each takes a database.
const POSTGRES_ROUNDS: usize = 8;
/// Conditions for each of them.
const CONDITIONS: usize = 160;
/// Devices and modules in each of them.
const NAMES: [&str; 14] = [
    "d0", "d0/m", "d1", "d2", "d2/m", "d3", "d4", "d5", "D6", "d7", "d8", "d9", "e", "e/m",
];

/// Writes records to an empty store, with their index.
pub(super) async fn fill(store: &dyn Store, records: &[Record]) {
    let replica = Replica {
        id: ReplicaId(uuid::Uuid::new_v4().to_string()),
        address: "http://replica".to_owned(),
        count: twin::PartitionCount::DEFAULT,
        lease: std::time::Duration::ZERO,
    };
    let states = store.claim(replica).await.expect("taken").owned;
    let upsert = |record: &Record| {
        let (index_remove, index_add) =
            crate::index::changes(None, Some(record)).expect("an index");
        Upsert {
            record: Arc::new(record.clone()),
            index_remove,
            index_add,
        }
    };
    let commit = Commit {
        partitions: states,
        upserts: records.iter().map(upsert).collect(),
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
}

/// A fresh seed, told when anything fails.
pub(super) fn runner() -> (TestRunner, String) {
    let seed = [
        *uuid::Uuid::new_v4().as_bytes(),
        *uuid::Uuid::new_v4().as_bytes(),
    ]
    .concat();
    (runner_of(&seed), format!("{seed:?}"))
}

fn runner_of(seed: &[u8]) -> TestRunner {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, seed);
    TestRunner::new_with_rng(Config::default(), rng)
}

pub(super) fn one<S: Strategy>(runner: &mut TestRunner, strategy: &S) -> S::Value {
    strategy.new_tree(runner).expect("a value").current()
}

#[tokio::test]
async fn sql_finds_what_the_evaluator_finds_in_sqlite() {
    let (mut runner, seed) = runner();
    let mut decided = 0;
    for round in 0..ROUNDS {
        let records = random_records(&mut runner);
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(folder.path()).expect("it opens");
        fill(&store, &records).await;
        let context = format!("seed {seed}, round {round}");
        decided += check(&store, Dialect::Sqlite, &records, &mut runner, &context).await;
        store.close().await;
    }
    // Else the test would test nothing.
    assert!(
        decided > ROUNDS * CONDITIONS / 4,
        "only {decided} were decided"
    );
}

#[tokio::test]
async fn sql_finds_what_the_evaluator_finds_in_postgresql() {
    let (mut runner, seed) = runner();
    let mut decided = 0;
    for round in 0..POSTGRES_ROUNDS {
        let records = random_records(&mut runner);
        let database = testkit::postgres::database().await;
        let store = open_postgres(&database.url()).await;
        fill(&store, &records).await;
        let context = format!("seed {seed}, round {round}");
        decided += check(&store, Dialect::Postgres, &records, &mut runner, &context).await;
        store.close().await;
    }
    assert!(
        decided > POSTGRES_ROUNDS * CONDITIONS / 4,
        "only {decided} were decided"
    );
}

pub(super) fn random_records(runner: &mut TestRunner) -> Vec<Record> {
    let names = NAMES.iter();
    names
        .map(|name| one(runner, &twins((*name).to_owned())))
        .collect()
}

/// Answers how many of the conditions SQL decided.
async fn check(
    store: &dyn Store,
    dialect: Dialect,
    records: &[Record],
    runner: &mut TestRunner,
    context: &str,
) -> usize {
    let mut decided = 0;
    let strategy = prop_oneof![3 => conditions(3, 0), 1 => served()];
    let mut ranged = 0;
    for record in records {
        // The numbers of a few are enough.
        for text in by_own_numbers(record).into_iter().take(4) {
            let condition = Condition::parse_in(&text, Vocabulary::Query);
            let search = Search {
                source: Source::All,
                condition: condition.expect(&text).scope().clone(),
                now: now(),
                after: None,
                limit: 100,
                estimates: Estimates::default(),
            };
            let context = format!("{context}, {text}");
            let found = found(store, &search, &context).await;
            assert!(found.contains(&record.key.to_string()), "{context}");
            assert!(
                evaluated(&search, records).contains(&record.key.to_string()),
                "{context}"
            );
        }
    }
    for _ in 0..CONDITIONS {
        let expr = one(runner, &strategy);
        let search = Search {
            source: one(
                runner,
                &prop::sample::select(vec![Source::All, Source::Devices, Source::Modules]),
            ),
            condition: Scope::Where(expr.clone()),
            now: now(),
            after: None,
            limit: one(runner, &prop::sample::select(vec![2, 5, 100])),
            estimates: Estimates::default(),
        };
        let context = format!("{context}, {:?}\n{expr}\n{expr:?}", search.source);
        let expected = evaluated(&search, records);
        let found = found(store, &search, &context).await;
        assert!(found.is_sorted(), "out of order: {context}");
        let found_set: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(found.len(), found_set.len(), "repeated: {context}");
        assert!(
            expected.is_subset(&found_set),
            "missing {:?}: {context}\n{:#?}",
            expected.difference(&found_set),
            store.explain(search.clone()).await
        );
        let prepared = Prepared::new(&search, dialect);
        ranged += usize::from(
            prepared
                .rows(&[])
                .indexes
                .iter()
                .any(|name| name.starts_with("twin_index (") && name.contains(['<', '>'])),
        );
        if prepared.is_decided() {
            decided += 1;
            let readable = |key: &String| {
                let record = records.iter().find(|record| record.key.to_string() == *key);
                record.is_some_and(|record| !is_opaque(record))
            };
            let wrong: Vec<_> = found_set
                .difference(&expected)
                .filter(|key| readable(key))
                .collect();
            assert!(
                wrong.is_empty(),
                "too many {wrong:?}: {context}\n{:#?}",
                store.explain(search.clone()).await
            );
            let count = store
                .count(search.clone())
                .await
                .expect(&context)
                .expect("a count");
            let undecided = count
                .undecided
                .records
                .iter()
                .filter(|record| holds(&expr, record));
            let total = usize::try_from(count.decided).expect("few") + undecided.count();
            assert_eq!(total, expected.len(), "count: {context}");
        }
    }
    assert!(ranged > CONDITIONS / 20, "only {ranged} looked for ranges");
    decided
}

fn is_opaque(record: &Record) -> bool {
    crate::store::row::encode(record).expect("a row").opaque
}

fn holds(expr: &Expr, record: &Record) -> bool {
    Scope::Where(expr.clone()).holds_at(&lookup::of_record(record), now())
}

fn evaluated(search: &Search, records: &[Record]) -> BTreeSet<String> {
    let matching = records.iter().filter(|record| {
        let source = match search.source {
            Source::All => true,
            Source::Devices => record.key.module.is_none(),
            Source::Modules => record.key.module.is_some(),
        };
        source && search.condition.holds_at(&lookup::of_record(record), now())
    });
    matching.map(|record| record.key.to_string()).collect()
}

async fn found(store: &dyn Store, search: &Search, context: &str) -> Vec<String> {
    let mut search = search.clone();
    let mut keys = Vec::new();
    loop {
        let page = store.search(search.clone()).await.unwrap_or_else(|error| {
            panic!(
                "{error}: {:?}: {context}",
                std::error::Error::source(&error).map(ToString::to_string)
            )
        });
        assert!(page.damaged.is_empty(), "{:?}: {context}", page.damaged);
        keys.extend(page.records.iter().map(|record| record.key.to_string()));
        match page.next {
            Some(next) => search.after = Some(next),
            None => return keys,
        }
    }
}
