//! twin-store and the policy service as the gateway needs them. Calls on behalf of a policy go out with the
//! gateway's own proof and the policy's name, after the policy was checked; calls with a bearer token carry that token and nothing of
//! ours, so that they judge it.

use service_kit::auth::ON_BEHALF_OF;
use service_kit::client::{self, ClientConfig, ClientError, Connection};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use wire::device::v1::device_command_service_client::DeviceCommandServiceClient;
use wire::policy::v1::configuration_service_client::ConfigurationServiceClient;
use wire::registry::v1::IdentityView;
use wire::registry::v1::access_service_client::AccessServiceClient;
use wire::registry::v1::provisioning_service_client::ProvisioningServiceClient;
use wire::registry::v1::registry_service_client::RegistryServiceClient;
use wire::twin::v1::twin_bulk_service_client::TwinBulkServiceClient;
use wire::twin::v1::twin_query_service_client::TwinQueryServiceClient;
use wire::twin::v1::twin_service_client::TwinServiceClient;

use crate::access::Caller;
use crate::error::ApiError;

/// A page of a thousand devices or a hundred of the largest twins.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A service that judges callers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Service {
    TwinStore,
    Policy,
}

impl Service {
    /// As people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TwinStore => "twin-store",
            Self::Policy => "the policy service",
        }
    }
}

/// The connections to the other services. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    /// With the gateway's own tokens.
    own: Doors,
    /// Without any.
    bare: Doors,
}

/// A connection to each service.
#[derive(Debug, Clone)]
struct Doors {
    twin_store: Connection,
    policy: Connection,
}

impl Hub {
    /// Makes the connections; nothing is sent before the first call.
    pub(crate) fn connect(
        twin_store: &ClientConfig,
        policy: &ClientConfig,
    ) -> Result<Self, ClientError> {
        let bare = |config: &ClientConfig| ClientConfig {
            token: None,
            token_file: None,
            ..config.clone()
        };
        Ok(Self {
            own: Doors {
                twin_store: client::connect(twin_store)?,
                policy: client::connect(policy)?,
            },
            bare: Doors {
                twin_store: client::connect(&bare(twin_store))?,
                policy: client::connect(&bare(policy))?,
            },
        })
    }

    /// The services for what the gateway asks itself.
    pub(crate) fn own(&self) -> Session {
        Session {
            doors: self.own.clone(),
            authorization: None,
            operator: String::new(),
            reads_keys: true,
        }
    }

    /// The services for one caller.
    pub(crate) fn of(&self, caller: Caller) -> Result<Session, ApiError> {
        match caller {
            Caller::Policy(policy) => Ok(Session {
                doors: self.own.clone(),
                authorization: None,
                operator: format!("sas/{policy}"),
                // Whoever may read identities by a policy reads their keys (spec §5.3).
                reads_keys: true,
            }),
            Caller::Bearer(token) => {
                let value = format!("Bearer {}", token.expose()).parse();
                let mut value: MetadataValue<Ascii> = value.map_err(|_| {
                    ApiError::unauthorized("the bearer token has characters that none has")
                })?;
                value.set_sensitive(true);
                Ok(Session {
                    doors: self.bare.clone(),
                    authorization: Some(value),
                    operator: String::new(),
                    reads_keys: false,
                })
            }
        }
    }
}

/// The other services, called for somebody.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    doors: Doors,
    authorization: Option<MetadataValue<Ascii>>,
    /// Whom writes name; empty: whoever the token names.
    operator: String,
    /// Whether keys of identities are shown.
    reads_keys: bool,
}

impl Session {
    /// The same for somebody who may read keys, or may not.
    #[must_use]
    pub(crate) fn reading_keys(self, reads_keys: bool) -> Session {
        Session { reads_keys, ..self }
    }

    /// What is shown of identities.
    pub(crate) fn view(&self) -> IdentityView {
        if self.reads_keys {
            IdentityView::Full
        } else {
            IdentityView::Basic
        }
    }

    /// What a service knows of who calls it.
    pub(crate) fn access(&self, of: Service) -> AccessServiceClient<Connection> {
        AccessServiceClient::new(match of {
            Service::TwinStore => self.doors.twin_store.clone(),
            Service::Policy => self.doors.policy.clone(),
        })
    }

    pub(crate) fn registry(&self) -> RegistryServiceClient<Connection> {
        RegistryServiceClient::new(self.doors.twin_store.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// What judges devices that register.
    pub(crate) fn provisioning(&self) -> ProvisioningServiceClient<Connection> {
        ProvisioningServiceClient::new(self.doors.twin_store.clone())
    }

    pub(crate) fn twins(&self) -> TwinServiceClient<Connection> {
        TwinServiceClient::new(self.doors.twin_store.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn queries(&self) -> TwinQueryServiceClient<Connection> {
        TwinQueryServiceClient::new(self.doors.twin_store.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn bulk(&self) -> TwinBulkServiceClient<Connection> {
        TwinBulkServiceClient::new(self.doors.twin_store.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn configurations(&self) -> ConfigurationServiceClient<Connection> {
        ConfigurationServiceClient::new(self.doors.policy.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn commands(&self) -> DeviceCommandServiceClient<Connection> {
        DeviceCommandServiceClient::new(self.doors.twin_store.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Whom a write names.
    pub(crate) fn operator(&self) -> String {
        self.operator.clone()
    }

    /// A call with what proves the caller, or the name of whom we have proven ourselves.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Ok(name) = self.operator.parse::<MetadataValue<Ascii>>()
            && !self.operator.is_empty()
        {
            request.metadata_mut().insert(ON_BEHALF_OF, name);
        }
        if let Some(value) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        request
    }
}
