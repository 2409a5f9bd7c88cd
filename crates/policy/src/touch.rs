//! How many twins a change of a policy touches, for the mass-change guard: counted by twin-store's
//! search, no further than the guard asks, and without reading the twins.

use std::time::Duration;

use prost_types::FieldMask;
use wire::twin::v1::ListTwinsRequest;

use crate::evaluate::{ActivePolicy, PolicySet};
use crate::policy_doc::Scope;
use crate::rollout::{Finding, Guard};
use crate::twin_store::TwinStore;

/// Twins of one page, of which only the names are read.
const PAGE_TWINS: i32 = 1000;

/// How long somebody who applies a policy waits for it.
const WITHIN: Duration = Duration::from_secs(10);

/// Looks how much a change touches.
#[derive(Debug, Clone)]
pub(crate) struct Touch {
    /// What is too much.
    pub guard: Guard,
    /// Where twins are counted.
    pub twins: TwinStore,
}

impl Touch {
    /// What the guard has to say of a change that touches every twin to which one of these applies.
    pub(crate) async fn look(&self, policies: &[ActivePolicy]) -> Finding {
        if self.guard.is_off() || policies.is_empty() {
            return Finding::Fine;
        }
        match tokio::time::timeout(WITHIN, self.count(policies)).await {
            Ok(Ok((touched, all))) => self.guard.judge(touched, all),
            Ok(Err(problem)) => Finding::Uncounted(problem),
            Err(_) => Finding::Uncounted(format!("that takes longer than {} s", WITHIN.as_secs())),
        }
    }

    async fn count(&self, policies: &[ActivePolicy]) -> Result<(u64, u64), String> {
        let touched = PolicySet::new(policies.iter().cloned()).targets();
        if touched.is_empty() {
            return Err("its conditions are too long to be searched by".to_owned());
        }
        let touched = self.up_to(touched, self.guard.counted_up_to()).await?;
        if touched > self.guard.counted_up_to() {
            return Ok((touched, 0));
        }
        self.of_all(touched, policies).await
    }

    /// Judges a change whose twins somebody else has counted.
    pub(crate) async fn judge(&self, touched: u64, policy: &ActivePolicy) -> Finding {
        if self.guard.is_off() {
            return Finding::Fine;
        }
        let all = self.of_all(touched, std::slice::from_ref(policy)).await;
        match all {
            Ok((touched, all)) => self.guard.judge(touched, all),
            Err(problem) => Finding::Uncounted(problem),
        }
    }

    async fn of_all(&self, touched: u64, policies: &[ActivePolicy]) -> Result<(u64, u64), String> {
        let Some(needed) = self.guard.needed_in_all(touched) else {
            return Ok((touched, touched));
        };
        let is = |scope| policies.iter().all(|active| active.policy.scope() == scope);
        let kind = if is(Scope::Modules) {
            "IS_DEFINED(moduleId)"
        } else if is(Scope::Devices) {
            "NOT IS_DEFINED(moduleId)"
        } else {
            ""
        };
        Ok((touched, self.up_to(kind.to_owned(), needed).await?))
    }

    /// Counts the twins of a search, but not many more than so many.
    async fn up_to(&self, filter: String, enough: u64) -> Result<u64, String> {
        let mut request = ListTwinsRequest {
            page_size: PAGE_TWINS,
            filter,
            read_mask: Some(FieldMask {
                paths: vec!["name".to_owned()],
            }),
            ..ListTwinsRequest::default()
        };
        let mut found = 0_u64;
        loop {
            let page = self.twins.list_now(&request).await;
            let page = page.map_err(|status| format!("twin-store: {}", status.message()))?;
            found = found.saturating_add(u64::try_from(page.twins.len()).unwrap_or(u64::MAX));
            if found > enough || page.next_page_token.is_empty() {
                return Ok(found);
            }
            request.page_token = page.next_page_token;
        }
    }
}
