//! Rollouts as people name them: a policy, or a policy and its revision (`lamp@6`).

/// As people type it.
pub(super) fn short(name: &str) -> String {
    let name = name.strip_prefix("policies/").unwrap_or(name);
    match name.split_once("/rollouts/") {
        Some((policy, "-")) => policy.to_owned(),
        Some((policy, revision)) => format!("{policy}@{revision}"),
        None => name.to_owned(),
    }
}

pub(super) fn name_of_revision(text: &str) -> Result<String, String> {
    let name = name(text)?;
    if name.ends_with("/-") {
        return Err(format!(
            "names no revision; write {text}@6 for revision 6, which `twinward rollout get {text}` shows"
        ));
    }
    Ok(name)
}

pub(super) fn name(text: &str) -> Result<String, String> {
    if text.starts_with("policies/") {
        return Ok(text.to_owned());
    }
    let (policy, revision) = text.split_once('@').unwrap_or((text, "-"));
    if policy.is_empty() || policy.contains('/') {
        return Err("is no policy; `twinward rollout list` shows what is rolled out".to_owned());
    }
    if revision != "-" && revision.parse::<u64>().is_err() {
        return Err(format!("{revision:?} is no revision: a number is needed"));
    }
    Ok(format!("policies/{policy}/rollouts/{revision}"))
}
