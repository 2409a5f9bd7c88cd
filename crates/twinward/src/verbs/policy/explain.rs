//! `twinward policy explain`: who set each desired leaf of a twin, who lost it, and which policies
//! apply to it and which do not.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use wire::policy::v1 as api;
use wire::policy::v1::explain_twin_response::State;
use wire::policy::v1::judged_policy::{Standing, Verdict};
use wire::policy::v1::overruled_setting::Reason;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::identity_args::IdentityArg;
use crate::output::{Output, Paper, View, table};
use crate::verbs::guard;

/// Arguments of `policy explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward policy explain cam-1 --security\n  \
    twinward policy explain devices/cam-1/modules/DefenderIotMicroAgent\n  \
    twinward policy explain cam-1 -o json | jq '.leaves[] | select(.overruled != [])'")]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    identity: IdentityArg,
}

/// Explains a twin.
pub(super) async fn run(
    args: &ExplainArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args.identity.key();
    let request = api::ExplainTwinRequest {
        name: wire::names::identity_name(&key),
    };
    let what = format!("cannot explain the twin of {key}");
    let answer = connection
        .policies()?
        .explain_twin(request)
        .await
        .map_err(|status| connection.refused(&what, status))?;
    output.show(&Explained(answer.into_inner()))
}

/// What the service said.
struct Explained(api::ExplainTwinResponse);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedData<'a> {
    name: &'a str,
    desired_version: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    violations: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    frozen: Vec<guard::FrozenData<'a>>,
    leaves: Vec<LeafData<'a>>,
    policies: Vec<JudgedData<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LeafData<'a> {
    path: &'a str,
    value: Value,
    writer: &'a str,
    version: u64,
    pending: bool,
    overruled: Vec<OverruledData<'a>>,
}

/// What a policy wanted and does not get.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OverruledData<'a> {
    policy: &'a str,
    revision: u64,
    path: &'a str,
    value: Value,
    reason: &'static str,
    same_value: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JudgedData<'a> {
    policy: &'a str,
    revision: u64,
    priority: i32,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    condition: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    facts: Vec<FactData<'a>>,
}

#[derive(Serialize)]
struct FactData<'a> {
    path: &'a str,
    /// JSON, perhaps cut; none: undefined.
    value: Option<&'a str>,
}

/// A value of the wire; what is no JSON is shown as it came.
pub(super) fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// Losses for programs.
pub(super) fn overruled_data(lost: &[api::OverruledSetting]) -> Vec<OverruledData<'_>> {
    let mut data = Vec::with_capacity(lost.len());
    for one in lost {
        data.push(OverruledData {
            policy: &one.policy_id,
            revision: one.policy_revision,
            path: &one.path,
            value: value(&one.value_json),
            reason: match one.reason() {
                Reason::Operator => "operator",
                Reason::Priority => "priority",
                Reason::CreatedLater => "createdLater",
                Reason::Unspecified => "unknown",
            },
            same_value: one.same_value,
        });
    }
    data
}

/// A loss as a sentence.
pub(super) fn overruled_line(lost: &api::OverruledSetting) -> String {
    let why = match lost.reason() {
        Reason::Operator => "an operator wrote there",
        Reason::Priority => "its priority is lower",
        Reason::CreatedLater => "the winner was created later",
        Reason::Unspecified => "it is not known why",
    };
    let same = if lost.same_value { ", the same" } else { "" };
    // A configuration's name says that it is one, and its content has no revisions.
    let loser = if lost.policy_id.contains(':') {
        lost.policy_id.clone()
    } else {
        format!("policy:{}@{}", lost.policy_id, lost.policy_revision)
    };
    format!(
        "{loser} wanted {}: {}{same}; {why}",
        lost.path, lost.value_json
    )
}

fn state(state: State) -> &'static str {
    match state {
        State::Settled => "settled",
        State::Pending => "pending",
        State::Rejected => "rejected",
        State::Unspecified => "unknown",
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Applies => "applies",
        Verdict::OtherScope => "otherScope",
        Verdict::NotTargeted => "notTargeted",
        Verdict::NotWhen => "notWhen",
        Verdict::Undecided => "undecided",
        Verdict::HeldBack => "heldBack",
        Verdict::Incomplete => "incomplete",
        Verdict::Closed => "closed",
        Verdict::Expired => "expired",
        Verdict::Unspecified => "unknown",
    }
}

fn standing(standing: Standing) -> Option<&'static str> {
    match standing {
        Standing::Pending => Some("pending"),
        Standing::Applied => Some("applied"),
        Standing::Rejected => Some("rejected"),
        Standing::Overruled => Some("overruled"),
        Standing::TimedOut => Some("timed-out"),
        Standing::Reverted => Some("reverted"),
        Standing::Unspecified => None,
    }
}

/// Why a policy does not apply, or how far it is.
fn about(judged: &api::JudgedPolicy) -> String {
    let found = |fact: &api::ConditionFact| match fact.value_json.as_str() {
        "" => format!("{} is undefined", fact.path),
        value => format!("{} is {value}", fact.path),
    };
    let mut text = match judged.verdict() {
        Verdict::Applies => standing(judged.standing()).unwrap_or_default().to_owned(),
        Verdict::OtherScope => "looks at twins of another kind".to_owned(),
        Verdict::NotTargeted if judged.condition.is_empty() => "targets nothing".to_owned(),
        Verdict::NotTargeted => format!("target is not true: {}", judged.condition),
        Verdict::NotWhen => format!("when is not true: {}", judged.condition),
        Verdict::Closed => format!("changes nothing now: {}", judged.reason),
        Verdict::Incomplete | Verdict::Expired => judged.reason.clone(),
        Verdict::Undecided => format!("{}: {}", judged.reason, judged.condition),
        Verdict::HeldBack => format!(
            "by a rollout the twin has another revision: {} (`twinward rollout get`)",
            judged.reason
        ),
        Verdict::Unspecified => String::new(),
    };
    for (index, fact) in judged.facts.iter().enumerate() {
        text.push_str(if index == 0 { "; " } else { ", " });
        text.push_str(&found(fact));
    }
    text
}

