//! What of the store cannot be read, for whoever asks for it.

use service_kit::health::Component;
use service_kit::shutdown::ShutdownToken;

use super::Policies;
use crate::policy_doc::PolicyId;

impl Policies {
    /// Why a policy cannot be read; none: it can, or there is none.
    pub(crate) fn unreadable(&self, id: &PolicyId) -> Option<String> {
        let present = self.present.borrow();
        present.unreadable.policies.get(id).cloned()
    }

    /// Notes rows of actions that could not be read.
    pub(crate) fn note_damage(&self, problems: &[String]) {
        let [first, ..] = problems else {
            return;
        };
        let count = problems.len();
        let what = format!(
            "{count} rows of actions, for which nobody is called now; one of them: {first}"
        );
        self.present
            .send_modify(|present| present.unreadable.other(what));
    }

    /// What of the store cannot be read, for people; none: nothing.
    fn damage(&self) -> Option<String> {
        let unreadable = self.present.borrow().unreadable.words();
        let all: Vec<String> = unreadable.into_iter().chain(self.strays_told()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// Says in the service's health what of the store cannot be read, until that is deleted.
pub(crate) async fn tell(policies: Policies, health: Component, shutdown: ShutdownToken) {
    let mut changes = policies.changes();
    loop {
        changes.set();
        match policies.damage() {
            Some(damage) => health.degraded(damage),
            None => health.serving(),
        }
        let next = async {
            tokio::select! {
                more = changes.changed() => more,
                () = policies.strays.changed() => true,
            }
        };
        match shutdown.run_until(next).await {
            Some(true) => {}
            Some(false) | None => return,
        }
    }
}
