//! `twinward twin history`: the revisions of a twin, newest first.

mod view;

use clap::Args;
use twin::IdentityKey;
use wire::twin::v1 as api;

use super::changes::ChangeArg;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::identity_args::IdentityArg;
use crate::output::Output;
use crate::when::Time;

use view::Revisions;

/// The most revisions a page may hold.
const PAGE_MAX: usize = 1000;

/// Arguments of `twin history`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward twin history cam-1\n  \
    twinward twin history cam-1 --security --changes desired,configuration --since 7d\n  \
    twinward twin history cam-1 --limit 0 -o json | jq '.[] | {revision, actor, patch}'")]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    identity: IdentityArg,
    /// Only from this time on: `2h ago`, `7d`, `2026-11-23` or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    since: Option<Time>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    until: Option<Time>,
    /// Only revisions that changed one of these, separated by commas
    #[arg(long, value_name = "CHANGES", value_delimiter = ',')]
    changes: Vec<ChangeArg>,
    /// At most so many revisions; 0: all
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// Does what was asked for.
pub(super) async fn run(
    args: &HistoryArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args.identity.key();
    let now = output.now();
    let time = |time: Option<Time>| time.map(|time| time.to_wire(now)).transpose();
    let mut request = api::ListTwinRevisionsRequest {
        name: wire::names::identity_name(&key),
        start_time: time(args.since)?,
        end_time: time(args.until)?,
        ..Default::default()
    };
    request.changes = args
        .changes
        .iter()
        .map(|change| change.to_wire().into())
        .collect();
    let mut revisions = Vec::new();
    loop {
        let left = match args.limit {
            0 => PAGE_MAX,
            limit => (limit - revisions.len()).min(PAGE_MAX),
        };
        let next = page(connection, &key, &mut request, left, &mut revisions).await?;
        if next == Next::End {
            return output.show(&Revisions::read(revisions)?);
        }
        if args.limit != 0 && revisions.len() >= args.limit {
            break;
        }
    }
    output.show(&Revisions::read(revisions)?)?;
    output.note(&format!(
        "only the newest {} are shown; --limit 0 shows all",
        args.limit
    ));
    Ok(())
}

/// Whether there is another page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    More,
    End,
}

/// Reads a page and moves the request on to the next one.
pub(super) async fn page(
    connection: &Connection,
    key: &IdentityKey,
    request: &mut api::ListTwinRevisionsRequest,
    size: usize,
    revisions: &mut Vec<api::TwinRevision>,
) -> Result<Next, Failure> {
    request.page_size = i32::try_from(size.min(PAGE_MAX)).unwrap_or(i32::MAX);
    let what = format!("cannot list the history of {key}");
    let page = connection
        .histories()?
        .list_twin_revisions(request.clone())
        .await
        .map_err(|status| connection.refused(&what, status))?
        .into_inner();
    revisions.extend(page.revisions);
    request.page_token = page.next_page_token;
    Ok(if request.page_token.is_empty() {
        Next::End
    } else {
        Next::More
    })
}
