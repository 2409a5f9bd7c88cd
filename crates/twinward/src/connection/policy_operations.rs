//! Reaching what takes long in the policy service.

use wire::policy::v1::operation_service_client::OperationServiceClient;

use super::{ANSWER_BYTES_MAX, Channel, Connection, Reevaluations};
use crate::failure::Failure;

impl Connection {
    /// Re-evaluations of twins.
    pub(crate) fn reevaluations(&self) -> Result<Reevaluations, Failure> {
        Ok(Reevaluations::new(self.channel(&self.policy()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// Rollouts and re-evaluations as operations.
    pub(crate) fn policy_operations(&self) -> Result<OperationServiceClient<Channel>, Failure> {
        Ok(OperationServiceClient::new(self.channel(&self.policy()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}
