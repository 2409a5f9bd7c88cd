//! Whom the agents' door lets in: everybody, because each of its calls proves itself with a SAS
//! token or an enrolment token (`crate::auth`, `crate::grpc::enroll`). It serves nothing that
//! needs a permission, and therefore has no rules.

#[cfg(test)]
mod tests {
    use service_kit::auth::coverage;
    use tonic::server::NamedService;

    /// The one service that `app` adds as an open one.
    type Door = wire::agent::v1::agent_service_server::AgentServiceServer<crate::grpc::Door>;

    #[test]
    fn every_method_of_the_agents_contract_is_one_that_proves_itself() {
        let methods = coverage::methods(wire::FILE_DESCRIPTOR_SET).expect("descriptors");
        let agents: Vec<&str> = methods
            .iter()
            .map(String::as_str)
            .filter(|path| path.starts_with("/twinward.agent.v1."))
            .collect();
        let own = [
            format!("/{}/Enroll", Door::NAME),
            format!("/{}/OpenSession", Door::NAME),
        ];
        assert_eq!(
            agents, own,
            "whoever adds a method says here that it authenticates"
        );
    }
}
