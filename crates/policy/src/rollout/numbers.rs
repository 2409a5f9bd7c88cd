//! Gates over numbers: how far the mean of a number over the twins of a wave may move from where it was
//! when the wave began. Pure.
//!
//! A mean is a sum and a count, which come and go with single twins, so that no list of what each twin had
//! is kept, in memory or in the store, however many there are. What one twin alone must not come to is
//! what `failIf` is for. Sums are whole thousandths: they must not drift when a million twins come and go.

use serde::{Deserialize, Serialize};
use twin::query::Path;
use twin::{Condition, Map};

use crate::policy_doc::{Field, Problem, check_no_self_reference};
use crate::twin_document::TwinDocument;

/// Numbers of one strategy: each is looked up on each twin with each change.
pub const NUMBERS_MAX: usize = 4;

/// Values beyond this, above or below, are not counted: sums of them over all twins of a hub may not
/// overflow.
const VALUE_MAX: f64 = 1e9;
/// Parts of one that are counted.
const PARTS: f64 = 1000.0;

/// How a number may change, as somebody wrote it: unchecked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NumberSpec {
    /// Where it stands in a twin, as conditions have it: `posture.logins.failed`.
    pub of: String,
    /// By how much its mean may fall. Absent: by any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall_at_most: Option<serde_json::Number>,
    /// By how much its mean may rise. Absent: by any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise_at_most: Option<serde_json::Number>,
}

impl NumberSpec {
    /// Where it stands, to be looked up; none if that cannot be read.
    fn place(&self) -> Option<Condition> {
        // Anything else than one path would be a condition of its own.
        Path::parse(&self.of).ok()?;
        Condition::parse(&format!("IS_DEFINED({})", self.of)).ok()
    }

    /// What is wrong with it.
    pub(super) fn problems(&self, place: &str, settings: &Map) -> Vec<Problem> {
        let problem = |key: &str, message: String| Problem {
            position: Some(format!("{place}.{key}")),
            ..Problem::new(Field::Rollout, message)
        };
        let mut problems = match self.place() {
            Some(condition) => check_no_self_reference(Field::Rollout, &condition, settings)
                .into_iter()
                .map(|found| problem("of", found.message))
                .collect(),
            None => vec![problem(
                "of",
                format!(
                    "is {:?}; it must be one path like posture.logins.failed or reported.load",
                    self.of
                ),
            )],
        };
        if self.fall_at_most.is_none() && self.rise_at_most.is_none() {
            let message = "or riseAtMost is needed: nothing is asked of the number otherwise";
            problems.push(problem("fallAtMost", message.to_owned()));
        }
        for (key, most) in [
            ("fallAtMost", &self.fall_at_most),
            ("riseAtMost", &self.rise_at_most),
        ] {
            let most = most.as_ref().and_then(serde_json::Number::as_f64);
            if most.is_some_and(|most| !(0.0..=VALUE_MAX).contains(&most)) {
                let found = most.unwrap_or_default();
                problems.push(problem(
                    key,
                    format!("is {found}; allowed are 0 to {VALUE_MAX}"),
                ));
            }
        }
        problems
    }

    /// What is wrong by what was seen; none: nothing is, or there is nothing to compare.
    pub(super) fn failed(&self, before: Mean, now: Mean) -> Option<String> {
        let (before, now) = (before.value()?, now.value()?);
        let most = |most: &Option<serde_json::Number>| most.as_ref()?.as_f64();
        let said = |what, by: f64, most| {
            let of = &self.of;
            Some(format!(
                "the mean of {of} {what} by {by:.3}, from {before:.3} to {now:.3}, and may by {most}"
            ))
        };
        // What is beyond the thousandths is not counted, and must not fail a gate.
        let slack = 1.0 / PARTS;
        match (most(&self.fall_at_most), most(&self.rise_at_most)) {
            (Some(most), _) if before - now > most + slack => said("fell", before - now, most),
            (_, Some(most)) if now - before > most + slack => said("rose", now - before, most),
            _ => None,
        }
    }
}

/// A mean, as it can be counted and kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mean {
    /// Of the values, in thousandths.
    pub sum: i64,
    /// How many there are.
    pub count: u64,
}

impl Mean {
    /// With one more value.
    #[must_use]
    pub(crate) fn with(self, value: Option<i64>) -> Mean {
        let Some(value) = value else { return self };
        Mean {
            sum: self.sum.saturating_add(value),
            count: self.count + 1,
        }
    }

