//! Direct methods that a job calls: as messages, and the way to the devices.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use twin::IdentityKey;
use wire::device::v1::InvokeMethodRequest;
use wire::twin::v1::MethodCall;

use super::invocation::{Invocation, Way};
use crate::error::Error;
use crate::operations::calls::Devices;
use crate::operations::{Answer, Call};

/// Calls devices over the bus.
pub(crate) struct Calls {
    way: Way,
}

impl Calls {
    pub(crate) fn new(way: Way) -> Self {
        Self { way }
    }
}

impl Devices for Calls {
    fn call(&self, key: IdentityKey, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let way = self.way.clone();
        async move {
            let invocation = Invocation {
                key,
                method: call.method,
                payload: call.payload,
                response_within: call.response_within,
                connect_within: call.connect_within,
            };
            let answer = invocation.run(&way).await?;
            Ok(Answer {
                status: answer.status,
                payload: answer.payload_json,
            })
        }
        .boxed()
    }
}

/// Reads what is to be called, with the rules of a single call.
pub(in crate::grpc) fn read_call(asked: &MethodCall) -> Result<Call, Error> {
    let request = InvokeMethodRequest {
        // Whom is said by the condition.
        name: "devices/any".to_owned(),
        method_name: asked.method_name.clone(),
        payload_json: asked.payload_json.clone(),
        response_timeout: asked.response_timeout,
        connect_timeout: asked.connect_timeout,
        operator: String::new(),
    };
    let read = super::read(request).map_err(|error| match error {
        Error::Field(mut field) => {
            field.field = format!("bulk_update.method.{}", field.field);
            Error::Field(field)
        }
        other => other,
    })?;
    Ok(Call {
        method: read.method,
        payload: read.payload,
        response_within: read.response_within,
        connect_within: read.connect_within,
    })
}

/// As it was asked for.
pub(in crate::grpc) fn print_call(call: &Call) -> MethodCall {
    let time = |time| prost_types::Duration::try_from(time).ok();
    MethodCall {
        method_name: call.method.to_string(),
        payload_json: call.payload.clone(),
        response_timeout: time(call.response_within),
        connect_timeout: time(call.connect_within),
    }
}
