//! The id of a DTDL model, as devices of IoT Plug and Play announce it when they connect.

/// Characters of a model's id (DTDL 3).
pub const MODEL_ID_MAX: usize = 2048;

/// Whether a text is the id of a model: `dtmi:com:example:Thermostat;1`. What the parts of the path
/// may be made of is checked, not that a version follows: DTDL 3 lets it be absent.
pub fn is_model_id(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("dtmi:") else {
        return false;
    };
    let (path, version) = match rest.split_once(';') {
        Some((path, version)) => (path, Some(version)),
        None => (rest, None),
    };
    text.len() <= MODEL_ID_MAX && path.split(':').all(is_segment) && version.is_none_or(is_version)
}

/// Letters, digits and underscores; the first is no digit, the last no underscore.
fn is_segment(text: &str) -> bool {
    let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().all(of_a_name)
        && text.starts_with(|first: char| !first.is_ascii_digit())
        && text.ends_with(|last: char| last != '_')
}

/// One number, or two with a dot between.
fn is_version(text: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((major, minor)) => number(major) && number(minor),
        None => number(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_models_are_told_from_other_texts() {
        for good in [
            "dtmi:com:example:Thermostat;1",
            "dtmi:azure:iot:a_b2;12",
            "dtmi:x:_y;1.2",
            "dtmi:x",
        ] {
            assert!(is_model_id(good), "{good}");
        }
        let long = format!("dtmi:{};1", "a".repeat(MODEL_ID_MAX));
        for bad in [
            "",
            "dtmi:",
            "dtmi::a;1",
            "dtmi:a:;1",
            "dtmi:1a;1",
            "dtmi:a_;1",
            "dtmi:a;",
            "dtmi:a;x",
            "dtmi:a;1.",
            "dtmi:a b;1",
            "com:example;1",
            "dtmi:\u{e4};1",
            &long,
        ] {
            assert!(!is_model_id(bad), "{bad}");
        }
    }
}
