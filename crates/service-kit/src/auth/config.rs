//! What an operator says about who may call.

use serde::{Deserialize, Serialize};

use crate::auth::{AdminToken, Role};
use crate::config::{Problems, Validate};
use crate::secret::Secret;

/// Who may call a gRPC API: the table `[auth]` of a service. With nothing set, and without the
/// service's `token`, authorisation is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// What the holder of the service's `token` is called in history and audit. Default `admin`.
    pub token_name: String,
    /// The roles of whoever holds the service's `token`: some of `reader`, `operator`, `admin`,
    /// `service`. Default `["admin", "service"]`, so that one token is enough for a small hub.
    pub token_roles: Vec<Role>,
    /// A second token, for our own services alone: its holder is called `service` and has the role
    /// `service`. At least 16 characters. Unset (default): there is none.
    pub service_token: Option<Secret>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            token_name: "admin".to_owned(),
            token_roles: vec![Role::Admin, Role::Service],
            service_token: None,
        }
    }
}

impl Validate for AuthConfig {
    fn validate(&self, problems: &mut Problems) {
        let named = !self.token_name.trim().is_empty();
        problems.require(named, "token_name", "must not be empty");
        problems.require(
            !self.token_roles.is_empty(),
            "token_roles",
            "must name at least one of reader, operator, admin, service",
        );
        if let Some(Err(error)) = self.service_token.clone().map(AdminToken::new) {
            problems.add("service_token", error.to_string());
        }
    }
}
