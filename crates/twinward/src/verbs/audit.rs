//! `twinward audit`: every administrative change, and the proof that none was taken out.

mod against;
mod view;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use wire::registry::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::when::Time;

use view::{Entries, EntryView, Verified};

/// The most entries a page may hold.
const PAGE_SIZE: i32 = 1000;

/// What can be done with the audit log.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List administrative changes: when, who, what, to what
    List(ListArgs),
    /// Walk all chains of hashes and say where one is broken
    Verify(VerifyArgs),
}

/// Arguments of `audit list`.
#[derive(Debug, Args)]
#[command(
    after_help = "With -o json every entry is a JSON object on a line of its own, in the order of \
    the chains.\n\nExamples:\n  \
    twinward audit list --since 1d\n  \
    twinward audit list --resource devices/cam-1\n  \
    twinward audit list --limit 0 -o json > audit.ndjson"
)]
pub(crate) struct ListArgs {
    /// Only from this time on: `2h ago`, `7d`, `2026-11-23` or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    since: Option<Time>,
    /// Only about this resource and what is below it, for instance devices/cam-1
    #[arg(long, value_name = "NAME", default_value_t, hide_default_value = true)]
    resource: String,
    /// At most so many entries, the newest of those found; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "A chain proves that nothing in it was changed, but not that its end was not cut \
    off. Keep what\n`-o json` prints somewhere else, and hand it in later with --against.\n\n\
    Examples:\n  \
    twinward audit verify\n  \
    twinward audit verify -o json > heads.json\n  \
    twinward audit verify --against heads.json"
)]
pub(crate) struct VerifyArgs {
    /// What an earlier `audit verify -o json` printed: these heads must still be in the chains
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: AuditCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        AuditCommand::List(args) => list(args, connection, output).await,
        AuditCommand::Verify(args) => verify(&args, connection, output).await,
    }
}

async fn list(args: ListArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let request = api::ListAuditEntriesRequest {
        page_size: PAGE_SIZE,
        page_token: String::new(),
        start_time: args
            .since
            .map(|time| time.to_wire(output.now()))
            .transpose()?,
        resource: args.resource,
    };
    let mut newest = view::Newest::new(args.limit);
    let streamed = match output.format() {
        Format::Table => false,
        Format::Json | Format::Yaml => args.limit == 0,
    };
    walk(connection, request, |entry| {
        if streamed {
            return output.show_next(&EntryView(entry));
        }
        newest.add(entry);
        Ok(())
    })
    .await?;
    if streamed {
        return Ok(());
    }
    let left_out = newest.left_out();
    match output.format() {
        Format::Table => output.show(&Entries(newest.by_time()))?,
        Format::Json | Format::Yaml => {
            for entry in newest.by_chain() {
                output.show_next(&EntryView(entry))?;
            }
        }
    }
    if left_out > 0 {
        output.note(&format!(
            "{left_out} older ones are left out; --limit 0 shows all"
        ));
    }
    Ok(())
}

/// Hands every entry over, page by page.
async fn walk(
    connection: &Connection,
    mut request: api::ListAuditEntriesRequest,
    mut take: impl FnMut(api::AuditEntry) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let page = connection
            .audits()?
            .list_audit_entries(request.clone())
            .await
            .map_err(|status| connection.refused("cannot list the audit log", status))?
            .into_inner();
        for entry in page.entries {
            take(entry)?;
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

async fn verify(
    args: &VerifyArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    // Read first: a file that is not there should not cost a walk.
    let kept = args.against.as_deref().map(against::read).transpose()?;
    let answer = connection
        .audits()?
        .verify_audit(api::VerifyAuditRequest {})
        .await
        .map_err(|status| connection.refused("cannot verify the audit log", status))?
        .into_inner();
    let mut failure = None;
    if !answer.whole {
        failure = Some(Failure::new(Kind::Failed, "the audit log is not whole"));
    }
    if let Some(kept) = kept {
        let request = api::ListAuditEntriesRequest {
            page_size: PAGE_SIZE,
            ..Default::default()
        };
        let mut search = against::Search::new(&kept);
        walk(connection, request, |entry| {
            search.see(&entry);
            Ok(())
        })
        .await?;
        let missing = search.missing();
        if !missing.is_empty() {
            let mut told = failure.unwrap_or_else(|| {
                Failure::new(Kind::Failed, "what was kept is no longer in the audit log")
            });
            for line in missing {
                told = told.detail(line);
            }
            failure = Some(told);
        }
    }
    output.show(&Verified(answer))?;
    failure.map_or(Ok(()), Err)
}
