//! `twinward query`: searches twins with IoT Hub's query language.

mod row;
mod view;

use clap::Args;
use wire::twin::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;
use crate::output::{Output, plural};

use view::{Explanation, Printer};

/// The most rows a page may hold.
const PAGE_MAX: u64 = 1000;
/// Damaged twins that are named; a store with more has lost a disk, and `store verify` lists all.
const DAMAGED_MAX: usize = 10;

/// Arguments of `query`.
#[derive(Debug, Args)]
#[command(
    after_help = "Collections are `devices` and `devices.modules`. Conditions look at deviceId, \
    moduleId, status,\ntags.…, properties.desired.…, properties.reported.… and posture.…\n\
    With -o json every row is a JSON object on a line of its own.\n\nExamples:\n  \
    twinward query \"SELECT * FROM devices WHERE tags.site = 'hall-3'\"\n  \
    twinward query \"SELECT tags.site, COUNT() AS n FROM devices GROUP BY tags.site\"\n  \
    twinward query \"SELECT deviceId, posture.listeningPorts FROM devices.modules\n      \
    WHERE EXISTS(p IN posture.listeningPorts WHERE p.port = 23)\" --all -o json\n  \
    twinward query --explain \"SELECT * FROM devices WHERE tags.site = 'hall-3'\""
)]
pub(crate) struct QueryArgs {
    /// SELECT … FROM devices|devices.modules [WHERE …] [GROUP BY …] [ORDER BY …]; - reads standard
    /// input
    #[arg(value_name = "QUERY")]
    query: String,
    /// All rows, page after page
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// At most so many rows
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Tell how the store would find the rows, and do not
    #[arg(long, conflicts_with = "all")]
    explain: bool,
}

/// Does what was asked for.
pub(crate) async fn run(
    args: &QueryArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let query = match args.query.as_str() {
        "-" => files::read(std::path::Path::new("-"))?,
        text => text.to_owned(),
    };
    if args.explain {
        return explain(query, connection, output).await;
    }
    let limit = if args.all { u64::MAX } else { args.limit };
    let mut printer = Printer::new(&query);
    let mut damaged = Vec::new();
    let mut page_token = String::new();
    let mut count = 0;
    loop {
        let page_size = i32::try_from((limit - count).min(PAGE_MAX)).unwrap_or(i32::MAX);
        let request = api::QueryTwinsRequest {
            query: query.clone(),
            page_size,
            page_token,
        };
        let mut page = connection
            .queries()?
            .query_twins(request)
            .await
            .map_err(|status| connection.refused("cannot run the query", status))?
            .into_inner();
        page_token = std::mem::take(&mut page.next_page_token);
        damaged.append(&mut page.damaged);
        count += printer.page(page, output)?;
        if page_token.is_empty() || count >= limit {
            break;
        }
    }
    printer.end(output)?;
    if !page_token.is_empty() {
        output.note(&format!(
            "only the first {} are shown; --all shows all",
            plural(count, "row", "rows")
        ));
    }
    if damaged.is_empty() {
        return Ok(());
    }
    Err(left_out(&damaged))
}

/// Who asks must not take a part for the whole.
fn left_out(damaged: &[String]) -> Failure {
    let count = u64::try_from(damaged.len()).unwrap_or(u64::MAX);
    let mut failure = Failure::new(
        Kind::Failed,
        format!(
            "{} left out, because what is stored is damaged",
            plural(count, "twin was", "twins were")
        ),
    );
    for name in damaged.iter().take(DAMAGED_MAX) {
        failure = failure.detail(name);
    }
    if damaged.len() > DAMAGED_MAX {
        failure = failure.detail(format!("and {} more", damaged.len() - DAMAGED_MAX));
    }
    failure.advise("`twinward store verify` says what is wrong with each")
}

async fn explain(query: String, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let answer = connection
        .queries()?
        .explain_query(api::ExplainQueryRequest { query })
        .await
        .map_err(|status| connection.refused("cannot explain the query", status))?
        .into_inner();
    output.show(&Explanation(answer))
}
