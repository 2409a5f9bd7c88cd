//! Encrypts the keys of enrolments anew, after the master key was changed.

use serde_json::json;
use wire::registry::v1 as proto;

use super::Named;
use crate::apply::{AuditEvent, Overlay};
use crate::error::Error;
use crate::grpc::caller::Caller;
use crate::grpc::{Api, page_size};
use crate::provisioning::{self, Attestation, Enrollment};
use crate::secrets::{Sealed, Sealer};
use crate::store::{ProvisioningKey, ProvisioningKind, ProvisioningWrite, Selection};

/// What a row was read as, and as what it is to be written.
struct Stale {
    old: Enrollment,
    new: Enrollment,
}

impl Api {
    /// Looks at a page of enrolments: groups first, then single devices.
    pub(super) async fn reseal_some(
        &self,
        caller: &Caller,
        request: proto::ResealEnrollmentsRequest,
    ) -> Result<proto::ResealEnrollmentsResponse, Error> {
        let limit = page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => before_all(ProvisioningKind::Group),
            // Behind the groups.
            "enrollments/" => before_all(ProvisioningKind::Individual),
            token => Named::read("page_token", token)?.key(),
        };
        let kind = after.kind;
        let page = self.store.provisioning(after, limit).await?;
        let next_page_token = match (page.next, kind) {
            (Some(key), _) => provisioning::name(kind, &key.id),
            (None, ProvisioningKind::Group) => "enrollments/".to_owned(),
            (None, ProvisioningKind::Individual | ProvisioningKind::Scope) => String::new(),
        };
        let mut answer = proto::ResealEnrollmentsResponse {
            failed: page.damaged.iter().map(|one| one.key.clone()).collect(),
            next_page_token,
            ..proto::ResealEnrollmentsResponse::default()
        };
        let mut stale = Vec::new();
        for row in &page.records {
            let Ok(old) = Enrollment::read(row) else {
                answer.failed.push(provisioning::name(kind, &row.key.id));
                continue;
            };
            match resealed(&self.sealer, &old) {
                Ok(Some(new)) => stale.push(Stale { old, new }),
                Ok(None) => {
                    let has_keys = matches!(old.attestation, Attestation::Keys { .. });
                    answer.current += u32::from(has_keys);
                }
                Err(_) => answer.failed.push(old.name()),
            }
        }
        if stale.is_empty() {
            return Ok(answer);
        }
        let cause = caller.cause("");
        let rows = stale.iter().map(|one| one.old.key());
        let mut selections: Vec<_> = rows.map(Selection::Provisioning).collect();
        selections.push(Selection::Groups);
        self.engine
            .decide(selections, move |overlay, _| {
                for one in stale {
                    if is_as_read(overlay, &one.old)? {
                        overlay.audit(AuditEvent {
                            device: None,
                            actor: cause.actor.to_string(),
                            action: "enrollment.reseal",
                            resource: one.new.name(),
                            detail: json!({}),
                            trace_parent: cause.trace_parent.clone(),
                        });
                        let row = one.new.row().map_err(provisioning::unprintable)?;
                        overlay.put_provisioning(ProvisioningWrite::Put(row));
                        answer.resealed += 1;
                    }
                }
                Ok(answer)
            })
            .await
    }
}

fn before_all(kind: ProvisioningKind) -> ProvisioningKey {
    ProvisioningKey {
        kind,
        id: String::new(),
    }
}

/// Whether nobody has changed or removed it meanwhile; then its keys were sealed anew anyhow.
fn is_as_read(overlay: &Overlay, old: &Enrollment) -> Result<bool, Error> {
    let row = old.row().map_err(provisioning::unprintable)?;
    Ok(overlay.provisioning(&row.key)? == Some(&row))
}

/// The same enrolment with its keys under the present master key; none if they are already, or there
/// are none. It is no change of the enrolment: its etag stays.
fn resealed(sealer: &Sealer, old: &Enrollment) -> Result<Option<Enrollment>, Error> {
    let Attestation::Keys { primary, secondary } = &old.attestation else {
        return Ok(None);
    };
    if sealer.is_current(primary) && sealer.is_current(secondary) {
        return Ok(None);
    }
    let owner = old.owner();
    let again = |sealed: &Sealed| -> Result<Sealed, Error> {
        let open = sealer.open_sealed(&owner, sealed)?;
        Ok(sealer.seal(&owner, &open)?)
    };
    Ok(Some(Enrollment {
        attestation: Attestation::Keys {
            primary: again(primary)?,
            secondary: again(secondary)?,
        },
        ..old.clone()
    }))
}
