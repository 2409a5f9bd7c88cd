//! `twinward store reseal`: page after page of identities and then of enrolments, until no key is under a
//! former master key.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use wire::registry::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::progress::Progress;
use crate::output::{Output, Paper, View, plural};
use crate::patience;

/// Identities and enrolments that no known master key opens that are named; the rest is counted.
const NAMED_MAX: usize = 20;

/// Arguments of `store reseal`.
#[derive(Debug, Args)]
#[command(
    after_help = "To change the master key: give twin-store the new one and, beside it, the former \
    one; run this;\nthen take the former one away. Stopping it and running it again is harmless.\
    \n\nExample:\n  twinward store reseal"
)]
pub(crate) struct ResealArgs {
    /// Identities, or enrolments, looked at in one call, 1 to 1000
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
    for what in [Sealed::Identities, Sealed::Enrollments] {
        let mut page_token = String::new();
        loop {
            let page = what.page(args.page_size, &page_token, connection).await?;
            let of = resealed.of(what);
            of.resealed += u64::from(page.resealed);
            of.current += u64::from(page.current);
            of.failed += u64::try_from(page.failed.len()).unwrap_or(u64::MAX);
            let room = NAMED_MAX - failed.len().min(NAMED_MAX);
            failed.extend(page.failed.into_iter().take(room));
            let (anew, looked_at) = (resealed.anew(), resealed.looked_at());
            progress.at(looked_at, None, &format!("{anew} resealed"));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    drop(progress);
    output.show(&resealed)?;
    if failed.is_empty() {
        return Ok(());
    }
    let count = resealed.identities.failed + resealed.enrollments.failed;
    let count = plural(count, "identity or enrolment", "identities and enrolments");
    let mut failure = Failure::new(
        Kind::Failed,
        format!("the keys of {count} open under no known master key"),
    );
    for name in failed {
        failure = failure.detail(name);
    }
    Err(failure.advise(
        "keep the former master key; `twinward device rotate-keys` makes keys that are lost anew, \
         and an enrolment is created again",
    ))
}

/// What has keys that are sealed.
#[derive(Debug, Clone, Copy)]
enum Sealed {
    Identities,
    Enrollments,
}

impl Sealed {
    async fn page(
        self,
        page_size: i32,
        page_token: &str,
        connection: &Connection,
    ) -> Result<api::ResealSecretsResponse, Failure> {
        patience::call(connection, "cannot reseal the keys", async || match self {
            Sealed::Identities => {
                let request = api::ResealSecretsRequest {
                    page_size,
                    page_token: page_token.to_owned(),
                    ..Default::default()
                };
                let answer = connection.registry()?.reseal_secrets(request).await;
                answer.map_err(Into::into)
            }
            Sealed::Enrollments => {
                let request = api::ResealEnrollmentsRequest {
                    page_size,
                    page_token: page_token.to_owned(),
                };
                let answer = connection.enrollments()?.reseal_enrollments(request).await;
                let page = answer?.into_inner();
                Ok(tonic::Response::new(api::ResealSecretsResponse {
                    resealed: page.resealed,
                    current: page.current,
                    failed: page.failed,
                    next_page_token: page.next_page_token,
                }))
            }
        })
        .await
    }
}

/// What was encrypted anew.
#[derive(Debug, Default, Serialize)]
struct Resealed {
    #[serde(flatten)]
    identities: Count,
    enrollments: Count,
}

#[derive(Debug, Default, Serialize)]
struct Count {
    resealed: u64,
    current: u64,
    failed: u64,
}

impl Resealed {
    fn of(&mut self, what: Sealed) -> &mut Count {
        match what {
            Sealed::Identities => &mut self.identities,
            Sealed::Enrollments => &mut self.enrollments,
        }
    }

    fn anew(&self) -> u64 {
        self.identities.resealed + self.enrollments.resealed
    }

    fn looked_at(&self) -> u64 {
        let each = [&self.identities, &self.enrollments];
        let each = each.map(|count| count.resealed + count.current + count.failed);
        each.iter().sum()
    }
}

impl View for Resealed {
    fn data(&self) -> impl Serialize {
        self
    }

    fn text(&self, _paper: &Paper) -> String {
        let mut text = format!(
            "{} encrypted anew, {} were under the present master key already\n",
            plural(self.identities.resealed, "identity", "identities"),
            self.identities.current
        );
        if self.enrollments.resealed + self.enrollments.current > 0 {
            let _ = writeln!(
                text,
                "{} encrypted anew, {} were under the present master key already",
                plural(self.enrollments.resealed, "enrolment", "enrolments"),
                self.enrollments.current
            );
        }
        text
    }
}
