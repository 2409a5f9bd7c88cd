//! `PolicyTwinService`: settings of policies, with provenance.

use posture::FrozenPath;
use tonic::{Request, Response, Status};
use twin::{LostLeaf, PolicyWrite, Version, Writer};
use wire::InvalidField;
use wire::twin::v1 as proto;
use wire::twin::v1::policy_twin_service_server::PolicyTwinService;

use super::caller::Caller;
use super::{Api, identity, object, refuse};
use crate::apply::{Cause, pushes, twins};
use crate::encode;
use crate::error::Error;
use crate::store::Selection;

/// Policies and configurations on one twin: a hub has 100 of either at most (spec iot-hub-twins §2.6).
const POLICIES_MAX: usize = 200;

/// Longest id of a policy or a configuration: it is kept with every leaf that it sets (IoT Hub's limit
/// for a configuration's id, spec iot-hub-twins §2.6).
const POLICY_ID_MAX: usize = 128;

/// What the history names as the cause if only where configurations stand is noted.
const CONFIGURATIONS: &str = "configurations";

/// Frozen paths of one twin, and how much of each a posture keeps: to be told of, not to be worked with.
const FROZEN_MAX: usize = 64;
const FROZEN_PATH_BYTES_MAX: usize = 512;
const FROZEN_WRITERS_MAX: usize = 8;
const FROZEN_WRITER_BYTES_MAX: usize = 256;

/// Policies that a revision of a twin's history names as its cause.
const CAUSES_MAX: usize = 8;

impl Api {
    async fn apply_settings(
        &self,
        caller: &Caller,
        request: proto::ApplyPolicySettingsRequest,
    ) -> Result<proto::ApplyPolicySettingsResponse, Error> {
        let key = identity("name", &request.name)?;
        let expected = match request.expected_desired_version {
            0 => None,
            number => Some(
                Version::new(number)
                    .map_err(|error| InvalidField::new("expected_desired_version", error))?,
            ),
        };
        if request.policies.len() > POLICIES_MAX {
            let problem = format!(
                "has {} policies; at most {POLICIES_MAX} are allowed",
                request.policies.len()
            );
            return Err(InvalidField::new("policies", problem).into());
        }
        let writes = request
            .policies
            .into_iter()
            .enumerate()
            .map(|(index, settings)| read(index, settings))
            .collect::<Result<Vec<_>, Error>>()?;
        let frozen = read_frozen(request.frozen)?;
        let configurations =
            wire::configurations::from_wire("configurations", &request.configurations)?;
        if request.keep_settings && !writes.is_empty() {
            let problem = "must be empty if the settings are kept";
            return Err(InvalidField::new("policies", problem).into());
        }
        let timeline = encode::timeline_from_wire(request.timeline)?;
        let cause = Cause {
            cause: if request.keep_settings {
                CONFIGURATIONS.to_owned()
            } else {
                names_of(&writes)
            },
            timeline,
            ..caller.cause_as(actor(&writes), "")
        };
        let wanted = twins::Wanted {
            settings: (!request.keep_settings).then_some(writes),
            configurations,
        };
        let applied = self
            .engine
            .decide(Selection::One(key.clone()), move |overlay, now| {
                let mut applied =
                    twins::apply_policies(overlay, &key, &wanted, expected, now, &cause)?;
                applied.changed |= pushes::tell_frozen(overlay, &key, frozen, &cause)?;
                if request.push_again && pushes::push_asked(overlay, &key, now)? {
                    let version = overlay.get(&key)?.twin.desired.version;
                    (applied.changed, applied.desired_version) = (true, version);
                }
                Ok(applied)
            })
            .await?;
        Ok(proto::ApplyPolicySettingsResponse {
            changed: applied.changed,
            desired_version: applied.desired_version.get(),
            lost: applied.lost.iter().map(lost_leaf).collect(),
        })
    }
}

/// Of several policies the one with precedence; without any, what they set before is taken out.
fn actor(writes: &[PolicyWrite]) -> Writer {
    writes.first().map_or(Writer::System, PolicyWrite::writer)
}

/// The writer of each, as far as the history has room for.
fn names_of(writes: &[PolicyWrite]) -> String {
    if writes.is_empty() {
        return "policy:none".to_owned();
    }
    let told = writes.iter().take(CAUSES_MAX);
    let names: Vec<_> = told.map(|write| write.writer().to_string()).collect();
    names.join(",")
}

fn read(index: usize, settings: proto::PolicySettings) -> Result<PolicyWrite, Error> {
    let field = |name: &str| format!("policies[{index}].{name}");
    let id = settings.policy_id.as_str();
    let id = id.strip_prefix(Writer::CONFIGURATION).unwrap_or(id);
    if !(1..=POLICY_ID_MAX).contains(&id.len()) {
        let problem = format!("has {} bytes; allowed are 1 to {POLICY_ID_MAX}", id.len());
        return Err(InvalidField::new(field("policy_id"), problem).into());
    }
    let document = object(&field("settings_json"), &settings.settings_json)?
        .ok_or_else(|| InvalidField::new(field("settings_json"), "must be a JSON object"))?;
    Ok(PolicyWrite {
        policy: settings.policy_id,
        revision: settings.policy_revision,
        settings: document,
    })
}

/// Paths that policies leave alone, cut to what a posture may hold.
fn read_frozen(frozen: Vec<proto::FrozenSetting>) -> Result<Vec<FrozenPath>, Error> {
    if frozen.len() > FROZEN_MAX {
        let problem = format!(
            "has {} paths; at most {FROZEN_MAX} are allowed",
            frozen.len()
        );
        return Err(InvalidField::new("frozen", problem).into());
    }
    let paths = frozen.into_iter().enumerate().map(|(index, one)| {
        let field = format!("frozen[{index}].freeze_time");
        let at = wire::time::optional(&field, one.freeze_time)?;
        let writers = one.writers.iter().take(FROZEN_WRITERS_MAX);
        Ok(FrozenPath {
            path: cut(&one.path, FROZEN_PATH_BYTES_MAX),
            writers: writers
                .map(|one| cut(one, FROZEN_WRITER_BYTES_MAX))
                .collect(),
            at: at.ok_or_else(|| InvalidField::new(field, "is required"))?,
        })
    });
    paths.collect()
}

/// At most so many bytes of a text, and whole characters.
fn cut(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn lost_leaf(lost: &LostLeaf) -> proto::LostLeaf {
    let policy_id = match &lost.writer {
        Writer::Policy { id, .. } => id.clone(),
        configuration @ Writer::Configuration(_) => configuration.to_string(),
        Writer::Operator(_) | Writer::Device | Writer::System => String::new(),
    };
    proto::LostLeaf {
        path: lost.path.join("."),
        policy_id,
        owner: lost.winner.to_string(),
    }
}

#[tonic::async_trait]
impl PolicyTwinService for Api {
    async fn apply_policy_settings(
        &self,
        request: Request<proto::ApplyPolicySettingsRequest>,
    ) -> Result<Response<proto::ApplyPolicySettingsResponse>, Status> {
        let caller = Caller::of(&request);
        self.apply_settings(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }
}
