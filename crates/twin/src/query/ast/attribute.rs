//! What a twin has beside its sections: who it is, what the registry knows of it, its counters.

/// An attribute at the root of a twin (spec 1.1, 8.2).
///
/// Names are read in any case and written in the canonical one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// `deviceId`, a text.
    DeviceId,
    /// `moduleId`, a text; undefined on a device's own twin.
    ModuleId,
    /// `etag` of the twin, a text.
    Etag,
    /// `version` of the twin, a number.
    Version,
    /// `deviceEtag`: that of the identity, a text.
    DeviceEtag,
    /// `status`: `enabled` or `disabled`.
    Status,
    /// `statusReason`, a text; undefined if none was given.
    StatusReason,
    /// `statusUpdateTime`, an instant.
    StatusUpdateTime,
    /// `connectionState`: `Connected` or `Disconnected`.
    ConnectionState,
    /// `lastActivityTime`, an instant.
    LastActivityTime,
    /// `cloudToDeviceMessageCount`, a number.
    CloudToDeviceMessageCount,
    /// `authenticationType`: `sas`, `selfSigned`, `certificateAuthority` or `none`.
    AuthenticationType,
    /// `x509Thumbprint`, an object of `primaryThumbprint` and `secondaryThumbprint`.
    X509Thumbprint,
    /// `modelId`, a text.
    ModelId,
    /// `deviceScope`, a text; undefined on most devices.
    DeviceScope,
    /// `parentScopes`, an array of texts; undefined on most devices.
    ParentScopes,
    /// `capabilities`, an object of `iotEdge`.
    Capabilities,
    /// `configurations`: an object from the id of a configuration to `{"status": …}`.
    Configurations,
    /// `generationId`: tells an identity from one of the same name before it. Ours.
    GenerationId,
    /// `createTime` of the identity, an instant. Ours.
    CreateTime,
    /// `updateTime`: when anything of the twin was last written, an instant. Ours.
    UpdateTime,
}

impl Attribute {
    /// All of them, in the order in which a whole twin shows them.
    pub const ALL: [Attribute; 21] = [
        Attribute::DeviceId,
        Attribute::ModuleId,
        Attribute::Etag,
        Attribute::Version,
        Attribute::DeviceEtag,
        Attribute::Status,
        Attribute::StatusReason,
        Attribute::StatusUpdateTime,
        Attribute::ConnectionState,
        Attribute::LastActivityTime,
        Attribute::CloudToDeviceMessageCount,
        Attribute::AuthenticationType,
        Attribute::X509Thumbprint,
        Attribute::ModelId,
        Attribute::DeviceScope,
        Attribute::ParentScopes,
        Attribute::Capabilities,
        Attribute::Configurations,
        Attribute::GenerationId,
        Attribute::CreateTime,
        Attribute::UpdateTime,
    ];

    /// Its canonical name, as it stands in results.
    pub fn name(self) -> &'static str {
        match self {
            Attribute::DeviceId => "deviceId",
            Attribute::ModuleId => "moduleId",
            Attribute::Etag => "etag",
            Attribute::Version => "version",
            Attribute::DeviceEtag => "deviceEtag",
            Attribute::Status => "status",
            Attribute::StatusReason => "statusReason",
            Attribute::StatusUpdateTime => "statusUpdateTime",
            Attribute::ConnectionState => "connectionState",
            Attribute::LastActivityTime => "lastActivityTime",
            Attribute::CloudToDeviceMessageCount => "cloudToDeviceMessageCount",
            Attribute::AuthenticationType => "authenticationType",
            Attribute::X509Thumbprint => "x509Thumbprint",
            Attribute::ModelId => "modelId",
            Attribute::DeviceScope => "deviceScope",
            Attribute::ParentScopes => "parentScopes",
            Attribute::Capabilities => "capabilities",
            Attribute::Configurations => "configurations",
            Attribute::GenerationId => "generationId",
            Attribute::CreateTime => "createTime",
            Attribute::UpdateTime => "updateTime",
        }
    }

    /// The attribute of that name, in any case (spec 8.1).
    pub fn by_name(name: &str) -> Option<Attribute> {
        let mut all = Attribute::ALL.into_iter();
        all.find(|attribute| attribute.name().eq_ignore_ascii_case(name))
    }

    /// What a path may name below it.
    pub fn members(self) -> Members {
        match self {
            Attribute::X509Thumbprint => {
                Members::These(&["primaryThumbprint", "secondaryThumbprint"])
            }
            Attribute::Capabilities => Members::These(&["iotEdge"]),
            Attribute::Configurations => Members::Any,
            Attribute::DeviceId
            | Attribute::ModuleId
            | Attribute::Etag
            | Attribute::Version
            | Attribute::DeviceEtag
            | Attribute::Status
            | Attribute::StatusReason
            | Attribute::StatusUpdateTime
            | Attribute::ConnectionState
            | Attribute::LastActivityTime
            | Attribute::CloudToDeviceMessageCount
            | Attribute::AuthenticationType
            | Attribute::ModelId
            | Attribute::DeviceScope
            | Attribute::ParentScopes
            | Attribute::GenerationId
            | Attribute::CreateTime
            | Attribute::UpdateTime => Members::None,
        }
    }

    /// Whether the changes of a twin carry it, so that a condition over it can be evaluated when,
    /// and only when, it changes.
    pub fn is_in_changes(self) -> bool {
        matches!(
            self,
            Attribute::DeviceId | Attribute::ModuleId | Attribute::Status
        )
    }
}

/// What a path may name below an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Members {
    /// Nothing: it is a value.
    None,
    /// These, in any case.
    These(&'static [&'static str]),
    /// Any key.
    Any,
}
