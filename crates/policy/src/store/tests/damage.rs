//! Values of every table damaged, one at a time: the service starts, others are served, and what is damaged
//! can be deleted and made anew.

use jiff::SignedDuration;
use twin::IdentityKey;

use super::*;
use crate::actions::{ActionId, ActionKey, Due, Place, State as ActionState};
use crate::configuration_doc::{ConfigurationId, ConfigurationSpec};
use crate::keep::Frozen;
use crate::rollout::{StrategySpec, WaveSpec};

/// What is damaged is `p`'s, or of a table that has one row.
const ROWS_OF_P: [&str; 3] = ["policies", "revisions", "rollouts"];

/// What deleting a policy and making it anew reads.
const DELETION_READS: [&str; 5] = ["policies", "revisions", "rollouts", "state", "frozen_paths"];

/// How a value is damaged: what stands in its place.
const DAMAGES: [&str; 5] = [
    "CAST(x'ff' AS TEXT)",
    "-5",
    "{} + 9007199254740993",
    "{} + 1099511627776",
    // The lowest bit of the first character.
    "char((unicode({}) | 1) - (unicode({}) & 1)) || substr({}, 2)",
];

fn spreading() -> Policy {
    let strategy = StrategySpec {
        waves: vec![WaveSpec::Percent(10)],
        ..StrategySpec::default()
    };
    Policy::check(PolicySpec {
        rollout: Some(strategy),
        ..policy("p", "d", 3).spec().clone()
    })
    .unwrap()
}

/// A row in each table.
async fn full() -> Fixture {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.apply(policy("good", "d", 3), 10).await;
    fixture.apply(spreading(), 11).await;
    let freeze = StoredFreeze {
        number: 0,
        policies: [PolicyId::parse("good").unwrap()].into(),
        from: at(1),
        to: Some(at(4_000_000_000)),
        reason: "why".to_owned(),
        author: by().actor,
        created_at: at(1),
    };
    store.create_freeze(freeze, by(), |_| {}).await.unwrap();
    let twin = IdentityKey::parse_path("d/m").unwrap();
    let frozen = Frozen {
        path: vec!["a".to_owned()],
        writers: vec!["policy:p@1".to_owned()],
        at: at(3),
    };
    let frozen = store.freeze(twin.clone(), vec![frozen], |_, _| {});
    assert_eq!(frozen.await.unwrap(), 1);
    let configuration = ConfigurationSpec {
        content: json!({"deviceContent": {"properties.desired.a": 1}})
            .as_object()
            .cloned(),
        target_condition: "*".to_owned(),
        ..ConfigurationSpec::default()
    };
    let id = ConfigurationId::parse("c").unwrap();
    store
        .create_configuration(id, configuration, (at(4), by()), |_| {})
        .await
        .unwrap();
    let positions = BTreeMap::from([(3, Sequence::new(7))]);
    store.save_positions(positions).await.unwrap();
    let key = ActionKey {
        twin,
        id: ActionId {
            policy: PolicyId::parse("p").unwrap(),
            action: "look".to_owned(),
        },
    };
    let due = Due {
        since: at(5),
        until: at(5) + SignedDuration::from_hours(1),
        tries: 1,
    };
    let place = Place {
        seen: 3,
        holds: true,
        revision: 1,
        fingerprint: 77,
        cause: 2,
        state: ActionState::Calling {
            due,
            revision: 1,
            begun: at(6),
            again: false,
        },
        at: at(6),
    };
    let result = ActionResult {
        key: key.clone(),
        revision: 1,
        cause: 1,
        outcome: ActionOutcome::Succeeded,
        status: 200,
        payload: "{}".to_owned(),
        error: String::new(),
        begun: Some(at(5)),
        ended: at(6),
    };
    store
        .write_actions(vec![(key, Some(place))], vec![result])
        .await
        .unwrap();
    let range = Range {
        policy: Some(PolicyId::parse("p").unwrap()),
        filter: String::new(),
    };
    store
        .begin_reevaluation(range, "r".to_owned(), (at(7), by()))
        .await
        .unwrap();
    fixture
}

