//! Stored twins as the query language sees them: attributes at hand, sections parsed only when a
//! condition comes to them.
//!
//! Two forms are read: a record of the store, and the twin inside a change of the log, which keeps
//! sections as the text they are stored in and leaves out a few attributes ([`in_log`]).

use std::cell::OnceCell;
use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use twin::query::datum::NEVER;
use twin::query::{Attribute, Damage, Datum, LazyPosture, LazySection, LazyTags, LazyTwin};
use twin::{ConfigurationStates, ConfigurationStatus, Map, NodeMeta, Writer};
use wire::time::optional;
use wire::twin::v1 as proto;

use crate::encode;
use crate::record::{Authentication, Damaged, Record, SectionText};

/// Whether changes of the log carry an attribute, so that a watch can be filtered by it.
pub fn in_log(attribute: Attribute) -> bool {
    match attribute {
        Attribute::GenerationId | Attribute::CreateTime => false,
        Attribute::DeviceId
        | Attribute::ModuleId
        | Attribute::Etag
        | Attribute::Version
        | Attribute::DeviceEtag
        | Attribute::Status
        | Attribute::StatusReason
        | Attribute::StatusUpdateTime
        | Attribute::ConnectionState
        | Attribute::LastActivityTime
        | Attribute::CloudToDeviceMessageCount
        | Attribute::AuthenticationType
        | Attribute::X509Thumbprint
        | Attribute::ModelId
        | Attribute::DeviceScope
        | Attribute::ParentScopes
        | Attribute::Capabilities
        | Attribute::Configurations
        | Attribute::UpdateTime => true,
    }
}

/// What attributes are made of.
struct Facts<'a> {
    device_id: &'a str,
    module_id: Option<&'a str>,
    etag: String,
    version: u64,
    device_etag: String,
    status: &'a str,
    status_reason: &'a str,
    status_updated_at: Option<Timestamp>,
    connected: bool,
    last_activity_at: Option<Timestamp>,
    authentication: &'a str,
    thumbprints: [Option<&'a str>; 2],
    model_id: &'a str,
    iot_edge: bool,
    updated_at: Option<Timestamp>,
    generation_id: Option<&'a str>,
    created_at: Option<Timestamp>,
    desired_metadata: &'a str,
    states: ConfigurationStates,
    /// Made once: a condition may ask for it with each element of an array.
    configurations: OnceCell<Option<Value>>,
}

impl<'a> Facts<'a> {
    fn of(&self, attribute: Attribute) -> Datum<'a> {
        match attribute {
            Attribute::DeviceId => Datum::text(self.device_id),
            Attribute::ModuleId => Datum::optional_text(self.module_id),
            Attribute::Etag => Datum::owned(Value::String(self.etag.clone())),
            Attribute::Version => Datum::count(self.version),
            Attribute::DeviceEtag => Datum::owned(Value::String(self.device_etag.clone())),
            Attribute::Status => Datum::text(self.status),
            Attribute::StatusReason => given(self.status_reason),
            Attribute::StatusUpdateTime => Datum::Instant(self.status_updated_at.unwrap_or(NEVER)),
            Attribute::ConnectionState => Datum::text(if self.connected {
                "Connected"
            } else {
                "Disconnected"
            }),
            Attribute::LastActivityTime => Datum::Instant(self.last_activity_at.unwrap_or(NEVER)),
            // Nothing queues messages to devices yet.
            Attribute::CloudToDeviceMessageCount => Datum::count(0),
            Attribute::AuthenticationType => Datum::text(self.authentication),
            Attribute::X509Thumbprint => {
                let [primary, secondary] = self.thumbprints;
                Datum::owned(json!({
                    "primaryThumbprint": primary,
                    "secondaryThumbprint": secondary,
                }))
            }
            Attribute::ModelId => Datum::text(self.model_id),
            Attribute::Capabilities => Datum::owned(json!({ "iotEdge": self.iot_edge })),
            // Edge hierarchies are not kept.
            Attribute::DeviceScope | Attribute::ParentScopes => Datum::Undefined,
            Attribute::Configurations => {
                let found = self
                    .configurations
                    .get_or_init(|| configurations(self.desired_metadata, &self.states));
                found.clone().map_or(Datum::Undefined, Datum::owned)
            }
            Attribute::GenerationId => Datum::optional_text(self.generation_id),
            Attribute::CreateTime => instant(self.created_at),
            Attribute::UpdateTime => instant(self.updated_at),
        }
    }
}

