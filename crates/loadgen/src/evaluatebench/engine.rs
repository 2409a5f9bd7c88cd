//! The evaluation alone, on one thread: twins as twin-store sends them, in memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jiff::Timestamp;
use loadgen::twins::{Template, device_id};
use policy::assess::{Assessment, Assessor};
use policy::policy_doc::Policy;
use serde_json::{Value, json};
use twin_store::encode;
use twin_store::record::{Record, TwinText};
use wire::twin::v1::Twin;

/// Twins that are made before they are evaluated: few enough to keep memory small.
const PORTION: u32 = 10_000;

/// What came of some twins.
#[derive(Debug, Default)]
struct Came {
    took: Duration,
    settled: u64,
    holds: u64,
    writes: u64,
    breaks: u64,
}

/// Evaluates so many twins twice: as they are, and once the policies' settings are there. The time in
/// which twins are made does not count.
pub(crate) fn run(policies: &[Policy], twins: u32, now: Timestamp) -> Result<Value> {
    let assessor = Assessor::new(policies.iter().cloned());
    let template = Template::new(now)?;
    let (mut first, mut steady) = (Came::default(), Came::default());
    let mut bytes = 0;
    for start in (0..twins).step_by(usize::try_from(PORTION)?) {
        let numbers = start..twins.min(start.saturating_add(PORTION));
        let mut records: Vec<Record> = numbers
            .map(|number| template.record(&device_id(number), number, twins))
            .collect::<Result<_>>()?;
        let messages = print(&records)?;
        bytes += messages
            .iter()
            .map(prost::Message::encoded_len)
            .sum::<usize>();
        let wanted = evaluate(&assessor, &messages, now, &mut first)?;
        for (index, assessment) in wanted {
            if let Some(record) = records.get_mut(index) {
                *record = carried_out(record, assessment, now)?;
            }
        }
        let left = evaluate(&assessor, &print(&records)?, now, &mut steady)?;
        ensure!(left.is_empty(), "{} twins do not come to rest", left.len());
        eprint!("\r{} of {twins} ", start.saturating_add(PORTION).min(twins));
    }
    eprintln!();
    let count = u64::from(twins);
    ensure!(first.breaks + steady.breaks == 0, "settings break limits");
    Ok(json!({
        "twins": twins,
        "policies": policies.len(),
        "bytesPerTwin": bytes / usize::try_from(twins.max(1))?,
        "first": told(&first, count),
        "steady": told(&steady, count),
    }))
}

/// The record once a decision was carried out, as twin-store does it.
pub(crate) fn carried_out(
    record: &Record,
    assessment: Assessment,
    now: Timestamp,
) -> Result<Record> {
    let Assessment::Write {
        writes,
        configurations,
    } = assessment
    else {
        return Ok(record.clone());
    };
    let mut record = Record {
        configurations,
        ..record.clone()
    };
    if let Some(writes) = writes {
        let twin = record.twin.parse(&record.key)?;
        if let Some(write) = twin.apply_policies(&writes, now, None)?.write {
            record.twin = TwinText::print(&write.twin);
        }
    }
    Ok(record)
}

fn print(records: &[Record]) -> Result<Vec<Twin>> {
    let all: Result<_, _> = records.iter().map(encode::twin).collect();
    Ok(all?)
}

/// Evaluates, and answers what is to be written, with the places.
fn evaluate(
    assessor: &Assessor,
    twins: &[Twin],
    now: Timestamp,
    came: &mut Came,
) -> Result<Vec<(usize, Assessment)>> {
    let mut wanted = Vec::new();
    let began = Instant::now();
    for (index, twin) in twins.iter().enumerate() {
        match assessor.assess(twin, now)? {
            Assessment::Settled => came.settled += 1,
            Assessment::Holds => came.holds += 1,
            Assessment::Breaks => came.breaks += 1,
            write @ Assessment::Write { .. } => {
                came.writes += 1;
                wanted.push((index, write));
            }
        }
    }
    came.took += began.elapsed();
    Ok(wanted)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one run are far below 2^52"
)]
fn told(came: &Came, twins: u64) -> Value {
    let seconds = came.took.as_secs_f64();
    json!({
        "seconds": seconds,
        "microsecondsPerTwin": seconds * 1e6 / twins.max(1) as f64,
        "settled": came.settled,
        "holds": came.holds,
        "writes": came.writes,
    })
}
