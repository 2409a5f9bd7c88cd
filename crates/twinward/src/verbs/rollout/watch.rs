//! `twinward rollout watch`: one rollout as it goes on.

use std::time::Duration;

use clap::Args;
use service_kit::backoff::{Backoff, Policy};
use wire::policy::v1 as api;
use wire::policy::v1::rollout::Phase;

use super::RolloutArg;
use super::name::short;
use super::view::{self, RolloutView};
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::progress::Progress;
use crate::output::{Format, Output};

/// A rollout outlives a restart of the service, and so should who watches it: about a minute.
const AGAIN: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(5),
    budget: Some(18),
};

/// Arguments of `rollout watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    rollout: RolloutArg,
    /// How long it is followed; `decision`: no longer than until it waits for a person, paused or to be
    /// approved, which exits with 8
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Until::End)]
    until: Until,
}

/// How long a rollout is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Until {
    /// Until it has ended.
    End,
    /// Until it has ended, or goes on only when a person says so.
    Decision,
}

impl Until {
    fn is_reached(self, rollout: &api::Rollout) -> bool {
        has_ended(rollout) || self == Until::Decision && waits_for_somebody(rollout)
    }
}

/// Shows how far a rollout is until it has ended, or for as long as is asked, then what came of it.
pub(super) async fn watch(
    args: WatchArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let (name, until) = (args.rollout.rollout, args.until);
    let what = format!("cannot watch the rollout of {}", short(&name));
    let mut progress = Progress::begin("devices", None, output.format());
    let mut backoff = Backoff::new(AGAIN);
    let mut stream = None;
    let mut last: Option<api::Rollout> = None;
    loop {
        let came = match &mut stream {
            None => {
                let request = api::WatchRolloutRequest { name: name.clone() };
                let answer = connection.rollouts()?.watch_rollout(request).await;
                answer.map(|answer| {
                    stream = Some(answer.into_inner());
                    None
                })
            }
            Some(stream) => match stream.message().await {
                Ok(None) => break,
                other => other,
            },
        };
        let rollout = match came {
            Ok(None) => continue,
            Ok(Some(rollout)) => rollout,
            Err(status) => {
                let failure = connection.refused(&what, status);
                let delay = match failure.kind() {
                    Kind::Unavailable => backoff.next_delay(),
                    _ => None,
                };
                let Some(delay) = delay else {
                    return Err(failure);
                };
                stream = None;
                tokio::time::sleep(delay).await;
                continue;
            }
        };
        backoff = Backoff::new(AGAIN);
        if last.as_ref() == Some(&rollout) {
            continue;
        }
        match output.format() {
            Format::Json => output.show_next(&RolloutView(rollout.clone()))?,
            Format::Table | Format::Yaml => {
                let (done, all) = devices(&rollout);
                progress.at(done, Some(all), &view::line(&rollout));
                let moved = last.as_ref().is_none_or(|last| {
                    (last.phase, last.waves_released) != (rollout.phase, rollout.waves_released)
                });
                if moved && !has_ended(&rollout) {
                    progress.say(&view::line(&rollout));
                }
            }
        }
        let is_reached = until.is_reached(&rollout);
        last = Some(rollout);
        if is_reached {
            break;
        }
    }
    drop(progress);
    let Some(rollout) = last else { return Ok(()) };
    let verdict = view::verdict(&rollout);
    if output.format() != Format::Json {
        output.show(&RolloutView(rollout))?;
    }
    verdict.map_or(Ok(()), Err)
}

/// Nothing goes on by itself.
fn waits_for_somebody(rollout: &api::Rollout) -> bool {
    matches!(rollout.phase(), Phase::Paused | Phase::AwaitingApproval)
}

pub(super) fn has_ended(rollout: &api::Rollout) -> bool {
    matches!(
        rollout.phase(),
        Phase::Completed | Phase::RolledBack | Phase::Superseded
    )
}

/// Devices that have applied it, and all that it changes.
fn devices(rollout: &api::Rollout) -> (u64, u64) {
    let waves = &rollout.waves;
    let done = waves.iter().map(|wave| wave.twins_applied).sum();
    (done, waves.iter().map(|wave| wave.twins_planned).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_no_person_is_told_when_one_has_to_decide() {
        let all = Phase::Unspecified as i32..=Phase::Superseded as i32;
        let all: Vec<_> = all
            .map(|phase| api::Rollout {
                phase,
                ..api::Rollout::default()
            })
            .collect();
        let reached = |until: Until| {
            let those = all.iter().filter(|rollout| until.is_reached(rollout));
            those.map(api::Rollout::phase).collect::<Vec<_>>()
        };
        let ends = [Phase::Completed, Phase::RolledBack, Phase::Superseded];
        let decided = reached(Until::End);
        assert!(decided.len() == 3 && ends.iter().all(|end| decided.contains(end)));
        let mut more = reached(Until::Decision);
        more.retain(|phase| !ends.contains(phase));
        more.sort_by_key(|phase| *phase as i32);
        assert_eq!(more, [Phase::AwaitingApproval, Phase::Paused]);
    }
}
