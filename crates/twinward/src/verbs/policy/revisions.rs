//! `twinward policy history` and `diff`: what a policy was, who changed it, and how.

use std::path::PathBuf;

use clap::Args;
use policy::content_diff;
use serde::Serialize;
use wire::policy::v1 as api;

use super::view::{ChangeData, change_data, change_lines};
use super::{read_all, send};
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{Output, Paper, View, table, time};

/// The most revisions a page may hold.
const PAGE_MAX: u32 = 1000;

/// Arguments of `policy history`.
#[derive(Debug, Args)]
#[command(
    after_help = "A policy that is deleted keeps its history.\n\nExamples:\n  \
    twinward policy history unexpected-listener\n  \
    twinward policy history unexpected-listener -o json | jq -r '.[0].author'"
)]
pub(crate) struct HistoryArgs {
    /// Id of the policy
    #[arg(value_name = "POLICY")]
    policy: String,
    /// The most revisions to show, the newest first
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u32,
}

/// Arguments of `policy diff`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without revisions it compares the newest with the one before it; with one, that \
    with the newest. Lines with - are what was, lines with + what is.\n\nExamples:\n  \
    twinward policy diff unexpected-listener\n  \
    twinward policy diff unexpected-listener 3 5\n  \
    twinward policy diff -f unexpected-listener.yaml"
)]
pub(crate) struct DiffArgs {
    /// Id of the policy
    #[arg(
        value_name = "POLICY",
        required_unless_present = "files",
        conflicts_with = "files"
    )]
    policy: Option<String>,
    /// The earlier revision
    #[arg(value_name = "FROM", requires = "policy")]
    from: Option<u64>,
    /// The later revision
    #[arg(value_name = "TO", requires = "from")]
    to: Option<u64>,
    /// Compare the policies of this file with what is in force; - reads standard input; may be
    /// repeated
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Shows the revisions of a policy.
pub(super) async fn history(
    args: &HistoryArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut client = connection.policies()?;
    let what = format!("cannot read the history of policy {}", args.policy);
    let mut revisions = Vec::new();
    let mut page_token = String::new();
    let mut missing = args.limit;
    while missing > 0 {
        let size = missing.min(PAGE_MAX);
        let request = api::ListPolicyRevisionsRequest {
            name: format!("policies/{}", args.policy),
            page_size: i32::try_from(size).unwrap_or(i32::MAX),
            page_token,
        };
        let page = client
            .list_policy_revisions(request)
            .await
            .map_err(|status| connection.refused(&what, status))?
            .into_inner();
        revisions.extend(page.revisions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        missing -= size;
    }
    output.show(&History(revisions))
}

/// Shows how contents differ.
pub(super) async fn diff(
    args: &DiffArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let Some(policy) = &args.policy else {
        let mut client = connection.policies()?;
        for spec in read_all(&args.files)? {
            let answer = send(&mut client, &spec, (true, "", ""), connection).await?;
            let is_new = answer.outcome() == api::apply_policy_response::Outcome::Created;
            let next = answer.policy.map(|policy| policy.revision);
            output.show_next(&DiffView {
                policy: spec.id,
                from: next.map(|next| {
                    if answer.changes.is_empty() {
                        next
                    } else {
                        next - 1
                    }
                }),
                to: None,
                is_new,
                changes: answer.changes,
            })?;
        }
        return Ok(());
    };
    let new = revision(policy, args.to.unwrap_or(0), connection).await?;
    let from = match args.from {
        Some(from) => from,
        None if new.revision > 1 => new.revision - 1,
        None => {
            let what = format!("policy {policy} has one revision; there is nothing to compare");
            return Err(Failure::new(Kind::NotFound, what));
        }
    };
    let old = revision(policy, from, connection).await?;
    let changes = compare(&old, &new)?;
    output.show(&DiffView {
        policy: policy.clone(),
        from: Some(old.revision),
        to: Some(new.revision),
        is_new: false,
        changes,
    })
}

/// What a policy said at a revision.
pub(super) async fn content(
    policy: &str,
    number: u64,
    connection: &Connection,
) -> Result<api::Policy, Failure> {
    let found = revision(policy, number, connection).await?;
    found
        .policy
        .ok_or_else(|| damaged(&found.name, "it has no policy"))
}

async fn revision(
    policy: &str,
    number: u64,
    connection: &Connection,
) -> Result<api::PolicyRevision, Failure> {
    let what = format!("cannot get a revision of policy {policy}");
    let request = api::GetPolicyRevisionRequest {
        name: format!("policies/{policy}"),
        revision: number,
    };
    let found = connection
        .policies()?
        .get_policy_revision(request)
        .await
        .map_err(|status| connection.refused(&what, status))?;
    Ok(found.into_inner())
}

fn compare(
    old: &api::PolicyRevision,
    new: &api::PolicyRevision,
) -> Result<Vec<api::ContentChange>, Failure> {
    let spec = |revision: &api::PolicyRevision| {
        let policy = revision.policy.clone().unwrap_or_default();
        let checked = policy::resource::check(&policy);
        checked.map_err(|problems| damaged(&revision.name, &problems.to_string()))
    };
    let text =
        |value: Option<serde_json::Value>| value.map(|value| value.to_string()).unwrap_or_default();
    let all = content_diff::differences(spec(old)?.spec(), spec(new)?.spec());
    let change = |one: content_diff::Difference| api::ContentChange {
        path: one.path,
        old_json: text(one.old),
        new_json: text(one.new),
    };
    Ok(all.into_iter().map(change).collect())
}

fn damaged(name: &str, why: &str) -> Failure {
    Failure::new(Kind::Internal, format!("the answer for {name} is damaged")).because(why)
}

/// The revisions of a policy.
struct History(Vec<api::PolicyRevision>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RevisionData<'a> {
    revision: u64,
    create_time: Option<String>,
    author: &'a str,
    note: &'a str,
    changed_fields: &'a [String],
}

impl RevisionData<'_> {
    fn of(one: &api::PolicyRevision) -> RevisionData<'_> {
        RevisionData {
            revision: one.revision,
            create_time: time::precise(one.create_time),
            author: &one.author,
            note: &one.note,
            changed_fields: &one.changed_fields,
        }
    }
}

