//! What people and programs see of rollouts.

use std::fmt::Write as _;

use serde::Serialize;
use wire::policy::v1 as api;
use wire::policy::v1::rollout::Phase;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{Paper, View, plural, table, time};

/// One rollout.
pub(super) struct RolloutView(pub(super) api::Rollout);

/// A rollout as programs see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RolloutData<'a> {
    name: &'a str,
    policy: &'a str,
    revision: u64,
    from_revision: Option<u64>,
    phase: &'static str,
    phase_time: Option<String>,
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    waits_for: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    guard: &'a str,
    author: &'a str,
    approver: &'a str,
    create_time: Option<String>,
    in_step_time: Option<String>,
    counts_at_end: bool,
    etag: &'a str,
    waves_released: u32,
    waves: Vec<WaveData>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WaveData {
    planned: u64,
    released: bool,
    begun: bool,
    applied: u64,
    pending: u64,
    rejected: u64,
    timed_out: u64,
    reverted: u64,
    offline: u64,
    lost: u64,
    left: u64,
    incomplete: u64,
    flagged: u64,
    flagged_before: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    numbers: Vec<NumberData>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NumberData {
    of: String,
    before: Option<f64>,
    now: Option<f64>,
}

fn data(rollout: &api::Rollout) -> RolloutData<'_> {
    let wave = |wave: &api::RolloutWave| WaveData {
        planned: wave.twins_planned,
        released: wave.released,
        begun: wave.begun,
        applied: wave.twins_applied,
        pending: wave.twins_pending,
        rejected: wave.twins_rejected,
        timed_out: wave.twins_timed_out,
        reverted: wave.twins_reverted,
        offline: wave.twins_offline,
        lost: wave.twins_lost,
        left: wave.twins_left,
        incomplete: wave.twins_incomplete,
        flagged: wave.twins_flagged,
        flagged_before: wave.twins_flagged_before,
        numbers: wave
            .numbers
            .iter()
            .map(|number| NumberData {
                of: number.of.clone(),
                before: number.before,
                now: number.now,
            })
            .collect(),
    };
    RolloutData {
        name: &rollout.name,
        policy: &rollout.policy_id,
        revision: rollout.revision,
        from_revision: Some(rollout.from_revision).filter(|revision| *revision > 0),
        phase: phase(rollout.phase()),
        phase_time: time::precise(rollout.phase_time),
        reason: &rollout.reason,
        waits_for: &rollout.waits_for,
        guard: &rollout.guard,
        author: &rollout.author,
        approver: &rollout.approver,
        create_time: time::precise(rollout.create_time),
        in_step_time: time::precise(rollout.in_step_time),
        counts_at_end: rollout.counts_at_end,
        etag: &rollout.etag,
        waves_released: rollout.waves_released,
        waves: rollout.waves.iter().map(wave).collect(),
    }
}

/// Where it stands.
pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "unknown",
        Phase::Planning => "planning",
        Phase::AwaitingApproval => "awaiting-approval",
        Phase::Rolling => "rolling",
        Phase::Soaking => "soaking",
        Phase::Paused => "paused",
        Phase::Completed => "completed",
        Phase::RolledBack => "rolled-back",
        Phase::Superseded => "superseded",
    }
}

/// How far it is, or how far it went, in a few words.
pub(super) fn waves(rollout: &api::Rollout) -> String {
    let begun = rollout.waves.iter().filter(|wave| has_begun(wave)).count();
    match rollout.waves.len() {
        0 => String::new(),
        all => format!("{begun}/{all}"),
    }
}

/// A service from before it told `begun` tells only of those that have the revision now.
fn has_begun(wave: &api::RolloutWave) -> bool {
    wave.begun || wave.released
}

/// Why an ended rollout does not count as done; none when it does.
pub(super) fn verdict(rollout: &api::Rollout) -> Option<Failure> {
    let (kind, what) = match rollout.phase() {
        Phase::Completed => return None,
        Phase::RolledBack => (Kind::Failed, "was taken back"),
        Phase::Superseded => (Kind::Failed, "was superseded"),
        Phase::AwaitingApproval => (Kind::Precondition, "awaits approval"),
        Phase::Paused => (Kind::Precondition, "is paused"),
        Phase::Unspecified | Phase::Planning | Phase::Rolling | Phase::Soaking => {
            (Kind::Failed, "has not ended")
        }
    };
    let (policy, revision) = (&rollout.policy_id, rollout.revision);
    let message = format!("the rollout of revision {revision} of policy {policy} {what}");
    Some(Failure::new(kind, message).because(&rollout.reason))
}

/// The wave's devices as a line of a table.
fn row(number: usize, wave: &api::RolloutWave, (counted, ended): (bool, bool)) -> Vec<String> {
    let count = |count: u64| {
        if has_begun(wave) && counted {
            count.to_string()
        } else {
            String::new()
        }
    };
    let state = match (wave.released, has_begun(wave), ended) {
        (true, _, _) => "released",
        (false, true, _) => "taken back",
        (false, false, true) => "never begun",
        (false, false, false) => "waits",
    };
    vec![
        (number + 1).to_string(),
        state.to_owned(),
        wave.twins_planned.to_string(),
        count(wave.twins_applied),
        count(wave.twins_pending),
        count(wave.twins_rejected),
        count(wave.twins_timed_out),
        count(wave.twins_reverted),
        count(wave.twins_offline),
        count(wave.twins_flagged),
    ]
}

impl View for RolloutView {
    fn data(&self) -> impl Serialize {
        data(&self.0)
    }