    /// None if there are no values.
    #[expect(clippy::cast_precision_loss, reason = "a mean for people and gates")]
    pub(crate) fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64 / PARTS)
    }
}

/// The numbers that a strategy looks at, ready to be looked up.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Numbers(Vec<Option<Condition>>);

impl Numbers {
    /// Of a strategy that was checked.
    pub(crate) fn new(specs: &[NumberSpec]) -> Numbers {
        Numbers(specs.iter().map(NumberSpec::place).collect())
    }

    /// Where they stand, as conditions over them.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Condition> {
        self.0.iter().flatten()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What a twin has there, in thousandths; none where it has no number.
    pub(crate) fn of(&self, twin: &TwinDocument) -> Vec<Option<i64>> {
        let view = twin.view();
        let value = |place: &Option<Condition>| {
            let (_, value) = place.as_ref()?.facts(&view).into_iter().next()?;
            thousandths(value?.as_f64()?)
        };
        self.0.iter().map(value).collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is within bounds")]
fn thousandths(value: f64) -> Option<i64> {
    (value.abs() <= VALUE_MAX).then(|| (value * PARTS).round() as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::{Number, json};

    use super::*;

    fn spec(of: &str, fall: Option<f64>, rise: Option<f64>) -> NumberSpec {
        NumberSpec {
            of: of.to_owned(),
            fall_at_most: fall.and_then(Number::from_f64),
            rise_at_most: rise.and_then(Number::from_f64),
        }
    }

    fn mean(values: &[f64]) -> Mean {
        let add = |mean: Mean, value: &f64| mean.with(thousandths(*value));
        values.iter().fold(Mean::default(), add)
    }

    #[test]
    fn a_mean_may_move_so_far_and_no_further() {
        let score = spec("posture.score", Some(5.0), None);
        for (before, now, fails) in [
            (vec![90.0, 80.0], vec![85.0, 75.0], false),
            (vec![90.0, 80.0], vec![85.0, 74.9], true),
            (vec![90.0, 80.0], vec![95.0, 99.0], false),
            // Who joined or left moves the mean as it does, and nothing is compared with nothing.
            (vec![90.0], vec![90.0, 70.0], true),
            (vec![], vec![1.0], false),
            (vec![90.0], vec![], false),
            (vec![90.0, f64::NAN, 2e9], vec![90.0], false),
        ] {
            let found = score.failed(mean(&before), mean(&now));
            assert_eq!(found.is_some(), fails, "{before:?} {now:?} {found:?}");
        }
        let load = spec("reported.load", None, Some(0.5));
        assert_eq!(load.failed(mean(&[1.0]), mean(&[1.5])), None);
        assert_eq!(load.failed(mean(&[1.0]), mean(&[0.0])), None);
        assert_eq!(
            load.failed(mean(&[1.0]), mean(&[2.0])).as_deref(),
            Some("the mean of reported.load rose by 1.000, from 1.000 to 2.000, and may by 0.5")
        );
    }

    #[test]
    fn one_path_and_a_bound_are_needed_and_nothing_that_the_policy_sets() {
        let settings = json!({"fan": 1}).as_object().unwrap().clone();
        let problems = |spec: &NumberSpec| -> Vec<String> {
            let problems = spec.problems("change[0]", &settings);
            let position = |problem: Problem| problem.position.unwrap_or_default();
            problems.into_iter().map(position).collect()
        };
        for good in [
            "posture.score",
            "reported.a.b",
            "tags.x",
            "properties.desired.other",
        ] {
            let found = spec(good, Some(0.0), None).problems("change[0]", &settings);
            assert!(
                found.is_empty() || good.starts_with("properties"),
                "{found:?}"
            );
        }
        for bad in [
            "",
            "posture.score > 5",
            "a.b) OR (c.d",
            "reported.a, reported.b",
        ] {
            assert_eq!(
                problems(&spec(bad, Some(1.0), None)),
                ["change[0].of"],
                "{bad}"
            );
        }
        assert_eq!(
            problems(&spec("properties.desired.fan", None, Some(1.0))),
            ["change[0].of"]
        );
        assert_eq!(
            problems(&spec("tags.x", None, None)),
            ["change[0].fallAtMost"]
        );
        assert_eq!(
            problems(&spec("tags.x", Some(-1.0), Some(2e9))),
            ["change[0].fallAtMost", "change[0].riseAtMost"]
        );
    }
}
