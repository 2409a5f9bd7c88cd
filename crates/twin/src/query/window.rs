//! One page of an ordered answer, found in one pass over twins in any order.

use std::collections::BinaryHeap;

use super::order::Position;
use crate::Map;

/// Keeps the first `size` rows after a position, and forgets the others as they come. It never
/// holds more than `size` rows.
#[derive(Debug)]
pub struct Window<T> {
    size: usize,
    after: Option<Position>,
    /// The last of the kept rows on top.
    kept: BinaryHeap<Kept<T>>,
    more: bool,
}

/// Some rows of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<P, T = Map> {
    /// The rows in their order, each with its place.
    pub rows: Vec<(P, T)>,
    /// Whether others follow.
    pub more: bool,
}

#[derive(Debug)]
struct Kept<T> {
    position: Position,
    row: T,
}

impl<T> Window<T> {
    /// The first `size` rows after a position, or from the beginning.
    pub fn new(size: usize, after: Option<Position>) -> Window<T> {
        Window {
            size,
            after,
            kept: BinaryHeap::new(),
            more: false,
        }
    }

    /// Whether a row at this place would be kept, as far as is known yet. Ask before making a row
    /// that is costly to make. A row that comes after the page is remembered as following it.
    pub fn wants(&mut self, position: &Position) -> bool {
        if self.after.as_ref().is_some_and(|after| position <= after) {
            return false;
        }
        if self.kept.len() < self.size {
            return true;
        }
        // With one row more than fits, one will be left out, whichever it is.
        self.more = true;
        self.kept
            .peek()
            .is_some_and(|last| *position < last.position)
    }

    /// Takes a row, if it belongs into the page.
    pub fn offer(&mut self, position: Position, row: T) {
        if !self.wants(&position) {
            return;
        }
        if self.kept.len() == self.size {
            self.kept.pop();
        }
        self.kept.push(Kept { position, row });
    }

    /// The page, once every row was offered.
    pub fn into_page(self) -> Page<Position, T> {
        let rows = self.kept.into_sorted_vec().into_iter();
        Page {
            rows: rows.map(|kept| (kept.position, kept.row)).collect(),
            more: self.more,
        }
    }
}

impl<T> Ord for Kept<T> {
    fn cmp(&self, other: &Kept<T>) -> std::cmp::Ordering {
        self.position.cmp(&other.position)
    }
}

impl<T> PartialOrd for Kept<T> {
    fn partial_cmp(&self, other: &Kept<T>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Kept<T>) -> bool {
        self.position == other.position
    }
}

impl<T> Eq for Kept<T> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::order::{Direction, SortValue};
    use super::*;
    use crate::id::IdentityKey;

    fn position((value, direction): (i32, Direction), device: usize) -> Position {
        let identity = IdentityKey::parse_path(&format!("d{device:03}")).unwrap();
        Position::new(
            vec![(SortValue::Number(f64::from(value)), direction)],
            identity,
        )
    }

    proptest! {
        #[test]
        fn page_after_page_gives_every_row_once_in_order(
            values in prop::collection::vec(0..5_i32, 0..40),
            size in 1..9_usize,
            down: bool,
        ) {
            let direction = if down { Direction::Descending } else { Direction::Ascending };
            let rows: Vec<_> = values
                .iter()
                .enumerate()
                .map(|(device, value)| (position((*value, direction), device), device))
                .collect();
            let mut expected = rows.clone();
            expected.sort();
            let (mut seen, mut after, mut more) = (Vec::new(), None, true);
            while more {
                let mut window = Window::new(size, after.clone());
                for (position, row) in &rows {
                    window.offer(position.clone(), *row);
                    prop_assert!(window.kept.len() <= size);
                }
                let page = window.into_page();
                more = page.more;
                prop_assert_eq!(more, seen.len() + page.rows.len() < expected.len());
                prop_assert!(page.rows.len() == size || !more);
                after = page.rows.last().map(|(position, _)| position.clone());
                seen.extend(page.rows);
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
