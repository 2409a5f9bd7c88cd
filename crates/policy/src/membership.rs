//! What a rollout is to a twin: whom it gives settings, from whom it takes them, and who cannot have them.
//! Pure.
//!
//! Planning counts by it before the first wave, and gates look at the same twins by it afterwards, so
//! that nobody who was counted drops out unseen because the new revision is no longer for them. It never
//! looks at waves or at times: only at whom the two revisions of the policy are for.

use crate::active::{ActivePolicy, Verdict};
use crate::twin_document::TwinDocument;

/// What a rollout is to a twin that it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership {
    /// The new revision is for it.
    Gets,
    /// The revision before is for it, and the new one is not: what it has is taken out.
    Loses,
    /// The revision before is for it, and what the new one sets there cannot be worked out.
    Lacks,
    /// The target of one of them takes it, but no `when` holds. It may have left by what the settings did
    /// to it, and so is watched, but not counted.
    Out,
}

impl Membership {
    /// Whether the rollout changes what the twin has.
    pub(crate) fn is_changed(self) -> bool {
        match self {
            Membership::Gets | Membership::Loses | Membership::Lacks => true,
            Membership::Out => false,
        }
    }
}

/// What the rollout from `before` to `new` is to a twin; none: nothing.
pub(crate) fn membership(
    new: &ActivePolicy,
    before: Option<&ActivePolicy>,
    twin: &TwinDocument,
) -> Option<Membership> {
    let verdict = new.verdict_everywhere(twin);
    if verdict == Verdict::Applies {
        return Some(Membership::Gets);
    }
    let before = before.map(|before| before.verdict_everywhere(twin));
    if before == Some(Verdict::Applies) {
        return Some(match verdict {
            Verdict::Undecided(_) | Verdict::Incomplete => Membership::Lacks,
            Verdict::Applies
            | Verdict::OtherScope
            | Verdict::NotTargeted
            | Verdict::NotWhen
            | Verdict::Closed
            | Verdict::Expired
            | Verdict::HeldBack => Membership::Loses,
        });
    }
    let is_out = verdict == Verdict::NotWhen || before == Some(Verdict::NotWhen);
    is_out.then_some(Membership::Out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use twin::ModuleId;
    use wire::twin::v1::Twin;

    use super::*;
    use crate::policy_doc::{Policy, PolicySpec};

    fn revision(number: u64, target: &str, when: &str, value: &str) -> ActivePolicy {
        ActivePolicy {
            policy: Policy::check(PolicySpec {
                id: "p".to_owned(),
                target: target.to_owned(),
                when: when.to_owned(),
                settings: json!({ "a": value })
                    .as_object()
                    .expect("an object")
                    .clone(),
                ..PolicySpec::default()
            })
            .expect("a policy"),
            revision: number,
            created_order: 1,
            stage: None,
            gate: crate::schedule::Gate::Closed("now".into()),
        }
    }

    #[test]
    fn whoever_either_revision_is_for_is_counted() {
        let twin = TwinDocument::from_wire(&Twin {
            device_id: "d".to_owned(),
            module_id: ModuleId::SECURITY.to_owned(),
            tags_json: json!({"site": "a"}).to_string(),
            reported_json: json!({"fw": 1}).to_string(),
            desired_version: 1,
            ..Twin::default()
        })
        .expect("a twin");
        let all = revision(1, "*", "", "1");
        let other = revision(2, "tags.site = 'b'", "", "1");
        let harmed = revision(2, "*", "reported.fw = 2", "1");
        let lacking = revision(2, "*", "", "{{tags.hall}}");
        for (new, before, expected) in [
            (&all, None, Some(Membership::Gets)),
            (&all, Some(&other), Some(Membership::Gets)),
            (&other, Some(&all), Some(Membership::Loses)),
            (&harmed, Some(&all), Some(Membership::Loses)),
            (&lacking, Some(&all), Some(Membership::Lacks)),
            // What it never had it does not lose.
            (&lacking, None, None),
            (&lacking, Some(&lacking), None),
            (&other, Some(&other), None),
            (&harmed, Some(&harmed), Some(Membership::Out)),
            (&harmed, None, Some(Membership::Out)),
        ] {
            let found = membership(new, before, &twin);
            assert_eq!(found, expected, "{new:?} after {before:?}");
        }
    }
}
