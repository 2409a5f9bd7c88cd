//! Who calls, in which trace, and what that makes the cause of a change.

use service_kit::auth::{Permission, Principal, check, principal};
use service_kit::trace;
use tonic::Request;
use twin::Writer;
use wire::InvalidField;

use crate::apply::Cause;
use crate::error::Error;

/// Longest name of an operator: it is kept with every leaf.
const OPERATOR_MAX: usize = 128;

/// Who calls, and in which trace.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    principal: Principal,
    trace_parent: Option<String>,
}

impl Caller {
    /// Of a call.
    pub(super) fn of<T>(request: &Request<T>) -> Caller {
        Caller {
            principal: principal(request),
            trace_parent: trace::current_traceparent(),
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.principal.name
    }

    /// The cause of what the caller changes itself; `request_id` may be empty.
    pub(super) fn cause(&self, request_id: &str) -> Cause {
        self.cause_as(Writer::Operator(self.principal.name.clone()), request_id)
    }

    /// The cause of what the caller changes on behalf of somebody.
    pub(super) fn cause_as(&self, actor: Writer, request_id: &str) -> Cause {
        // Without an id of its own, the trace says which call it was.
        let trace_id = self
            .trace_parent
            .as_deref()
            .and_then(|text| text.split('-').nth(1));
        let cause = match (request_id, trace_id) {
            ("", None) => "request".to_owned(),
            ("", Some(trace_id)) => format!("request:{trace_id}"),
            (id, _) => format!("request:{id}"),
        };
        Cause {
            actor,
            cause,
            trace_parent: self.trace_parent.clone(),
            ..Cause::default()
        }
    }

    /// Refuses a caller who lacks a permission beyond that of its call.
    pub(super) fn check(&self, permission: Permission, action: &str) -> Result<(), Error> {
        check(&self.principal, permission, action).map_err(Error::from)
    }

    /// In whose name a call is made that policies make as well: theirs, as the service says that applies
    /// them, or an operator's.
    pub(super) fn policy_or_operator(&self, given: &str) -> Result<Writer, Error> {
        let is_service = self.principal.may(Permission::PoliciesApply);
        match Writer::parse(given) {
            Ok(writer @ Writer::Policy { .. }) if is_service => Ok(writer),
            Ok(_) | Err(_) => self.operator(given),
        }
    }

    /// In whose name an operator's write is made: the caller's own, or the name that it gives. Only
    /// a service that has looked who its own caller is may name somebody else.
    pub(super) fn operator(&self, given: &str) -> Result<Writer, Error> {
        if given.len() > OPERATOR_MAX {
            let problem = format!(
                "has {} bytes; at most {OPERATOR_MAX} are allowed",
                given.len()
            );
            return Err(InvalidField::new("operator", problem).into());
        }
        if given.is_empty() || given == self.principal.name {
            return Ok(Writer::Operator(self.principal.name.clone()));
        }
        let action = format!("write in the name of {given}; leave `operator` empty to use its own");
        check(&self.principal, Permission::TwinsWriteAs, &action)?;
        Ok(Writer::Operator(given.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use service_kit::auth::{Role, Via};
    use service_kit::error::Classified as _;

    use super::*;

    fn caller(roles: &[Role], trace: Option<&str>) -> Caller {
        Caller {
            principal: Principal::new("alice", roles.iter().copied(), Via::Token),
            trace_parent: trace.map(str::to_owned),
        }
    }

    #[test]
    fn only_a_service_writes_in_the_name_of_another() {
        let alice = caller(&[Role::Admin, Role::Operator], None);
        let own = Writer::Operator("alice".into());
        assert_eq!(alice.operator("").unwrap(), own);
        assert_eq!(alice.operator("alice").unwrap(), own);
        let refused = alice.operator("bob").unwrap_err();
        assert_eq!(refused.reason(), "PERMISSION_MISSING");
        assert!(
            refused.to_string().contains("in the name of bob"),
            "{refused}"
        );
        let missing = ("permission", "twins.write_as".to_owned());
        assert!(refused.metadata().contains(&missing), "{refused:?}");
        let gateway = caller(&[Role::Service], None);
        assert_eq!(
            gateway.operator("bob").unwrap(),
            Writer::Operator("bob".into())
        );
        let policy = Writer::Policy {
            id: "p".into(),
            revision: 3,
        };
        assert_eq!(gateway.policy_or_operator("policy:p@3").unwrap(), policy);
        assert_eq!(
            gateway.policy_or_operator("bob").unwrap(),
            Writer::Operator("bob".into())
        );
        assert!(alice.policy_or_operator("policy:p@3").is_err());
        let long = gateway.operator(&"b".repeat(129)).unwrap_err();
        assert!(long.to_string().contains("at most 128"), "{long}");
    }

    #[test]
    fn a_cause_names_the_request_or_the_trace() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = caller(&[], Some(trace));
        assert_eq!(traced.cause("7").cause, "request:7");
        assert_eq!(
            traced.cause("").cause,
            "request:4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(caller(&[], None).cause("").cause, "request");
        assert_eq!(traced.cause("").actor.to_string(), "operator:alice");
    }
}
