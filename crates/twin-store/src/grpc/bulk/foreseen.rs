//! What an undo would come to, a part at a time: who asks goes on until there is no token, and so sees how far it
//! is, and can end it.

use wire::InvalidField;
use wire::names::identity_name;
use wire::twin::v1 as proto;

use super::convert::{page_token, place, to_wire_operation};
use crate::apply::Cause;
use crate::error::Error;
use crate::grpc::{Api, identity, token};
use crate::operations::{Operation, Work, foresee};
use crate::store::OperationId;

/// Results that a call looks at if it does not say: about a second's work.
const RESULTS_DEFAULT: u32 = 5_000;
/// Results that a call may look at.
const RESULTS_MAX: u32 = 20_000;

impl Api {
    /// What an undo would come to, as the twins are now.
    pub(super) async fn foresee_undo(
        &self,
        of: OperationId,
        request: &proto::UndoOperationRequest,
        cause: &Cause,
    ) -> Result<proto::Operation, Error> {
        let limit = limit(request.page_size)?;
        let list = token::fingerprint(["UndoOperation", &of.0]);
        let after = place(&request.page_token, &list)?
            .map(|name| identity("page_token", &name))
            .transpose()?;
        let (now, none) = (self.clock.now(), OperationId(String::new()));
        let undo = Operation::begin(none, Work::Undo { of }, cause.actor.clone(), None, 0, now);
        let count = self.engine.count();
        let foreseen = foresee::undo(&self.store, count, undo, (after, limit), now).await?;
        let next = foreseen.next.as_ref().map(identity_name);
        Ok(proto::Operation {
            name: String::new(),
            state: proto::OperationState::Unspecified.into(),
            create_time: None,
            update_time: None,
            next_page_token: next.map_or_else(String::new, |next| page_token(&list, next)),
            ..to_wire_operation(&foreseen.undo)
        })
    }
}

/// Refuses a place in what is foreseen, if nothing is.
pub(super) fn no_place(request: &proto::UndoOperationRequest) -> Result<(), Error> {
    let given = [
        ("page_size", request.page_size != 0),
        ("page_token", !request.page_token.is_empty()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((field, _)) => {
            Err(InvalidField::new(field, "needs `validate_only`: an undo is begun whole").into())
        }
        None => Ok(()),
    }
}

fn limit(asked: i32) -> Result<u32, Error> {
    match u32::try_from(asked) {
        Ok(0) => Ok(RESULTS_DEFAULT),
        Ok(results) if results <= RESULTS_MAX => Ok(results),
        Ok(_) | Err(_) => {
            let problem =
                format!("is {asked}; allowed are 1 to {RESULTS_MAX}, and 0 for {RESULTS_DEFAULT}");
            Err(InvalidField::new("page_size", problem).into())
        }
    }
}