impl View for Explained {
    fn data(&self) -> impl Serialize {
        let answer = &self.0;
        ExplainedData {
            name: &answer.name,
            desired_version: answer.desired_version,
            state: state(answer.state()),
            violations: &answer.violations,
            frozen: guard::data(&answer.frozen),
            leaves: answer.leaves.iter().map(LeafData::of).collect(),
            policies: answer.policies.iter().map(JudgedData::of).collect(),
        }
    }

    fn text(&self, paper: &Paper) -> String {
        let answer = &self.0;
        let state = match answer.state() {
            State::Settled => "settled",
            State::Pending => "about to be written",
            State::Rejected => "the settings would break a limit; none is written",
            State::Unspecified => "unknown",
        };
        let mut text = table::pairs(
            paper,
            vec![
                ("twin", answer.name.clone()),
                ("desired", format!("version {}", answer.desired_version)),
                ("state", state.to_owned()),
            ],
        );
        for violation in &answer.violations {
            let _ = writeln!(text, "  {}", paper.red(violation));
        }
        for one in &answer.frozen {
            let line = guard::line(one);
            let _ = writeln!(
                text,
                "  {}",
                paper.red(&format!("{line}; no policy writes there"))
            );
        }
        let _ = writeln!(text, "\n{}", paper.bold("Settings"));
        for leaf in &answer.leaves {
            let pending = if leaf.pending {
                ", not written yet"
            } else {
                ""
            };
            let by = paper.dim(&format!("{}{pending}", leaf.writer));
            let _ = writeln!(text, "  {}: {}  {by}", leaf.path, leaf.value_json);
            for lost in &leaf.overruled {
                let _ = writeln!(text, "    {}", paper.dim(&overruled_line(lost)));
            }
        }
        let _ = writeln!(text, "\n{}", paper.bold("Policies"));
        let rows = answer.policies.iter().map(|judged| {
            let applies = match judged.verdict() {
                Verdict::Applies => "yes",
                _ => "no",
            };
            vec![
                judged.policy_id.clone(),
                if judged.policy_id.contains(':') {
                    String::new()
                } else {
                    judged.policy_revision.to_string()
                },
                judged.priority.to_string(),
                applies.to_owned(),
                about(judged),
            ]
        });
        let header = ["POLICY", "REVISION", "PRIORITY", "APPLIES", "WHY"];
        text.push_str(&table::table(paper, &header, rows.collect()));
        text
    }
}

impl LeafData<'_> {
    fn of(leaf: &api::ExplainedLeaf) -> LeafData<'_> {
        LeafData {
            path: &leaf.path,
            value: value(&leaf.value_json),
            writer: &leaf.writer,
            version: leaf.version,
            pending: leaf.pending,
            overruled: overruled_data(&leaf.overruled),
        }
    }
}

impl JudgedData<'_> {
    fn of(judged: &api::JudgedPolicy) -> JudgedData<'_> {
        let mut facts = Vec::with_capacity(judged.facts.len());
        for fact in &judged.facts {
            facts.push(FactData {
                path: &fact.path,
                value: Some(fact.value_json.as_str()).filter(|value| !value.is_empty()),
            });
        }
        JudgedData {
            policy: &judged.policy_id,
            revision: judged.policy_revision,
            priority: judged.priority,
            verdict: verdict(judged.verdict()),
            standing: standing(judged.standing()),
            condition: &judged.condition,
            reason: &judged.reason,
            facts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::{json, text};

    fn lost(id: &str, reason: Reason) -> api::OverruledSetting {
        api::OverruledSetting {
            policy_id: id.to_owned(),
            policy_revision: 2,
            path: "x".to_owned(),
            value_json: "1".to_owned(),
            reason: reason.into(),
            same_value: false,
        }
    }

    #[test]
    fn an_explanation_shows_leaves_with_their_losers_and_policies_with_their_reasons() {
        let judged = |id: &str, verdict: Verdict| api::JudgedPolicy {
            policy_id: id.to_owned(),
            policy_revision: 1,
            verdict: verdict.into(),
            ..api::JudgedPolicy::default()
        };
        let view = Explained(api::ExplainTwinResponse {
            name: "devices/cam-1".to_owned(),
            desired_version: 7,
            state: State::Pending.into(),
            leaves: vec![api::ExplainedLeaf {
                path: "x".to_owned(),
                value_json: "\"a\"".to_owned(),
                writer: "operator:alice".to_owned(),
                version: 3,
                pending: true,
                overruled: vec![lost("p", Reason::Operator), lost("q", Reason::CreatedLater)],
            }],
            policies: vec![
                api::JudgedPolicy {
                    standing: Standing::Overruled.into(),
                    ..judged("p", Verdict::Applies)
                },
                api::JudgedPolicy {
                    condition: "tags.a = 1 AND tags.b = 2".to_owned(),
                    facts: vec![
                        api::ConditionFact {
                            path: "tags.a".to_owned(),
                            value_json: "2".to_owned(),
                        },
                        api::ConditionFact {
                            path: "tags.b".to_owned(),
                            value_json: String::new(),
                        },
                    ],
                    ..judged("r", Verdict::NotTargeted)
                },
                judged("s", Verdict::OtherScope),
            ],
            ..api::ExplainTwinResponse::default()
        });
        insta::assert_snapshot!("explained", text(&view));
        insta::assert_snapshot!("explained_json", json(&view));
    }
}
