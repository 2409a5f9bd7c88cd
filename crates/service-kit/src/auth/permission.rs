//! What may be done, who may do it, and as what a caller is known: the one table of roles.
//!
//! Nothing here asks who a caller is; that is decided in [`crate::auth`].

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that a method of an API needs its caller to be allowed. Names are stable: they stand
/// in refusals, in metrics and in what operators write down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// Reading twins, querying and watching them.
    TwinsRead,
    /// Changing tags and desired properties.
    TwinsWrite,
    /// Changing them in the name of somebody else, as a service does that has looked who its own
    /// caller is.
    TwinsWriteAs,
    /// Reading devices and modules, without their keys.
    RegistryRead,
    /// Creating, changing and deleting devices and modules.
    RegistryWrite,
    /// Reading the keys of devices and modules.
    RegistryKeysRead,
    /// Calling methods of devices and sending them messages.
    DevicesCommand,
    /// Reading policies.
    PoliciesRead,
    /// Creating, changing and deleting policies.
    PoliciesWrite,
    /// Reading long-running operations.
    OperationsRead,
    /// Cancelling long-running operations.
    OperationsCancel,
    /// Reading who did what.
    AuditRead,
    /// Adding to it what a service has let somebody do.
    AuditRecord,
    /// Backup, compaction and whatever else concerns a store as a whole.
    StoreAdmin,
    /// Acting on behalf of devices: what ingestion does.
    DevicesAct,
    /// Writing what policies decide: what the policy service does.
    PoliciesApply,
}

impl Permission {
    /// Every permission there is.
    pub const ALL: [Self; 16] = [
        Self::TwinsRead,
        Self::TwinsWrite,
        Self::TwinsWriteAs,
        Self::RegistryRead,
        Self::RegistryWrite,
        Self::RegistryKeysRead,
        Self::DevicesCommand,
        Self::PoliciesRead,
        Self::PoliciesWrite,
        Self::OperationsRead,
        Self::OperationsCancel,
        Self::AuditRead,
        Self::AuditRecord,
        Self::StoreAdmin,
        Self::DevicesAct,
        Self::PoliciesApply,
    ];

    /// Its stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwinsRead => "twins.read",
            Self::TwinsWrite => "twins.write",
            Self::TwinsWriteAs => "twins.write_as",
            Self::RegistryRead => "registry.read",
            Self::RegistryWrite => "registry.write",
            Self::RegistryKeysRead => "registry.keys.read",
            Self::DevicesCommand => "devices.command",
            Self::PoliciesRead => "policies.read",
            Self::PoliciesWrite => "policies.write",
            Self::OperationsRead => "operations.read",
            Self::OperationsCancel => "operations.cancel",
            Self::AuditRead => "audit.read",
            Self::AuditRecord => "audit.record",
            Self::StoreAdmin => "store.admin",
            Self::DevicesAct => "devices.act",
            Self::PoliciesApply => "policies.apply",
        }
    }

    /// The roles that have it.
    pub fn roles(self) -> impl Iterator<Item = Role> {
        Role::ALL
            .into_iter()
            .filter(move |role| role.permissions().contains(&self))
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const READS: &[Permission] = &[
    Permission::TwinsRead,
    Permission::RegistryRead,
    Permission::PoliciesRead,
    Permission::OperationsRead,
    Permission::AuditRead,
];
const OPERATES: &[Permission] = &[
    Permission::TwinsRead,
    Permission::RegistryRead,
    Permission::PoliciesRead,
    Permission::OperationsRead,
    Permission::AuditRead,
    Permission::TwinsWrite,
    Permission::RegistryWrite,
    Permission::PoliciesWrite,
    Permission::OperationsCancel,
    Permission::DevicesCommand,
];
const ADMINISTERS: &[Permission] = &[
    Permission::TwinsRead,
    Permission::RegistryRead,
    Permission::PoliciesRead,
    Permission::OperationsRead,
    Permission::AuditRead,
    Permission::TwinsWrite,
    Permission::RegistryWrite,
    Permission::PoliciesWrite,
    Permission::OperationsCancel,
    Permission::DevicesCommand,
    Permission::RegistryKeysRead,
    Permission::StoreAdmin,
];
const SERVES: &[Permission] = &[
    Permission::TwinsRead,
    // Policies call methods.
    Permission::DevicesCommand,
    Permission::TwinsWriteAs,
    Permission::AuditRecord,
    Permission::DevicesAct,
    Permission::PoliciesApply,
];

/// A set of permissions with a name, given to people and services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything but keys.
    Reader,
    /// Reads, and runs the fleet: twins, identities, policies.
    Operator,
    /// Everything that people do: also keys, and the store as a whole.
    Admin,
    /// What our own services do: act for devices, apply policies, write down what people did with
    /// them. Nothing that people do but reading twins and, for policies, calling methods.
    Service,
}

