use std::sync::Arc;
use std::time::Duration;

use service_kit::clock::{Clock as _, ManualClock};
use tempfile::TempDir;

use super::*;
use crate::policy_doc::{Policy, PolicySpec};
use crate::schedule::{ScheduleSpec, WindowSpec};
use crate::store::Store;

const HOUR: Duration = Duration::from_hours(1);

fn by() -> By {
    By {
        actor: "operator:a".to_owned(),
        request_id: uuid::Uuid::now_v7().to_string(),
        trace_parent: String::new(),
    }
}

/// One that is open from 12:00 to 14:00.
fn lamp(description: &str, expires: &str) -> Policy {
    Policy::check(PolicySpec {
        id: "lamp".to_owned(),
        description: description.to_owned(),
        target: "*".to_owned(),
        settings: serde_json::json!({"a": 1}).as_object().unwrap().clone(),
        schedule: Some(ScheduleSpec {
            windows: vec![WindowSpec {
                from: "12:00".to_owned(),
                to: "14:00".to_owned(),
                ..WindowSpec::default()
            }],
            expires: expires.to_owned(),
            ..ScheduleSpec::default()
        }),
        ..PolicySpec::default()
    })
    .unwrap()
}

struct Fixture {
    policies: Policies,
    clock: Arc<ManualClock>,
    _folder: TempDir,
}

impl Fixture {
    /// At 11:00 of a day, with the policy.
    async fn new(expires: &str) -> Fixture {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let clock = ManualClock::at("2026-11-24T11:00:00Z".parse().unwrap());
        let contents = store.load(Timestamp::UNIX_EPOCH).await.unwrap();
        let policies = Policies::new(store, clock.clone(), &contents);
        let fixture = Fixture {
            policies,
            clock,
            _folder: folder,
        };
        fixture.apply("words", expires).await;
        fixture
    }

    async fn apply(&self, description: &str, expires: &str) {
        let policy = lamp(description, expires);
        let applied = self
            .policies
            .apply(policy, by(), (String::new(), None), None);
        applied.await.unwrap();
    }

    fn wanted(&self) -> SweepNumber {
        self.policies.wanted().borrow().now
    }

    fn stored(&self) -> StoredPolicy {
        self.policies
            .get(&PolicyId::parse("lamp").unwrap())
            .unwrap()
    }

    fn opening(&self) -> Option<Opening> {
        self.policies.opening(&self.stored())
    }

    /// What `Edges` does when it is woken; whether a sweep is wanted by that.
    async fn look(&self) -> bool {
        let before = self.wanted();
        if self.policies.is_behind(self.clock.now()) {
            self.policies.pass_edge(false).await.unwrap();
        }
        self.wanted() > before
    }
}

#[tokio::test]
async fn what_opens_is_swept_though_somebody_else_came_upon_it_first() {
    let fixture = Fixture::new("").await;
    let before = fixture.wanted();
    fixture.clock.advance(HOUR);
    // For words alone nobody has to look at any twin.
    fixture.apply("other words", "").await;
    assert_eq!(fixture.wanted(), before);
    assert!(fixture.policies.gate(&fixture.stored()).is_open());
    assert!(
        fixture.opening().is_none(),
        "no twin has been looked at since"
    );

    assert!(fixture.look().await);
    let opening = fixture.opening().expect("it is open");
    assert_eq!(opening.sweep, fixture.wanted());
    assert!(!fixture.look().await, "once is enough");
}

#[tokio::test]
async fn what_ends_is_swept_though_somebody_else_came_upon_it_first() {
    let fixture = Fixture::new("2026-11-24T13:30").await;
    fixture.clock.advance(HOUR);
    assert!(fixture.look().await);
    fixture.clock.advance(2 * HOUR);
    fixture.apply("other words", "2026-11-24T13:30").await;
    assert!(fixture.look().await);
    let gate = fixture.policies.gate(&fixture.stored());
    assert!(matches!(gate, Gate::Expired(_)), "{gate:?}");
    assert!(!fixture.look().await, "once is enough");
}

#[tokio::test]
async fn a_closing_between_two_openings_is_remembered_whoever_came_upon_it() {
    let fixture = Fixture::new("").await;
    fixture.clock.advance(HOUR);
    assert!(fixture.look().await);
    // Closed and open again while the waker slept, as over a jump of the clock.
    fixture.clock.advance(3 * HOUR);
    fixture.apply("other words", "").await;
    fixture.clock.advance(21 * HOUR);
    fixture.apply("words again", "").await;
    assert!(fixture.look().await);
}

#[tokio::test]
async fn a_sweep_that_is_wanted_with_a_change_is_enough_for_what_opened_before() {
    let fixture = Fixture::new("").await;
    fixture.clock.advance(HOUR);
    fixture.apply("other words", "").await;
    let frozen = StoredFreeze {
        number: 0,
        policies: std::iter::once(PolicyId::parse("other").unwrap()).collect(),
        from: Timestamp::UNIX_EPOCH,
        to: None,
        reason: String::new(),
        author: "operator:a".to_owned(),
        created_at: fixture.clock.now(),
    };
    let before = fixture.wanted();
    let frozen = fixture.policies.create_freeze(frozen, by()).await.unwrap();
    assert_eq!(fixture.wanted(), before, "what closes changes no twin");
    fixture
        .policies
        .end_freeze(frozen.number, by())
        .await
        .unwrap();
    assert!(fixture.wanted() > before);
    let opening = fixture.opening().expect("it is open");
    assert_eq!(opening.sweep, fixture.wanted());
    assert!(!fixture.look().await, "it is covered");
}
