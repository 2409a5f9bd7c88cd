//! `twinward rollout`: revisions of policies that spread wave by wave.

mod name;
mod view;
mod watch;

use clap::{Args, Subcommand};
use wire::policy::v1 as api;
use wire::policy::v1::rollout::Phase;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::Output;

use name::{name, name_of_revision, short};
use view::{RolloutView, RolloutsView};
use watch::{WatchArgs, watch};

/// The most that a page may hold.
const PAGE_MAX: u64 = 1000;

/// What can be done with rollouts.
#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// List the rollouts of the revisions in force, first those under way
    List(ListArgs),
    /// Show one rollout and what became of the devices of its waves
    #[command(
        after_help = "Examples:\n  twinward rollout get unexpected-listener\n  \
        twinward rollout get unexpected-listener@3 -o json"
    )]
    Get(RolloutArg),
    /// Follow a rollout until it has ended; exits with 1 unless it is complete
    #[command(
        after_help = "With -o json every change is a JSON object on a line of its own.\n\n\
        Examples:\n  twinward rollout watch unexpected-listener\n  \
        twinward rollout watch unexpected-listener@6 --until decision   # for pipelines, which decide nothing"
    )]
    Watch(WatchArgs),
    /// Let a rollout begin that awaits approval, as somebody else than its author
    #[command(
        after_help = "Whoever approves says which revision was looked at: a newer one may be in force by now.\n\n\
        Example:\n  twinward rollout approve unexpected-listener@6 --reason \"looked at it with Ann\""
    )]
    Approve(SeenArgs),
    /// Change nothing more until somebody decides; what has the revision keeps it
    #[command(after_help = "By the name of its policy it pauses whatever is in force by then.")]
    Pause(OrderArgs),
    /// Go on where it was paused, unless a gate still fails
    #[command(after_help = SEEN)]
    Resume(SeenArgs),
    /// Begin the next wave now, whatever the gates say
    Skip(SkipArgs),
    /// Take the revision back from every device that has it
    #[command(after_help = SEEN)]
    Abort(SeenArgs),
    /// Begin a rollout anew that was taken back
    #[command(after_help = SEEN)]
    Retry(SeenArgs),
}

/// Why some orders name a revision: what they do to another one is not what anybody meant.
const SEEN: &str = "Whoever says so names the revision that was looked at: a newer one may be in force by now.\n\n\
    Example:\n  twinward rollout abort unexpected-listener@6 --reason \"cameras restart\"";

/// Arguments of `rollout list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  twinward rollout list\n  \
    twinward rollout list --policy unexpected-listener\n  \
    twinward rollout list -o json | jq -r '.[] | select(.phase == \"paused\") | .name'\n  \
    twinward rollout list --all --limit 0")]
pub(crate) struct ListArgs {
    /// Only rollouts of this policy; it may be deleted
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Those of older revisions and deleted policies, too: in the order of the policies, the newest first
    #[arg(long)]
    all: bool,
    /// At most so many rollouts; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
}

/// One rollout.
#[derive(Debug, Args)]
pub(crate) struct RolloutArg {
    /// Policy, or POLICY@REVISION for another revision than the one in force
    #[arg(value_name = "POLICY", value_parser = name)]
    rollout: String,
}

/// What is to be done with a rollout.
#[derive(Debug, Args)]
pub(crate) struct OrderArgs {
    #[command(flatten)]
    rollout: RolloutArg,
    /// Why, for people and the audit log
    #[arg(long, value_name = "TEXT", default_value_t, hide_default_value = true)]
    reason: String,
}

/// What is to be done with a rollout of the revision that somebody has looked at.
#[derive(Debug, Args)]
pub(crate) struct SeenArgs {
    /// Policy and revision
    #[arg(value_name = "POLICY@REVISION", value_parser = name_of_revision)]
    rollout: String,
    /// Why, for people and the audit log
    #[arg(long, value_name = "TEXT", default_value_t, hide_default_value = true)]
    reason: String,
}

impl From<SeenArgs> for OrderArgs {
    fn from(SeenArgs { rollout, reason }: SeenArgs) -> OrderArgs {
        OrderArgs {
            rollout: RolloutArg { rollout },
            reason,
        }
    }
}

/// Arguments of `rollout skip`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    twinward rollout skip unexpected-listener --wave 1 --reason \"the canary is on holiday\"")]
pub(crate) struct SkipArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// The wave that is not waited for: only if it is the last that has begun, so that skipping twice by
    /// mistake skips once. If left out, the last that has begun by now
    #[arg(long, value_name = "NUMBER")]
    wave: Option<u32>,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: RolloutCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut client = connection.rollouts()?;
    // One call each, whose requests differ in type alone.
    macro_rules! order {
        ($method:ident, $request:ident, $what:literal, $args:expr $(, $field:ident: $value:expr)*) => {{
            let args: OrderArgs = $args;
            let what = format!(concat!("cannot ", $what, " {}"), short(&args.rollout.rollout));
            let request = api::$request {
                name: args.rollout.rollout,
                reason: args.reason,
                etag: String::new(),
                $($field: $value,)*
            };
            let answer = client.$method(request).await;
            let rollout = answer.map_err(|status| connection.refused(&what, status))?;
            output.show(&RolloutView(rollout.into_inner()))
        }};
    }
    match command {
        RolloutCommand::List(args) => list(&args, connection, output).await,
        RolloutCommand::Get(args) => {
            let what = format!("cannot get the rollout of {}", short(&args.rollout));
            let request = api::GetRolloutRequest { name: args.rollout };
            let answer = client.get_rollout(request).await;
            let rollout = answer.map_err(|status| connection.refused(&what, status))?;
            output.show(&RolloutView(rollout.into_inner()))
        }
        RolloutCommand::Watch(args) => watch(args, connection, output).await,
        RolloutCommand::Approve(args) => {
            order!(
                approve_rollout,
                ApproveRolloutRequest,
                "approve the rollout of",
                args.into()
            )
        }
        RolloutCommand::Pause(args) => {
            order!(
                pause_rollout,
                PauseRolloutRequest,
                "pause the rollout of",
                args
            )
        }
        RolloutCommand::Resume(args) => {
            order!(
                resume_rollout,
                ResumeRolloutRequest,
                "resume the rollout of",
                args.into()
            )
        }
        RolloutCommand::Skip(args) => {
            let mut order = args.order;
            let wave = match args.wave {
                Some(wave) => wave,
                None => last_wave(&mut order.rollout, connection).await?,
            };
            order!(skip_wave, SkipWaveRequest, "skip a wave of", order, wave: wave)
        }
        RolloutCommand::Abort(args) => {
            order!(
                abort_rollout,
                AbortRolloutRequest,
                "abort the rollout of",
                args.into()
            )
        }
        RolloutCommand::Retry(args) => {
            order!(
                retry_rollout,
                RetryRolloutRequest,
                "retry the rollout of",
                args.into()
            )
        }
    }
}

