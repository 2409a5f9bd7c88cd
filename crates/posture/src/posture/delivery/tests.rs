use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn epoch(number: u8) -> LaneEpoch {
    LaneEpoch::from_bytes([number; 16])
}

fn admit(lane: &mut LaneDelivery, of: u8, sequences: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut new = Vec::new();
    for sequence in sequences {
        if lane.admit(epoch(of), sequence) == Admission::New {
            new.push(sequence);
        }
    }
    lane.settle();
    new
}

fn ranges(lane: &LaneDelivery) -> Vec<(u64, u64)> {
    let current = lane.current.as_ref().unwrap();
    current
        .missing_ranges
        .iter()
        .map(|range| (range.first, range.last))
        .collect()
}

#[test]
fn holes_are_kept_split_and_filled() {
    let mut lane = LaneDelivery::default();
    assert_eq!(admit(&mut lane, 1, [3]), [3]);
    assert_eq!(ranges(&lane), [(1, 2)]);
    assert_eq!(admit(&mut lane, 1, [10, 6, 6, 3]), [10, 6]);
    assert_eq!(ranges(&lane), [(1, 2), (4, 5), (7, 9)]);
    assert_eq!(lane.missing, 7);
    assert_eq!(admit(&mut lane, 1, [8, 7, 9, 4, 5]), [8, 7, 9, 4, 5]);
    assert_eq!(ranges(&lane), [(1, 2)]);
    assert_eq!(admit(&mut lane, 1, [2, 1, 1, 2]), [2, 1]);
    assert_eq!((lane.missing, lane.lost), (0, 0));
}

#[test]
fn sequence_zero_never_has_effect() {
    let mut lane = LaneDelivery::default();
    assert_eq!(admit(&mut lane, 1, [0, 1, 0]), [1]);
}

#[test]
fn too_many_holes_give_up_the_oldest_as_lost() {
    let mut lane = LaneDelivery::default();
    let holes = u64::try_from(limits::MISSING_RANGES_MAX).unwrap() + 3;
    admit(&mut lane, 1, (1..=holes).map(|hole| hole * 10));
    assert_eq!(ranges(&lane).len(), limits::MISSING_RANGES_MAX);
    assert_eq!(ranges(&lane)[0], (31, 39));
    assert_eq!(lane.lost, 27);
    assert_eq!(lane.missing, (holes - 3) * 9);
    assert_eq!(
        admit(&mut lane, 1, [5, 35]),
        [35],
        "what was given up stays given up"
    );
}

#[test]
fn a_new_epoch_starts_again_and_the_old_one_is_still_told_apart() {
    let mut lane = LaneDelivery::default();
    admit(&mut lane, 1, [1, 2, 5]);
    lane.dropped(epoch(1), 4);
    assert_eq!(admit(&mut lane, 2, [1, 2]), [1, 2]);
    assert_eq!(lane.current.as_ref().unwrap().epoch, epoch(2));
    assert_eq!(lane.missing, 2);

    assert_eq!(
        admit(&mut lane, 1, [2, 3, 5, 6]),
        [3, 6],
        "a late batch of the old epoch"
    );
    assert_eq!(lane.current.as_ref().unwrap().epoch, epoch(2));
    assert_eq!(admit(&mut lane, 2, [2, 3]), [3]);
    lane.dropped(epoch(2), 3);
    lane.dropped(epoch(1), 4);
    lane.dropped(epoch(2), 1);
    assert_eq!(lane.dropped_by_agent, 7);
}

#[test]
fn a_forgotten_epoch_counts_its_holes_as_lost() {
    let mut lane = LaneDelivery::default();
    admit(&mut lane, 0, [4]);
    let kept = u8::try_from(limits::PREVIOUS_EPOCHS_MAX).unwrap();
    for number in 1..=kept {
        admit(&mut lane, number, [1]);
    }
    assert_eq!((lane.missing, lane.lost), (3, 0));
    admit(&mut lane, kept + 1, [1]);
    assert_eq!((lane.missing, lane.lost), (0, 3));
    assert_eq!(lane.previous_epochs.len(), limits::PREVIOUS_EPOCHS_MAX);
}

#[test]
fn the_largest_sequence_is_no_trouble() {
    let mut lane = LaneDelivery::default();
    assert_eq!(admit(&mut lane, 1, [u64::MAX, 1, u64::MAX]), [u64::MAX, 1]);
    assert_eq!(lane.missing, u64::MAX - 2);
}

proptest! {
    /// Against a plain set: a sequence is new exactly once, and what is missing is what the set lacks.
    #[test]
    fn admission_agrees_with_a_set(sequences in proptest::collection::vec(1_u64..60, 0..200)) {
        let mut lane = LaneDelivery::default();
        let mut seen = BTreeSet::new();
        for sequence in sequences {
            let new = lane.admit(epoch(1), sequence) == Admission::New;
            prop_assert_eq!(new, seen.insert(sequence));
            lane.settle();
        }
        // Up to 60 sequences have at most 30 holes: none is ever given up.
        prop_assert_eq!(lane.lost, 0);
        let missing: Vec<u64> = lane
            .current
            .iter()
            .flat_map(|current| &current.missing_ranges)
            .flat_map(|range| range.first..=range.last)
            .collect();
        let last = seen.last().copied().unwrap_or_default();
        let expected: Vec<u64> = (1..last).filter(|sequence| !seen.contains(sequence)).collect();
        prop_assert_eq!(lane.missing, u64::try_from(expected.len()).unwrap());
        prop_assert_eq!(missing, expected);
    }

    /// Whatever comes, everything up to the highest sequence is received, missing or lost.
    #[test]
    fn every_sequence_is_accounted_for(
        arrivals in proptest::collection::vec((0_u8..3, 1_u64..2_000), 1..400),
    ) {
        let mut lane = LaneDelivery::default();
        let mut new = 0;
        let mut highest = [0_u64; 3];
        for (of, sequence) in arrivals {
            new += u64::from(lane.admit(epoch(of), sequence) == Admission::New);
            highest[usize::from(of)] = highest[usize::from(of)].max(sequence);
            let lost = lane.lost;
            lane.settle();
            prop_assert!(lane.lost >= lost);
        }
        prop_assert_eq!(new + lane.missing + lane.lost, highest.iter().sum::<u64>());
    }
}
