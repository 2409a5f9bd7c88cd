//! The mass-change guard: a change of many twins at once that nobody planned as one. Pure.
//!
//! A revision without a strategy that touches more than that spreads in waves all the same; a deletion
//! that does must be forced.

use serde::{Deserialize, Serialize};
use service_kit::config::{Problems, Validate};
use service_kit::units::Duration;

use super::strategy::{StrategySpec, WaveSpec};

/// How many twins a change may touch at once without anybody having said how it is to spread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// More twins than this are too many. 0: however many. Default 500: as many devices as somebody
    /// can still visit.
    pub twins_max: u32,
    /// A larger share than this of all twins of the policy's kind is too much, 1 to 100 per cent. 100:
    /// however large. Default 25.
    pub percent_max: u8,
    /// So many twins are never too many, whatever share they are: a small hub is not a fleet.
    /// Default 50.
    pub twins_free: u32,
    /// What becomes of a change of a configuration of IoT Hub that is too much: `apply` or `refuse`. Default
    /// `apply`, as IoT Hub does it: its configurations know no waves, and its programs no such refusal.
    pub configurations: OfConfigurations,
}

/// What becomes of a change of a configuration of IoT Hub that touches too many twins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OfConfigurations {
    /// It is everywhere at once.
    #[default]
    Apply,
    /// It is refused.
    Refuse,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard {
            twins_max: 500,
            percent_max: 25,
            twins_free: 50,
            configurations: OfConfigurations::Apply,
        }
    }
}

impl Validate for Guard {
    fn validate(&self, problems: &mut Problems) {
        problems.require(
            (1..=100).contains(&self.percent_max),
            "percent_max",
            "must be from 1 to 100",
        );
    }
}

/// What the guard has to say of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is small enough.
    Fine,
    /// It is too large, for this reason.
    TooMuch(String),
    /// Nobody could count, for this reason.
    Uncounted(String),
}

impl Guard {
    /// Whether there is anything that could be too much.
    pub(crate) fn is_off(&self) -> bool {
        self.twins_max == 0 && self.percent_max >= 100
    }

    /// So many twins need not be counted further.
    pub(crate) fn counted_up_to(&self) -> u64 {
        match self.twins_max {
            0 => u64::MAX,
            max => u64::from(max.max(self.twins_free)),
        }
    }

    /// How many twins there must be in all, so that a change of so many is no too large share of them;
    /// none: any number will do.
    pub(crate) fn needed_in_all(&self, touched: u64) -> Option<u64> {
        if touched <= u64::from(self.twins_free) || self.percent_max >= 100 {
            return None;
        }
        let percent = u64::from(self.percent_max.max(1));
        Some(touched.saturating_mul(100).div_ceil(percent))
    }

    /// Judges a change of `touched` twins, or of more if that is more than [`Guard::counted_up_to`], of
    /// `all` twins, which matters if there are fewer than [`Guard::needed_in_all`].
    pub(crate) fn judge(&self, touched: u64, all: u64) -> Finding {
        if touched <= u64::from(self.twins_free) {
            return Finding::Fine;
        }
        if touched > self.counted_up_to() {
            return Finding::TooMuch(format!(
                "it changes more than {} twins at once, and no `rollout:` says how",
                self.counted_up_to()
            ));
        }
        match self.needed_in_all(touched) {
            Some(needed) if all < needed => Finding::TooMuch(format!(
                "it changes {touched} of {all} twins at once, more than {} %, and no `rollout:` says \
                 how",
                self.percent_max
            )),
            Some(_) | None => Finding::Fine,
        }
    }
}

/// So many devices are in its first wave at least, as far as they are no more than a tenth: of fewer one that fails
/// would say little.
pub(crate) const CANARY_LEAST: usize = 5;

/// So many devices of a wave may always fail, whatever share they are: one slow device is no bad revision.
/// Only in a wave of [`CANARY_LEAST`] at least, or it would be nearly all of it.
pub(crate) const FAILED_FREE: u64 = 1;

/// How a change spreads that is too large: first one device in a hundred ([`CANARY_LEAST`] at
/// least), then ten, then half.
pub(crate) fn waves() -> StrategySpec {
    StrategySpec {
        waves: [1, 10, 50].map(WaveSpec::Percent).to_vec(),
        // Longer than an agent takes that is cut off to go back and to come back with it.
        soak: Duration::secs(10 * 60),
        // In a large fleet a few devices always fail at something.
        max_failed_percent: 2,
        ..StrategySpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_fine(guard: &Guard, touched: u64, all: u64) -> bool {
        guard.judge(touched, all) == Finding::Fine
    }

    #[test]
    fn what_is_too_much_is_a_number_or_a_share_but_never_a_few() {
        let guard = Guard::default();
        for (touched, all, fine) in [
            (50, 50, true),
            (51, 51, false),
            (51, 203, false),
            (51, 204, true),
            (500, 2000, true),
            (500, 1999, false),
            (501, 1_000_000, false),
        ] {
            assert_eq!(is_fine(&guard, touched, all), fine, "{touched} of {all}");
        }
        assert_eq!(guard.needed_in_all(51), Some(204));
        let by_share = Guard {
            twins_max: 0,
            ..guard
        };
        assert!(is_fine(&by_share, 100_000, 400_000) && !is_fine(&by_share, 100_000, 399_999));
        let off = Guard {
            percent_max: 100,
            ..by_share
        };
        assert!(off.is_off() && is_fine(&off, 1_000_000, 1_000_000));
    }

    #[test]
    fn its_own_waves_are_a_good_strategy() {
        let settings = [("a".to_owned(), 1.into())].into_iter().collect();
        crate::rollout::Strategy::check(waves(), &settings).unwrap();
    }
}
