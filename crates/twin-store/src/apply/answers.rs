//! Hears what devices say of their configuration by what they report: devices of IoT Plug and Play property
//! by property, the micro agent as a whole. Agents on our own door acknowledge by themselves.

use jiff::Timestamp;
use posture::ConfigurationState;
use posture::configuration::{AckOutcome, Acknowledgement, PushState, Transition, micro_agent};
use twin::Twin;
use twin::plug_and_play::{self, Says};

use super::twins::Report;

/// Notes what a report says of the configuration; `twin` is as it is after it. Answers whether anybody
/// who asks about the configuration may get another answer now.
pub(super) fn hear(
    configuration: &mut ConfigurationState,
    twin: &Twin,
    report: &Report<'_>,
    now: Timestamp,
) -> bool {
    let mut heard = false;
    if let Some(outcome) = micro_agent::answer(report.patch).filter(|_| report.told > 0) {
        let version = report.told.min(twin.desired.version().get());
        heard = acknowledge(configuration, version, outcome, now);
    }
    if plug_and_play::gives_answers(report.patch) {
        hear_properties(configuration, twin, now);
        // Whoever looks at single properties sees more than the state.
        heard = true;
    }
    heard
}

fn hear_properties(configuration: &mut ConfigurationState, twin: &Twin, now: Timestamp) {
    let present = twin.desired.version().get();
    let answers = plug_and_play::answers(&twin.desired, twin.reported.document());
    // Of the newest version the outcome is told below.
    if let Some(through) = answers.applied_through.filter(|through| *through < present) {
        acknowledge(configuration, through, AckOutcome::Applied, now);
    }
    if let Some(reason) = answers.refusal() {
        let refused = answers.of(|says| matches!(says, Says::Rejected { .. }));
        let outcome = AckOutcome::Rejected {
            reason,
            invalid_fields: refused.map(|property| property.path.clone()).collect(),
        };
        acknowledge(configuration, present, outcome, now);
    } else if answers.applied_through == Some(present) {
        let differing = answers.of(|says| *says == Says::Differs);
        let differing: Vec<String> = differing.map(|property| property.path.clone()).collect();
        // What drifted before goes on drifting, from when it began.
        if differing.is_empty() || configuration.state != PushState::Drifted {
            acknowledge(configuration, present, AckOutcome::Applied, now);
        }
        if !differing.is_empty() {
            configuration.drifted(differing, now);
        }
    } else if answers
        .of(|says| *says == Says::InProgress)
        .next()
        .is_some()
    {
        configuration.in_progress(now);
    }
}