fn given(text: &str) -> Datum<'_> {
    Datum::optional_text(Some(text).filter(|text| !text.is_empty()))
}

fn instant<'a>(at: Option<Timestamp>) -> Datum<'a> {
    at.map_or(Datum::Undefined, Datum::Instant)
}

/// Where configurations stand, and the policies that have set something in desired, in the form that
/// IoT Hub has for its configurations. Of a policy and a configuration of one id the latter is told.
fn configurations(desired_metadata: &str, states: &ConfigurationStates) -> Option<Value> {
    let of = |at: ConfigurationStatus| json!({ "status": at.as_str() });
    let states = states.iter();
    let mut found: Map = states
        .map(|(id, status)| (id.clone(), of(*status)))
        .collect();
    for policy in policies(desired_metadata) {
        found
            .entry(policy)
            .or_insert_with(|| of(ConfigurationStatus::Applied));
    }
    Some(Value::Object(found)).filter(|found| *found != json!({}))
}

/// The policies that have set something in desired.
fn policies(desired_metadata: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // Most twins hold nothing of a policy, and need no parsing to say so.
    if !desired_metadata.contains("policy:") {
        return found;
    }
    // What cannot be read is told when the section itself is looked at.
    let json = serde_json::from_str::<Value>(desired_metadata).ok();
    let Some(metadata) = json.and_then(|json| NodeMeta::from_json(&json).ok()) else {
        return found;
    };
    let mut nodes = vec![&metadata];
    while let Some(node) = nodes.pop() {
        if let Writer::Policy { id, .. } = &node.by
            && !found.contains(id)
        {
            found.insert(id.clone());
        }
        nodes.extend(node.children.values());
    }
    found
}

/// A record as a query sees it.
pub fn of_record<'a>(record: &'a Record) -> LazyTwin<'a, impl Fn(Attribute) -> Datum<'a>> {
    let (identity, text) = (&record.identity, &record.twin);
    let thumbprints = match &identity.authentication {
        Authentication::SelfSigned { primary, secondary } => {
            [Some(primary.as_str()), secondary.as_deref()]
        }
        Authentication::Sas { .. }
        | Authentication::CertificateAuthority
        | Authentication::None => [None, None],
    };
    let facts = Facts {
        device_id: record.key.device.as_str(),
        module_id: record.key.module.as_ref().map(twin::ModuleId::as_str),
        etag: text.etag.to_string(),
        version: text.version.get(),
        device_etag: identity.etag.to_string(),
        status: identity.status.as_str(),
        status_reason: &identity.status_reason,
        status_updated_at: identity.status_updated_at,
        connected: record.posture.agent.connected,
        last_activity_at: encode::last_activity(record),
        authentication: identity.authentication.as_str(),
        thumbprints,
        model_id: &identity.model_id,
        iot_edge: identity.iot_edge,
        updated_at: Some(record.updated_at),
        generation_id: Some(&identity.generation_id),
        created_at: Some(identity.created_at),
        desired_metadata: &text.desired.metadata,
        states: record.configurations.clone(),
        configurations: OnceCell::new(),
    };
    LazyTwin {
        attributes: move |attribute| facts.of(attribute),
        tags: section(&text.tags),
        desired: section(&text.desired),
        reported: section(&text.reported),
        posture: LazyPosture::from_fn(|| {
            serde_json::to_value(&record.posture).unwrap_or(Value::Null)
        }),
        device_tags: record.device_tags.as_deref().map(LazyTags::new),
        undecided: false.into(),
    }
}

fn section(text: &SectionText) -> LazySection<'_> {
    LazySection::new(&text.document, &text.metadata, text.version.get())
}

