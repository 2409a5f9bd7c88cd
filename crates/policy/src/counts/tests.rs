use serde_json::json;
use service_kit::clock::SystemClock;
use service_kit::metrics::Registry;
use twin::{Section, SectionKind, Stamp, Writer};
use wire::twin::v1::Twin;

use client::{Came, Kept};
use wire::twin::v1::Change;

use super::*;
use crate::evaluate::{ActivePolicy, Side, Stage};
use crate::keep::{Frozen, FrozenSet};
use crate::membership::{Membership, membership};
use crate::policy_doc::{Policy, PolicySpec};
use crate::rollout::{Course, NumberSpec, StrategySpec, WaveSpec, plan};
use crate::twin_document::TwinDocument;
use proptest::prelude::{any, prop_assert_eq, proptest};

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
    frozen: Arc<Mutex<FrozenSet>>,
    registry: Registry,
}

impl Bench {
    fn new() -> Bench {
        let registry = Registry::new();
        Bench {
            twins: registry.scope("test").gauges("twins", "Twins"),
            followed: Followed::new(),
            frozen: Arc::default(),
            registry,
        }
    }

    fn maker(&mut self, policies: impl IntoIterator<Item = ActivePolicy>) -> Maker {
        let set = Arc::new(PolicySet::new(policies));
        retally(&mut self.followed, &set, &self.twins);
        let frozen = Arc::clone(&self.frozen);
        let frozen = move || frozen.lock().expect("nobody panicked").clone();
        Maker::new(&set, &self.followed, frozen, SystemClock::shared())
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

/// A policy whose new revision (2) has one wave, for everybody; `before` is revision 1.
fn spreading(
    new: PolicySpec,
    before: PolicySpec,
    strategy: &StrategySpec,
    gate: &Gate,
) -> [ActivePolicy; 2] {
    let revision = |number, spec| ActivePolicy {
        policy: Policy::check(spec).expect("a policy"),
        revision: number,
        gate: gate.clone(),
        ..active("p", 1)
    };
    let id = PolicyId::parse("p").expect("an id");
    let course = Arc::new(Course::new(id, 2, &plan(strategy, &[]), 1, strategy));
    let staged = |side, active| ActivePolicy {
        stage: Some(Stage {
            course: Arc::clone(&course),
            side,
        }),
        ..active
    };
    [
        staged(Side::New, revision(2, new)),
        staged(Side::Before, revision(1, before)),
    ]
}

fn spec(target: &str, value: &str) -> PolicySpec {
    PolicySpec {
        id: "p".to_owned(),
        target: target.to_owned(),
        settings: json!({ "p": value })
            .as_object()
            .expect("an object")
            .clone(),
        ..PolicySpec::default()
    }
}

impl Bench {
    fn wave(&self) -> crate::rollout::Tally {
        let id = PolicyId::parse("p").expect("an id");
        self.followed[&id].waves[0].read()
    }
}

/// A module's twin that has a revision of the policy, of a device that answered at 100 s.
fn answering(revision: u64, state: &str, agent: &serde_json::Value) -> Twin {
    let twin = module("a", Some("p"), 2);
    Twin {
        desired_metadata_json: twin.desired_metadata_json.replace("policy:p@1", &format!("policy:p@{revision}")),
        connected: agent["connected"] == true,
        posture_json: json!({"agent": agent, "configuration": {
            "state": state,
            "desiredVersion": twin.desired_version,
            "appliedVersion": if state == "applied" { twin.desired_version } else { 1 },
            "timeline": {"acknowledgedAt": "2026-01-01T00:00:00Z", "committedAt": "2026-01-01T00:00:00Z"},
        }})
        .to_string(),
        ..twin
    }
}

#[test]
fn a_device_that_applied_it_and_went_away_soon_after_is_lost_until_it_is_back() {
    let new = PolicySpec {
        settings: json!({"p": 1}).as_object().expect("an object").clone(),
        ..spec("*", "x")
    };
    let mut bench = Bench::new();
    let both = spreading(new, spec("*", "x"), &StrategySpec::default(), &Gate::Open);
    let maker = bench.maker(both);
    let gone = |at: &str| json!({"connected": false, "disconnectedAt": at});
    for (agent, applied, lost) in [
        (
            json!({"connected": true, "disconnectedAt": "2025-12-31T00:00:00Z"}),
            1,
            0,
        ),
        (gone("2026-01-01T00:09:59Z"), 0, 1),
        // It was there for long enough, or went before its answer was taken in.
        (gone("2026-01-01T00:10:00Z"), 1, 0),
        (gone("2025-12-31T23:59:59Z"), 0, 1),
        (json!({}), 1, 0),
    ] {
        let kept = snapshot(&maker, &answering(2, "applied", &agent));
        let wave = bench.wave();
        assert_eq!((wave.applied, wave.lost), (applied, lost), "{agent}");
        drop(kept);
        assert_eq!(bench.wave(), crate::rollout::Tally::default());
    }
}

#[test]
fn while_it_is_closed_what_has_the_revision_is_counted_and_nothing_else() {
    let closed = Gate::Closed("a freeze".into());
    let mut bench = Bench::new();
    let both = spreading(
        spec("*", "x"),
        spec("*", "y"),
        &StrategySpec::default(),
        &closed,
    );
    let maker = bench.maker(both);
    let there = json!({"connected": true});
    let rejected = snapshot(&maker, &answering(2, "rejected", &there));
    assert_eq!((bench.wave().rejected, bench.wave().twins()), (1, 1));
    assert_eq!(bench.counts("p"), [1, 0, 0, 1]);
    let old = snapshot(&maker, &answering(1, "applied", &there));
    let none = snapshot(&maker, &module("a", None, 1));
    assert!(none.is_none());
    assert_eq!(bench.wave().twins(), 1);
    assert_eq!(bench.counts("p"), [2, 1, 0, 1]);
    drop((rejected, old));
    assert_eq!(bench.counts("p"), [0; 4]);
}

#[test]
fn a_rollout_that_was_taken_back_spares_the_work_and_one_under_way_looks_at_what_its_gates_do() {
    let strategy = StrategySpec {
        fail_if: "reported.load > 5".to_owned(),
        ..StrategySpec::default()
    };
    let of = |released: usize| {
        let both = spreading(spec("*", "x"), spec("*", "y"), &strategy, &Gate::Open);
        both.map(|active| {
            let stage = active.stage.clone().expect("it is staged");
            let id = active.policy.id().clone();
            let course = Course::new(id, 2, &plan(&strategy, &[]), released, &strategy);
            let course = Arc::new(course);
            ActivePolicy {
                stage: Some(Stage { course, ..stage }),
                ..active
            }
        })
    };
    let there = answering(2, "applied", &json!({"connected": true}));
    let gone = Twin {
        connected: false,
        ..there.clone()
    };
    for (released, twin, change, spares) in [
        (0, &there, Change::Reported, true),
        (0, &gone, Change::Posture, true),
        (1, &there, Change::Posture, true),
        (1, &there, Change::Reported, false),
        (1, &gone, Change::Posture, false),
        (1, &there, Change::ConfigurationState, false),
    ] {
        let mut bench = Bench::new();
        let maker = bench.maker(of(released));
        let before = snapshot(&maker, &there).expect("counted");
        let kept = maker.make(&Came {
            twin,
            changes: &[change],
            before: Some(&before),
        });
        assert_eq!(matches!(kept, Kept::Same), spares, "{released} {change:?}");
    }
}

proptest! {
    /// Every twin that a plan counts is in exactly one column of its wave once that has begun, whatever the
    /// new revision and the one before are for; and whoever is in a wave was counted.
    #[test]
    fn gates_see_every_twin_that_was_planned(
        targets in proptest::array::uniform2(0_usize..4),
        whens in proptest::array::uniform2(0_usize..3),
        values in proptest::array::uniform2(0_usize..3),
        twins in proptest::collection::vec((0_u8..2, 0_u8..3, any::<bool>(), 0_u8..3, any::<bool>()), 0..20),
    ) {
        let spec = |which: usize| PolicySpec {
            when: ["", "reported.fw = 1", "posture.score > 5"][whens[which]].to_owned(),
            ..spec(
                ["*", "tags.site = 'a'", "tags.site = 'b'", "IS_DEFINED(reported.fw)"][targets[which]],
                ["x", "{{tags.hall}}", "{{reported.fw}}"][values[which]],
            )
        };
        let strategy = StrategySpec { fail_if: "posture.score > 8".to_owned(), ..StrategySpec::default() };
        let both = spreading(spec(0), spec(1), &strategy, &Gate::Open);
        let mut bench = Bench::new();
        let maker = bench.maker(both.clone());
        let mut kept = Vec::new();
        let (mut planned, mut flagged) = (0, 0);
        for (site, fw, has_hall, revision, connected) in twins {
            let twin = match revision {
                0 => module("a", None, 1),
                revision => answering(u64::from(revision), "applied", &json!({ "connected": connected })),
            };
            let site = ["a", "b"][usize::from(site)];
            let mut tags = json!({ "site": site });
            if has_hall {
                tags["hall"] = json!("7");
            }
            let mut posture: serde_json::Value = serde_json::from_str(&twin.posture_json).expect("JSON");
            posture["score"] = json!(fw * 5);
            let twin = Twin {
                tags_json: tags.to_string(),
                reported_json: if fw == 0 { "{}".to_owned() } else { json!({"fw": fw}).to_string() },
                posture_json: posture.to_string(),
                ..twin
            };
            let document = TwinDocument::from_wire(&twin).expect("a twin");
            let [new, before] = &both;
            let member = membership(new, Some(before), &document);
            planned += u64::from(member.is_some_and(Membership::is_changed));
            flagged += u64::from(member.is_some() && fw == 2);
            kept.extend(snapshot(&maker, &twin));
        }
        prop_assert_eq!(bench.wave().twins(), planned);
        prop_assert_eq!(bench.wave().flagged, flagged);
        drop(kept);
        prop_assert_eq!(bench.wave(), crate::rollout::Tally::default());
    }
}

#[test]
fn a_path_that_is_frozen_is_not_waited_for_any_more() {
    let mut bench = Bench::new();
    let two = ActivePolicy {
        policy: Policy::check(PolicySpec {
            settings: json!({"p": 2}).as_object().expect("an object").clone(),
            ..active("p", 2).policy.spec().clone()
        })
        .expect("a policy"),
        ..active("p", 2)
    };
    let maker = bench.maker([two]);
    // It has what revision 1 set, and has answered for that.
    let twin = module("a", Some("p"), 2);
    let kept = snapshot(&maker, &twin);
    assert_eq!(bench.counts("p"), [1, 0, 1, 0]);
    drop(kept);
    let key = wire::names::identity_from_ids("d", "m").expect("ids");
    let frozen = Frozen {
        path: vec!["p".to_owned()],
        writers: Vec::new(),
        at: Timestamp::UNIX_EPOCH,
    };
    *bench.frozen.lock().expect("nobody panicked") = FrozenSet::new([(key, frozen)]);
    let _kept = snapshot(&maker, &twin);
    assert_eq!(bench.counts("p"), [1, 1, 0, 0]);
}
