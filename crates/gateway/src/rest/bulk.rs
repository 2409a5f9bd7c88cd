//! Up to a hundred identities or twins in one call, each of which succeeds or fails for itself
//! (spec iot-hub-twins §7.1, bulk). What is about one device and its modules is done in the order of
//! the call, since one item may need what another makes; the rest side by side.

use std::collections::{BTreeMap, BTreeSet};

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
use crate::headers::IfMatch;
use crate::hub::Session;

/// Most items of a call (spec §2.6).
const ITEMS_MAX: usize = 100;
/// Devices whose items are under way at the same time.
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

/// An item of a call.
struct Item<'a> {
    head: Head,
    text: &'a str,
    /// Which identity it is about.
    key: Result<IdentityKey, ApiError>,
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
    let items = refuse_repeated(items.into_iter().map(|item| read(item.get())).collect());
    let done = all(call.session, items).await;
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

fn read(text: &str) -> Item<'_> {
    match bodies::read_object::<Head>(text.as_bytes()) {
        Ok(head) => Item {
            key: key(&head),
            head,
            text,
        },
        Err(error) => Item {
            head: Head::default(),
            text,
            key: Err(error),
        },
    }
}

/// Refuses all items about an identity that several are about: nobody can say which is meant to last.
fn refuse_repeated(mut items: Vec<Item<'_>>) -> Vec<Item<'_>> {
    let (mut seen, mut repeated) = (BTreeSet::new(), BTreeSet::new());
    for key in items.iter().filter_map(|item| item.key.as_ref().ok()) {
        if !seen.insert(key.clone()) {
            repeated.insert(key.clone());
        }
    }
    for item in &mut items {
        if let Ok(key) = &item.key
            && repeated.contains(key)
        {
            let message = format!(
                "{} is there more than once in this call",
                modules::name(key)
            );
            item.key = Err(ApiError::new(
                400_011,
                "DeviceDefinedMultipleTimes",
                message,
            ));
        }
    }
    items
}

/// What became of each item, in the order of the call.
async fn all(session: &Session, items: Vec<Item<'_>>) -> Vec<(Head, Result<(), ApiError>)> {
    let mut families: BTreeMap<Option<DeviceId>, Vec<(usize, Item<'_>)>> = BTreeMap::new();
    for (place, item) in items.into_iter().enumerate() {
        let device = item.key.as_ref().ok().map(|key| key.device.clone());
        families.entry(device).or_default().push((place, item));
    }
    let work = families.into_values().map(|family| {
        async move {
            let mut done = Vec::with_capacity(family.len());
            for (place, Item { head, text, key }) in family {
                let result = match &key {
                    Ok(key) => {
                        let applied = apply(session, key, &head, text).await;
                        match applied {
                            Err(error) => Err(modules::or_its_device(session, key, error).await),
                            Ok(()) => Ok(()),
                        }
                    }
                    Err(error) => Err(error.clone()),
                };
                done.push((place, head, result));
            }
            done
        }
        .boxed()
    });
    let done: Vec<Vec<_>> = stream::iter(work.collect::<Vec<_>>())
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut done: Vec<_> = done.into_iter().flatten().collect();
    done.sort_by_key(|(place, ..)| *place);
    done.into_iter()
        .map(|(_, head, result)| (head, result))
        .collect()
}

/// The etag that an item is about, as twin-store takes it: empty for any. Who asks for a comparison and
/// gives nothing to compare with is refused, and not obeyed.
fn etag(if_match: bool, field: &str, given: Option<&str>) -> Result<String, ApiError> {
    if !if_match {
        return Ok(String::new());
    }
    let given = given.ok_or_else(|| {
        ApiError::argument(format!(
            "importMode compares etags, and {field} is missing; want an etag, or * for any"
        ))
    })?;
    Ok(IfMatch::etag(Some(&IfMatch::parse(field, given)?)))
}

async fn apply(
    session: &Session,
    key: &IdentityKey,
    head: &Head,
    item: &str,
) -> Result<(), ApiError> {
    let mode = Mode::parse(head.import_mode.as_deref())?;
    let identity: IdentityBody = bodies::read_object(item.as_bytes())?;
    let own = |if_match| etag(if_match, "eTag", head.etag.as_deref());
    let twins = |if_match| etag(if_match, "twinETag", head.twin_etag.as_deref());
    match mode {
        Mode::Create => {
            create(session, key, &identity).await?;
            fill(session, key, item, String::new()).await
        }
        Mode::Update { if_match } => update(session, key, &identity, own(if_match)?).await,
        Mode::CreateOrUpdate { if_match } => {
            match update(session, key, &identity, own(if_match)?).await {
                Err(error) if error.name() == missing(key) => {
                    create(session, key, &identity).await?;
                }
                updated => updated?,
            }
            fill(session, key, item, String::new()).await
        }
        Mode::Delete { if_match } => {
            let etag = own(if_match)?;
            match key.module {
                Some(_) => modules::remove(session, key, etag).await,
                None => devices::remove(session, &key.device, etag).await,
            }
        }
        Mode::UpdateTwin { if_match } => fill(session, key, item, twins(if_match)?).await,
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
        Some(_) => {
            let managed_by = body.managed_by.clone();
            let updated = modules::update(session, key, body, managed_by, etag).await;
            updated.map(drop)
        }
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
    if body.is_empty() && etag.is_empty() {
        return Ok(());
    }
    twins::merge(session, key, &body, etag).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_wants_etags_compared_gives_one() {
        assert_eq!(etag(false, "eTag", None).expect("any"), "");
        for any in ["*", "\"*\"", "W/\"*\""] {
            assert_eq!(etag(true, "eTag", Some(any)).expect(any), "");
        }
        for one in ["MQ==", "\"MQ==\"", "W/\"MQ==\""] {
            assert_eq!(etag(true, "eTag", Some(one)).expect(one), "MQ==");
        }
        let missing = etag(true, "twinETag", None).expect_err("missing");
        assert_eq!(missing.number(), 400_004);
        assert!(
            missing.to_string().contains("twinETag is missing"),
            "{missing}"
        );
        for empty in ["", "\"\"", " "] {
            let refused = etag(true, "eTag", Some(empty)).expect_err("empty");
            assert_eq!(refused.number(), 412_001, "{empty:?}");
        }
    }

    #[test]
    fn an_identity_is_there_once_and_its_module_is_another() {
        let texts = [
            r#"{"id":"a"}"#,
            r#"{"id":"a","moduleId":"m"}"#,
            r#"{"id":"b"}"#,
            r#"{"id":"b","importMode":"delete"}"#,
            "[]",
        ];
        let items = refuse_repeated(texts.into_iter().map(read).collect());
        let number = |item: &Item<'_>| item.key.as_ref().err().map(ApiError::number);
        let numbers: Vec<_> = items.iter().map(number).collect();
        let repeated = Some(400_011);
        assert_eq!(numbers, [None, None, repeated, repeated, Some(400_004)]);
    }
}
