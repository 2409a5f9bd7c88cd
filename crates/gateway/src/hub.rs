//! twin-store as the gateway needs it. Calls on behalf of a policy go out under the gateway's own
//! name, after the policy was checked; calls with a bearer token carry that token and nothing of
//! ours, so that twin-store judges it.

use service_kit::client::{self, ClientConfig, ClientError, Connection};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use wire::registry::v1::registry_service_client::RegistryServiceClient;
use wire::twin::v1::twin_query_service_client::TwinQueryServiceClient;
use wire::twin::v1::twin_service_client::TwinServiceClient;

use crate::access::Caller;
use crate::error::ApiError;

/// A page of a thousand devices or a hundred of the largest twins.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The connections to twin-store. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    /// With the gateway's own token.
    own: Connection,
    /// Without any.
    bare: Connection,
}

impl Hub {
    /// Makes the connections; nothing is sent before the first call.
    pub(crate) fn connect(config: &ClientConfig) -> Result<Self, ClientError> {
        let bare = ClientConfig {
            token: None,
            token_file: None,
            ..config.clone()
        };
        Ok(Self {
            own: client::connect(config)?,
            bare: client::connect(&bare)?,
        })
    }

    /// twin-store for one caller.
    pub(crate) fn of(&self, caller: Caller) -> Result<Session, ApiError> {
        match caller {
            Caller::Policy(policy) => Ok(Session {
                connection: self.own.clone(),
                authorization: None,
                operator: format!("sas/{policy}"),
            }),
            Caller::Bearer(token) => {
                let value = format!("Bearer {}", token.expose()).parse();
                let mut value: MetadataValue<Ascii> = value.map_err(|_| {
                    ApiError::unauthorized("the bearer token has characters that none has")
                })?;
                value.set_sensitive(true);
                Ok(Session {
                    connection: self.bare.clone(),
                    authorization: Some(value),
                    operator: String::new(),
                })
            }
        }
    }
}

/// twin-store, called for somebody.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    connection: Connection,
    authorization: Option<MetadataValue<Ascii>>,
    /// Whom writes name; empty: whoever the token names.
    operator: String,
}

impl Session {
    pub(crate) fn registry(&self) -> RegistryServiceClient<Connection> {
        RegistryServiceClient::new(self.connection.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn twins(&self) -> TwinServiceClient<Connection> {
        TwinServiceClient::new(self.connection.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn queries(&self) -> TwinQueryServiceClient<Connection> {
        TwinQueryServiceClient::new(self.connection.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Whom a write to a twin names.
    pub(crate) fn operator(&self) -> String {
        self.operator.clone()
    }

    /// A call with what proves the caller.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        request
    }
}
