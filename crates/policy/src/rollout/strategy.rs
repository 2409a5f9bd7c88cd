//! How a revision is to spread: its waves and what must hold before the next one. Checked once, valid
//! ever after; like a policy it is refused with every problem at once.

use serde::{Deserialize, Serialize};
use service_kit::units::Duration;
use twin::query::{Attribute, Path, Root};
use twin::{Condition, Map};

use super::numbers::{NUMBERS_MAX, NumberSpec};
use crate::policy_doc::{Field, Problem, check_no_self_reference, parse_condition};

/// Waves of a strategy, without the last one that takes the rest.
pub const WAVES_MAX: usize = 20;

/// A rollout that waits longer than this has been forgotten.
const WAIT_MAX: Duration = Duration::secs(30 * 24 * 60 * 60);

/// How a revision spreads over the twins that it changes, as somebody wrote it: unchecked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StrategySpec {
    /// One after the other; what no wave takes comes in a last one.
    pub waves: Vec<WaveSpec>,
    /// How long devices that are connected may take to answer. Default 15m.
    pub within: Duration,
    /// How long a wave is watched after it has answered. Default 10m: a device that the settings cut off says
    /// `applied` first, waits for the service, goes back by itself, and has to come back to say so.
    pub soak: Duration,
    /// Share of the devices reached that may reject the settings, not answer in time, or go back to what
    /// they had by themselves, 0 to 100. Default 0.
    pub max_failed_percent: u8,
    /// Share of the devices reached that must have applied the settings, 0 to 100. Default 0: what
    /// `max_failed_percent` leaves is enough.
    pub min_applied_percent: u8,
    /// Share of the devices reached that may have gone away within ten minutes of applying the settings
    /// and not come back in time, 0 to 100. Default 10: some always do.
    pub max_lost_percent: u8,
    /// Whether devices are waited for. Default: they are.
    pub answers: Answers,
    /// A condition of the query language that no twin of a wave should come to. Empty: none.
    pub fail_if: String,
    /// Twins of a wave that may come to it all the same. Default 0.
    pub fail_if_at_most: u64,
    /// How far the means of numbers over the twins of a wave may move from where they were when it began.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub change: Vec<NumberSpec>,
    /// What happens when a gate fails. Default: it is rolled back.
    pub on_failure: OnFailure,
    /// Whether somebody else than the author must approve of it first. Default false.
    pub approval: bool,
}

impl Default for StrategySpec {
    fn default() -> StrategySpec {
        StrategySpec {
            waves: Vec::new(),
            within: Duration::secs(15 * 60),
            soak: Duration::secs(10 * 60),
            max_failed_percent: 0,
            min_applied_percent: 0,
            max_lost_percent: 10,
            answers: Answers::default(),
            fail_if: String::new(),
            fail_if_at_most: 0,
            change: Vec::new(),
            on_failure: OnFailure::default(),
            approval: false,
        }
    }
}

/// Which twins a wave adds to those before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WaveSpec {
    /// So many, of all that the revision changes, the waves before included.
    Count(u64),
    /// Such a share of all that the revision changes, the waves before included; 1 to 100.
    Percent(u8),
    /// Those for which a condition of the query language holds.
    Where(String),
}

/// Whether devices are waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answers {
    /// A wave passes by what its devices answer.
    #[default]
    Awaited,
    /// They never answer: a wave passes once it is written and has soaked. What is refused all the same
    /// counts.
    None,
}

/// What happens when a gate fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// The devices changed so far get back what they had.
    #[default]
    Rollback,
    /// Nothing more is changed until somebody decides.
    Pause,
}

/// A strategy that can be followed.
#[derive(Debug, Clone, PartialEq)]
pub struct Strategy {
    spec: StrategySpec,
    fail_if: Option<Condition>,
}

