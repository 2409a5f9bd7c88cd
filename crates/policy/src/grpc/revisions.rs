//! What a policy was: its revisions, from the store.

use wire::InvalidField;
use wire::policy::v1 as proto;

use super::{Error, page_size, parse_name};
use crate::policies::Policies;
use crate::policy_doc::PolicyId;
use crate::resource::to_wire_revision;
use crate::store;

/// Characters of a note: some sentences. What a change is about stands in the ticket.
const NOTE_CHARS_MAX: usize = 512;
/// Before the revision in a page token, so that another form can be told apart later.
const PAGE_TOKEN_PREFIX: &str = "below:";

/// A note that may be kept.
pub(super) fn check_note(note: String) -> Result<String, InvalidField> {
    let chars = note.chars().count();
    if chars <= NOTE_CHARS_MAX {
        return Ok(note);
    }
    let problem = format!("has {chars} characters; at most {NOTE_CHARS_MAX} are allowed");
    Err(InvalidField::new("note", problem))
}

/// A page of revisions.
pub(super) async fn list(
    policies: &Policies,
    request: &proto::ListPolicyRevisionsRequest,
) -> Result<proto::ListPolicyRevisionsResponse, Error> {
    let id = parse_name(&request.name)?;
    let size = page_size(request.page_size)?;
    let below = page_start(&request.page_token)?;
    // One more than asked shows whether there is another page.
    let mut found = policies.revisions(id.clone(), below, size + 1).await?;
    if found.is_empty() && below.is_none() {
        return Err(store::Error::NotFound { id }.into());
    }
    let more = found.len() > size;
    found.truncate(size);
    let next_page_token = match found.last() {
        Some(last) if more => format!("{PAGE_TOKEN_PREFIX}{}", last.revision),
        Some(_) | None => String::new(),
    };
    let revisions = found.iter().map(|one| to_wire_revision(&id, one, false));
    Ok(proto::ListPolicyRevisionsResponse {
        revisions: revisions.collect(),
        next_page_token,
    })
}

/// One revision with its content.
pub(super) async fn get(
    policies: &Policies,
    request: &proto::GetPolicyRevisionRequest,
) -> Result<proto::PolicyRevision, Error> {
    let id = parse_name(&request.name)?;
    let asked = (request.revision > 0).then_some(request.revision);
    let below = asked.map(|revision| revision.saturating_add(1));
    let found = policies.revisions(id.clone(), below, 1).await?;
    let matching = |revision: u64| asked.is_none_or(|asked| asked == revision);
    match found.first() {
        Some(found) if matching(found.revision) => Ok(to_wire_revision(&id, found, true)),
        Some(_) | None => Err(absent(policies, id, asked).await),
    }
}

/// Tells a revision that there is not from a policy that there never was.
async fn absent(policies: &Policies, id: PolicyId, asked: Option<u64>) -> Error {
    match policies.revisions(id.clone(), None, 1).await {
        Err(error) => error.into(),
        Ok(newest) => match (newest.first(), asked) {
            (Some(newest), Some(asked)) => store::Error::NoRevision {
                id,
                asked,
                newest: newest.revision,
            },
            (None, _) | (_, None) => store::Error::NotFound { id },
        }
        .into(),
    }
}

fn page_start(token: &str) -> Result<Option<u64>, InvalidField> {
    if token.is_empty() {
        return Ok(None);
    }
    token
        .strip_prefix(PAGE_TOKEN_PREFIX)
        .and_then(|revision| revision.parse().ok())
        .map(Some)
        .ok_or_else(|| InvalidField::new("page_token", "is not one that this service gave"))
}
