//! Up to a hundred identities or twins in one call, each of which succeeds or fails for itself
//! (spec iot-hub-twins §7.1, bulk).

use futures::{FutureExt as _, StreamExt as _, stream};
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use twin::{DeviceId, IdentityKey, ModuleId};

use super::{Answer, Call, devices, modules, twins};
use crate::bodies;
use crate::bodies::identity::IdentityBody;
use crate::bodies::twin::TwinBody;
use crate::error::ApiError;
use crate::hub::Session;

/// Most items of a call (spec §2.6).
const ITEMS_MAX: usize = 100;
/// Items that are under way at the same time.
const AT_ONCE: usize = 16;

/// What says which identity an item is about, and what to do with it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    id: String,
    module_id: Option<String>,
    import_mode: Option<String>,
    #[serde(rename = "eTag")]
    etag: Option<String>,
    #[serde(rename = "twinETag")]
    twin_etag: Option<String>,
}

/// What is to be done with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Create,
    CreateOrUpdate { if_match: bool },
    Update { if_match: bool },
    Delete { if_match: bool },
    UpdateTwin { if_match: bool },
}

impl Mode {
    fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        let text = text.unwrap_or("createOrUpdate");
        Ok(match text.to_ascii_lowercase().as_str() {
            "create" => Self::Create,
            "createorupdate" => Self::CreateOrUpdate { if_match: false },
            "createorupdateifmatchetag" => Self::CreateOrUpdate { if_match: true },
            "update" => Self::Update { if_match: false },
            "updateifmatchetag" => Self::Update { if_match: true },
            "delete" => Self::Delete { if_match: false },
            "deleteifmatchetag" => Self::Delete { if_match: true },
            "updatetwin" => Self::UpdateTwin { if_match: false },
            "updatetwinifmatchetag" => Self::UpdateTwin { if_match: true },
            _ => {
                return Err(ApiError::argument(format!(
                    "importMode is `{text}`; want create, update, delete, createOrUpdate, \
                     updateTwin, or one of them but the first with IfMatchETag"
                )));
            }
        })
    }
}

pub(super) async fn run(call: &Call<'_>) -> Result<Answer, ApiError> {
    let items: Vec<&RawValue> = bodies::read(call.body)?;
    if items.is_empty() || items.len() > ITEMS_MAX {
        return Err(ApiError::argument(format!(
            "the call has {} items; want 1 to {ITEMS_MAX}",
            items.len()
        )));
    }
    let session = call.session;
    let work = items
        .into_iter()
        .map(|item| one(session, item.get()).boxed());
    let done: Vec<(Head, Result<(), ApiError>)> = stream::iter(work.collect::<Vec<_>>())
        .buffered(AT_ONCE)
        .collect()
        .await;
    let errors: Vec<Value> = done
        .iter()
        .filter_map(|(head, result)| {
            let error = result.as_ref().err()?;
            Some(json!({
                "deviceId": head.id,
                "moduleId": head.module_id,
                "errorCode": error.number(),
                "errorStatus": format!("{}: {error}", error.name()),
                "operation": head.import_mode,
            }))
        })
        .collect();
    let is_successful = errors.is_empty();
    let mut answer = Answer::ok(json!({
        "isSuccessful": is_successful,
        "errors": errors,
        "warnings": [],
    }));
    if !is_successful {
        answer.status = StatusCode::BAD_REQUEST;
    }
    Ok(answer)
}

async fn one(session: &Session, item: &str) -> (Head, Result<(), ApiError>) {
    let head: Head = match bodies::read_object(item.as_bytes()) {
        Ok(head) => head,
        Err(error) => return (Head::default(), Err(error)),
    };
    let result = apply(session, &head, item).await;
    (head, result)
}

async fn apply(session: &Session, head: &Head, item: &str) -> Result<(), ApiError> {
    let mode = Mode::parse(head.import_mode.as_deref())?;
    let key = key(head)?;
    let identity: IdentityBody = bodies::read_object(item.as_bytes())?;
    let etag = |if_match: bool, etag: &Option<String>| {
        let etag = etag.as_deref().unwrap_or_default().trim_matches('"');
        if if_match && etag != "*" {
            etag.to_owned()
        } else {
            String::new()
        }
    };
    match mode {
        Mode::Create => {
            create(session, &key, &identity).await?;
            fill(session, &key, item, String::new()).await
        }
        Mode::Update { if_match } => {
            update(session, &key, &identity, etag(if_match, &head.etag)).await
        }
        Mode::CreateOrUpdate { if_match } => {
            let etag = etag(if_match, &head.etag);
            match update(session, &key, &identity, etag).await {
                Err(error) if error.name() == missing(&key) => {
                    create(session, &key, &identity).await?;
                }
                updated => updated?,
            }
            fill(session, &key, item, String::new()).await
        }
        Mode::Delete { if_match } => {
            let etag = etag(if_match, &head.etag);
            match key.module {
                Some(_) => modules::remove(session, &key, etag).await,
                None => devices::remove(session, &key.device, etag).await,
            }
        }
        Mode::UpdateTwin { if_match } => {
            fill(session, &key, item, etag(if_match, &head.twin_etag)).await
        }
    }
}

fn key(head: &Head) -> Result<IdentityKey, ApiError> {
    let device = DeviceId::parse(&head.id)
        .map_err(|error| ApiError::argument(format!("id `{}`: {error}", head.id)))?;
    let module = match head.module_id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(
            ModuleId::parse(id)
                .map_err(|error| ApiError::argument(format!("moduleId `{id}`: {error}")))?,
        ),
        None => None,
    };
    Ok(IdentityKey { device, module })
}

/// The name of the error of an identity that is not there.
fn missing(key: &IdentityKey) -> &'static str {
    if key.module.is_some() {
        "ModuleNotFound"
    } else {
        "DeviceNotFound"
    }
}

async fn create(session: &Session, key: &IdentityKey, body: &IdentityBody) -> Result<(), ApiError> {
    match key.module {
        Some(_) => modules::create(session, key, body).await.map(drop),
        None => devices::create(session, &key.device, body).await.map(drop),
    }
}

async fn update(
    session: &Session,
    key: &IdentityKey,
    body: &IdentityBody,
    etag: String,
) -> Result<(), ApiError> {
    match key.module {
        Some(_) => modules::update(session, key, body, etag).await.map(drop),
        None => devices::update(session, &key.device, body, etag)
            .await
            .map(drop),
    }
}

/// Merges the item's tags and desired into the twin, if it has any.
async fn fill(
    session: &Session,
    key: &IdentityKey,
    item: &str,
    etag: String,
) -> Result<(), ApiError> {
    let body: TwinBody<'_> = bodies::read_object(item.as_bytes())?;
    if body.is_empty() {
        return Ok(());
    }
    twins::merge(session, key, &body, etag).await.map(drop)
}
