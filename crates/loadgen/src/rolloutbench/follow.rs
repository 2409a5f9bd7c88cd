//! Follows a rollout to its end, and says when what was.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use wire::policy::v1::rollout::Phase;
use wire::policy::v1::{Rollout, RolloutWave};

use crate::api::Api;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A rollout that has ended.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Its end.
    pub(crate) rollout: Rollout,
    /// From the call that applied the revision until its waves were planned.
    pub(crate) planned: Duration,
    /// For each wave that began: when, from that call, and its counts as they were last seen in step.
    pub(crate) waves: Vec<(Duration, RolloutWave)>,
    /// From that call to the end.
    pub(crate) ended: Duration,
}

/// Follows the rollout in force from `began`, when its revision was applied.
pub(crate) async fn follow(api: &Api, began: Instant, within: Duration) -> Result<Followed> {
    let mut planned = None;
    let mut waves: Vec<(Duration, RolloutWave)> = Vec::new();
    loop {
        let rollout = api.rollout().await?;
        let now = began.elapsed();
        if planned.is_none() && !rollout.waves.is_empty() {
            planned = Some(now);
        }
        let in_step = rollout.in_step_time.is_some();
        for (index, wave) in rollout.waves.iter().enumerate() {
            if !wave.released {
                continue;
            }
            match waves.get_mut(index) {
                None => waves.push((now, wave.clone())),
                Some((_, seen)) if in_step => *seen = wave.clone(),
                Some(_) => {}
            }
        }
        match rollout.phase() {
            Phase::Completed | Phase::RolledBack => {
                return Ok(Followed {
                    rollout,
                    planned: planned.unwrap_or(now),
                    waves,
                    ended: now,
                });
            }
            Phase::Planning | Phase::Rolling | Phase::Soaking => {}
            other => ensure!(false, "the rollout is {other:?}: {}", rollout.reason),
        }
        ensure!(
            now < within,
            "the rollout has not ended within {within:?}: {rollout:#?}"
        );
        sleep(LOOK).await;
    }
}

impl Followed {
    /// Twins of the waves that began.
    pub(crate) fn released(&self) -> u64 {
        let began = self.rollout.waves.iter().take(self.waves.len());
        began.map(|wave| wave.twins_planned).sum()
    }

    /// For the report.
    pub(crate) fn json(&self) -> Value {
        let seconds = |time: &Duration| time.as_secs_f64();
        let ends = self.waves.iter().skip(1).map(|(began, _)| *began);
        let waves = self.waves.iter().zip(ends.chain([self.ended]));
        let waves: Vec<Value> = waves
            .map(|((began, wave), ended)| {
                json!({
                    "twins": wave.twins_planned,
                    "seconds": seconds(&ended.saturating_sub(*began)),
                    "applied": wave.twins_applied,
                    "rejected": wave.twins_rejected,
                    "pending": wave.twins_pending,
                    "offline": wave.twins_offline,
                })
            })
            .collect();
        json!({
            "phase": self.rollout.phase().as_str_name(),
            "reason": self.rollout.reason,
            "plannedSeconds": seconds(&self.planned),
            "seconds": seconds(&self.ended),
            "waves": waves,
        })
    }
}
