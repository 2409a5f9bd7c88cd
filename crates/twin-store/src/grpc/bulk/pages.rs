//! Operations and their results, page by page.

use std::collections::BTreeSet;

use jiff::Timestamp;
use wire::InvalidField;
use wire::names::identity_name;
use wire::time::optional;
use wire::twin::v1 as proto;

use super::convert::{operation_id, page_token, place, state, to_wire_operation, to_wire_result};
use crate::error::Error;
use crate::grpc::{Api, identity, page_size, report_damaged, token};
use crate::operations::{Operation, Outcome, TwinResult, job_of};
use crate::store::OperationId;

/// Rows looked at for one page, so that a call ends in time whatever is asked for; a page may then be
/// short, or empty with a token.
const SCAN_MAX: usize = 10_000;
/// Rows read at once.
const CHUNK: u32 = 500;

/// Which operations a list is asked for.
struct Wanted {
    jobs_only: bool,
    /// As the contract numbers them; empty: all.
    states: BTreeSet<i32>,
    /// Empty: whoever began it.
    actor: String,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

impl Wanted {
    fn read(request: &proto::ListOperationsRequest) -> Result<Wanted, Error> {
        for (index, state) in request.states.iter().enumerate() {
            match proto::OperationState::try_from(*state) {
                Ok(proto::OperationState::Unspecified) | Err(_) => {
                    let field = format!("states[{index}]");
                    let problem = format!("{state} is no state; see the enum OperationState");
                    return Err(InvalidField::new(field, problem).into());
                }
                Ok(_) => {}
            }
        }
        Ok(Wanted {
            jobs_only: request.jobs_only,
            states: request.states.iter().copied().collect(),
            actor: request.actor.clone(),
            from: optional("start_time", request.start_time)?,
            to: optional("end_time", request.end_time)?,
        })
    }

    /// What a page token of this list is bound to.
    fn fingerprint(&self) -> String {
        token::fingerprint([
            "ListOperations",
            &format!("{} {:?}", self.jobs_only, self.states),
            &self.actor,
            &format!("{:?} {:?}", self.from, self.to),
        ])
    }

    fn holds(&self, operation: &Operation) -> bool {
        let state: i32 = state(operation.state).into();
        let begun = operation.created_at;
        (self.states.is_empty() || self.states.contains(&state))
            && (self.actor.is_empty() || self.actor == operation.actor.to_string())
            && self.from.is_none_or(|from| begun >= from)
            && self.to.is_none_or(|to| begun < to)
    }
}

impl Api {
    pub(super) async fn operations_page(
        &self,
        request: proto::ListOperationsRequest,
    ) -> Result<proto::ListOperationsResponse, Error> {
        let size = page_size(request.page_size)? as usize;
        let wanted = Wanted::read(&request)?;
        let list = wanted.fingerprint();
        let mut after = place(&request.page_token, &list)?.map(OperationId);
        let mut answer = proto::ListOperationsResponse::default();
        let mut looked_at = 0;
        loop {
            let mut page = self.store.operations(after, CHUNK).await?;
            report_damaged(&page.damaged);
            if wanted.jobs_only {
                // Jobs come before all others.
                page.next = page.next.filter(|id| job_of(id).is_some());
                page.records.retain(|row| job_of(&row.id).is_some());
            }
            looked_at += page.records.len();
            let count = page.records.len();
            for (number, row) in page.records.iter().enumerate() {
                match Operation::from_row(row) {
                    Ok(operation) if wanted.holds(&operation) => {
                        answer.operations.push(to_wire_operation(&operation));
                    }
                    Ok(_) => {}
                    Err(damaged) => report_damaged(&[damaged]),
                }
                if answer.operations.len() >= size {
                    if number + 1 < count || page.next.is_some() {
                        answer.next_page_token = page_token(&list, row.id.0.clone());
                    }
                    return Ok(answer);
                }
            }
            let Some(next) = page.next else {
                return Ok(answer);
            };
            if looked_at >= SCAN_MAX {
                answer.next_page_token = page_token(&list, next.0);
                return Ok(answer);
            }
            after = Some(next);
        }
    }

    pub(super) async fn results_page(
        &self,
        request: proto::ListOperationResultsRequest,
    ) -> Result<proto::ListOperationResultsResponse, Error> {
        let id = operation_id("parent", &request.parent)?;
        let size = page_size(request.page_size)? as usize;
        let Ok(outcome) = proto::Outcome::try_from(request.outcome) else {
            let problem = format!("{} is none that is known", request.outcome);
            return Err(InvalidField::new("outcome", problem).into());
        };
        self.operation(&id).await?;
        let list = token::fingerprint([&id.0, outcome.as_str_name()]);
        let mut after = match place(&request.page_token, &list)? {
            Some(name) => Some(identity("page_token", &name)?),
            None => None,
        };
        let mut answer = proto::ListOperationResultsResponse::default();
        let mut looked_at = 0;
        loop {
            let page = self
                .store
                .operation_results(id.clone(), after, CHUNK)
                .await?;
            report_damaged(&page.damaged);
            looked_at += page.records.len();
            for row in &page.records {
                let result = match TwinResult::from_row(row) {
                    // It is told once something has become of it.
                    Ok(result) if result.outcome == Outcome::Pending => continue,
                    Ok(result) => to_wire_result(&result),
                    Err(damaged) => {
                        report_damaged(&[damaged]);
                        continue;
                    }
                };
                if outcome != proto::Outcome::Unspecified && result.outcome() != outcome {
                    continue;
                }
                answer.results.push(result);
                if answer.results.len() >= size {
                    answer.next_page_token = page_token(&list, identity_name(&row.key));
                    return Ok(answer);
                }
            }
            let Some(next) = page.next else {
                return Ok(answer);
            };
            if looked_at >= SCAN_MAX {
                answer.next_page_token = page_token(&list, identity_name(&next));
                return Ok(answer);
            }
            after = Some(next);
        }
    }
}
