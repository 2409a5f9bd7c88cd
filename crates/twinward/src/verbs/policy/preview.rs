//! `twinward policy preview`: what drafts would do, twin by twin, without writing anything.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use wire::policy::v1 as api;
use wire::policy::v1::apply_policy_response::Outcome;
use wire::policy::v1::preview_policy_response::Event;

use super::explain::{OverruledData, overruled_data, overruled_line, value};
use super::read_all;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::{Output, Paper, View};

/// Arguments of `policy preview`.
#[derive(Debug, Args)]
#[command(
    after_help = "Twins on which nothing but the revision changes are counted and not listed, \
    unless --all is given. Several policies are each previewed for themselves, not one after the \
    other.\n\nExamples:\n  \
    twinward policy preview -f unexpected-listener.yaml\n  \
    twinward policy preview -f unexpected-listener.yaml -o json | jq -r '.twin.name // empty'"
)]
pub(crate) struct PreviewArgs {
    /// File with policies; - reads standard input; may be repeated
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// List twins on which only the revision changes, too
    #[arg(long)]
    all: bool,
}

/// Shows what drafts would do.
pub(super) async fn run(
    args: &PreviewArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut client = connection.policies()?;
    for spec in read_all(&args.files)? {
        let what = format!("cannot preview policy {}", spec.id);
        let refused = |status| connection.refused(&what, status);
        let request = api::PreviewPolicyRequest {
            policy: Some(::policy::resource::to_request(&spec)),
        };
        let answer = client.preview_policy(request).await.map_err(refused)?;
        let mut events = answer.into_inner();
        while let Some(event) = events.message().await.map_err(refused)? {
            match event.event {
                Some(Event::Twin(twin)) if args.all || has_news(&twin) => {
                    output.show_next(&TwinView(twin))?;
                }
                Some(Event::Summary(summary)) => output.show_next(&SummaryView {
                    policy: spec.id.clone(),
                    summary,
                })?,
                // An event of a newer service says nothing to this program.
                Some(Event::Twin(_)) | None => {}
            }
        }
    }
    Ok(())
}

/// Whether more than the revision changes.
fn has_news(twin: &api::TwinPreview) -> bool {
    let changed = twin.changes.iter().any(is_of_value);
    let lost = !twin.overruled.is_empty() || !twin.violations.is_empty();
    let told = !twin.incomplete.is_empty() || !twin.actions.is_empty();
    changed || lost || twin.unsettled || told
}

fn is_of_value(change: &api::SettingChange) -> bool {
    change.old_json != change.new_json
}

/// What would happen to a twin.
struct TwinView(api::TwinPreview);

#[derive(Serialize)]
struct Wrapped<T> {
    twin: T,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TwinData<'a> {
    name: &'a str,
    applies: bool,
    changes: Vec<ChangeData<'a>>,
    overruled: Vec<OverruledData<'a>>,
    violations: &'a [String],
    unsettled: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    incomplete: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    actions: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeData<'a> {
    path: &'a str,
    old: Option<SideData<'a>>,
    new: Option<SideData<'a>>,
}

#[derive(Serialize)]
struct SideData<'a> {
    value: Value,
    writer: &'a str,
}

fn side<'a>(json: &str, writer: &'a str) -> Option<SideData<'a>> {
    (!json.is_empty()).then(|| SideData {
        value: value(json),
        writer,
    })
}

impl View for TwinView {
    fn data(&self) -> impl Serialize {
        let twin = &self.0;
        let change = twin.changes.iter().map(|one| ChangeData {
            path: &one.path,
            old: side(&one.old_json, &one.old_writer),
            new: side(&one.new_json, &one.new_writer),
        });
        Wrapped {
            twin: TwinData {
                name: &twin.name,
                applies: twin.applies,
                changes: change.collect(),
                overruled: overruled_data(&twin.overruled),
                violations: &twin.violations,
                unsettled: twin.unsettled,
                incomplete: &twin.incomplete,
                actions: &twin.actions,
            },
        }
    }

    fn text(&self, paper: &Paper) -> String {
        let twin = &self.0;
        let mut text = paper.bold(&twin.name);
        text.push('\n');
        for change in &twin.changes {
            let path = &change.path;
            if !change.old_json.is_empty() {
                let line = format!("  - {path}: {}  {}", change.old_json, change.old_writer);
                let _ = writeln!(text, "{}", paper.red(&line));
            }
            if !change.new_json.is_empty() {
                let line = format!("  + {path}: {}  {}", change.new_json, change.new_writer);
                let _ = writeln!(text, "{}", paper.green(&line));
            }
        }
        for lost in &twin.overruled {
            let _ = writeln!(text, "  lost: {}", overruled_line(lost));
        }
        for violation in &twin.violations {
            let _ = writeln!(text, "  {}", paper.red(&format!("fails: {violation}")));
        }
        for action in &twin.actions {
            let _ = writeln!(text, "  calls: {action}");
        }
        if !twin.incomplete.is_empty() {
            let _ = writeln!(text, "  does not apply: {}", twin.incomplete);
        }
        if twin.unsettled {
            let line = "  never settles: policies switch each other on and off";
            let _ = writeln!(text, "{}", paper.red(line));
        }
        text
    }
}

/// The sum of a preview.
struct SummaryView {
    policy: String,
    summary: api::PreviewSummary,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SummaryData<'a> {
    policy: &'a str,
    revision: u64,
    outcome: &'static str,
    twins_matched: u64,
    twins_written: u64,
    twins_changed: u64,
    twins_failed: u64,
    twins_overruled: u64,
    twins_unsettled: u64,
    twins_incomplete: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    actions: Vec<ActionData<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waves: Vec<WaveData<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    guard: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    held: &'a str,
    policies_changed: bool,
}

