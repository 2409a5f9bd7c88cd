//! The API of freezes: reads what is asked, has it kept, and prints it.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use service_kit::clock::SharedClock;
use service_kit::error::{Classified, Kind, Violation};
use service_kit::status::to_status;
use thiserror::Error;
use tonic::{Request, Response, Status};
use wire::InvalidField;
use wire::policy::v1 as proto;
use wire::policy::v1::freeze_service_server::FreezeService;

use super::{by, page_size, parse_policy, revisions};
use crate::policies::Policies;
use crate::resource::schedule::print_freeze;
use crate::store::{By, FreezeError, StoredFreeze};

/// Policies of one freeze: as many as there can be.
const POLICIES_MAX: usize = crate::store::POLICIES_MAX;

/// Freezes of a page if nobody says how many.
const PAGE_SIZE_DEFAULT: usize = 1000;
/// Before the number in a page token, so that another form can be told apart later.
const PAGE_TOKEN_PREFIX: &str = "below:";

/// Longer ones are no freezes.
const LASTS_MAX: SignedDuration = SignedDuration::from_hours(366 * 24);

/// Orders, lists and ends freezes.
#[derive(Debug, Clone)]
pub(crate) struct FreezeApi {
    policies: Policies,
    clock: SharedClock,
}

impl FreezeApi {
    /// Freezes these policies.
    pub(crate) fn new(policies: Policies, clock: SharedClock) -> FreezeApi {
        FreezeApi { policies, clock }
    }

    async fn create(
        &self,
        request: proto::CreateFreezeRequest,
        by: By,
    ) -> Result<proto::Freeze, Error> {
        let wire = request
            .freeze
            .ok_or_else(|| InvalidField::new("freeze", "is required"))?;
        let now = self.clock.now();
        let mut policies = BTreeSet::new();
        if wire.policies.len() > POLICIES_MAX {
            let found = wire.policies.len();
            let problem =
                format!("are {found}; at most {POLICIES_MAX} are allowed, none means all");
            return Err(InvalidField::new("freeze.policies", problem).into());
        }
        for name in &wire.policies {
            let id = parse_policy("freeze.policies", name)?;
            if self.policies.get(&id).is_none() {
                let problem = format!("there is no policy {id}");
                return Err(InvalidField::new("freeze.policies", problem).into());
            }
            policies.insert(id);
        }
        let from = wire::time::optional("freeze.start_time", wire.start_time)?.unwrap_or(now);
        let to = end(&wire, request.lasts, from)?;
        if let Some(to) = to
            && to <= from.max(now)
        {
            let problem = format!("is {to}, which is over when the freeze begins");
            return Err(InvalidField::new("freeze.end_time", problem).into());
        }
        let reason = revisions::check_note(wire.reason)
            .map_err(|wrong| InvalidField::new("freeze.reason", wrong.problem))?;
        let freeze = StoredFreeze {
            number: 0,
            policies,
            from,
            to,
            reason,
            author: by.actor.clone(),
            created_at: now,
        };
        let stored = self.policies.create_freeze(freeze, by).await?;
        tracing::info!(
            freeze = stored.number,
            author = stored.author,
            reason = stored.reason,
            "policies are frozen"
        );
        Ok(print_freeze(&stored, now))
    }

    fn list(
        &self,
        request: &proto::ListFreezesRequest,
    ) -> Result<proto::ListFreezesResponse, Error> {
        let size = match request.page_size {
            // Programs from before there were pages ask for all.
            0 => PAGE_SIZE_DEFAULT,
            asked => page_size(asked)?,
        };
        let below = match request.page_token.as_str() {
            "" => u64::MAX,
            token => token
                .strip_prefix(PAGE_TOKEN_PREFIX)
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| InvalidField::new("page_token", "is none that this service gave"))?,
        };
        let now = self.clock.now();
        let freezes = self.policies.freezes();
        let older = freezes.iter().rev().filter(|one| one.number < below);
        // One more than asked shows whether there is another page.
        let mut found: Vec<_> = older.take(size + 1).collect();
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(last) if more => format!("{PAGE_TOKEN_PREFIX}{}", last.number),
            Some(_) | None => String::new(),
        };
        Ok(proto::ListFreezesResponse {
            freezes: found.iter().map(|one| print_freeze(one, now)).collect(),
            next_page_token,
        })
    }

    async fn end(&self, name: &str, by: By) -> Result<proto::Freeze, Error> {
        let number = name.strip_prefix("freezes/").and_then(|it| it.parse().ok());
        let number = number.ok_or_else(|| {
            InvalidField::new(
                "name",
                format!("is {name:?}; allowed is \"freezes/{{number}}\""),
            )
        })?;
        let stored = self.policies.end_freeze(number, by).await?;
        tracing::info!(freeze = number, "a freeze was ended");
        Ok(print_freeze(&stored, self.clock.now()))
    }
}

/// When a freeze ends, which may be said in two ways.
fn end(
    wire: &proto::Freeze,
    lasts: Option<prost_types::Duration>,
    from: Timestamp,
) -> Result<Option<Timestamp>, InvalidField> {
    let to = wire::time::optional("freeze.end_time", wire.end_time)?;
    let Some(lasts) = lasts else { return Ok(to) };
    if to.is_some() {
        let problem = "says when it ends, and so does freeze.end_time; leave one out";
        return Err(InvalidField::new("lasts", problem));
    }
    let length = std::time::Duration::try_from(lasts).ok();
    let length = length.and_then(|length| SignedDuration::try_from(length).ok());
    let end = length
        .filter(|length| *length <= LASTS_MAX)
        .and_then(|length| from.checked_add(length).ok());
    end.map(Some)
        .ok_or_else(|| InvalidField::new("lasts", "is not a length of time up to 366 days"))
}

#[tonic::async_trait]
impl FreezeService for FreezeApi {
    async fn create_freeze(
        &self,
        request: Request<proto::CreateFreezeRequest>,
    ) -> Result<Response<proto::Freeze>, Status> {
        let by = by(&request);
        answer(self.create(request.into_inner(), by).await)
    }

    async fn list_freezes(
        &self,
        request: Request<proto::ListFreezesRequest>,
    ) -> Result<Response<proto::ListFreezesResponse>, Status> {
        answer(self.list(request.get_ref()))
    }

    async fn end_freeze(
        &self,
        request: Request<proto::EndFreezeRequest>,
    ) -> Result<Response<proto::Freeze>, Status> {
        let by = by(&request);
        answer(self.end(&request.get_ref().name, by).await)
    }
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

/// Why a call is refused.
#[derive(Debug, Error)]
enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Field(#[from] InvalidField),
    /// It is not kept.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Field(_) => Kind::InvalidArgument,
            Error::Freeze(error) => error.kind(),
        }
    }

    fn reason(&self) -> &str {
        match self {
            Error::Field(_) => "INVALID_FIELD",
            Error::Freeze(error) => error.reason(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Error::Field(field) => vec![Violation::new(&field.field, &field.problem)],
            Error::Freeze(_) => Vec::new(),
        }
    }
}