/// The last wave that has begun, and the name of just that rollout.
async fn last_wave(rollout: &mut RolloutArg, connection: &Connection) -> Result<u32, Failure> {
    let what = format!("cannot skip a wave of {}", short(&rollout.rollout));
    let request = api::GetRolloutRequest {
        name: rollout.rollout.clone(),
    };
    let answer = connection.rollouts()?.get_rollout(request).await;
    let found = answer.map_err(|status| connection.refused(&what, status))?;
    let found = found.into_inner();
    rollout.rollout = found.name;
    match found.waves_released {
        0 => {
            let failure = Failure::new(Kind::Failed, what);
            Err(failure.because("none of its waves has the revision"))
        }
        last => Ok(last),
    }
}

async fn list(args: &ListArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let parent = args.policy.as_ref();
    let parent = parent.map_or_else(String::new, |policy| format!("policies/{policy}"));
    let mut rollouts: Vec<api::Rollout> = Vec::new();
    let mut page_token = String::new();
    loop {
        let have = u64::try_from(rollouts.len()).unwrap_or(u64::MAX);
        // Those in force are few, and who is first among them is known when all are.
        let limit = if args.all { args.limit } else { 0 };
        if limit != 0 && have >= limit {
            break;
        }
        let wanted = match limit {
            0 => PAGE_MAX,
            limit => PAGE_MAX.min(limit - have),
        };
        let request = api::ListRolloutsRequest {
            parent: parent.clone(),
            page_size: i32::try_from(wanted).unwrap_or(i32::MAX),
            page_token,
            in_force_only: !args.all,
        };
        let page = connection
            .rollouts()?
            .list_rollouts(request)
            .await
            .map_err(|status| connection.refused("cannot list rollouts", status))?
            .into_inner();
        rollouts.extend(page.rollouts);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut more = !page_token.is_empty();
    if !args.all {
        rollouts.sort_by_key(urgency);
        let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
        if limit != 0 && rollouts.len() > limit {
            rollouts.truncate(limit);
            more = true;
        }
    }
    output.show(&RolloutsView(rollouts))?;
    if more {
        let limit = args.limit;
        output.note(&format!("only {limit} are shown; --limit 0 shows all"));
    }
    Ok(())
}

/// Who waits for a person comes first, then what goes on by itself, then what has ended.
fn urgency(rollout: &api::Rollout) -> u8 {
    match rollout.phase() {
        Phase::Paused | Phase::AwaitingApproval => 0,
        Phase::Planning | Phase::Rolling | Phase::Soaking | Phase::Unspecified => 1,
        Phase::RolledBack => 2,
        Phase::Completed | Phase::Superseded => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_approves_names_a_revision() {
        let name = name_of_revision("lamp@6");
        assert_eq!(name.as_deref(), Ok("policies/lamp/rollouts/6"));
        for any in ["lamp", "lamp@-", "policies/lamp/rollouts/-"] {
            let refused = name_of_revision(any).unwrap_err();
            assert!(refused.starts_with("names no revision"), "{refused}");
        }
        assert!(name_of_revision("lamp@six").is_err());
    }

    #[test]
    fn what_does_more_than_to_stop_names_the_revision_that_was_looked_at() {
        let read = |words: &[&str]| {
            let command = RolloutCommand::augment_subcommands(clap::Command::new("rollout"));
            command.try_get_matches_from([&["rollout"], words].concat())
        };
        for order in ["abort", "retry", "resume", "approve"] {
            let refused = read(&[order, "lamp"]).unwrap_err().to_string();
            assert!(refused.contains("lamp@6"), "{order}: {refused}");
            assert!(read(&[order, "lamp@6"]).is_ok(), "{order}");
        }
        assert!(read(&["pause", "lamp"]).is_ok());
    }

    #[test]
    fn what_waits_for_somebody_is_listed_first() {
        let mut all = Phase::Unspecified as i32..=Phase::Superseded as i32;
        let in_phase = |phase| api::Rollout {
            phase,
            ..api::Rollout::default()
        };
        let mut all: Vec<_> = all.by_ref().map(in_phase).collect();
        all.sort_by_key(urgency);
        let order: Vec<_> = all.iter().map(api::Rollout::phase).collect();
        assert_eq!(
            order,
            [
                Phase::AwaitingApproval,
                Phase::Paused,
                Phase::Unspecified,
                Phase::Planning,
                Phase::Rolling,
                Phase::Soaking,
                Phase::RolledBack,
                Phase::Completed,
                Phase::Superseded
            ]
        );
    }
}
