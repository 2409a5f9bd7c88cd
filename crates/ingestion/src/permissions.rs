//! Whom the agents' door lets in: everybody, because each of its calls proves itself with a SAS
//! token or an enrolment token (`crate::auth`, `crate::grpc::enroll`). Only the gateway's links need
//! a permission: what it says of devices is believed.

use service_kit::auth::Permission::{self, DevicesAct};

/// A method that is named neither here nor in the agents' contract is not served.
pub(crate) const RULES: &[(&str, Permission)] = &[(
    "/twinward.link.v1.DeviceLinkService/OpenDeviceLink",
    DevicesAct,
)];

#[cfg(test)]
mod tests {
    use service_kit::auth::coverage;
    use tonic::server::NamedService;

    use super::*;

    /// The one service that `app` adds as an open one.
    type Door = wire::agent::v1::agent_service_server::AgentServiceServer<crate::grpc::Door>;

    fn methods(prefix: &str) -> Vec<String> {
        let methods = coverage::methods(wire::FILE_DESCRIPTOR_SET).expect("descriptors");
        let ours = methods.iter().filter(|path| path.starts_with(prefix));
        ours.cloned().collect()
    }

    #[test]
    fn every_method_of_the_agents_contract_is_one_that_proves_itself() {
        let own = [
            format!("/{}/Enroll", Door::NAME),
            format!("/{}/OpenSession", Door::NAME),
        ];
        assert_eq!(
            methods("/twinward.agent.v1."),
            own,
            "whoever adds a method says here that it authenticates"
        );
    }

    #[test]
    fn every_method_of_links_has_a_rule() {
        let ruled: Vec<&str> = RULES.iter().map(|(path, _)| *path).collect();
        assert_eq!(methods("/twinward.link.v1."), ruled);
    }
}