impl View for History {
    fn data(&self) -> impl Serialize {
        self.0.iter().map(RevisionData::of).collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        let rows = self.0.iter().map(|one| {
            let changed = match one.changed_fields.as_slice() {
                [] => "-".to_owned(),
                fields => fields.join(", "),
            };
            let author = if one.author.is_empty() {
                "-"
            } else {
                &one.author
            };
            vec![
                one.revision.to_string(),
                time::short(one.create_time),
                author.to_owned(),
                changed,
                one.note.clone(),
            ]
        });
        let header = ["REVISION", "CREATED", "AUTHOR", "CHANGED", "NOTE"];
        table::table(paper, &header, rows.collect())
    }
}

/// How two contents differ.
struct DiffView {
    policy: String,
    /// Absent: there is none yet.
    from: Option<u64>,
    /// Absent: the file.
    to: Option<u64>,
    is_new: bool,
    changes: Vec<api::ContentChange>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiffData<'a> {
    policy: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    is_new: bool,
    changes: Vec<ChangeData<'a>>,
}

impl View for DiffView {
    fn data(&self) -> impl Serialize {
        DiffData {
            policy: &self.policy,
            from: self.from.filter(|_| !self.is_new),
            to: self.to,
            is_new: self.is_new,
            changes: change_data(&self.changes),
        }
    }

    fn text(&self, paper: &Paper) -> String {
        let id = &self.policy;
        if self.is_new {
            return format!("policy {id} is new\n");
        }
        let from = self
            .from
            .map_or_else(String::new, |from| format!(" {from}"));
        let to = match self.to {
            Some(to) => format!("revision {to}"),
            None => "the file".to_owned(),
        };
        if self.changes.is_empty() {
            return format!("policy {id}: revision{from} and {to} say the same\n");
        }
        let title = paper.bold(&format!("policy {id}, from revision{from} to {to}"));
        format!("{title}\n{}", change_lines(paper, &self.changes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::{json, text};

    #[test]
    fn a_history_names_who_changed_what_and_why() {
        let history = History(vec![
            api::PolicyRevision {
                revision: 2,
                author: "operator:alice".to_owned(),
                note: "hall 3 asked for it".to_owned(),
                create_time: Some(prost_types::Timestamp::default()),
                changed_fields: vec!["target".to_owned(), "settings".to_owned()],
                ..api::PolicyRevision::default()
            },
            api::PolicyRevision {
                revision: 1,
                create_time: Some(prost_types::Timestamp::default()),
                ..api::PolicyRevision::default()
            },
        ]);
        insta::assert_snapshot!("history", text(&history));
        insta::assert_snapshot!("history_json", json(&history));
    }

    #[test]
    fn a_difference_shows_what_was_and_what_is() {
        let mut view = DiffView {
            policy: "p".to_owned(),
            from: Some(1),
            to: None,
            is_new: false,
            changes: vec![api::ContentChange {
                path: "settings.x".to_owned(),
                old_json: "1".to_owned(),
                new_json: String::new(),
            }],
        };
        insta::assert_snapshot!("diff", text(&view));
        insta::assert_snapshot!("diff_json", json(&view));
        view.changes.clear();
        assert_eq!(
            text(&view),
            "policy p: revision 1 and the file say the same\n"
        );
    }
}
