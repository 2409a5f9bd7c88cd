//! Notices settings that go back and forth, and has policies leave them alone.

use jiff::Timestamp;
use serde_json::Value;
use service_kit::error::chain;
use tracing::{debug, warn};
use twin::{PolicyChange, PolicyWrite};
use wire::names::identity_name;

use super::Writer;
use crate::keep::Frozen;
use crate::twin_document::TwinDocument;

/// Writers beside policies that are named of a path that went back and forth.
const OTHERS_MAX: usize = 3;

impl Writer {
    /// Freezes what went back and forth. That it is, the twin is told by the decision on the change
    /// that was just written.
    pub(super) async fn watch(&self, twin: &TwinDocument, writes: &[PolicyWrite], at: Timestamp) {
        let outcome = twin::apply_policy_settings(twin.desired(), writes, at);
        let Ok(PolicyChange::Changed { section, .. }) = outcome.map(|outcome| outcome.change)
        else {
            return;
        };
        let found = self.guard.note(twin.key(), twin.desired(), &section, at);
        if found.is_empty() {
            return;
        }
        let mut paths = Vec::with_capacity(found.len());
        for one in found {
            let mut fighters = one.writers;
            if one.others || fighters.len() < 2 {
                fighters.extend(self.others(twin, &one.path).await);
            }
            paths.push(Frozen {
                path: one.path,
                writers: fighters,
                at,
            });
        }
        let told: Vec<_> = paths.iter().map(Frozen::words).collect();
        let frozen = match self.policies.freeze(twin.key().clone(), paths).await {
            Ok(frozen) => frozen,
            Err(error) => {
                warn!(twin = %twin.key(), error = chain(&error), "a path cannot be frozen");
                return;
            }
        };
        for (index, (path, writers)) in told.into_iter().enumerate() {
            if index < frozen {
                warn!(
                    twin = %twin.key(),
                    path,
                    writers,
                    "a setting goes back and forth; no policy writes it any more"
                );
            } else {
                // Then it is so all over a fleet: who reads the log has seen it ten thousand times.
                debug!(twin = %twin.key(), path, writers, "a setting goes back and forth, as too many do");
            }
        }
    }

    /// Who else wrote to a path of a twin lately.
    async fn others(&self, twin: &TwinDocument, path: &[String]) -> Vec<String> {
        let name = identity_name(twin.key());
        let mut others = Vec::new();
        // The name is for people; without it the path is frozen all the same.
        for actor in self
            .twins
            .writers_lately(&name, path)
            .await
            .unwrap_or_default()
        {
            if !actor.starts_with("policy:") && !others.contains(&actor) {
                others.push(actor);
            }
        }
        others.truncate(OTHERS_MAX);
        others
    }
}

/// Whether a revision's patch has changed what is at a path of desired, above it or below it.
pub(crate) fn touches(changes: &str, path: &[String]) -> bool {
    let changes: Value = serde_json::from_str(changes).unwrap_or_default();
    let mut at = changes.get("desired");
    for key in path {
        match at {
            Some(Value::Object(inner)) => at = inner.get(key),
            // A value or a removal above it; or nothing there.
            other => return other.is_some(),
        }
    }
    at.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wrote_beside_a_path_did_not_write_to_it() {
        let path = ["a", "b"].map(str::to_owned);
        for (patch, expected) in [
            (r#"{"desired":{"a":{"b":1}}}"#, true),
            (r#"{"desired":{"a":{"b":null,"c":1}}}"#, true),
            (r#"{"desired":{"a":{"b":{"deep":1}}}}"#, true),
            (r#"{"desired":{"a":null}}"#, true),
            (r#"{"desired":{"a":3}}"#, true),
            (r#"{"desired":null}"#, true),
            (r#"{"desired":{"a":{"c":1}}}"#, false),
            (r#"{"desired":{"x":{"b":1}}}"#, false),
            (r#"{"tags":{"a":{"b":1}}}"#, false),
            ("null", false),
            ("{", false),
        ] {
            assert_eq!(touches(patch, &path), expected, "{patch}");
        }
    }
}
