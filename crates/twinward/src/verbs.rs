//! What an operator can ask for. Every verb is a file: its arguments, its calls, its views.

pub(crate) mod access_policy;
pub(crate) mod audit;
pub(crate) mod bulk;
pub(crate) mod certs;
pub(crate) mod completions;
pub(crate) mod configuration;
pub(crate) mod device;
pub(crate) mod enrollment;
pub(crate) mod guard;
pub(crate) mod module;
pub(crate) mod operation;
pub(crate) mod policy;
pub(crate) mod probe;
pub(crate) mod provisioning;
pub(crate) mod query;
pub(crate) mod rollout;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod twin;
