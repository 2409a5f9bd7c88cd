//! What an undo would come to, twin by twin, as the twins are now. The very decisions of an undo are
//! made on an overlay that nobody commits, so that what is foreseen is what would be done.

use std::sync::Arc;

use jiff::Timestamp;
use twin::{IdentityKey, PartitionCount};

use super::decide::{Step, carry_out};
use super::{Operation, Outcome, TwinResult, Work};
use crate::apply::{Numbers, Overlay};
use crate::search::Turn;
use crate::store::{self, Store};

/// Results looked at at once.
const CHUNK: u32 = 64;

/// Of an undo that was never begun, what would become of the twins of some results.
pub(crate) struct Foreseen {
    /// The undo, with the numbers of this part.
    pub(crate) undo: Operation,
    /// The last result that was looked at, if there may be more.
    pub(crate) next: Option<IdentityKey>,
}

/// Counts what would become of each twin of the results behind `after`, at most `limit` of them: a call ends in
/// time, however many there are.
pub(crate) async fn undo(
    store: &Arc<dyn Store>,
    count: PartitionCount,
    mut undo: Operation,
    (mut after, limit): (Option<IdentityKey>, u32),
    now: Timestamp,
) -> Result<Foreseen, store::Error> {
    let Work::Undo { of } = &undo.work else {
        debug_assert!(false, "only an undo is foreseen");
        return Ok(Foreseen { undo, next: None });
    };
    let of = of.clone();
    let heads = store.heads().await?;
    let (mut total, mut left) = (0_u64, limit);
    let mut turn = Turn::begin();
    loop {
        let page = store
            .operation_results(of.clone(), after, CHUNK.min(left))
            .await?;
        let mut undos = Vec::new();
        // What was done to a twin and cannot be read cannot be taken back.
        for _ in &page.damaged {
            undo.count(Outcome::Failed);
        }
        for row in &page.records {
            match TwinResult::from_row(row) {
                Ok(result) => {
                    if let (Outcome::Succeeded, Some(back)) = (result.outcome, result.undo) {
                        undos.push((result.key, back));
                    }
                }
                Err(_) => undo.count(Outcome::Failed),
            }
        }
        total += undos.len() as u64;
        let looked_at = page.records.len() + page.damaged.len();
        left = left.saturating_sub(u32::try_from(looked_at).unwrap_or(u32::MAX));
        let step = Step::TakeBack(undos);
        let loaded = store.load(step.selections()).await?;
        let mut overlay = Overlay::new(loaded, Numbers::new(count, heads.clone()), now);
        for result in carry_out(&mut overlay, &undo, &step, now) {
            undo.count(result.outcome);
        }
        turn.share().await;
        after = page.next;
        if after.is_none() || left == 0 {
            undo.total = Some(total);
            return Ok(Foreseen { undo, next: after });
        }
    }
}
