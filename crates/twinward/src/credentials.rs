//! Connection strings for what the registry answers: `HostName=…;DeviceId=…;SharedAccessKey=…`.

use iot_hub::{ConnectionString, SymmetricKey};
use twin::IdentityKey;
use wire::registry::v1::{Device, Module, SymmetricKeys};

use crate::exit::Kind;
use crate::failure::Failure;

/// The connection string of a device, when the answer holds its keys.
pub(crate) fn device(host: &str, device: &Device) -> Result<Option<String>, Failure> {
    connection_string(host, &device.name, device.keys.as_ref())
}

/// The connection string of a module, when the answer holds its keys.
pub(crate) fn module(host: &str, module: &Module) -> Result<Option<String>, Failure> {
    connection_string(host, &module.name, module.keys.as_ref())
}

fn connection_string(
    host: &str,
    name: &str,
    keys: Option<&SymmetricKeys>,
) -> Result<Option<String>, Failure> {
    match keys {
        Some(keys) => with_key(host, name, &keys.primary).map(Some),
        None => Ok(None),
    }
}

/// The connection string of an identity with one of its keys.
pub(crate) fn with_key(host: &str, name: &str, key: &str) -> Result<String, Failure> {
    let strange = |why: String| {
        Failure::new(
            Kind::Internal,
            format!("cannot make the connection string of {name}"),
        )
        .because(why)
    };
    let identity: IdentityKey =
        wire::names::parse_identity("name", name).map_err(|error| strange(error.to_string()))?;
    let key = SymmetricKey::parse(key).map_err(|error| strange(error.to_string()))?;
    let string = ConnectionString::new(host, identity, key).map_err(|error| {
        strange(error.to_string()).advise(format!("the host is {host:?}; TWINWARD_HOST sets it"))
    })?;
    Ok(string.to_secret_string().to_string())
}
