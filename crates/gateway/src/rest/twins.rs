//! Twins (spec iot-hub-twins §3, §7.3).

use serde_json::{Map, Value};
use twin::IdentityKey;
use wire::twin::v1::{GetTwinRequest, PatchTwinRequest, ReplaceTwinRequest, Twin};

use super::{Answer, Call, modules};
use crate::bodies;
use crate::bodies::twin::{Section, TwinBody};
use crate::error::ApiError;
use crate::headers::IfMatch;
use crate::hub::Session;

/// How often a write that had to read first begins anew when somebody else wrote in between.
const ATTEMPTS: usize = 5;

pub(super) async fn get(call: &Call<'_>, key: &IdentityKey) -> Result<Answer, ApiError> {
    let twin = read(call.session, key).await?;
    tagged(&twin)
}

pub(super) async fn patch(call: &Call<'_>, key: &IdentityKey) -> Result<Answer, ApiError> {
    let body: TwinBody<'_> = bodies::read_object(call.body)?;
    let twin = merge(call.session, key, &body, call.etag()).await?;
    tagged(&twin)
}

/// Merges tags and desired into a twin. A section that is `null` becomes empty, as the Node suite
/// expects; since a merge knows no such thing, the keys that are there are taken out one by one.
pub(super) async fn merge(
    session: &Session,
    key: &IdentityKey,
    body: &TwinBody<'_>,
    etag: String,
) -> Result<Twin, ApiError> {
    if body.is_empty() {
        return unchanged(session, key, &etag).await;
    }
    let (tags, desired) = (body.tags(), body.desired());
    if tags != Section::Emptied && desired != Section::Emptied {
        return write(session, key, text(tags, None)?, text(desired, None)?, etag).await;
    }
    let mut attempt = 1;
    loop {
        let present = read(session, key).await?;
        let tags = text(tags, Some(&present.tags_json))?;
        let desired = text(desired, Some(&present.desired_json))?;
        let on = if etag.is_empty() {
            present.etag
        } else {
            etag.clone()
        };
        match write(session, key, tags, desired, on).await {
            // The condition was ours and not the caller's.
            Err(error) if error.number() == 412_001 && etag.is_empty() && attempt < ATTEMPTS => {
                attempt += 1;
            }
            answered => return answered,
        }
    }
}

pub(super) async fn replace(call: &Call<'_>, key: &IdentityKey) -> Result<Answer, ApiError> {
    let body: TwinBody<'_> = bodies::read_object(call.body)?;
    if body.is_empty() {
        return tagged(&unchanged(call.session, key, &call.etag()).await?);
    }
    let section = |section| match section {
        Section::Absent => String::new(),
        Section::Emptied => "{}".to_owned(),
        Section::Given(text) => text.to_owned(),
    };
    let request = ReplaceTwinRequest {
        name: modules::name(key),
        tags_json: section(body.tags()),
        desired_json: section(body.desired()),
        etag: call.etag(),
        operator: call.session.operator(),
        ..ReplaceTwinRequest::default()
    };
    let mut twins = call.session.twins();
    let twin = twins.replace_twin(call.session.request(request)).await?;
    tagged(&twin.into_inner())
}

/// The answer to a write that names nothing to be written, such as a twin that is sent back without
/// its desired section: it is accepted and without effect (spec §3.1), if the twin is the one meant.
async fn unchanged(session: &Session, key: &IdentityKey, etag: &str) -> Result<Twin, ApiError> {
    let twin = read(session, key).await?;
    IfMatch::check("the twin", etag, &twin.etag)?;
    Ok(twin)
}

async fn write(
    session: &Session,
    key: &IdentityKey,
    tags: String,
    desired: String,
    etag: String,
) -> Result<Twin, ApiError> {
    let request = PatchTwinRequest {
        name: modules::name(key),
        tags_patch_json: tags,
        desired_patch_json: desired,
        etag,
        operator: session.operator(),
        ..PatchTwinRequest::default()
    };
    let mut twins = session.twins();
    let twin = twins.patch_twin(session.request(request)).await?;
    Ok(twin.into_inner())
}

/// A section of a merge patch; `present` is what the section holds.
fn text(section: Section<'_>, present: Option<&str>) -> Result<String, ApiError> {
    match section {
        Section::Absent => Ok(String::new()),
        Section::Given(text) => Ok(text.to_owned()),
        Section::Emptied => {
            let present: Map<String, Value> = bodies::read(present.unwrap_or("{}").as_bytes())?;
            let nothing: Map<String, Value> = present
                .into_iter()
                .map(|(key, _)| (key, Value::Null))
                .collect();
            Ok(Value::from(nothing).to_string())
        }
    }
}

async fn read(session: &Session, key: &IdentityKey) -> Result<Twin, ApiError> {
    let request = GetTwinRequest {
        name: modules::name(key),
        read_mask: None,
    };
    let mut twins = session.twins();
    let twin = twins.get_twin(session.request(request)).await?;
    Ok(twin.into_inner())
}

fn tagged(twin: &Twin) -> Result<Answer, ApiError> {
    Ok(Answer::tagged(bodies::twin::twin(twin)?, &twin.etag))
}
