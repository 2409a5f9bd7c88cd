//! Whether a change of a configuration touches more twins than the mass-change guard lets pass.
//!
//! A configuration is everywhere at once, as in IoT Hub; where the guard is told to, a change that is too
//! much is refused before anything is kept. There is no forcing it: whoever means it narrows the target and
//! widens it step by step, writes a policy, which spreads in waves, or lifts the bounds.

use super::{ConfigurationApi, Error};
use crate::configuration_doc::{ConfigurationId, ConfigurationSpec};
use crate::rollout::{Finding, OfConfigurations};
use crate::store::StoredConfiguration;

impl ConfigurationApi {
    /// Refuses a change that is too much: to this content, or none, which deletes it.
    pub(super) async fn check_touched(
        &self,
        id: &ConfigurationId,
        next: Option<&ConfigurationSpec>,
    ) -> Result<(), Error> {
        if self.touch.guard.configurations == OfConfigurations::Apply {
            return Ok(());
        }
        let present = self.policies.configuration(id);
        let next = next.map(|spec| {
            let spec = ConfigurationSpec {
                // What is left out stays as it is.
                content: spec.content.clone().or_else(|| {
                    let present = present.as_ref();
                    present.and_then(|present| present.spec.content.clone())
                }),
                ..spec.clone()
            };
            let now = self.clock.now();
            StoredConfiguration {
                id: id.clone(),
                spec,
                revision: 0,
                created_order: 0,
                created_at: now,
                updated_at: now,
            }
        });
        if let (Some(present), Some(next)) = (&present, &next)
            && next.works_like(present)
        {
            return Ok(());
        }
        let both = present.iter().chain(&next);
        let both: Vec<_> = both.filter_map(StoredConfiguration::active).collect();
        match self.touch.look(&both).await {
            Finding::Fine => Ok(()),
            Finding::TooMuch(why) => Err(Error::MassChange {
                id: id.clone(),
                why,
            }),
            Finding::Uncounted(problem) => Err(Error::MassChange {
                id: id.clone(),
                why: format!("its twins could not be counted: {problem}"),
            }),
        }
    }
}
