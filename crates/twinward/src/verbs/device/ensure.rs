//! `twinward device ensure-security-modules`: page after page, until every device was looked at.

use clap::Args;
use serde::Serialize;
use wire::registry::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::progress::Progress;
use crate::output::{Output, Paper, View, plural};
use crate::patience;

/// Devices on which it failed that are named; the rest is counted.
const FAILED_MAX: usize = 20;

/// Arguments of `device ensure-security-modules`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  twinward device ensure-security-modules")]
pub(crate) struct EnsureArgs {
    /// Devices looked at in one call, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=1000))]
    page_size: i32,
}

/// Does what was asked for.
pub(super) async fn run(
    args: &EnsureArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let total = total(connection).await;
    let mut progress = Progress::begin("looking at devices", total, output.format());
    let mut ensured = Ensured::default();
    let mut failed = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = patience::call(connection, "cannot create security modules", async || {
            let request = api::EnsureSecurityModulesRequest {
                page_size: args.page_size,
                page_token: page_token.clone(),
                ..Default::default()
            };
            connection
                .registry()?
                .ensure_security_modules(request)
                .await
                .map_err(Into::into)
        })
        .await?;
        ensured.created += u64::from(page.created);
        ensured.existing += u64::from(page.existing);
        ensured.failed += u64::try_from(page.failed.len()).unwrap_or(u64::MAX);
        let damaged = page.damaged.into_iter();
        let damaged: Vec<_> = damaged.map(unreadable).collect();
        ensured.failed += u64::try_from(damaged.len()).unwrap_or(u64::MAX);
        failed.extend(
            page.failed
                .into_iter()
                .chain(damaged)
                .take(FAILED_MAX - failed.len().min(FAILED_MAX)),
        );
        progress.at(
            ensured.looked_at(),
            total,
            &format!("{} created", ensured.created),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    drop(progress);
    output.show(&ensured)?;
    if failed.is_empty() {
        return Ok(());
    }
    let count = plural(ensured.failed, "device", "devices");
    let mut failure = Failure::new(
        Kind::Failed,
        format!("the security module could not be created on {count}"),
    );
    for result in failed {
        let error = result.error.unwrap_or_default();
        failure = failure.detail(format!("{}: {}", result.name, error.message));
    }
    Err(failure)
}

/// The result of a device that was left alone because what is stored of it is damaged.
fn unreadable(name: String) -> api::BatchDeviceResult {
    api::BatchDeviceResult {
        name,
        error: Some(api::BatchError {
            message: "what is stored of it is damaged".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// How many devices there are, for the progress alone: none if nobody can tell.
pub(crate) async fn total(connection: &Connection) -> Option<u64> {
    let mut registry = connection.registry().ok()?;
    let request = api::GetRegistryStatisticsRequest {};
    let answer = registry.get_registry_statistics(request).await.ok()?;
    Some(answer.into_inner().devices)
}

/// What was made.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ensured {
    created: u64,
    existing: u64,
    failed: u64,
}

impl Ensured {
    fn looked_at(&self) -> u64 {
        self.created + self.existing + self.failed
    }
}

impl View for Ensured {
    fn data(&self) -> impl Serialize {
        self
    }

    fn text(&self, _paper: &Paper) -> String {
        format!(
            "{} looked at: {} created, {} had theirs\n",
            plural(self.looked_at(), "device", "devices"),
            plural(self.created, "security module", "security modules"),
            self.existing
        )
    }
}
