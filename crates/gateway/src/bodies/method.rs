//! A direct method that is called, by itself or by a job (spec iot-hub-twins §7.6).

use serde::Deserialize;
use serde_json::value::RawValue;
use wire::twin::v1::MethodCall;

use crate::error::ApiError;

/// A call of a method.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MethodBody<'a> {
    #[serde(default)]
    pub method_name: Option<String>,
    #[serde(borrow, default)]
    pub payload: Option<&'a RawValue>,
    #[serde(default)]
    pub response_timeout_in_seconds: Option<i64>,
    #[serde(default)]
    pub connect_timeout_in_seconds: Option<i64>,
}

impl MethodBody<'_> {
    /// As a job has it.
    pub(crate) fn into_wire(self) -> Result<MethodCall, ApiError> {
        let method_name = self
            .method_name
            .ok_or_else(|| ApiError::argument("methodName is missing"))?;
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
        Ok(MethodCall {
            method_name,
            payload_json: self.payload.map(RawValue::get).unwrap_or_default().into(),
            response_timeout: self.response_timeout_in_seconds.map(seconds),
            connect_timeout: self.connect_timeout_in_seconds.map(seconds),
        })
    }
}
