use serde_json::json;
use service_kit::clock::SystemClock;
use service_kit::metrics::Registry;
use twin::{Section, SectionKind, Stamp, Writer};
use wire::twin::v1::Twin;

use super::*;
use crate::evaluate::{ActivePolicy, Side, Stage};
use crate::policy_doc::{Policy, PolicySpec};
use crate::rollout::{Course, NumberSpec, StrategySpec, WaveSpec, plan};

fn active(id: &str, revision: u64) -> ActivePolicy {
    ActivePolicy {
        stage: None,
        gate: crate::schedule::Gate::Open,
        policy: Policy::check(PolicySpec {
            id: id.to_owned(),
            target: "tags.site = 'a'".to_owned(),
            settings: json!({id: 1}).as_object().expect("an object").clone(),
            ..PolicySpec::default()
        })
        .expect("a policy"),
        revision,
        created_order: 1,
    }
}

/// A module's twin at a site, as policies left it or before them.
fn module(site: &str, leaf: Option<&str>, applied_version: u64) -> Twin {
    let stamp = |by| Stamp {
        at: Timestamp::UNIX_EPOCH,
        by,
    };
    let mut section = Section::new(&stamp(Writer::Operator("o".to_owned())));
    if let Some(id) = leaf {
        let policy = Writer::Policy {
            id: id.to_owned(),
            revision: 1,
        };
        let patch = json!({id: 1}).as_object().expect("an object").clone();
        let merged = section.merge(&patch, &stamp(policy), SectionKind::Desired);
        section = merged.expect("a good patch");
    }
    Twin {
        device_id: "d".to_owned(),
        module_id: "m".to_owned(),
        tags_json: json!({ "site": site }).to_string(),
        desired_json: serde_json::Value::Object(section.document().clone()).to_string(),
        desired_version: section.version().get(),
        desired_metadata_json: section.metadata_to_json().to_string(),
        posture_json: json!({"configuration": {
            "state": "applied",
            "desiredVersion": applied_version,
            "appliedVersion": applied_version,
        }})
        .to_string(),
        ..Twin::default()
    }
}

struct Bench {
    twins: Family<StandingLabel, Gauge>,
    followed: Followed,
    registry: Registry,
}

impl Bench {
    fn new() -> Bench {
        let registry = Registry::new();
        Bench {
            twins: registry.scope("test").gauges("twins", "Twins"),
            followed: Followed::new(),
            registry,
        }
    }

    fn maker(&mut self, policies: impl IntoIterator<Item = ActivePolicy>) -> Maker {
        let set = Arc::new(PolicySet::new(policies));
        retally(&mut self.followed, &set, &self.twins);
        Maker {
            set,
            followed: self.followed.clone(),
            rolling: false,
            clock: SystemClock::shared(),
        }
    }

    /// Targeted, applied, pending, rejected.
    fn counts(&self, id: &str) -> [i64; 4] {
        let id = PolicyId::parse(id).expect("an id");
        let tally = &self.followed[&id].tally;
        [
            &tally.targeted,
            &tally.applied,
            &tally.pending,
            &tally.rejected,
        ]
        .map(Gauge::get)
    }
}

fn snapshot(maker: &Maker, twin: &Twin) -> Option<OfTwin> {
    let came = Came {
        twin,
        changes: &[],
        before: None,
    };
    match maker.make(&came) {
        Kept::New(kept) => Some(kept),
        Kept::Nothing => None,
        Kept::Same => panic!("nothing was known before"),
    }
}

#[test]
fn a_twin_is_counted_for_as_long_as_it_is_kept() {
    let mut bench = Bench::new();
    let maker = bench.maker([active("p", 1), active("q", 1)]);
    let first = snapshot(&maker, &module("a", Some("p"), 2));
    let second = snapshot(&maker, &module("a", None, 1));
    assert!(snapshot(&maker, &module("b", Some("p"), 2)).is_none());
    assert_eq!(bench.counts("p"), [2, 1, 1, 0]);
    assert_eq!(bench.counts("q"), [2, 0, 2, 0]);
    drop(second);
    assert_eq!(bench.counts("p"), [1, 1, 0, 0]);
    drop(first);
    assert_eq!(bench.counts("p"), [0; 4]);
    assert_eq!(bench.counts("q"), [0; 4]);
}

