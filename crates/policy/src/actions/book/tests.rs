//! A random life of a twin: its changes, told once, twice, late or never in order, sweeps beside them,
//! calls that end well, badly or never, and a service that is killed anywhere.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::json;

use super::super::place::Ended;
use super::*;
use crate::policy_doc::{Policy, PolicySpec};

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The twin changes: the policy holds for it, or not.
    Change(bool),
    /// A change is told, some back from the newest.
    Tell(usize),
    /// A call is begun, if one is due.
    Begin,
    /// The call that is under way ends.
    End(Ended),
    /// The service is killed, and starts again with what is kept.
    Kill,
    /// Time passes, in minutes.
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ended = prop_oneof![
        Just(Ended::Known),
        Just(Ended::Unknown),
        Just(Ended::NotSent)
    ];
    let step = prop_oneof![
        3 => any::<bool>().prop_map(Step::Change),
        4 => (0_usize..6).prop_map(Step::Tell),
        3 => Just(Step::Begin),
        3 => ended.prop_map(Step::End),
        1 => Just(Step::Kill),
        1 => (1_i64..50).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..80)
}

fn policy() -> Policy {
    let actions = json!({"calls": [{"name": "a", "method": "m"}]});
    Policy::check(PolicySpec {
        id: "p".to_owned(),
        target: "*".to_owned(),
        actions: Some(serde_json::from_value(actions).unwrap()),
        ..PolicySpec::default()
    })
    .unwrap()
}

fn key() -> ActionKey {
    ActionKey {
        twin: IdentityKey::parse_path("d/m").unwrap(),
        id: ActionId {
            policy: PolicyId::parse("p").unwrap(),
            action: "a".to_owned(),
        },
    }
}

struct World {
    policy: Policy,
    book: Book,
    /// Whether the policy holds, by revision of the twin from 1.
    history: Vec<bool>,
    now: Timestamp,
    /// Causes that were called, in their order.
    called: Vec<u64>,
}

impl World {
    fn terms(&self) -> Option<Terms> {
        self.policy.actions().get("a").map(Terms::of)
    }

    fn tell(&mut self, revision: usize) {
        let found = if self.history[revision - 1] {
            Found::Holds {
                revision: 1,
                actions: self.policy.actions(),
            }
        } else {
            Found::HoldsNot
        };
        let found = [(PolicyId::parse("p").unwrap(), found)]
            .into_iter()
            .collect();
        let age = u64::try_from(revision).unwrap();
        for (key, place) in self.book.look(&key().twin, age, &found, self.now) {
            assert!(self.book.put(&key, place));
        }
    }

    fn set(&mut self, place: Option<Place>) {
        if place.is_some() {
            assert!(self.book.put(&key(), place));
        }
    }

    fn begin(&mut self) {
        let due = self.book.first_due(&key().id.policy).cloned();
        if due.is_none_or(|(from, _)| from > self.now) {
            return;
        }
        let place = self.book.get(&key()).cloned().expect("it is due");
        if let Some(calling) = place.begin(1, self.now) {
            self.called.push(calling.cause);
            self.set(Some(calling));
        }
    }

    fn end(&mut self, ended: Ended) {
        let place = self.book.get(&key()).cloned();
        let Some(place) = place.filter(|place| matches!(place.state, State::Calling { .. })) else {
            return;
        };
        if ended == Ended::NotSent {
            assert_eq!(self.called.pop(), Some(place.cause));
        }
        self.set(Some(place.end(ended, self.terms(), self.now)));
    }

    fn tick(&mut self) {
        for key in self.book.timers_until(self.now) {
            let place = self.book.get(&key).cloned().expect("a timer is of a place");
            let next = place.tick(self.terms(), self.now);
            assert!(
                next.is_some(),
                "a timer that brings nothing comes again at once"
            );
            self.set(next);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Change(holds) => self.history.push(holds),
            Step::Tell(back) => {
                if let Some(revision) = self.history.len().checked_sub(back)
                    && revision > 0
                {
                    self.tell(revision);
                }
            }
            Step::Begin => self.begin(),
            Step::End(ended) => self.end(ended),
            Step::Kill => {
                let kept = self.book.iter();
                let kept: Vec<_> = kept
                    .map(|(twin, id, place)| {
                        let (twin, id) = (twin.clone(), id.clone());
                        (ActionKey { twin, id }, place.clone())
                    })
                    .collect();
                self.book = Book::new(kept);
                // As the service does when it starts.
                self.end(Ended::Unknown);
            }
            Step::Wait(minutes) => {
                self.now += SignedDuration::from_mins(minutes);
                self.tick();
            }
        }
    }