fn acknowledge(
    configuration: &mut ConfigurationState,
    version: u64,
    outcome: AckOutcome,
    at: Timestamp,
) -> bool {
    let answer = Acknowledgement {
        version,
        outcome,
        at,
        pushed_at: None,
        applied_at: None,
    };
    match configuration.acknowledged(&answer) {
        Transition::Changed => true,
        // A section that was never written since the twin was made is nobody's to answer for.
        Transition::Unchanged | Transition::NeverDesired => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use twin::{Map, Stamp, TwinPatch, Writer};

    use super::*;

    fn map(value: &Value) -> Map {
        value.as_object().unwrap().clone()
    }

    /// A twin whose desired section has been written twice: versions 2 and 3.
    fn twin() -> (Twin, ConfigurationState) {
        let at = Timestamp::UNIX_EPOCH;
        let by = Writer::Operator("o".to_owned());
        let mut twin = Twin::new(at);
        let mut configuration = ConfigurationState::default();
        for desired in [json!({"a": 1, "b": 1}), json!({"a": 2})] {
            let patch = TwinPatch {
                desired: Some(map(&desired)),
                ..TwinPatch::default()
            };
            let stamp = Stamp { at, by: by.clone() };
            twin = twin.patch(&patch, &stamp, None).unwrap().unwrap().twin;
            let version = twin.desired.version().get();
            configuration.desired_changed(version, at, posture::Timeline::default(), None);
        }
        (twin, configuration)
    }

    /// The twin and the state after these reports, each of a device that was told of `told`.
    fn after(told: u64, reports: &[Value]) -> (ConfigurationState, bool) {
        let (mut twin, mut configuration) = twin();
        let mut heard = false;
        for (second, patch) in (1..).zip(reports) {
            let now = Timestamp::from_second(second).unwrap();
            let patch = &map(patch);
            twin = twin.patch_reported(patch, now, None).unwrap();
            let report = Report {
                patch,
                expected: None,
                told,
            };
            heard = hear(&mut configuration, &twin, &report, now);
        }
        (configuration, heard)
    }

    fn ok(value: i64, version: u64) -> Value {
        json!({"value": value, "ac": 200, "av": version})
    }

    #[test]
    fn a_device_of_plug_and_play_answers_property_by_property() {
        let (state, heard) = after(0, &[json!({"b": ok(1, 2)})]);
        assert!(heard);
        assert_eq!(
            (state.state, state.applied_version),
            (PushState::Pending, Some(2))
        );
        let (state, _) = after(0, &[json!({"b": ok(1, 2)}), json!({"a": ok(2, 3)})]);
        assert_eq!(
            (state.state, state.applied_version),
            (PushState::Applied, Some(3))
        );
        let refused = json!({"value": 1, "ac": 400, "av": 3, "ad": "too much"});
        let reports = [json!({"b": ok(1, 2)}), json!({"a": refused})];
        let (state, _) = after(0, &reports);
        assert_eq!(
            (state.state, state.applied_version),
            (PushState::Rejected, Some(2))
        );
        assert_eq!(state.reason.as_deref(), Some("a: 400 too much"));
        assert_eq!(state.invalid_fields, ["a"]);
        // It tries again, and then it works.
        let busy = json!({"a": {"value": 1, "ac": 202, "av": 3}});
        let mut reports = reports.to_vec();
        reports.push(busy);
        assert_eq!(after(0, &reports).0.state, PushState::Pending);
        reports.push(json!({"a": ok(2, 3)}));
        let (state, _) = after(0, &reports);
        assert_eq!((state.state, state.reason), (PushState::Applied, None));
    }

    #[test]
    fn a_device_that_has_another_value_than_it_applied_has_drifted() {
        let mut reports = vec![
            json!({"a": ok(2, 3), "b": ok(1, 2)}),
            json!({"b": ok(7, 2)}),
        ];
        let (state, _) = after(0, &reports);
        assert_eq!(state.state, PushState::Drifted);
        assert_eq!(state.drift.properties, ["b"]);
        let since = state.drift.since;
        // Saying it again does not begin it anew, another property is added to it.
        reports.push(json!({"b": ok(7, 2)}));
        reports.push(json!({"a": ok(9, 3)}));
        let (state, _) = after(0, &reports);
        assert_eq!(
            (state.state, state.drift.since),
            (PushState::Drifted, since)
        );
        assert_eq!(state.drift.properties, ["a", "b"]);
        assert_eq!(state.at, since);
        reports.push(json!({"a": ok(2, 3), "b": ok(1, 2)}));
        assert_eq!(after(0, &reports).0.state, PushState::Applied);
    }

    #[test]
    fn the_micro_agent_answers_for_what_it_was_told() {
        let failed = json!({"latest_state": "failed", "latest_invalid_fields": ["a"]});
        let (state, heard) = after(3, std::slice::from_ref(&failed));
        assert!(heard);
        assert_eq!(state.state, PushState::Rejected);
        assert_eq!(state.invalid_fields, ["a"]);
        let success = json!({"latest_state": "success"});
        let (state, _) = after(2, std::slice::from_ref(&success));
        assert_eq!(
            (state.state, state.applied_version),
            (PushState::Pending, Some(2))
        );
        let (state, _) = after(9, &[failed.clone(), success]);
        assert_eq!(
            (state.state, state.applied_version),
            (PushState::Applied, Some(3))
        );
        // Our own agent says it as well, beside its acknowledgement.
        let (state, heard) = after(0, &[failed]);
        assert_eq!((state.state, heard), (PushState::Pending, false));
    }

    #[test]
    fn other_reports_say_nothing_of_the_configuration() {
        let (state, heard) = after(3, &[json!({"a": 2, "b": {"ac": 200}})]);
        assert_eq!((state.state, heard), (PushState::Pending, false));
    }
}
