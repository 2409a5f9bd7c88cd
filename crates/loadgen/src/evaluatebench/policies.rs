//! The policies that are measured: simple conditions over tags, what is reported and postures, of the
//! kinds that people write. Each sets leaves of its own on few of the twins, so that some one in twenty
//! has settings of policies.

use anyhow::Result;
use policy::policy_doc::{Policy, PolicyId, PolicySpec};
use serde_json::json;

/// So many policies, by turns of five kinds.
pub(crate) fn all(count: u32) -> Result<Vec<Policy>> {
    (0..count).map(one).collect()
}

fn one(number: u32) -> Result<Policy> {
    let team = format!("tags.owner = 'team-{number:03}@example.com'");
    let (target, when) = match number % 5 {
        // Of the twins 1 in 300.
        0 => (team, String::new()),
        // 1 in 2 of a site.
        1 => (
            format!("tags.site = 'site-{number:04}' AND tags.env = 'prod'"),
            String::new(),
        ),
        // 1 in 900.
        2 => (
            format!("reported.fw.version = '1.{}.{}'", number % 9, number % 100),
            String::new(),
        ),
        // 1 in 500 of a third.
        3 => (
            "tags.location.region = 'EU' AND tags.ring = 'canary'".to_owned(),
            format!(
                "reported.fw.channel = 'stable' AND tags.floor = {}",
                number % 12
            ),
        ),
        // 1 in 1000, by what devices were seen to do.
        _ => (
            "tags.env = 'test'".to_owned(),
            "EXISTS(p IN posture.listeningPorts WHERE p.protocol = 'tcp' AND p.port = 23)"
                .to_owned(),
        ),
    };
    let id = format!("bench-{number:03}");
    let spec = PolicySpec {
        scope: policy::policy_doc::Scope::Devices,
        target,
        when,
        priority: i32::try_from(number)?,
        settings: json!({ "bench": { id.as_str(): { "level": "info", "seconds": number } } })
            .as_object()
            .cloned()
            .unwrap_or_default(),
        id,
        ..PolicySpec::default()
    };
    Policy::check(spec).map_err(|problems| anyhow::anyhow!("{problems}"))
}

/// The name of a policy as writers have it, to look for.
pub(crate) fn name(id: &PolicyId) -> String {
    format!("policies/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_may_be_are_good() {
        let all = all(100).unwrap();
        assert_eq!(all.len(), 100);
    }
}