    /// How often the policy has begun to hold in truth.
    fn beginnings(&self) -> usize {
        let before = std::iter::once(&false).chain(&self.history);
        let both = before.zip(&self.history);
        both.filter(|(before, now)| !**before && **now).count()
    }
}

proptest! {
    #[test]
    fn each_cause_is_called_once_at_most_and_what_is_due_is_called(steps in steps()) {
        let mut world = World {
            policy: policy(),
            book: Book::default(),
            history: Vec::new(),
            now: Timestamp::UNIX_EPOCH,
            called: Vec::new(),
        };
        for step in steps {
            world.step(step);
        }
        let distinct: BTreeSet<u64> = world.called.iter().copied().collect();
        prop_assert_eq!(distinct.len(), world.called.len(), "{:?}", world.called);
        prop_assert!(world.called.len() <= world.beginnings());
        // In the end everything is told, and whatever is under way ends.
        world.end(Ended::Unknown);
        let was_known = world.book.get(&key()).cloned();
        if let Some(holds) = world.history.last().copied() {
            world.tell(world.history.len());
            let place = world.book.get(&key()).cloned();
            prop_assert_eq!(place.as_ref().is_some_and(|place| place.holds), holds);
            let begins = holds && was_known.is_none_or(|known| !known.holds);
            let calls = world.called.len();
            world.begin();
            if begins {
                prop_assert_eq!(world.called.len(), calls + 1, "it is due, and called");
            }
        }
        let distinct: BTreeSet<u64> = world.called.iter().copied().collect();
        prop_assert_eq!(distinct.len(), world.called.len());
        prop_assert!(world.called.len() <= world.beginnings());
        // The indexes are those of the places.
        let (due, calling) = world.book.pending();
        let place = world.book.get(&key());
        let is = |of: fn(&State) -> bool| usize::from(place.is_some_and(|place| of(&place.state)));
        prop_assert_eq!(due, is(|state| matches!(state, State::Due(_))));
        prop_assert_eq!(calling, is(|state| matches!(state, State::Calling { .. })));
    }
}

#[test]
fn what_waits_for_its_device_is_woken_by_its_coming() {
    let twin = key().twin;
    let mut world = World {
        policy: policy(),
        book: Book::default(),
        history: vec![true],
        now: Timestamp::UNIX_EPOCH,
        called: Vec::new(),
    };
    world.tell(1);
    let later = world.now + SignedDuration::from_mins(5);
    world.book.hold(&key(), later, true);
    assert_eq!(world.book.first_due(&key().id.policy).unwrap().0, later);
    assert!(!world.book.saw(&twin, 2, false));
    assert!(world.book.saw(&twin, 3, true));
    assert!(!world.book.saw(&twin, 3, true), "it waits no more");
    assert!(world.book.was_connected_after(&key(), 2));
    assert!(!world.book.was_connected_after(&key(), 3));
    world.begin();
    assert_eq!(world.called, [1]);
}

#[test]
fn a_twin_that_is_gone_is_forgotten_and_a_newer_one_of_its_name_is_not() {
    let mut world = World {
        policy: policy(),
        book: Book::default(),
        history: vec![false, false, true],
        now: Timestamp::UNIX_EPOCH,
        called: Vec::new(),
    };
    world.tell(3);
    assert_eq!(world.book.forget_twin(&key().twin, 2), []);
    assert_eq!(world.book.forget_twin(&key().twin, 3), [(key(), None)]);
    assert_eq!(world.book.forget_policies(|_| true), []);
    assert_eq!(world.book.forget_policies(|_| false), [(key(), None)]);
}

#[test]
fn a_twin_at_which_no_sweep_looked_is_told_of() {
    let mut world = World {
        policy: policy(),
        book: Book::default(),
        history: vec![true],
        now: Timestamp::UNIX_EPOCH,
        called: Vec::new(),
    };
    world.tell(1);
    let round = world.book.begin_round();
    assert_eq!(world.book.unseen_since(round), [key().twin]);
    world.book.saw(&key().twin, 1, false);
    assert_eq!(world.book.unseen_since(round), []);
}
