//! "Did you mean": the known name that is most like a misspelled one.

/// How far a name may be from the one that was meant: one slip in a short name, two in a longer.
fn slips_allowed(name: &str) -> usize {
    const SHORT_CHARS: usize = 6;
    if name.chars().count() < SHORT_CHARS {
        1
    } else {
        2
    }
}

/// The nearest of the known names, if one is near enough.
pub(super) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const NAME_CHARS_MAX: usize = 40;
    if name.chars().count() > NAME_CHARS_MAX {
        return None;
    }
    let letters = |text: &str| -> Vec<char> { text.to_lowercase().chars().collect() };
    let wanted = letters(name);
    let distances = known
        .into_iter()
        .map(|candidate| (slips(&wanted, &letters(candidate)), candidate));
    let (slips, candidate) = distances.min_by_key(|(slips, _)| *slips)?;
    (slips <= slips_allowed(name)).then_some(candidate)
}

/// Letters inserted, left out, mistaken or swapped with their neighbour.
fn slips(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in b.iter().enumerate() {
            let mistaken = last[j] + usize::from(letter != other);
            let mut fewest = mistaken.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && letter == &b[j - 1] && other == &a[i - 1] {
                fewest = fewest.min(before_last[j - 1] + 1);
            }
            row.push(fewest);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_or_two_find_the_name_that_was_meant() {
        let known = ["deviceId", "tags", "status", "STARTSWITH"];
        for (name, meant) in [
            ("devcieId", Some("deviceId")),
            ("DEVICE_ID", Some("deviceId")),
            ("tag", Some("tags")),
            ("statsu", Some("status")),
            ("STARTWITH", Some("STARTSWITH")),
            ("site", None),
            ("", None),
            ("tgasx", None),
        ] {
            assert_eq!(nearest(name, known), meant, "{name}");
        }
        assert_eq!(nearest(&"x".repeat(8192), known), None);
    }
}
