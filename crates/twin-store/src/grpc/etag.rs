//! What a caller says of the etag that a change needs, in the forms that clients of IoT Hub send
//! (spec iot-hub-twins §3.4).

/// The etag that is expected; none: whatever it is.
///
/// Quotes and a `W/` before them mean nothing here. What can be no etag of ours is one that never
/// matches, the empty one in quotes included; only a field that is empty altogether is no condition.
pub(super) fn etag(text: &str) -> Option<String> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    // Base64 may itself begin with `W/`.
    let strong = match text.strip_prefix("W/") {
        Some(rest) if rest.starts_with('"') || rest == "*" => rest,
        Some(_) | None => text,
    };
    let inner = strong
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    match inner.unwrap_or(strong) {
        "*" => None,
        tag => Some(tag.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_clients_send_means_one_thing() {
        for (form, expected) in [
            ("", None),
            ("  ", None),
            ("*", None),
            ("\"*\"", None),
            ("W/\"*\"", None),
            ("W/*", None),
            ("AAAAAAAAAAE=", Some("AAAAAAAAAAE=")),
            ("\"AAAAAAAAAAE=\"", Some("AAAAAAAAAAE=")),
            (" \"AAAAAAAAAAE=\" ", Some("AAAAAAAAAAE=")),
            ("W/\"AAAAAAAAAAE=\"", Some("AAAAAAAAAAE=")),
            ("W/AAAAAAAAA=", Some("W/AAAAAAAAA=")),
            ("\"\"", Some("")),
            ("W/\"\"", Some("")),
            ("\"abc\"", Some("abc")),
            // None of ours, so they never match.
            ("\"", Some("\"")),
            ("\"abc", Some("\"abc")),
            ("**", Some("**")),
            ("\"a\", \"b\"", Some("a\", \"b")),
        ] {
            assert_eq!(etag(form).as_deref(), expected, "{form:?}");
        }
    }
}