#[test]
fn a_change_that_concerns_no_policy_spares_the_work() {
    let mut bench = Bench::new();
    let maker = bench.maker([active("p", 1)]);
    let before = snapshot(&maker, &module("a", Some("p"), 2)).expect("counted");
    // It could not be read, had anybody looked.
    let broken = Twin {
        posture_json: "{".to_owned(),
        ..module("a", Some("p"), 2)
    };
    let make = |changes: &[Change], before| {
        maker.make(&Came {
            twin: &broken,
            changes,
            before,
        })
    };
    assert!(matches!(
        make(&[Change::Posture, Change::Reported], Some(&before)),
        Kept::Same
    ));
    for looked_at in [Change::ConfigurationState, Change::Tags, Change::Desired] {
        let kept = make(&[Change::Posture, looked_at], Some(&before));
        assert!(matches!(kept, Kept::Nothing), "{looked_at:?}");
    }
    assert!(matches!(make(&[Change::Posture], None), Kept::Nothing));
    assert!(matches!(make(&[], Some(&before)), Kept::Nothing));
}

#[test]
fn other_policies_leave_the_counts_of_one_that_stays_alone() {
    let mut bench = Bench::new();
    let maker = bench.maker([active("p", 1), active("q", 1)]);
    let kept = snapshot(&maker, &module("a", Some("p"), 2));
    let maker = bench.maker([active("p", 1), active("r", 1)]);
    assert_eq!(bench.counts("p"), [1, 1, 0, 0]);
    assert_eq!(bench.counts("r"), [0; 4], "it has not come again");
    let page = bench.registry.encode().expect("a page");
    assert!(!page.contains("policy=\"q\""), "{page}");
    let again = snapshot(&maker, &module("a", Some("p"), 2));
    drop(kept);
    assert_eq!(bench.counts("p"), [1, 1, 0, 0]);
    assert_eq!(bench.counts("r"), [1, 0, 1, 0]);
    let page = bench.registry.encode().expect("a page");
    assert!(
        page.contains(r#"twinward_test_twins{policy="p",standing="applied"} 1"#),
        "{page}"
    );
    assert!(!page.contains("policy=\"q\""), "{page}");
    drop(again);
}

#[test]
fn numbers_are_counted_in_waves_that_have_not_begun_as_well() {
    let strategy = StrategySpec {
        waves: vec![WaveSpec::Where("tags.ring = 1".to_owned())],
        change: vec![NumberSpec {
            of: "reported.score".to_owned(),
            fall_at_most: Some(5.into()),
            rise_at_most: None,
        }],
        ..StrategySpec::default()
    };
    let new = active("p", 1);
    let course = Course::new(
        new.policy.id().clone(),
        1,
        &plan(&strategy, &[]),
        1,
        &strategy,
    );
    let new = ActivePolicy {
        stage: Some(Stage {
            course: Arc::new(course),
            side: Side::New,
        }),
        ..new
    };
    let mut bench = Bench::new();
    let maker = bench.maker([new]);
    let twin = |ring: i64, score: serde_json::Value| Twin {
        tags_json: json!({"site": "a", "ring": ring}).to_string(),
        reported_json: json!({ "score": score }).to_string(),
        ..module("a", None, 1)
    };
    let id = PolicyId::parse("p").expect("an id");
    let means = |bench: &Bench| -> Vec<Option<f64>> {
        let waves = bench.followed[&id].waves.iter();
        waves.map(|wave| wave.read().numbers[0].value()).collect()
    };
    assert_eq!(means(&bench), [None, None]);
    let first = snapshot(&maker, &twin(1, json!(90)));
    let second = snapshot(&maker, &twin(2, json!(80.5)));
    let third = snapshot(&maker, &twin(2, json!(70.5)));
    // What is no number is not counted, and what no policy targets is nothing.
    let odd = snapshot(&maker, &twin(2, json!("high")));
    assert!(snapshot(&maker, &module("b", None, 1)).is_none());
    assert_eq!(means(&bench), [Some(90.0), Some(75.5)]);
    assert_eq!(bench.counts("p"), [1, 0, 1, 0], "one wave has begun");
    drop(second);
    assert_eq!(means(&bench), [Some(90.0), Some(70.5)]);
    drop((first, third, odd));
    assert_eq!(means(&bench), [None, None]);
}
