//! What somebody should mend, concluded from the rest of a posture. Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Posture;
use crate::configuration::drift::PUSHES_MAX;
use crate::{limits, time};

/// A device does not stay with its configuration.
const DRIFT: &str = "configuration-drift";

/// Something that somebody should mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recommendation {
    /// Which, for conditions: `configuration-drift`.
    pub id: String,
    /// Since when it holds what it is about.
    #[serde(
        default,
        with = "time::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub since: Option<Timestamp>,
    /// What and why, for people.
    pub text: String,
}

impl Posture {
    /// Concludes anew what is to be mended. To be called when the state of the configuration changed.
    pub fn recommend(&mut self) {
        let configuration = &self.configuration;
        let drift = configuration.is_given_up().then(|| {
            let why = configuration.reason.as_deref().unwrap_or_default();
            let text = format!(
                "the device does not stay with its configuration, which was pushed {PUSHES_MAX} times again in vain: {why}"
            );
            Recommendation {
                id: DRIFT.to_owned(),
                since: configuration.drift.since,
                text: super::cut(&text, limits::REASON_BYTES_MAX),
            }
        });
        self.recommendations = drift.into_iter().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::PushState;

    #[test]
    fn what_was_pushed_in_vain_is_for_somebody_to_look_at() {
        let mut posture = Posture::default();
        posture.recommend();
        assert!(posture.recommendations.is_empty());
        posture.configuration.state = PushState::Drifted;
        posture.configuration.reason = Some("the device has another value of speed".to_owned());
        posture.configuration.drift.pushes = PUSHES_MAX;
        posture.recommend();
        posture.recommend();
        let [found] = posture.recommendations.as_slice() else {
            panic!("{:?}", posture.recommendations);
        };
        assert_eq!(found.id, "configuration-drift");
        assert!(
            found.text.ends_with("another value of speed"),
            "{}",
            found.text
        );
        posture.configuration.state = PushState::Applied;
        posture.recommend();
        assert!(posture.recommendations.is_empty());
    }
}
