//! Cuts text that came from outside before it goes into a log line, an answer or a reject.

/// Cuts `text` to at most `bytes_max` bytes at a character boundary, and shows that it was cut.
pub(crate) fn shorten(mut text: String, bytes_max: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= bytes_max {
        return text;
    }
    let mut end = bytes_max.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(MARK);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character_and_never_grows() {
        assert_eq!(shorten("short".to_owned(), 5), "short");
        assert_eq!(shorten("longer".to_owned(), 5), "lo…");
        assert_eq!(shorten("ééééé".to_owned(), 6), "é…");
    }
}