impl Role {
    /// Every role there is.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Operator, Self::Admin, Self::Service];

    /// Its name in configurations and tokens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Service => "service",
        }
    }

    /// What it may do.
    pub const fn permissions(self) -> &'static [Permission] {
        match self {
            Self::Reader => READS,
            Self::Operator => OPERATES,
            Self::Admin => ADMINISTERS,
            Self::Service => SERVES,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role; there are reader, operator, admin and service")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// It did not have to: authorisation is off.
    Off,
    /// With a token from the configuration.
    Token,
    /// With a token of the OIDC provider.
    Oidc,
    /// With a client certificate.
    Certificate,
    /// It has not.
    Nothing,
}

impl Via {
    /// Every way there is.
    const ALL: [Self; 5] = [
        Self::Off,
        Self::Token,
        Self::Oidc,
        Self::Certificate,
        Self::Nothing,
    ];

    /// Reads what [`Via::name`] says.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|via| via.name() == name)
    }

    /// Its name in metrics and audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Token => "token",
            Self::Oidc => "oidc",
            Self::Certificate => "certificate",
            Self::Nothing => "nothing",
        }
    }
}

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// What it is called, for history and audit.
    pub name: String,
    /// The roles it holds.
    pub roles: BTreeSet<Role>,
    /// How it proved to be that.
    pub via: Via,
    /// When the proof ends; `None`: it does not, or nobody knows.
    pub until: Option<Timestamp>,
}

impl Principal {
    /// A caller with these roles.
    #[must_use]
    pub fn new(name: impl Into<String>, roles: impl IntoIterator<Item = Role>, via: Via) -> Self {
        Self {
            name: name.into(),
            roles: roles.into_iter().collect(),
            via,
            until: None,
        }
    }

    /// Whoever calls while authorisation is off: it may do everything.
    #[must_use]
    pub fn local() -> Self {
        Self::new("admin", Role::ALL, Via::Off)
    }

    /// A caller nobody knows anything of: it may do nothing.
    #[must_use]
    pub fn nobody() -> Self {
        Self::new("unknown", [], Via::Nothing)
    }

    /// True if one of its roles has the permission.
    pub fn may(&self, permission: Permission) -> bool {
        self.roles
            .iter()
            .any(|role| role.permissions().contains(&permission))
    }

    /// Its roles as text, separated by commas.
    pub fn role_names(&self) -> String {
        let names: Vec<_> = self.roles.iter().map(|role| role.name()).collect();
        names.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_exactly_what_the_table_says() {
        use Permission as P;
        let people = [
            (P::TwinsRead, "reader,operator,admin,service"),
            (P::TwinsWrite, "operator,admin"),
            (P::TwinsWriteAs, "service"),
            (P::RegistryRead, "reader,operator,admin"),
            (P::RegistryWrite, "operator,admin"),
            (P::RegistryKeysRead, "admin"),
            (P::DevicesCommand, "operator,admin,service"),
            (P::PoliciesRead, "reader,operator,admin"),
            (P::PoliciesWrite, "operator,admin"),
            (P::OperationsRead, "reader,operator,admin"),
            (P::OperationsCancel, "operator,admin"),
            (P::AuditRead, "reader,operator,admin"),
            (P::AuditRecord, "service"),
            (P::StoreAdmin, "admin"),
            (P::DevicesAct, "service"),
            (P::PoliciesApply, "service"),
        ];
        assert_eq!(people.map(|(permission, _)| permission), P::ALL);
        for (permission, expected) in people {
            let roles: Vec<_> = permission.roles().map(Role::name).collect();
            assert_eq!(roles.join(","), expected, "{permission}");
        }
    }

    #[test]
    fn a_principal_may_what_any_of_its_roles_may() {
        let both = Principal::new("ops", [Role::Reader, Role::Service], Via::Token);
        assert!(both.may(Permission::DevicesAct) && both.may(Permission::AuditRead));
        assert!(!both.may(Permission::TwinsWrite));
        assert_eq!(both.role_names(), "reader,service");
        assert!(
            Permission::ALL
                .into_iter()
                .all(|it| Principal::local().may(it))
        );
        assert!(
            !Permission::ALL
                .into_iter()
                .any(|it| Principal::nobody().may(it))
        );
    }

    #[test]
    fn names_of_roles_read_back() {
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        let text = "root".parse::<Role>().expect_err("no role").to_string();
        assert!(
            text.contains("`root`") && text.contains("operator"),
            "{text}"
        );
    }
}
