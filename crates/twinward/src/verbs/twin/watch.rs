//! `twinward watch`: one line per change, until Ctrl-C. A connection that breaks is made again, and
//! the watch goes on where it was.

mod line;
mod recent;

use clap::Args;
use client::{Begin, Event, Tuning, Watch, What};
use twin::IdentityKey;

use super::get::{Field, mask};
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::identity_args::resolve;
use crate::output::Output;

use line::Seen;
use recent::{News, Recent};

/// Arguments of `watch`.
#[derive(Debug, Args)]
#[command(
    after_help = "A connection that breaks is made again, and the watch goes on behind the \
    last bookmark. With\n-o json bookmarks are printed, so that a later watch can go on from \
    there: --resume takes their\n`resumeToken`, with the same identity and filter.\n\nExamples:\n  \
    twinward watch\n  \
    twinward watch cam-1 --security\n  \
    twinward watch --filter \"tags.site = 'hall-3'\" -o json | jq .twin.posture\n  \
    twinward watch -o json --resume \"$(cat last-token)\""
)]
pub(crate) struct WatchArgs {
    /// DEVICE or DEVICE/MODULE; without it, all twins
    #[arg(value_name = "IDENTITY", value_parser = crate::identity_args::identity)]
    identity: Option<IdentityKey>,
    /// The security module of DEVICE
    #[arg(short, long, requires = "identity")]
    security: bool,
    /// Only twins for which this condition holds (IoT Hub's query language, what follows WHERE)
    #[arg(
        long,
        value_name = "CONDITION",
        default_value_t,
        hide_default_value = true
    )]
    filter: String,
    /// Leave out how things are now; begin with the first change
    #[arg(long, conflicts_with = "resume")]
    changes_only: bool,
    /// Go on behind this place: the resumeToken of a bookmark
    #[arg(long, value_name = "TOKEN")]
    resume: Option<String>,
    /// Only these parts of the twins, separated by commas
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    fields: Vec<Field>,
}

/// Does what was asked for.
pub(crate) async fn run(
    args: WatchArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args
        .identity
        .as_ref()
        .map(|identity| resolve(identity, args.security));
    let what = What {
        name: key
            .as_ref()
            .map(wire::names::identity_name)
            .unwrap_or_default(),
        filter: args.filter,
        fields: mask(&args.fields)
            .map(|mask| mask.paths)
            .unwrap_or_default(),
        changes_only: args.changes_only,
    };
    let mut watch = Watch::new(connection.twins()?, what, Tuning::default());
    if let Some(token) = &args.resume {
        watch = watch.resume(token);
    }
    let mut follower = Follower {
        connection,
        output,
        resumed: args.resume.is_some(),
        recent: Recent::default(),
        seen: Seen::new(args.fields),
        phase: Phase::Starting,
    };
    loop {
        let event = watch
            .next()
            .await
            .map_err(|error| Failure::from_remote("cannot watch twins", error.refusal()))?;
        follower.take(event, watch.token())?;
    }
}

/// Where the conversation with the service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was heard of it yet.
    Starting,
    /// It tells what happens.
    Following,
    /// The connection is lost, and the reader knows.
    Lost,
}

/// Prints what a watch tells.
struct Follower<'a> {
    connection: &'a Connection,
    output: &'a Output,
    resumed: bool,
    recent: Recent,
    seen: Seen,
    phase: Phase,
}

impl Follower<'_> {
    fn take(&mut self, event: Event, token: &str) -> Result<(), Failure> {
        match &event {
            Event::Interrupted { why, .. } => return self.lost(why, token),
            Event::Begins(begin) => self.begins(*begin),
            Event::Twin { .. }
            | Event::Deleted(_)
            | Event::Unmatched(_)
            | Event::Synced(_)
            | Event::Bookmark => {
                if self.phase == Phase::Lost {
                    self.output.note("watching again");
                }
                self.phase = Phase::Following;
            }
        }
        if self.recent.take(&event) == News::Known {
            return Ok(());
        }
        if let Some(line) = self.seen.line(event, token, self.output)? {
            self.output.show_next(&line)?;
        }
        Ok(())
    }

    /// Who never got through should learn it at once: the address or the token may be wrong.
    fn lost(&mut self, why: &str, token: &str) -> Result<(), Failure> {
        if self.phase == Phase::Starting {
            let what = "cannot watch twins";
            if self.resumed && token.is_empty() {
                return Err(Failure::new(Kind::Precondition, what)
                    .because(why)
                    .advise("leave --resume away to begin with the present state of all twins"));
            }
            return Err(self.connection.unreachable(what, why));
        }
        if self.phase == Phase::Following {
            self.output.note(&format!("{why}; trying again"));
        }
        self.phase = Phase::Lost;
        Ok(())
    }

    fn begins(&mut self, begin: Begin) {
        match begin {
            Begin::First => {}
            Begin::Interrupted | Begin::TokenTooOld | Begin::TokenRefused => self.output.note(
                "what happened meanwhile cannot be told; the watch begins anew with the present",
            ),
        }
    }
}
