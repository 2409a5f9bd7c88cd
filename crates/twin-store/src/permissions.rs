//! Which permission each method of twin-store's API needs. Who has it is said in
//! `service_kit::auth`; what some calls need beyond it (keys) the handlers ask for themselves.

use service_kit::auth::Permission::{
    self, AuditRead, AuditRecord, DevicesAct, DevicesCommand, OperationsCancel, OperationsRead,
    PoliciesApply, RegistryKeysRead, RegistryRead, RegistryWrite, StoreAdmin, TwinsRead,
    TwinsWrite,
};

/// A method that is not named here is not served.
pub(crate) const RULES: &[(&str, Permission)] = &[
    ("/twinward.twin.v1.TwinService/GetTwin", TwinsRead),
    ("/twinward.twin.v1.TwinService/BatchGetTwins", TwinsRead),
    ("/twinward.twin.v1.TwinService/ListTwins", TwinsRead),
    ("/twinward.twin.v1.TwinService/PatchTwin", TwinsWrite),
    ("/twinward.twin.v1.TwinService/ReplaceTwin", TwinsWrite),
    ("/twinward.twin.v1.TwinService/WatchTwins", TwinsRead),
    (
        "/twinward.twin.v1.TwinHistoryService/ListTwinRevisions",
        TwinsRead,
    ),
    (
        "/twinward.twin.v1.TwinHistoryService/GetTwinRevision",
        TwinsRead,
    ),
    (
        "/twinward.twin.v1.TwinHistoryService/DiffTwinRevisions",
        TwinsRead,
    ),
    (
        "/twinward.twin.v1.TwinHistoryService/RevertTwin",
        TwinsWrite,
    ),
    ("/twinward.twin.v1.TwinQueryService/QueryTwins", TwinsRead),
    ("/twinward.twin.v1.TwinQueryService/ExplainQuery", TwinsRead),
    (
        "/twinward.twin.v1.TwinBulkService/StartBulkUpdate",
        TwinsWrite,
    ),
    (
        "/twinward.twin.v1.TwinBulkService/GetOperation",
        OperationsRead,
    ),
    (
        "/twinward.twin.v1.TwinBulkService/ListOperations",
        OperationsRead,
    ),
    (
        "/twinward.twin.v1.TwinBulkService/WaitOperation",
        OperationsRead,
    ),
    (
        "/twinward.twin.v1.TwinBulkService/CancelOperation",
        OperationsCancel,
    ),
    (
        "/twinward.twin.v1.TwinBulkService/ListOperationResults",
        OperationsRead,
    ),
    // It writes twins as the operation did.
    (
        "/twinward.twin.v1.TwinBulkService/UndoOperation",
        TwinsWrite,
    ),
    ("/twinward.twin.v1.DeviceTwinService/GetDesired", DevicesAct),
    (
        "/twinward.twin.v1.DeviceTwinService/PatchReported",
        DevicesAct,
    ),
    (
        "/twinward.twin.v1.DeviceTwinService/AcknowledgeDesired",
        DevicesAct,
    ),
    (
        "/twinward.twin.v1.PolicyTwinService/ApplyPolicySettings",
        PoliciesApply,
    ),
    (
        "/twinward.registry.v1.RegistryService/CreateDevice",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/GetDevice",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.RegistryService/BatchGetDevices",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.RegistryService/ListDevices",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.RegistryService/UpdateDevice",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/DeleteDevice",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/CreateModule",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/GetModule",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.RegistryService/ListModules",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.RegistryService/UpdateModule",
        RegistryWrite,
    ),
    // Its answer holds the key that was not rotated, too.
    (
        "/twinward.registry.v1.RegistryService/RotateKeys",
        RegistryKeysRead,
    ),
    (
        "/twinward.registry.v1.RegistryService/BatchCreateDevices",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/BatchUpdateDevices",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/BatchDeleteDevices",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/BatchGetModules",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.RegistryService/BatchCreateModules",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/BatchUpdateModules",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/BatchDeleteModules",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/EnsureSecurityModules",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/ResealSecrets",
        StoreAdmin,
    ),
    (
        "/twinward.registry.v1.RegistryService/GetRegistryStatistics",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.RegistryService/DeleteModule",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.RegistryService/CreateEnrollmentToken",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.EnrollmentService/CreateEnrollment",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.EnrollmentService/GetEnrollment",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.EnrollmentService/ListEnrollments",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.EnrollmentService/UpdateEnrollment",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.EnrollmentService/DeleteEnrollment",
        RegistryWrite,
    ),
    (
        "/twinward.registry.v1.EnrollmentService/DeriveDeviceKeys",
        RegistryKeysRead,
    ),
    (
        "/twinward.registry.v1.EnrollmentService/GetProvisioning",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.EnrollmentService/ResealEnrollments",
        StoreAdmin,
    ),
    (
        "/twinward.registry.v1.ProvisioningService/CheckRegistration",
        DevicesAct,
    ),
    (
        "/twinward.registry.v1.ProvisioningService/RegisterDevice",
        DevicesAct,
    ),
    (
        "/twinward.registry.v1.ProvisioningService/GetRegistration",
        DevicesAct,
    ),
    (
        "/twinward.registry.v1.CredentialService/GetCredentials",
        DevicesAct,
    ),
    (
        "/twinward.registry.v1.CredentialService/RedeemEnrollmentToken",
        DevicesAct,
    ),
    (
        "/twinward.device.v1.DeviceCommandService/InvokeMethod",
        DevicesCommand,
    ),
    (
        "/twinward.device.v1.DeviceCommandService/SendMessage",
        DevicesCommand,
    ),
    (
        "/twinward.device.v1.DeviceCommandService/ListMessages",
        DevicesCommand,
    ),
    // It is a part of what the registry says of a device.
    (
        "/twinward.device.v1.DeviceCommandService/CountMessages",
        RegistryRead,
    ),
    (
        "/twinward.device.v1.DeviceCommandService/PurgeMessages",
        DevicesCommand,
    ),
    (
        "/twinward.registry.v1.AccessService/GetCaller",
        RegistryRead,
    ),
    (
        "/twinward.registry.v1.AuditService/ListAuditEntries",
        AuditRead,
    ),
    ("/twinward.registry.v1.AuditService/VerifyAudit", AuditRead),
    (
        "/twinward.registry.v1.AuditService/RecordAuditEntry",
        AuditRecord,
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use service_kit::auth::coverage;

    use super::*;

    /// What the other services serve. Whatever else is in the contracts is twin-store's.
    const OTHERS: [&str; 3] = [
        "/twinward.agent.v1.",
        "/twinward.link.v1.",
        "/twinward.policy.v1.",
    ];

    #[test]
    fn every_method_has_exactly_one_rule_and_every_rule_a_method() {
        let methods = coverage::methods(wire::FILE_DESCRIPTOR_SET).expect("descriptors");
        let ours: BTreeSet<&str> = methods
            .iter()
            .map(String::as_str)
            .filter(|path| !OTHERS.iter().any(|other| path.starts_with(other)))
            .collect();
        let ruled: BTreeSet<&str> = RULES.iter().map(|(path, _)| *path).collect();
        assert_eq!(ruled, ours, "each method needs a rule in permissions.rs");
        assert_eq!(ruled.len(), RULES.len(), "a method has two rules");
    }
}
