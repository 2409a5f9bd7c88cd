//! `twinward store reseal`: page after page, until no key is under a former master key.

use clap::Args;
use serde::Serialize;
use wire::registry::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::progress::Progress;
use crate::output::{Output, Paper, View, plural};
use crate::patience;

/// Identities that no known master key opens that are named; the rest is counted.
const NAMED_MAX: usize = 20;

/// Arguments of `store reseal`.
#[derive(Debug, Args)]
#[command(
    after_help = "To change the master key: give twin-store the new one and, beside it, the former \
    one; run this;\nthen take the former one away. Stopping it and running it again is harmless.\
    \n\nExample:\n  twinward store reseal"
)]
pub(crate) struct ResealArgs {
    /// Identities looked at in one call, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=1000))]
    page_size: i32,
}

/// Does what was asked for.
pub(super) async fn run(
    args: &ResealArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut progress = Progress::begin("resealing", None, output.format());
    let mut resealed = Resealed::default();
    let mut failed = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = patience::call(connection, "cannot reseal the keys", async || {
            let request = api::ResealSecretsRequest {
                page_size: args.page_size,
                page_token: page_token.clone(),
                ..Default::default()
            };
            let answer = connection.registry()?.reseal_secrets(request).await;
            answer.map_err(Into::into)
        })
        .await?;
        resealed.resealed += u64::from(page.resealed);
        resealed.current += u64::from(page.current);
        resealed.failed += u64::try_from(page.failed.len()).unwrap_or(u64::MAX);
        failed.extend(
            page.failed
                .into_iter()
                .take(NAMED_MAX - failed.len().min(NAMED_MAX)),
        );
        let looked_at = resealed.resealed + resealed.current + resealed.failed;
        progress.at(looked_at, None, &format!("{} resealed", resealed.resealed));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    drop(progress);
    output.show(&resealed)?;
    if failed.is_empty() {
        return Ok(());
    }
    let count = plural(resealed.failed, "identity", "identities");
    let mut failure = Failure::new(
        Kind::Failed,
        format!("the keys of {count} open under no known master key"),
    );
    for name in failed {
        failure = failure.detail(name);
    }
    Err(failure.advise(
        "keep the former master key; `twinward device rotate-keys` makes keys that are lost anew",
    ))
}

/// What was encrypted anew.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    clippy::struct_field_names,
    reason = "the name that the service gives it"
)]
struct Resealed {
    resealed: u64,
    current: u64,
    failed: u64,
}

impl View for Resealed {
    fn data(&self) -> impl Serialize {
        self
    }

    fn text(&self, _paper: &Paper) -> String {
        format!(
            "{} encrypted anew, {} were under the present master key already\n",
            plural(self.resealed, "identity", "identities"),
            self.current
        )
    }
}
