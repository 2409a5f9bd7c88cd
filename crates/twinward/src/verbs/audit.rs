//! `twinward audit`: every administrative change, and the proof that none was taken out.

mod against;
mod verify;
mod view;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use wire::registry::v1 as api;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::when::Time;

use view::{Entries, EntryView};

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
    after_help = "The newest are found at once, however long the log is. With -o json every entry is a JSON\n\
    object on a line of its own. The last line is the newest.\n\nExamples:\n  \
    twinward audit list --since 1d\n  \
    twinward audit list --actor operator:alice --action device.delete\n  \
    twinward audit list --resource devices/cam-1\n  \
    twinward audit list --limit 0 -o json > audit.ndjson"
)]
pub(crate) struct ListArgs {
    /// Only from this time on: `2h ago`, `7d`, `2026-11-23` or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    since: Option<Time>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    until: Option<Time>,
    /// Only of this actor, for instance operator:alice
    #[arg(long, value_name = "WHO", default_value_t, hide_default_value = true)]
    actor: String,
    /// Only of this action, for instance device.delete
    #[arg(
        long,
        value_name = "ACTION",
        default_value_t,
        hide_default_value = true
    )]
    action: String,
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
    off. Keep what\n`-o json` prints somewhere else, and hand it in later with --against, or keep a \
    file with\n--state: then only what came since is walked, and a log that was cut off or made anew \
    before is\nnoticed, too.\n\nExamples:\n  \
    twinward audit verify\n  \
    twinward audit verify --state verified.json\n  \
    twinward audit verify -o json > heads.json\n  \
    twinward audit verify --against heads.json"
)]
pub(crate) struct VerifyArgs {
    /// What an earlier `audit verify -o json` printed: these heads must still be in the chains
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Keep in this file how far each chain was walked, and go on from there: after an interruption, or
    /// the next time. It is made if it is not there; --against takes it, too
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: AuditCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        AuditCommand::List(args) => list(args, connection, output).await,
        AuditCommand::Verify(args) => verify::run(&args, connection, output).await,
    }
}

async fn list(args: ListArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let time = |time: Option<Time>| time.map(|time| time.to_wire(output.now())).transpose();
    let request = api::ListAuditEntriesRequest {
        start_time: time(args.since)?,
        end_time: time(args.until)?,
        resource: args.resource,
        actor: args.actor,
        action: args.action,
        ..Default::default()
    };
    if args.limit > 0 {
        return newest(request, args.limit, connection, output).await;
    }
    let request = api::ListAuditEntriesRequest {
        page_size: PAGE_SIZE,
        order: api::AuditOrder::OldestFirst.into(),
        ..request
    };
    let mut all = Vec::new();
    walk(connection, request, |entry| {
        match output.format() {
            Format::Json | Format::Yaml => output.show_next(&EntryView(entry))?,
            Format::Table => all.push(entry),
        }
        Ok(Going::On)
    })
    .await?;
    match output.format() {
        Format::Table => output.show(&Entries(all)),
        Format::Json | Format::Yaml => Ok(()),
    }
}

/// Shows so many of the newest, the newest last, as a log has it.
async fn newest(
    request: api::ListAuditEntriesRequest,
    limit: usize,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    // One more tells whether there are older ones.
    let wanted = limit.saturating_add(1);
    let page_size = i32::try_from(wanted).unwrap_or(PAGE_SIZE);
    let request = api::ListAuditEntriesRequest {
        page_size: page_size.min(PAGE_SIZE),
        order: api::AuditOrder::NewestFirst.into(),
        ..request
    };
    let mut entries = Vec::new();
    walk(connection, request, |entry| {
        entries.push(entry);
        Ok(if entries.len() < wanted {
            Going::On
        } else {
            Going::NoFurther
        })
    })
    .await?;
    let are_more = entries.len() > limit;
    entries.truncate(limit);
    entries.reverse();
    match output.format() {
        Format::Table => output.show(&Entries(entries))?,
        Format::Json | Format::Yaml => {
            for entry in entries {
                output.show_next(&EntryView(entry))?;
            }
        }
    }
    if are_more {
        output.note("older ones are left out; --limit 0 shows all");
    }
    Ok(())
}

/// Whether to go on.
enum Going {
    On,
    NoFurther,
}

/// Hands entries over, page by page, as long as they are taken.
async fn walk(
    connection: &Connection,
    mut request: api::ListAuditEntriesRequest,
    mut take: impl FnMut(api::AuditEntry) -> Result<Going, Failure>,
) -> Result<(), Failure> {
    loop {
        let page = connection
            .audits()?
            .list_audit_entries(request.clone())
            .await
            .map_err(|status| connection.refused("cannot list the audit log", status))?
            .into_inner();
        for entry in page.entries {
            if let Going::NoFurther = take(entry)? {
                return Ok(());
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}
