//! Prints records as messages: `Twin`, `TwinChange`.

use jiff::Timestamp;
use posture::Timeline;
use twin::{IdentityKey, Revision, SectionKind};
use wire::bus::v1::TwinChange;
use wire::names::identity_name;
use wire::time::{optional, to_wire};
use wire::twin::v1 as proto;
use wire::{InvalidField, registry};

use crate::apply::{ChangeKind, Touch};
use crate::record::{Authentication, Damaged, Record, SectionText, Status};

/// A twin as callers see it.
///
/// # Errors
/// A section cannot be read; nothing but a damaged store causes it.
pub fn twin(record: &Record) -> Result<proto::Twin, Damaged> {
    let damaged = |part: &'static str, problem| Damaged {
        key: record.key.to_string(),
        part,
        problem,
    };
    let mut twin = stored_twin(record).map_err(|error| damaged("posture", error.to_string()))?;
    let text = &record.twin;
    let public = |kind: SectionKind, section: &SectionText| {
        section
            .public_metadata(kind)
            .map_err(|problem| damaged(kind.path(), problem))
    };
    twin.desired_metadata_json = public(SectionKind::Desired, &text.desired)?;
    twin.reported_metadata_json = public(SectionKind::Reported, &text.reported)?;
    Ok(twin)
}

/// A twin as it goes over the bus: sections and their metadata are the text they are stored in, so
/// that a change of the posture costs no parsing of documents.
pub(crate) fn stored_twin(record: &Record) -> Result<proto::Twin, serde_json::Error> {
    let text = &record.twin;
    let (primary_thumbprint, secondary_thumbprint) = match &record.identity.authentication {
        Authentication::SelfSigned { primary, secondary } => {
            (primary.clone(), secondary.clone().unwrap_or_default())
        }
        Authentication::Sas { .. }
        | Authentication::CertificateAuthority
        | Authentication::None => Default::default(),
    };
    Ok(proto::Twin {
        name: identity_name(&record.key),
        device_id: record.key.device.to_string(),
        module_id: record
            .key
            .module
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        etag: text.etag.to_string(),
        version: text.version.get(),
        tags_json: text.tags.document.clone(),
        desired_json: text.desired.document.clone(),
        desired_version: text.desired.version.get(),
        desired_metadata_json: text.desired.metadata.clone(),
        reported_json: text.reported.document.clone(),
        reported_version: text.reported.version.get(),
        reported_metadata_json: text.reported.metadata.clone(),
        posture_json: serde_json::to_string(&record.posture)?,
        posture_version: record.posture.version,
        update_time: Some(to_wire(record.updated_at)),
        status: record.identity.status.as_str().to_owned(),
        revision: record.revision.get(),
        device_etag: record.identity.etag.to_string(),
        status_reason: record.identity.status_reason.clone(),
        status_update_time: record.identity.status_updated_at.map(to_wire),
        connected: record.posture.agent.connected,
        last_activity_time: last_activity(record).map(to_wire),
        authentication_type: record.identity.authentication.as_str().to_owned(),
        primary_thumbprint,
        secondary_thumbprint,
        model_id: record.identity.model_id.clone(),
        iot_edge: record.identity.iot_edge,
        configurations: wire::configurations::to_wire(&record.configurations),
        device_tags_json: record.device_tags.clone().unwrap_or_default(),
    })
}

/// When the identity last did anything: its session began or ended, or something arrived from it.
pub fn last_activity(record: &Record) -> Option<Timestamp> {
    let agent = &record.posture.agent;
    let instants = [
        agent.connected_at,
        agent.disconnected_at,
        agent.last_seen_at,
    ];
    instants.into_iter().flatten().max()
}

/// When its session last began or ended.
pub fn connection_changed(record: &Record) -> Option<Timestamp> {
    let agent = &record.posture.agent;
    if agent.connected {
        agent.connected_at
    } else {
        agent.disconnected_at
    }
}

/// A change of a twin that is still there.
///
/// # Errors
/// As [`twin()`].
pub fn change(record: &Record, touch: &Touch) -> Result<TwinChange, serde_json::Error> {
    Ok(TwinChange {
        revision: record.revision.get(),
        twin: Some(stored_twin(record)?),
        deleted: false,
        changes: change_kinds(touch),
        trace_parent: touch.cause.trace_parent.clone().unwrap_or_default(),
        timeline: Some(timeline(&touch.cause.timeline)),
        restored: false,
        earlier_revisions: Vec::new(),
    })
}