impl Strategy {
    /// Checks everything; the conditions may not look at what the policy itself sets.
    pub fn check(spec: StrategySpec, settings: &Map) -> Result<Strategy, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut wrong = |place: &str, message: String| {
            problems.push(Problem {
                position: Some(place.to_owned()),
                ..Problem::new(Field::Rollout, message)
            });
        };
        if spec.waves.len() > WAVES_MAX {
            let found = spec.waves.len();
            wrong(
                "waves",
                format!("are {found}; at most {WAVES_MAX} are allowed"),
            );
        }
        if spec.change.len() > NUMBERS_MAX {
            let found = spec.change.len();
            wrong(
                "change",
                format!("are {found} numbers; at most {NUMBERS_MAX} are allowed"),
            );
        }
        let mut last = (0, 0);
        for (index, wave) in spec.waves.iter().enumerate() {
            let place = format!("waves[{index}]");
            match *wave {
                WaveSpec::Count(0) => wrong(&place, "count is 0; at least 1 is needed".to_owned()),
                WaveSpec::Count(count) if count <= last.0 => wrong(
                    &place,
                    format!(
                        "count is {count}, not more than {} before: each counts the waves before it as well",
                        last.0
                    ),
                ),
                WaveSpec::Count(count) => last.0 = count,
                WaveSpec::Percent(share) if !(1..=100).contains(&share) => {
                    wrong(&place, format!("percent is {share}; allowed are 1 to 100"));
                }
                WaveSpec::Percent(share) if share <= last.1 => wrong(
                    &place,
                    format!(
                        "percent is {share}, not more than {} before: each counts the waves before it as well",
                        last.1
                    ),
                ),
                WaveSpec::Percent(share) => last.1 = share,
                WaveSpec::Where(_) => {}
            }
        }
        for (place, share) in [
            ("maxFailedPercent", spec.max_failed_percent),
            ("minAppliedPercent", spec.min_applied_percent),
            ("maxLostPercent", spec.max_lost_percent),
        ] {
            if share > 100 {
                wrong(place, format!("is {share}; allowed are 0 to 100"));
            }
        }
        if spec.answers == Answers::None && spec.min_applied_percent > 0 {
            let share = spec.min_applied_percent;
            wrong(
                "minAppliedPercent",
                format!("is {share}; with `answers: none` nobody says so, and it must be 0"),
            );
        }
        if spec.within.is_zero() {
            wrong(
                "within",
                "is no time at all; devices need some to answer".to_owned(),
            );
        }
        for (place, time) in [("within", spec.within), ("soak", spec.soak)] {
            if time > WAIT_MAX {
                wrong(place, format!("is {time}; at most {WAIT_MAX} is allowed"));
            }
        }
        let mut condition = |place: String, text: &str| {
            let parsed = parse_condition(Field::Rollout, text);
            let found = match &parsed {
                Ok(condition) => check_no_self_reference(Field::Rollout, condition, settings),
                Err(found) => found.clone(),
            };
            let usable = found.is_empty();
            problems.extend(found.into_iter().map(|problem| Problem {
                position: Some(match problem.position {
                    Some(inside) => format!("{place}, {inside}"),
                    None => place.clone(),
                }),
                ..problem
            }));
            parsed.ok().filter(|_| usable)
        };
        let mut movable = Vec::new();
        for (index, wave) in spec.waves.iter().enumerate() {
            let WaveSpec::Where(text) = wave else {
                continue;
            };
            let place = format!("waves[{index}]");
            let Some(parsed) = condition(place.clone(), text) else {
                continue;
            };
            movable.extend(moving(&parsed).map(|path| Problem {
                position: Some(place.clone()),
                ..Problem::new(
                    Field::Rollout,
                    format!(
                        "looks at {path}, which devices move themselves: one that the settings make \
                         leave its wave would be given back what it had, and be judged by no gate; \
                         allowed are tags, deviceId, moduleId and status"
                    ),
                )
            }));
        }
        let fail_if = match spec.fail_if.trim() {
            "" => None,
            text => condition("failIf".to_owned(), text),
        };
        problems.extend(movable);
        for (index, number) in spec.change.iter().enumerate() {
            problems.extend(number.problems(&format!("change[{index}]"), settings));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Strategy { spec, fail_if })
    }

    /// What was written.
    pub fn spec(&self) -> &StrategySpec {
        &self.spec
    }

    /// All conditions in it, also those of waves.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = Condition> {
        let waves = self.spec.waves.iter().filter_map(|wave| match wave {
            WaveSpec::Where(text) => Condition::parse(text).ok(),
            WaveSpec::Count(_) | WaveSpec::Percent(_) => None,
        });
        waves.chain(self.fail_if.clone())
    }

    /// What no twin of a wave should come to.
    pub fn fail_if(&self) -> Option<&Condition> {
        self.fail_if.as_ref()
    }
}

/// What of a condition devices may move by themselves.
fn moving(condition: &Condition) -> impl Iterator<Item = Path> {
    condition
        .paths()
        .into_iter()
        .filter(|path| match &path.root {
            // A variable stands for a part of a list, which has a path of its own.
            Root::Tags
            | Root::DeviceTags
            | Root::Attribute(Attribute::DeviceId | Attribute::ModuleId | Attribute::Status)
            | Root::Variable { .. } => false,
            Root::Attribute(_) | Root::Desired | Root::Reported | Root::Posture => true,
        })
}
