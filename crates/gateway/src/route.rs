//! The calls of IoT Hub's REST API that are served, as one table: what a method and a path mean,
//! and who may make the call (spec iot-hub-twins §5.3, §7).

use access_policies::Right;
use http::Method;
use twin::{DeviceId, IdentityKey, ModuleId};

use crate::error::ApiError;

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// The description of all calls, for everybody.
    OpenApi,
    ListDevices,
    Bulk,
    Query,
    GetDevice(DeviceId),
    PutDevice(DeviceId),
    DeleteDevice(DeviceId),
    ListModules(DeviceId),
    GetModule(IdentityKey),
    PutModule(IdentityKey),
    DeleteModule(IdentityKey),
    GetTwin(IdentityKey),
    PatchTwin(IdentityKey),
    ReplaceTwin(IdentityKey),
    ListConfigurations,
    /// The policy service judges ids.
    GetConfiguration(String),
    PutConfiguration(String),
    DeleteConfiguration(String),
    TestQueries,
    InvokeMethod(IdentityKey),
    /// A header says to whom.
    SendMessage,
    PurgeMessages(DeviceId),
    /// twin-store judges ids.
    PutJob(String),
    GetJob(String),
    CancelJob(String),
    QueryJobs,
    DeviceStatistics,
    ServiceStatistics,
    /// `applyConfigurationContent`: content for IoT Edge devices, which we refuse by name.
    ApplyContent(DeviceId),
}