/// All columns, but for keys that SQLite makes itself and flags, which have no wrong values.
fn columns(database: &rusqlite::Connection) -> Vec<(String, String)> {
    let statement = "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c
                     WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'
                       AND c.name NOT IN ('number', 'deleted', 'holds', 'cancelling', 'again', 'id')";
    let mut rows = database.prepare(statement).unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

/// Everything that the service reads before it serves, and goes on reading.
async fn start(store: &Store) -> Contents {
    let contents = store.load(at(50)).await.unwrap();
    store.action_places().await.unwrap();
    store.actions_begun_since(at(0)).await.unwrap();
    store.next_reevaluation(at(50)).await.unwrap();
    store.reevaluations(None, 10).await.unwrap();
    store.rollouts(None, None, 10).await.unwrap();
    let query = ActionQuery {
        policy: PolicyId::parse("p").unwrap(),
        device: String::new(),
        outcome: None,
        before: None,
        limit: 10,
    };
    store.action_results(query).await.unwrap();
    contents
}

/// Takes all entries for the audit log.
async fn deliver(store: &Store) {
    while let Some(entry) = store.next_audit_entry().await.unwrap() {
        store.audit_entry_done(entry.number).await.unwrap();
    }
}

#[tokio::test]
async fn no_value_of_any_table_keeps_the_service_from_its_start_or_a_policy_from_being_deleted() {
    let Fixture { folder, store } = full().await;
    drop(store);
    let whole = folder.path().join(FILE_NAME);
    let database = rusqlite::Connection::open(&whole).unwrap();
    database
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let columns = columns(&database);
    drop(database);
    let mut tables = std::collections::BTreeSet::new();
    for (table, column) in columns {
        for damage in DAMAGES {
            let folder = TempDir::new().unwrap();
            std::fs::copy(&whole, folder.path().join(FILE_NAME)).unwrap();
            let database = rusqlite::Connection::open(folder.path().join(FILE_NAME)).unwrap();
            // Nothing has to reach a disk here.
            database.pragma_update(None, "synchronous", "OFF").unwrap();
            let only = if ROWS_OF_P.contains(&&*table) {
                "WHERE policy_id = 'p'"
            } else {
                ""
            };
            let value = damage.replace("{}", &column);
            let what = format!("UPDATE {table} SET {column} = {value} {only}");
            // A number is no text, and no text is a number.
            if !matches!(database.execute(&what, []), Ok(1..)) {
                continue;
            }
            tables.insert(table.clone());
            drop(database);
            let (store, contents) = check_start(&folder, &what).await;
            if table == "audit_entries" {
                deliver(&store).await;
            }
            if DELETION_READS.contains(&&*table) {
                check_deletion(&store, &what, contents).await;
            }
        }
    }
    let tables: Vec<_> = tables.iter().map(String::as_str).collect();
    assert_eq!(
        tables,
        [
            "action_places",
            "action_results",
            "audit_entries",
            "configurations",
            "freezes",
            "frozen_paths",
            "policies",
            "positions",
            "reevaluations",
            "revisions",
            "rollouts",
            "state",
        ]
    );
}

fn p() -> PolicyId {
    PolicyId::parse("p").unwrap()
}

async fn check_start(folder: &TempDir, what: &str) -> (Store, Contents) {
    let store = Store::open(folder.path()).await.unwrap();
    let contents = start(&store).await;
    let is_there = |id: &str| {
        let mut ids = contents.policies.iter().map(|one| one.policy.id());
        ids.any(|one| one.as_str() == id)
    };
    assert!(is_there("good"), "{what}");
    // Nobody may take it for one that was deleted: its settings would go.
    let is_known = is_there("p") || contents.unreadable.policies.contains_key(&p());
    assert!(is_known, "{what}: {:?}", contents.unreadable);
    (store, contents)
}

async fn check_deletion(store: &Store, what: &str, before: Contents) {
    let p = p();
    let delete =
        |id: PolicyId| store.delete(id, None, (at(60), by()), (|| Ok::<(), Error>(()), |_| {}));
    delete(p.clone())
        .await
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let again = store.apply(spreading(), change(70), |_| {}).await;
    let again = again.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert!(again.stored.revision > 1, "{what}");
    let other = store.apply(policy("good", "d", 5), change(80), |_| {});
    other
        .await
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let left = store.load(at(90)).await.unwrap().unreadable;
    assert!(!left.policies.contains_key(&p), "{what}: {left:?}");
    assert!(
        left.policies.len() <= before.unreadable.policies.len(),
        "{what}"
    );
}

#[tokio::test]
async fn a_row_that_has_lost_its_name_is_told_of_and_forgotten_when_nobody_misses_it() {
    let fixture = Fixture::new().await;
    fixture.apply(policy("lamp", "d", 3), 10).await;
    let file = fixture.folder.path().join(FILE_NAME);
    let database = rusqlite::Connection::open(file).unwrap();
    let statement = "UPDATE policies SET policy_id = 'l mp'";
    assert_eq!(database.execute(statement, []).unwrap(), 1);
    let words = async || {
        let contents = fixture.store.load(at(20)).await.unwrap();
        contents.unreadable.words().unwrap_or_default()
    };
    let told = words().await;
    assert!(
        told.contains("policy lamp: ") && told.contains("l mp"),
        "{told}"
    );
    // Nobody makes it anew by the way: its revisions would begin again.
    let refused = fixture
        .store
        .apply(policy("lamp", "d", 4), change(30), |_| {})
        .await;
    assert_eq!(refused.unwrap_err().reason(), "STORE_DAMAGED");
    fixture.delete("lamp", None).await.unwrap();
    words().await;
    assert_eq!(words().await, "");
    let (again, _) = fixture.apply(policy("lamp", "d", 4), 40).await;
    assert_eq!(again.revision, 2);
}
