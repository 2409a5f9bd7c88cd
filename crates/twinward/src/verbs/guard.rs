//! `twinward guard`: paths of twins that went back and forth, which policies leave alone since.
//!
//! The words are others than those of `policy freeze`, on purpose: who stops policies by hand and who lets
//! a path go mean two things, and do them in a hurry.

use clap::{Args, Subcommand};
use serde::Serialize;
use wire::policy::v1 as api;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::identity_args::IdentityArg;
use crate::output::{Output, Paper, View, plural, table, time};

/// The most that a page may hold.
const PAGE_MAX: i32 = 1000;

/// What can be done with paths that the guard holds.
#[derive(Debug, Subcommand)]
pub(crate) enum GuardCommand {
    /// List paths of twins that went back and forth, which policies leave alone
    #[command(
        after_help = "What somebody stopped by hand is listed by `twinward policy freezes`.\n\n\
        Examples:\n  twinward guard list\n  twinward guard list -o json | jq -r '.[].twin'"
    )]
    List,
    /// Let policies write to such paths of a twin again
    Release(ReleaseArgs),
}

/// Arguments of `guard release`.
#[derive(Debug, Args)]
#[command(
    after_help = "What somebody stopped by hand goes on with `twinward policy unfreeze`.\n\n\
    Examples:\n  \
    twinward guard release cam-1 --security\n  \
    twinward guard release cam-1/DefenderIotMicroAgent --path CollectorsCore_PriorityIntervals"
)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    identity: IdentityArg,
    /// Only this path, as `guard list` shows it
    #[arg(long, value_name = "PATH", default_value_t, hide_default_value = true)]
    path: String,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: GuardCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        GuardCommand::List => list(connection, output).await,
        GuardCommand::Release(args) => release(&args, connection, output).await,
    }
}

/// Lists what is frozen.
async fn list(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let mut client = connection.guard()?;
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = api::ListFrozenPathsRequest {
            page_size: PAGE_MAX,
            page_token,
        };
        let page = client
            .list_frozen_paths(request)
            .await
            .map_err(|status| connection.refused("cannot list frozen paths", status))?
            .into_inner();
        found.extend(page.frozen_paths);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return output.show(&FrozenView(found));
        }
    }
}

/// Lets policies write to a twin again.
async fn release(
    args: &ReleaseArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let twin = wire::names::identity_name(&args.identity.key());
    let request = api::ThawPathsRequest {
        twin: twin.clone(),
        path: args.path.clone(),
    };
    let answer = connection
        .guard()?
        .thaw_paths(request)
        .await
        .map_err(|status| connection.refused(&format!("cannot release paths of {twin}"), status))?;
    let released = answer.into_inner().thawed;
    output.show(&Released {
        name: twin,
        released,
    })
}

/// The first frozen paths, and how many there are.
pub(crate) async fn some(connection: &Connection) -> Result<(u64, Vec<api::FrozenPath>), Failure> {
    let request = api::ListFrozenPathsRequest {
        page_size: 3,
        page_token: String::new(),
    };
    let answer = connection
        .guard()?
        .list_frozen_paths(request)
        .await
        .map_err(|status| connection.refused("cannot list frozen paths", status))?
        .into_inner();
    let total = u64::try_from(answer.total_size).unwrap_or(0);
    Ok((total, answer.frozen_paths))
}

/// A frozen path as a sentence.
pub(crate) fn line(one: &api::FrozenPath) -> String {
    format!(
        "{} of {} is frozen: {} wrote it in turns",
        one.path,
        one.twin,
        one.writers.join(" and ")
    )
}

/// A frozen path for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FrozenData<'a> {
    twin: &'a str,
    path: &'a str,
    writers: &'a [String],
    freeze_time: Option<String>,
}

/// Frozen paths for programs.
pub(crate) fn data(frozen: &[api::FrozenPath]) -> Vec<FrozenData<'_>> {
    let data = frozen.iter().map(|one| FrozenData {
        twin: &one.twin,
        path: &one.path,
        writers: &one.writers,
        freeze_time: time::precise(one.freeze_time),
    });
    data.collect()
}

struct FrozenView(Vec<api::FrozenPath>);

impl View for FrozenView {
    fn data(&self) -> impl Serialize {
        data(&self.0)
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            let hint = "`twinward policy freezes` lists what somebody stopped";
            return format!("no path goes back and forth; {hint}\n");
        }
        let rows = self.0.iter().map(|one| {
            vec![
                one.twin.clone(),
                one.path.clone(),
                one.writers.join(", "),
                time::short(one.freeze_time),
            ]
        });
        let header = ["TWIN", "PATH", "WRITERS", "SINCE"];
        table::table(paper, &header, rows.collect())
    }
}

#[derive(Serialize)]
struct Released {
    name: String,
    released: i32,
}

impl View for Released {
    fn data(&self) -> impl Serialize {
        self
    }

    fn text(&self, _: &Paper) -> String {
        let count = u64::try_from(self.released).unwrap_or(0);
        let paths = plural(count, "path", "paths");
        format!("{paths} of {} released\n", self.name)
    }
}
