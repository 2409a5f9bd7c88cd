//! The writing half of `TwinService`: operators patch and replace tags and desired.

use twin::{TwinPatch, Version};
use wire::InvalidField;
use wire::twin::v1 as proto;

use super::caller::Caller;
use super::filter::{Filter, show};
use super::read_mask::ReadMask;
use super::repeatable::Repeatable;
use super::{Api, etag, identity, object};
use crate::apply::Mode;
use crate::apply::twins::{self, Conditions, Form, OnlyIf, OperatorWrite};
use crate::error::Error;
use crate::store::Selection;

/// What patching and replacing have in common.
struct Asked {
    name: String,
    operator: String,
    request_id: String,
    repeatable: Option<Repeatable>,
    mask: ReadMask,
    write: OperatorWrite,
}

impl Api {
    pub(super) async fn patch(
        &self,
        caller: &Caller,
        request: proto::PatchTwinRequest,
    ) -> Result<proto::Twin, Error> {
        let sections = TwinPatch {
            tags: object("tags_patch_json", &request.tags_patch_json)?,
            desired: object("desired_patch_json", &request.desired_patch_json)?,
        };
        if sections.tags.is_none() && sections.desired.is_none() {
            let problem = "both patches are empty; give tags_patch_json or desired_patch_json";
            return Err(InvalidField::new("desired_patch_json", problem).into());
        }
        let mask = ReadMask::parse(request.read_mask.as_ref())?;
        let id = &request.request_id;
        let repeatable = Repeatable::read("PatchTwin", caller, id, &request)?;
        let write = OperatorWrite {
            form: Form::Patch,
            sections,
            conditions: conditions(
                &request.etag,
                request.expected_desired_version,
                &request.only_if,
            )?,
            mode: Mode::new(request.validate_only),
            action: "twin.patch",
        };
        let asked = Asked {
            name: request.name,
            operator: request.operator,
            request_id: request.request_id,
            repeatable,
            mask,
            write,
        };
        self.write_twin(caller, asked).await
    }

    pub(super) async fn replace(
        &self,
        caller: &Caller,
        request: proto::ReplaceTwinRequest,
    ) -> Result<proto::Twin, Error> {
        let sections = TwinPatch {
            tags: object("tags_json", &request.tags_json)?,
            desired: object("desired_json", &request.desired_json)?,
        };
        if sections.tags.is_none() && sections.desired.is_none() {
            let problem = "both sections are empty; give tags_json or desired_json, and `{}` to \
                           take everything out of one";
            return Err(InvalidField::new("desired_json", problem).into());
        }
        let mask = ReadMask::parse(request.read_mask.as_ref())?;
        let id = &request.request_id;
        let repeatable = Repeatable::read("ReplaceTwin", caller, id, &request)?;
        let write = OperatorWrite {
            form: Form::Replace,
            sections,
            conditions: conditions(
                &request.etag,
                request.expected_desired_version,
                &request.only_if,
            )?,
            mode: Mode::new(request.validate_only),
            action: "twin.replace",
        };
        let asked = Asked {
            name: request.name,
            operator: request.operator,
            request_id: request.request_id,
            repeatable,
            mask,
            write,
        };
        self.write_twin(caller, asked).await
    }

    async fn write_twin(&self, caller: &Caller, asked: Asked) -> Result<proto::Twin, Error> {
        let key = identity("name", &asked.name)?;
        let operator = caller.operator(&asked.operator)?;
        let cause = caller.cause_as(operator, &asked.request_id);
        let (write, mask) = (asked.write, asked.mask);
        // What is only tried leaves nothing that a repetition could be answered with.
        let repeatable = asked.repeatable.filter(|_| write.mode == Mode::Write);
        let selection = Selection::One(key.clone());
        self.decide_once(repeatable, selection, move |overlay, now| {
            let record = twins::write(overlay, &key, &write, now, &cause)?;
            Ok(show(&record, &mask)?)
        })
        .await
    }
}

/// Reads what must hold of a twin before a write.
pub(super) fn conditions(
    given_etag: &str,
    expected_desired_version: u64,
    only_if: &str,
) -> Result<Conditions, Error> {
    let desired_version = match expected_desired_version {
        0 => None,
        number => Some(
            Version::new(number)
                .map_err(|error| InvalidField::new("expected_desired_version", error))?,
        ),
    };
    Ok(Conditions {
        etag: etag(given_etag),
        desired_version,
        only_if: content_condition(only_if)?,
    })
}

/// Reads a condition on the content of a twin; empty: none.
pub(super) fn content_condition(text: &str) -> Result<Option<OnlyIf>, Error> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let filter = Filter::parse("only_if", text)?;
    Ok(Some(OnlyIf {
        text: text.to_owned(),
        holds: Box::new(move |record, now| filter.passes(record, now)),
    }))
}