    fn text(&self, paper: &Paper) -> String {
        let rollout = &self.0;
        let at = |at: Option<prost_types::Timestamp>| match time::short(at) {
            text if text.is_empty() => text,
            text => format!("{text}, {} ago", time::age(paper.now, at)),
        };
        let from = match rollout.from_revision {
            0 => String::new(),
            from => format!(" (before: {from})"),
        };
        let mut text = table::pairs(
            paper,
            vec![
                ("policy", rollout.policy_id.clone()),
                ("revision", format!("{}{from}", rollout.revision)),
                ("phase", phase(rollout.phase()).to_owned()),
                ("since", at(rollout.phase_time)),
                ("reason", rollout.reason.clone()),
                ("waits", rollout.waits_for.clone()),
                ("by guard", rollout.guard.clone()),
                ("by", rollout.author.clone()),
                ("approved by", rollout.approver.clone()),
                ("begun", at(rollout.create_time)),
            ],
        );
        if !rollout.waves.is_empty() {
            let counted = rollout.in_step_time.is_some() || rollout.counts_at_end;
            let how = (counted, super::watch::has_ended(rollout));
            let rows = rollout.waves.iter().enumerate();
            let rows = rows.map(|(number, wave)| row(number, wave, how));
            text.push('\n');
            text.push_str(&table::table(
                paper,
                &[
                    "WAVE",
                    "STATE",
                    "TWINS",
                    "APPLIED",
                    "PENDING",
                    "REJECTED",
                    "TIMED OUT",
                    "REVERTED",
                    "OFFLINE",
                    "FLAGGED",
                ],
                rows.collect(),
            ));
            text.push_str(&unusual(rollout));
            text.push_str(&numbers(rollout));
            if rollout.counts_at_end {
                text.push_str("\nThe counts are those of the moment at which it ended.\n");
            }
        }
        text
    }
}

/// What of the waves is seldom seen, a line for each wave in which it is.
fn unusual(rollout: &api::Rollout) -> String {
    let mut text = String::new();
    for (index, wave) in rollout.waves.iter().enumerate() {
        let counts = [
            (wave.twins_lost, "gone since they applied it"),
            (
                wave.twins_left,
                "without it, as it is not for them any more",
            ),
            (
                wave.twins_incomplete,
                "without what they had, as they lack what its templates name",
            ),
        ];
        let told = counts.iter().filter(|(count, _)| *count > 0);
        let told: Vec<String> = told
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if !told.is_empty() {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "wave {}: {}", index + 1, told.join(", "));
        }
    }
    text
}

/// What the numbers of the waves that have begun are, a line for each.
fn numbers(rollout: &api::Rollout) -> String {
    let mut text = String::new();
    let begun = rollout.waves.iter().enumerate();
    for (index, wave) in begun.filter(|(_, wave)| has_begun(wave)) {
        for number in &wave.numbers {
            let mean = |mean: Option<f64>| mean.map_or("-".to_owned(), |mean| format!("{mean:.3}"));
            // Writing into a String cannot fail.
            let _ = writeln!(
                text,
                "wave {}: the mean of {} was {} and is {}",
                index + 1,
                number.of,
                mean(number.before),
                mean(number.now)
            );
        }
    }
    text
}

/// Several rollouts.
pub(super) struct RolloutsView(pub(super) Vec<api::Rollout>);

impl View for RolloutsView {
    fn data(&self) -> impl Serialize {
        self.0.iter().map(data).collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            return "no rollouts; a policy with `rollout:` begins one with each revision\n"
                .to_owned();
        }
        let rows = self.0.iter().map(|rollout| {
            vec![
                rollout.policy_id.clone(),
                rollout.revision.to_string(),
                phase(rollout.phase()).to_owned(),
                waves(rollout),
                time::age(paper.now, rollout.create_time),
                rollout.author.clone(),
                rollout.reason.clone(),
            ]
        });
        table::table(
            paper,
            &[
                "POLICY", "REVISION", "PHASE", "WAVES", "AGE", "BY", "REASON",
            ],
            rows.collect(),
        )
    }
}

/// What is to be seen of the last wave that has begun, on one line.
pub(super) fn line(rollout: &api::Rollout) -> String {
    let mut words = vec![phase(rollout.phase()).to_owned()];
    let released = usize::try_from(rollout.waves_released).unwrap_or(usize::MAX);
    if let Some(wave) = released
        .checked_sub(1)
        .and_then(|last| rollout.waves.get(last))
    {
        words.push(format!("wave {} of {}", released, rollout.waves.len()));
        if rollout.in_step_time.is_some() {
            let all = wave.twins_applied
                + wave.twins_pending
                + wave.twins_rejected
                + wave.twins_timed_out
                + wave.twins_reverted
                + wave.twins_lost
                + wave.twins_left
                + wave.twins_incomplete;
            words.push(format!(
                "{} of {} applied",
                wave.twins_applied,
                plural(all, "device", "devices")
            ));
            for (count, what) in [
                (wave.twins_pending, "pending"),
                (wave.twins_rejected, "rejected"),
                (wave.twins_timed_out, "timed out"),
                (wave.twins_reverted, "reverted"),
                (wave.twins_offline, "offline"),
                (wave.twins_lost, "lost"),
                (wave.twins_left, "left"),
                (wave.twins_incomplete, "incomplete"),
                (wave.twins_flagged, "flagged"),
            ] {
                if count > 0 {
                    words.push(format!("{count} {what}"));
                }
            }
        }
    }
    if !rollout.reason.is_empty() {
        words.push(rollout.reason.clone());
    }
    if !rollout.waits_for.is_empty() {
        words.push(format!("waits: {}", rollout.waits_for));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests;
