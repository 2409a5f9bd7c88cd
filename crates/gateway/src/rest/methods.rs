//! Direct methods (spec iot-hub-twins §7.6): the device's own status is in the body, and the answer's
//! status is 200 whenever there is one.

use twin::IdentityKey;
use wire::device::v1::{InvokeMethodRequest, InvokeMethodResponse};

use super::{Answer, Call, modules};
use crate::bodies;
use crate::bodies::method::MethodBody;
use crate::error::ApiError;

/// Refusals that come in form B: the device was not there, or did not answer.
const OF_METHODS: [u32; 2] = [404_103, 504_101];

pub(super) async fn invoke(call: &Call<'_>, key: &IdentityKey) -> Result<Answer, ApiError> {
    let body: MethodBody<'_> = bodies::read_object(call.body)?;
    let method = body.into_wire()?;
    let request = InvokeMethodRequest {
        name: modules::name(key),
        method_name: method.method_name,
        payload_json: method.payload_json,
        response_timeout: method.response_timeout,
        connect_timeout: method.connect_timeout,
        operator: call.session.operator(),
    };
    let answer = answer(call, request).await.map_err(|status| {
        let error = ApiError::from(status);
        if OF_METHODS.contains(&error.number()) {
            return error.of_method();
        }
        error
    })?;
    let InvokeMethodResponse {
        status,
        payload_json,
    } = answer;
    // As the device wrote it: no number of it goes through one of ours.
    let json = format!("{{\"status\":{status},\"payload\":{payload_json}}}");
    Ok(Answer::text(json))
}

async fn answer(
    call: &Call<'_>,
    request: InvokeMethodRequest,
) -> Result<InvokeMethodResponse, tonic::Status> {
    let mut commands = call.session.commands();
    let answers = commands
        .invoke_method(call.session.request(request))
        .await?;
    let answer = answers.into_inner().message().await?;
    answer.ok_or_else(|| tonic::Status::internal("twin-store ended a call without an answer"))
}