/// A twin as the log has it, as a query sees it.
pub fn of_logged<'a>(twin: &'a proto::Twin) -> LazyTwin<'a, impl Fn(Attribute) -> Datum<'a>> {
    let at = |field, time| optional(field, time).ok().flatten();
    let filled = |text| Some(text).filter(|text: &&str| !text.is_empty());
    let facts = Facts {
        device_id: &twin.device_id,
        module_id: filled(twin.module_id.as_str()),
        etag: twin.etag.clone(),
        version: twin.version,
        device_etag: twin.device_etag.clone(),
        status: &twin.status,
        status_reason: &twin.status_reason,
        status_updated_at: at("status_update_time", twin.status_update_time),
        connected: twin.connected,
        last_activity_at: at("last_activity_time", twin.last_activity_time),
        authentication: &twin.authentication_type,
        thumbprints: [
            filled(twin.primary_thumbprint.as_str()),
            filled(twin.secondary_thumbprint.as_str()),
        ],
        model_id: &twin.model_id,
        iot_edge: twin.iot_edge,
        updated_at: at("update_time", twin.update_time),
        generation_id: None,
        created_at: None,
        desired_metadata: &twin.desired_metadata_json,
        // What was logged was read once: it is good.
        states: wire::configurations::from_wire("configurations", &twin.configurations)
            .unwrap_or_default(),
        configurations: OnceCell::new(),
    };
    LazyTwin {
        attributes: move |attribute| facts.of(attribute),
        // The version of tags is never shown, and the log does not carry their metadata.
        tags: LazySection::new(&twin.tags_json, "", 0),
        desired: LazySection::new(
            &twin.desired_json,
            &twin.desired_metadata_json,
            twin.desired_version,
        ),
        reported: LazySection::new(
            &twin.reported_json,
            &twin.reported_metadata_json,
            twin.reported_version,
        ),
        posture: LazyPosture::from_text(&twin.posture_json),
        device_tags: filled(twin.device_tags_json.as_str()).map(LazyTags::new),
        undecided: false.into(),
    }
}

/// What kept a condition from being decided, as an error of the record.
///
/// # Errors
/// A part that was looked at cannot be read, or judging the twin takes too many steps.
pub fn undamaged<'a, A>(key: &str, twin: &LazyTwin<'a, A>) -> Result<(), Damaged>
where
    A: Fn(Attribute) -> Datum<'a>,
{
    match twin.damage() {
        None if twin.is_undecided() => Err(Damaged::undecided(key)),
        None => Ok(()),
        Some(Damage { part, problem }) => Err(Damaged {
            key: key.to_owned(),
            part,
            problem,
        }),
    }
}

#[cfg(test)]
mod tests {
    use twin::query::Lookup as _;

    use super::*;
    use crate::apply::twins;
    use crate::apply::{Cause, Overlay};
    use crate::testing::{key, now, object, overlay, record};

    fn configurations_of(record: &Record) -> Option<Value> {
        let twin = of_record(record);
        twin.attribute(Attribute::Configurations).to_json()
    }

    #[test]
    fn a_twin_names_the_policies_that_set_something_in_it() {
        let plain = record("d", "g");
        assert_eq!(configurations_of(&plain), None);
        let mut overlay: Overlay = overlay([plain]);
        let write = |policy: &str, settings| twin::PolicyWrite {
            policy: policy.to_owned(),
            revision: 3,
            settings: object(settings),
        };
        let wanted = twins::Wanted {
            settings: Some(vec![
                write("hardening", json!({"a": {"b": 1}})),
                write("configuration:firmware", json!({"c": 1})),
            ]),
            configurations: ConfigurationStates::from([
                ("firmware".to_owned(), ConfigurationStatus::Applied),
                ("later".to_owned(), ConfigurationStatus::Targeted),
            ]),
        };
        let cause = Cause::default();
        let written = twins::apply_policies(&mut overlay, &key("d"), &wanted, None, now(), &cause);
        written.expect("written");
        let record = overlay.get(&key("d")).expect("there").clone();
        let expected = json!({
            "firmware": {"status": "Applied"},
            "hardening": {"status": "Applied"},
            "later": {"status": "Targeted"},
        });
        assert_eq!(configurations_of(&record), Some(expected.clone()));
        let logged = encode::stored_twin(&record).expect("printed");
        let logged = of_logged(&logged)
            .attribute(Attribute::Configurations)
            .to_json();
        assert_eq!(logged, Some(expected), "both forms say the same");
    }
}