impl Route {
    /// What a request asks for. Each segment is decoded once; a slash at the end does not count
    /// (Node sends one).
    pub(crate) fn parse(method: &Method, path: &str) -> Result<Self, ApiError> {
        let segments = path
            .trim_matches('/')
            .split('/')
            .map(|segment| {
                iot_hub::percent::decode(segment).ok_or_else(|| {
                    ApiError::argument(format!("the path segment `{segment}` has a broken escape"))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let twin = |id, of: Option<&str>| match of {
            Some(of) => module(id, of),
            None => Ok(IdentityKey {
                device: device(id)?,
                module: None,
            }),
        };
        let route = match (method.as_str(), &segments[..]) {
            ("GET", ["openapi.json"]) => Self::OpenApi,
            ("GET", ["devices"]) => Self::ListDevices,
            ("POST", ["devices"]) => Self::Bulk,
            ("POST", ["devices", "query"]) => Self::Query,
            ("GET", ["devices", id]) => Self::GetDevice(device(id)?),
            ("PUT", ["devices", id]) => Self::PutDevice(device(id)?),
            ("DELETE", ["devices", id]) => Self::DeleteDevice(device(id)?),
            ("POST", ["devices", id, "applyConfigurationContent"]) => {
                Self::ApplyContent(device(id)?)
            }
            ("DELETE", ["devices", id, "commands"]) => Self::PurgeMessages(device(id)?),
            // Its own SDKs and documents disagree on the case.
            ("POST", ["messages", bound]) if bound.eq_ignore_ascii_case("deviceBound") => {
                Self::SendMessage
            }
            ("GET", ["devices", id, "modules"]) => Self::ListModules(device(id)?),
            ("GET", ["devices", id, "modules", of]) => Self::GetModule(module(id, of)?),
            ("PUT", ["devices", id, "modules", of]) => Self::PutModule(module(id, of)?),
            ("DELETE", ["devices", id, "modules", of]) => Self::DeleteModule(module(id, of)?),
            ("GET", ["twins", id]) => Self::GetTwin(twin(id, None)?),
            ("PATCH", ["twins", id]) => Self::PatchTwin(twin(id, None)?),
            ("PUT", ["twins", id]) => Self::ReplaceTwin(twin(id, None)?),
            ("GET", ["twins", id, "modules", of]) => Self::GetTwin(twin(id, Some(of))?),
            ("PATCH", ["twins", id, "modules", of]) => Self::PatchTwin(twin(id, Some(of))?),
            ("PUT", ["twins", id, "modules", of]) => Self::ReplaceTwin(twin(id, Some(of))?),
            ("GET", ["configurations"]) => Self::ListConfigurations,
            ("POST", ["configurations", "testQueries"]) => Self::TestQueries,
            ("GET", ["configurations", id]) => Self::GetConfiguration((*id).to_owned()),
            ("PUT", ["configurations", id]) => Self::PutConfiguration((*id).to_owned()),
            ("DELETE", ["configurations", id]) => Self::DeleteConfiguration((*id).to_owned()),
            ("POST", ["twins", id, "methods"]) => Self::InvokeMethod(twin(id, None)?),
            ("POST", ["twins", id, "modules", of, "methods"]) => {
                Self::InvokeMethod(twin(id, Some(of))?)
            }
            ("GET", ["jobs", "v2", "query"]) => Self::QueryJobs,
            ("GET", ["jobs", "v2", id]) => Self::GetJob((*id).to_owned()),
            ("PUT", ["jobs", "v2", id]) => Self::PutJob((*id).to_owned()),
            ("POST", ["jobs", "v2", id, "cancel"]) => Self::CancelJob((*id).to_owned()),
            ("GET", ["statistics", "devices"]) => Self::DeviceStatistics,
            ("GET", ["statistics", "service"]) => Self::ServiceStatistics,
            _ => return Err(ApiError::no_such_call(method, path)),
        };
        Ok(route)
    }

    /// A caller may make the call with any one of these.
    pub(crate) fn rights(&self) -> &'static [Right] {
        match self {
            // Nobody is asked who calls; see `rest`.
            Self::OpenApi => &[],
            Self::ListDevices
            | Self::GetDevice(_)
            | Self::ListModules(_)
            | Self::GetModule(_)
            | Self::DeviceStatistics => &[Right::RegistryRead],
            Self::Bulk
            | Self::PutDevice(_)
            | Self::DeleteDevice(_)
            | Self::PutModule(_)
            | Self::DeleteModule(_) => &[Right::RegistryWrite],
            Self::GetTwin(_)
            | Self::PatchTwin(_)
            | Self::ReplaceTwin(_)
            | Self::InvokeMethod(_)
            | Self::SendMessage
            | Self::ServiceStatistics
            | Self::PutJob(_)
            | Self::GetJob(_)
            | Self::CancelJob(_)
            | Self::QueryJobs
            | Self::ApplyContent(_) => &[Right::ServiceConnect],
            // The documentation names one here and the other there (spec §5.3).
            Self::PutConfiguration(_) | Self::DeleteConfiguration(_) | Self::PurgeMessages(_) => {
                &[Right::RegistryWrite, Right::ServiceConnect]
            }
            Self::Query
            | Self::ListConfigurations
            | Self::GetConfiguration(_)
            | Self::TestQueries => &[Right::ServiceConnect, Right::RegistryRead],
        }
    }

    /// The identity whose module it may be about.
    pub(crate) fn identity(&self) -> Option<&IdentityKey> {
        match self {
            Self::GetModule(key)
            | Self::PutModule(key)
            | Self::DeleteModule(key)
            | Self::GetTwin(key)
            | Self::PatchTwin(key)
            | Self::ReplaceTwin(key)
            | Self::InvokeMethod(key) => Some(key),
            _ => None,
        }
    }

    /// Whether the policy service answers it.
    pub(crate) fn is_of_policy(&self) -> bool {
        matches!(
            self,
            Self::ListConfigurations
                | Self::GetConfiguration(_)
                | Self::PutConfiguration(_)
                | Self::DeleteConfiguration(_)
                | Self::TestQueries
        )
    }

    /// Its name in metrics and spans; no ids.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::OpenApi => "openapi",
            Self::ListDevices => "list_devices",
            Self::Bulk => "bulk",
            Self::Query => "query",
            Self::GetDevice(_) => "get_device",
            Self::PutDevice(_) => "put_device",
            Self::DeleteDevice(_) => "delete_device",
            Self::ListModules(_) => "list_modules",
            Self::GetModule(_) => "get_module",
            Self::PutModule(_) => "put_module",
            Self::DeleteModule(_) => "delete_module",
            Self::GetTwin(_) => "get_twin",
            Self::PatchTwin(_) => "patch_twin",
            Self::ReplaceTwin(_) => "replace_twin",
            Self::ListConfigurations => "list_configurations",
            Self::GetConfiguration(_) => "get_configuration",
            Self::PutConfiguration(_) => "put_configuration",
            Self::DeleteConfiguration(_) => "delete_configuration",
            Self::TestQueries => "test_configuration_queries",
            Self::InvokeMethod(_) => "invoke_method",
            Self::SendMessage => "send_message",
            Self::PurgeMessages(_) => "purge_messages",
            Self::PutJob(_) => "put_job",
            Self::GetJob(_) => "get_job",
            Self::CancelJob(_) => "cancel_job",
            Self::QueryJobs => "query_jobs",
            Self::DeviceStatistics => "device_statistics",
            Self::ServiceStatistics => "service_statistics",
            Self::ApplyContent(_) => "apply_configuration_content",
        }
    }

    /// Whether its answer shows devices or their twins, which say how many messages wait.
    pub(crate) fn shows_message_counts(&self) -> bool {
        match self {
            Self::GetTwin(key) | Self::PatchTwin(key) | Self::ReplaceTwin(key) => {
                key.module.is_none()
            }
            Self::ListDevices | Self::GetDevice(_) | Self::PutDevice(_) | Self::Query => true,
            _ => false,
        }
    }

    /// The most bytes that its body may have. IoT Hub takes 256 KB; a bulk of a hundred devices with
    /// their documents is larger.
    pub(crate) fn body_max(&self) -> usize {
        match self {
            Self::Bulk => 8 * 1024 * 1024,
            _ => 256 * 1024,
        }
    }
}

fn device(id: &str) -> Result<DeviceId, ApiError> {
    DeviceId::parse(id)
        .map_err(|error| ApiError::argument(format!("the device id `{id}`: {error}")))
}

fn module(id: &str, of: &str) -> Result<IdentityKey, ApiError> {
    let module = ModuleId::parse(of)
        .map_err(|error| ApiError::argument(format!("the module id `{of}`: {error}")))?;
    Ok(IdentityKey {
        device: device(id)?,
        module: Some(module),
    })
}

#[cfg(test)]
mod described;
#[cfg(test)]
mod tests;
