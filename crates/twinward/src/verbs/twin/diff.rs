//! `twinward twin diff`: what differs between two moments of a twin, and who changed it.

pub(super) mod view;

use clap::Args;
use twin::IdentityKey;
use wire::twin::v1 as api;

use super::changes;
use super::get::explain;
use super::history;
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::identity_args::IdentityArg;
use crate::output::Output;
use crate::when::Moment;

use view::{By, DiffView, Difference, Side};

/// Pages of history that are searched for who changed a leaf. Behind a hundred thousand revisions
/// the line stays without a name, rather than the command without an end.
const PAGES_MAX: usize = 100;
const PAGE_SIZE: usize = 1000;

/// Arguments of `twin diff`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward twin diff cam-1 '1h ago'\n  \
    twinward twin diff cam-1 1017 1042\n  \
    twinward twin diff cam-1 2026-11-20 2026-11-21 -o json | jq -r '.differences[].path'")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    identity: IdentityArg,
    /// The earlier moment: a revision, or a time like `2h ago`, `2026-11-23` or RFC 3339
    #[arg(value_name = "FROM", value_parser = Moment::parse)]
    from: Moment,
    /// The later moment [default: now]
    #[arg(value_name = "TO", value_parser = Moment::parse)]
    to: Option<Moment>,
}

/// Does what was asked for.
pub(super) async fn run(
    args: &DiffArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args.identity.key();
    let now = output.now();
    let request = api::DiffTwinRevisionsRequest {
        name: wire::names::identity_name(&key),
        from: Some(args.from.to_wire(now)?),
        to: args.to.map(|moment| moment.to_wire(now)).transpose()?,
    };
    let what = format!("cannot compare the twin of {key}");
    let answer = connection
        .histories()?
        .diff_twin_revisions(request)
        .await
        .map_err(|status| explain(connection.refused(&what, status), &key))?
        .into_inner();
    let mut view = DiffView {
        name: wire::names::identity_name(&key),
        from: Side::Revision(answer.from_revision),
        to: Side::Revision(answer.to_revision),
        differences: Vec::new(),
    };
    for difference in answer.differences {
        view.differences.push(Difference::read(difference)?);
    }
    name_writers(connection, &key, &answer.from_revision, &mut view).await?;
    output.show(&view)
}

/// Finds for each difference the newest revision, of those compared, that wrote it.
async fn name_writers(
    connection: &Connection,
    key: &IdentityKey,
    from: &u64,
    view: &mut DiffView,
) -> Result<(), Failure> {
    let Side::Revision(to) = view.to else {
        return Ok(());
    };
    let mut missing: Vec<usize> = (0..view.differences.len()).collect();
    let mut request = api::ListTwinRevisionsRequest {
        name: wire::names::identity_name(key),
        ..Default::default()
    };
    for _ in 0..PAGES_MAX {
        if missing.is_empty() {
            break;
        }
        let mut revisions = Vec::new();
        let next = history::page(connection, key, &mut request, PAGE_SIZE, &mut revisions).await?;
        for revision in revisions {
            if revision.revision > to {
                continue;
            }
            if revision.revision <= *from {
                return Ok(());
            }
            credit(&revision, &mut missing, view)?;
        }
        if next == history::Next::End {
            break;
        }
    }
    Ok(())
}

fn credit(
    revision: &api::TwinRevision,
    missing: &mut Vec<usize>,
    view: &mut DiffView,
) -> Result<(), Failure> {
    let patch = serde_json::from_str(&revision.patch_json).map_err(|error| {
        let what = format!("revision {} is damaged", revision.revision);
        Failure::new(Kind::Internal, what).because(format!("patch_json: {error}"))
    })?;
    missing.retain(|index| {
        let difference = &mut view.differences[*index];
        if !changes::touches(&patch, &difference.path) {
            return true;
        }
        difference.by = Some(By {
            actor: revision.actor.clone(),
            revision: revision.revision,
            commit_time: revision.commit_time,
        });
        false
    });
    Ok(())
}
