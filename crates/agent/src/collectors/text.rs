//! Cutting texts to the limits of an event. Only the agent still has the whole, so it cuts.

use posture::limits;

/// Cuts to at most `max` bytes, at a character.
pub(crate) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max)
            .rev()
            .find(|index| text.is_char_boundary(*index))
            .unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Cuts a name; an empty one is none.
pub(crate) fn name(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| cut(text.to_owned(), limits::NAME_BYTES_MAX))
}

/// Cuts a path.
pub(crate) fn path(path: &std::path::Path) -> String {
    cut(path.to_string_lossy().into_owned(), limits::PATH_BYTES_MAX)
}

/// Cuts a command line.
pub(crate) fn command_line(text: String) -> String {
    cut(text, limits::COMMAND_LINE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(cut("aéb".to_owned(), 2), "a");
        assert_eq!(cut("aéb".to_owned(), 3), "aé");
        assert_eq!(cut("aéb".to_owned(), 9), "aéb");
    }

    #[test]
    fn an_empty_name_is_none() {
        assert_eq!(name("  "), None);
        assert_eq!(name(" tty1\n"), Some("tty1".to_owned()));
    }
}