/// A wave that the revision would have.
#[derive(Serialize)]
struct WaveData<'a> {
    takes: &'a str,
    twins: u64,
}

/// On how many twins an action would be called.
#[derive(Serialize)]
struct ActionData<'a> {
    action: &'a str,
    method: &'a str,
    twins: u64,
}

impl SummaryView {
    /// Why nothing of it would happen now; empty: it would.
    fn held(&self) -> &str {
        let state = self.summary.schedule_state.as_ref();
        state.map_or("", |state| &state.reason)
    }

    fn outcome(&self) -> &'static str {
        match self.summary.outcome() {
            Outcome::Created => "created",
            Outcome::Updated => "updated",
            Outcome::Unchanged => "unchanged",
            Outcome::Unspecified => "applied",
        }
    }
}

impl View for SummaryView {
    fn data(&self) -> impl Serialize {
        let sum = &self.summary;
        let actions = sum.actions.iter().map(|one| ActionData {
            action: &one.action,
            method: &one.method,
            twins: one.twins,
        });
        SummaryData {
            policy: &self.policy,
            revision: sum.revision,
            outcome: self.outcome(),
            twins_matched: sum.twins_matched,
            twins_written: sum.twins_written,
            twins_changed: sum.twins_changed,
            twins_failed: sum.twins_failed,
            twins_overruled: sum.twins_overruled,
            twins_unsettled: sum.twins_unsettled,
            twins_incomplete: sum.twins_incomplete,
            actions: actions.collect(),
            waves: sum
                .waves
                .iter()
                .map(|wave| WaveData {
                    takes: &wave.takes,
                    twins: wave.twins,
                })
                .collect(),
            guard: &sum.guard,
            held: self.held(),
            policies_changed: sum.policies_changed,
        }
    }

    fn text(&self, _paper: &Paper) -> String {
        let sum = &self.summary;
        let mut text = format!(
            "policy {} would be {}, revision {}; nothing was written\n",
            self.policy,
            self.outcome(),
            sum.revision
        );
        let _ = writeln!(
            text,
            "  {} twins match now: {} twins get other values, {} are written",
            sum.twins_matched, sum.twins_changed, sum.twins_written
        );
        for (count, what) in [
            (sum.twins_failed, "cannot have the settings"),
            (sum.twins_overruled, "keep a leaf from the policy"),
            (sum.twins_unsettled, "never settle"),
            (sum.twins_incomplete, "lack what the settings name"),
        ] {
            if count > 0 {
                let _ = writeln!(text, "  {count} twins {what}");
            }
        }
        for one in &sum.actions {
            let (action, method) = (&one.action, &one.method);
            let _ = writeln!(text, "  {action} calls {method} of {} twins", one.twins);
        }
        if !sum.guard.is_empty() {
            let _ = writeln!(text, "  the mass-change guard: {}", sum.guard);
        }
        for (index, wave) in (1..).zip(&sum.waves) {
            let (takes, twins) = (&wave.takes, wave.twins);
            let _ = writeln!(text, "  wave {index}, {takes}: {twins} twins");
        }
        if !self.held().is_empty() {
            let _ = writeln!(text, "  nothing of it now: {}", self.held());
        }
        if sum.policies_changed {
            text.push_str("  a policy changed meanwhile; preview again\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::{json, text};

    fn change(path: &str, old: &str, new: &str) -> api::SettingChange {
        let writer = |json: &str, writer: &str| {
            if json.is_empty() {
                String::new()
            } else {
                writer.to_owned()
            }
        };
        api::SettingChange {
            path: path.to_owned(),
            old_json: old.to_owned(),
            old_writer: writer(old, "policy:p@1"),
            new_json: new.to_owned(),
            new_writer: writer(new, "policy:p@2"),
        }
    }

    #[test]
    fn a_twin_shows_what_it_gets_and_what_keeps_it_from_it() {
        let mut twin = api::TwinPreview {
            name: "devices/cam-1".to_owned(),
            applies: true,
            changes: vec![change("same", "1", "1")],
            ..api::TwinPreview::default()
        };
        assert!(!has_news(&twin), "only the revision is another one");
        twin.changes.push(change("gone", "1", ""));
        assert!(has_news(&twin));
        twin.violations = vec!["properties.desired: 40000 bytes (32768)".to_owned()];
        twin.unsettled = true;
        twin.actions = vec!["collect".to_owned()];
        let view = TwinView(twin);
        insta::assert_snapshot!("preview_twin", text(&view));
        insta::assert_snapshot!("preview_twin_json", json(&view));
    }

    #[test]
    fn the_sum_tells_what_matters() {
        let view = SummaryView {
            policy: "p".to_owned(),
            summary: api::PreviewSummary {
                revision: 4,
                outcome: Outcome::Updated.into(),
                twins_matched: 12,
                twins_written: 11,
                twins_changed: 3,
                twins_failed: 1,
                actions: vec![api::ActionPreview {
                    action: "collect".to_owned(),
                    method: "collectNow".to_owned(),
                    twins: 2,
                }],
                waves: vec![
                    api::WavePreview {
                        takes: "up to 10 %".to_owned(),
                        twins: 2,
                    },
                    api::WavePreview {
                        takes: "the rest".to_owned(),
                        twins: 10,
                    },
                ],
                guard: "it changes more than 10 twins at once".to_owned(),
                schedule_state: Some(api::ScheduleState {
                    reason: "frozen by operator:a; until somebody ends it".to_owned(),
                    ..api::ScheduleState::default()
                }),
                ..api::PreviewSummary::default()
            },
        };
        insta::assert_snapshot!("preview_summary", text(&view));
        insta::assert_snapshot!("preview_summary_json", json(&view));
    }
}
