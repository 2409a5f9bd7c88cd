//! Which permission each method of the policy API needs. Who has it is said in
//! `service_kit::auth`.

use service_kit::auth::Permission::{self, PoliciesRead, PoliciesWrite};

/// A method that is not named here is not served.
pub(crate) const RULES: &[(&str, Permission)] = &[
    (
        "/twinward.policy.v1.PolicyService/ApplyPolicy",
        PoliciesWrite,
    ),
    ("/twinward.policy.v1.PolicyService/GetPolicy", PoliciesRead),
    (
        "/twinward.policy.v1.PolicyService/ListPolicies",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.PolicyService/DeletePolicy",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.PolicyService/ListPolicyRevisions",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.PolicyService/GetPolicyRevision",
        PoliciesRead,
    ),
    // Both read twins for their caller; whoever may read policies may read twins.
    (
        "/twinward.policy.v1.PolicyService/ExplainTwin",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.PolicyService/PreviewPolicy",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.ActionService/ListActionCalls",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.GuardService/ListFrozenPaths",
        PoliciesRead,
    ),
    ("/twinward.policy.v1.GuardService/ThawPaths", PoliciesWrite),
    // What it writes is what policies want anyway; but it is work for everybody.
    (
        "/twinward.policy.v1.ReevaluationService/StartReevaluation",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.ReevaluationService/GetReevaluation",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.ReevaluationService/ListReevaluations",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.ReevaluationService/WaitReevaluation",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.ReevaluationService/CancelReevaluation",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.OperationService/GetOperation",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.OperationService/ListOperations",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.OperationService/WaitOperation",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.OperationService/CancelOperation",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.RolloutService/GetRollout",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.RolloutService/ListRollouts",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.RolloutService/WatchRollout",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.RolloutService/ApproveRollout",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.RolloutService/PauseRollout",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.RolloutService/ResumeRollout",
        PoliciesWrite,
    ),
    ("/twinward.policy.v1.RolloutService/SkipWave", PoliciesWrite),
    (
        "/twinward.policy.v1.RolloutService/AbortRollout",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.RolloutService/RetryRollout",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.FreezeService/CreateFreeze",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.FreezeService/ListFreezes",
        PoliciesRead,
    ),
    ("/twinward.policy.v1.FreezeService/EndFreeze", PoliciesWrite),
    (
        "/twinward.policy.v1.ConfigurationService/CreateConfiguration",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.ConfigurationService/UpdateConfiguration",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.ConfigurationService/GetConfiguration",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.ConfigurationService/ListConfigurations",
        PoliciesRead,
    ),
    (
        "/twinward.policy.v1.ConfigurationService/DeleteConfiguration",
        PoliciesWrite,
    ),
    (
        "/twinward.policy.v1.ConfigurationService/CheckConfigurationQueries",
        PoliciesRead,
    ),
    (
        "/twinward.registry.v1.AccessService/GetCaller",
        PoliciesRead,
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use service_kit::auth::coverage;

    use super::*;

    /// What is served here: our own contracts, and who a caller is.
    const OURS: [&str; 2] = [
        "/twinward.policy.v1.",
        "/twinward.registry.v1.AccessService/",
    ];

    #[test]
    fn every_method_has_exactly_one_rule_and_every_rule_a_method() {
        let methods = coverage::methods(wire::FILE_DESCRIPTOR_SET).expect("descriptors");
        let ours: BTreeSet<&str> = methods
            .iter()
            .map(String::as_str)
            .filter(|path| OURS.iter().any(|our| path.starts_with(our)))
            .collect();
        let ruled: BTreeSet<&str> = RULES.iter().map(|(path, _)| *path).collect();
        assert_eq!(ruled, ours, "each method needs a rule in permissions.rs");
        assert_eq!(ruled.len(), RULES.len(), "a method has two rules");
    }
}
