//! What decisions find and leave beside records: tokens, answers, operations, enrolments.

use twin::DeviceId;

use super::Overlay;
use crate::error::Error;
use crate::operations::job_of;
use crate::store::{
    EnrollmentState, EnrollmentToken, EnrollmentUse, OperationId, OperationResultRow, OperationRow,
    ProvisioningKey, ProvisioningKind, ProvisioningRow, ProvisioningWrite, RequestAnswer,
    RequestId, TokenHash,
};

impl Overlay {
    /// Leaves a new enrolment token to be written.
    pub fn add_token(&mut self, token: EnrollmentToken) {
        self.left.tokens.push(token);
    }

    /// Leaves the use of an enrolment token to be written.
    pub fn enroll(&mut self, use_of: EnrollmentUse) {
        self.left.enrollments.push(use_of);
    }

    /// An enrolment token as a device finds it, with the uses that are decided but not committed.
    pub fn token(&self, hash: TokenHash, device: &DeviceId) -> Option<EnrollmentState> {
        let mut state = self.tokens.get(&(hash, device.clone()))?.clone();
        let used = self.left.enrollments.iter();
        for use_of in used.filter(|use_of| use_of.hash == hash) {
            state.uses = state.uses.saturating_add(1);
            if use_of.device == *device {
                state.nonce = Some(use_of.nonce.clone());
            }
        }
        Some(state)
    }

    /// What a call with this id was answered, also when that is decided but not committed.
    ///
    /// # Errors
    /// It was answered, and nobody can tell what.
    pub fn answer(&self, id: &RequestId) -> Result<Option<&RequestAnswer>, Error> {
        let answer = self.requests.get(id).map(Result::as_ref);
        answer.transpose().map_err(|damaged| damaged.clone().into())
    }

    /// Leaves what a call with a request id is answered to be remembered.
    pub fn remember(&mut self, answer: RequestAnswer) {
        self.requests.insert(answer.id.clone(), Ok(answer.clone()));
        self.left.requests.push(answer);
    }

    /// A long-running operation, as decided so far.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn operation(&self, id: &OperationId) -> Result<Option<&OperationRow>, Error> {
        let row = self.operations.get(id).map(Result::as_ref);
        row.transpose().map_err(|damaged| damaged.clone().into())
    }

    /// How many of the long-running operations that were loaded or decided have not ended; jobs do
    /// not count.
    pub fn running_operations(&self) -> usize {
        let running = self.operations.values().flatten();
        let running = running.filter(|row| !row.ended && job_of(&row.id).is_none());
        running.count()
    }

    /// How many of the jobs that were loaded or decided have not ended.
    pub fn running_jobs(&self) -> usize {
        let running = self.operations.values().flatten();
        let running = running.filter(|row| !row.ended && job_of(&row.id).is_some());
        running.count()
    }

    /// Leaves an operation to be written.
    pub fn put_operation(&mut self, row: OperationRow) {
        self.operations.insert(row.id.clone(), Ok(row.clone()));
        self.left.operations.retain(|other| other.id != row.id);
        self.left.operations.push(row);
    }

    /// Leaves the result of an operation on one twin to be written.
    pub fn put_result(&mut self, row: OperationResultRow) {
        self.left.results.push(row);
    }

    /// The id scope or an enrolment, as decided so far.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn provisioning(&self, key: &ProvisioningKey) -> Result<Option<&ProvisioningRow>, Error> {
        let row = self.provisioning.get(key).map(Result::as_ref);
        row.transpose().map_err(|damaged| damaged.clone().into())
    }

    /// How many enrolments of groups were loaded or decided.
    pub fn groups(&self) -> usize {
        let keys = self.provisioning.keys();
        keys.filter(|key| key.kind == ProvisioningKind::Group)
            .count()
    }

    /// Leaves a row of provisioning to be written or removed.
    pub fn put_provisioning(&mut self, write: ProvisioningWrite) {
        match &write {
            ProvisioningWrite::Put(row) => {
                self.provisioning.insert(row.key.clone(), Ok(row.clone()));
            }
            ProvisioningWrite::Remove(key) => {
                self.provisioning.remove(key);
            }
        }
        let key = write.key();
        self.left.provisioning.retain(|other| other.key() != key);
        self.left.provisioning.push(write);
    }
}
