//! Operations and their results, page by page.

use wire::InvalidField;
use wire::names::identity_name;
use wire::twin::v1 as proto;

use super::convert::{operation_id, page_token, place, to_wire_operation, to_wire_result};
use crate::error::Error;
use crate::grpc::{Api, identity, page_size, report_damaged, token};
use crate::operations::{Operation, Outcome, TwinResult, job_of};
use crate::store::OperationId;

/// Results looked at for one page of one outcome.
const SCAN_MAX: usize = 10_000;
/// Rows read at once.
const CHUNK: u32 = 500;

impl Api {
    pub(super) async fn operations_page(
        &self,
        request: proto::ListOperationsRequest,
    ) -> Result<proto::ListOperationsResponse, Error> {
        let size = page_size(request.page_size)?;
        let list = if request.jobs_only {
            "ListJobs"
        } else {
            "ListOperations"
        };
        let after = place(&request.page_token, list)?.map(OperationId);
        let mut page = self.store.operations(after, size).await?;
        report_damaged(&page.damaged);
        if request.jobs_only {
            // Jobs come before all others.
            page.next = page.next.filter(|id| job_of(id).is_some());
            page.records.retain(|row| job_of(&row.id).is_some());
        }
        let mut operations = Vec::with_capacity(page.records.len());
        for row in &page.records {
            match Operation::from_row(row) {
                Ok(operation) => operations.push(to_wire_operation(&operation)),
                Err(damaged) => report_damaged(&[damaged]),
            }
        }
        Ok(proto::ListOperationsResponse {
            next_page_token: page
                .next
                .map(|id| page_token(list, id.0))
                .unwrap_or_default(),
            operations,
        })
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