/// The removal of an identity.
pub fn deletion(key: &IdentityKey, revision: Revision, touch: &Touch) -> TwinChange {
    TwinChange {
        revision: revision.get(),
        twin: Some(proto::Twin {
            name: identity_name(key),
            device_id: key.device.to_string(),
            module_id: key
                .module
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            ..proto::Twin::default()
        }),
        deleted: true,
        changes: Vec::new(),
        trace_parent: touch.cause.trace_parent.clone().unwrap_or_default(),
        timeline: None,
        restored: false,
        earlier_revisions: Vec::new(),
    }
}

/// What a touch changed.
pub fn change_kinds(touch: &Touch) -> Vec<i32> {
    touch
        .changes
        .iter()
        .map(|kind| change_kind(*kind).into())
        .collect()
}

/// What was touched, for the wire.
pub fn change_kind(kind: ChangeKind) -> proto::Change {
    match kind {
        ChangeKind::Created => proto::Change::Created,
        ChangeKind::Tags => proto::Change::Tags,
        ChangeKind::Desired => proto::Change::Desired,
        ChangeKind::Reported => proto::Change::Reported,
        ChangeKind::Posture => proto::Change::Posture,
        ChangeKind::ConfigurationState => proto::Change::ConfigurationState,
        ChangeKind::Status => proto::Change::Status,
        ChangeKind::Identity => proto::Change::Identity,
        ChangeKind::Configurations => proto::Change::Configurations,
        ChangeKind::DeviceTags => proto::Change::DeviceTags,
        ChangeKind::Deleted => proto::Change::Deleted,
    }
}

/// A timeline for the wire.
pub fn timeline(timeline: &Timeline) -> proto::Timeline {
    proto::Timeline {
        observe_time: timeline.observed_at.map(to_wire),
        receive_time: timeline.received_at.map(to_wire),
        fold_time: timeline.folded_at.map(to_wire),
        decide_time: timeline.decided_at.map(to_wire),
        commit_time: timeline.committed_at.map(to_wire),
        push_time: timeline.pushed_at.map(to_wire),
        apply_time: timeline.applied_at.map(to_wire),
        acknowledge_time: timeline.acknowledged_at.map(to_wire),
    }
}

/// Reads a timeline.
///
/// # Errors
/// Names the instant that is out of range.
pub fn timeline_from_wire(wire: Option<proto::Timeline>) -> Result<Timeline, InvalidField> {
    let Some(wire) = wire else {
        return Ok(Timeline::default());
    };
    Ok(Timeline {
        observed_at: optional("timeline.observe_time", wire.observe_time)?,
        received_at: optional("timeline.receive_time", wire.receive_time)?,
        folded_at: optional("timeline.fold_time", wire.fold_time)?,
        decided_at: optional("timeline.decide_time", wire.decide_time)?,
        committed_at: optional("timeline.commit_time", wire.commit_time)?,
        pushed_at: optional("timeline.push_time", wire.push_time)?,
        applied_at: optional("timeline.apply_time", wire.apply_time)?,
        acknowledged_at: optional("timeline.acknowledge_time", wire.acknowledge_time)?,
    })
}

/// How an identity proves itself, for the wire.
pub fn authentication_type(authentication: &Authentication) -> registry::v1::AuthenticationType {
    match authentication {
        Authentication::Sas { .. } => registry::v1::AuthenticationType::Sas,
        Authentication::SelfSigned { .. } => registry::v1::AuthenticationType::SelfSigned,
        Authentication::CertificateAuthority => {
            registry::v1::AuthenticationType::CertificateAuthority
        }
        Authentication::None => registry::v1::AuthenticationType::None,
    }
}

/// The thumbprints of a self-signed identity, for the wire.
pub fn thumbprints(authentication: &Authentication) -> Option<registry::v1::Thumbprints> {
    match authentication {
        Authentication::SelfSigned { primary, secondary } => Some(registry::v1::Thumbprints {
            primary: primary.clone(),
            secondary: secondary.clone().unwrap_or_default(),
        }),
        Authentication::Sas { .. }
        | Authentication::CertificateAuthority
        | Authentication::None => None,
    }
}

/// A status for the wire.
pub fn status(status: Status) -> registry::v1::Status {
    match status {
        Status::Enabled => registry::v1::Status::Enabled,
        Status::Disabled => registry::v1::Status::Disabled,
    }
}
