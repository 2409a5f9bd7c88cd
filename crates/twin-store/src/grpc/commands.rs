//! `DeviceCommandService`: what back ends ask of devices.
//!
//! It checks, writes down who asks for what, and passes calls of methods on over the bus to the
//! instance of ingestion that holds the device's session; which one that is it asks anew for each
//! call. Messages it puts into the device's queue. It knows no connection itself.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use iot_hub::MethodName;
use iot_hub::method::{
    CONNECT_TIMEOUT_MAX, PAYLOAD_BYTES_MAX, RESPONSE_TIMEOUT_DEFAULT, RESPONSE_TIMEOUT_MAX,
    RESPONSE_TIMEOUT_MIN,
};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status};
use twin::IdentityKey;
use wire::InvalidField;
use wire::device::v1 as proto;
use wire::device::v1::device_command_service_server::DeviceCommandService;

use super::caller::Caller;
use super::{Api, identity, refuse};
use crate::apply::AuditEvent;
use crate::error::{CommandError, Error};
use crate::store::Selection;

use invocation::Invocation;

pub(crate) use calls::Calls;
pub(super) use calls::{print_call, read_call};
pub(crate) use invocation::Way;
pub(crate) use roster::Roster;

mod calls;
mod invocation;
pub(crate) mod messages;
mod roster;
mod share;

/// Calls of methods that may wait at one replica: each holds its payload for minutes, at the most
/// 128 MiB together.
pub(crate) const CALLS_MAX: usize = 1024;

/// The one answer.
type Answers = Pin<Box<dyn Stream<Item = Result<proto::InvokeMethodResponse, Status>> + Send>>;

impl Api {
    async fn invoke(
        &self,
        caller: &Caller,
        request: proto::InvokeMethodRequest,
    ) -> Result<Answers, Error> {
        let actor = caller.policy_or_operator(&request.operator)?;
        let invocation = read(request)?;
        let key = invocation.key.clone();
        let permit = self.command_permit(&key)?;
        let detail = json!({ "method": invocation.method.as_str() });
        let cause = caller.cause_as(actor, "");
        self.engine
            .decide(Selection::One(key.clone()), move |overlay, _| {
                overlay.get(&key)?;
                overlay.audit(AuditEvent::on(&key, "method.invoke", detail, &cause));
                Ok(())
            })
            .await?;
        let (way, shutdown) = (self.way.clone(), self.shutdown.clone());
        let answering = async move {
            let answered = shutdown.run_until(invocation.run(&way)).await;
            drop(permit);
            answered.unwrap_or(Err(Error::Stopping)).map_err(refuse)
        };
        Ok(futures::stream::once(answering).boxed())
    }

    fn command_permit(&self, key: &IdentityKey) -> Result<OwnedSemaphorePermit, Error> {
        let permit = self.commands.clone().try_acquire_owned();
        permit.map_err(|_| CommandError::Busy(key.clone()).into())
    }
}

fn read(request: proto::InvokeMethodRequest) -> Result<Invocation, Error> {
    let key = identity("name", &request.name)?;
    let method = MethodName::parse(&request.method_name)
        .map_err(|error| InvalidField::new("method_name", error))?;
    let payload = match request.payload_json {
        // Devices' SDKs want some JSON; Node's answers an empty body with 400 by itself.
        none if none.is_empty() => "null".to_owned(),
        given => given,
    };
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(CommandError::PayloadTooLarge {
            bytes: payload.len(),
        }
        .into());
    }
    if let Err(error) = serde_json::from_str::<IgnoredAny>(&payload) {
        return Err(InvalidField::new("payload_json", format!("is no JSON: {error}")).into());
    }
    Ok(Invocation {
        key,
        method,
        payload,
        response_within: timeout(
            "response_timeout",
            request.response_timeout,
            RESPONSE_TIMEOUT_DEFAULT,
            RESPONSE_TIMEOUT_MIN..=RESPONSE_TIMEOUT_MAX,
        )?,
        connect_within: timeout(
            "connect_timeout",
            request.connect_timeout,
            Duration::ZERO,
            Duration::ZERO..=CONNECT_TIMEOUT_MAX,
        )?,
    })
}

fn timeout(
    field: &str,
    given: Option<prost_types::Duration>,
    default: Duration,
    allowed: std::ops::RangeInclusive<Duration>,
) -> Result<Duration, Error> {
    let Some(given) = given else {
        return Ok(default);
    };
    match Duration::try_from(given) {
        Ok(given) if allowed.contains(&given) => Ok(given),
        Ok(_) | Err(_) => {
            let (least, most) = (allowed.start().as_secs(), allowed.end().as_secs());
            let problem = format!("is {given}; allowed are {least} s to {most} s");
            Err(InvalidField::new(field, problem).into())
        }
    }
}

#[tonic::async_trait]
impl DeviceCommandService for Api {
    type InvokeMethodStream = Answers;

    async fn invoke_method(
        &self,
        request: Request<proto::InvokeMethodRequest>,
    ) -> Result<Response<Self::InvokeMethodStream>, Status> {
        let caller = Caller::of(&request);
        self.invoke(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        let caller = Caller::of(&request);
        let sent = self.send(&caller, request.into_inner()).await;
        sent.map(Response::new).map_err(refuse)
    }

    async fn list_messages(
        &self,
        request: Request<proto::ListMessagesRequest>,
    ) -> Result<Response<proto::ListMessagesResponse>, Status> {
        let listed = self.queued(request.into_inner()).await;
        listed.map(Response::new).map_err(refuse)
    }

    async fn count_messages(
        &self,
        request: Request<proto::CountMessagesRequest>,
    ) -> Result<Response<proto::CountMessagesResponse>, Status> {
        let counted = self.counts(request.into_inner()).await;
        counted.map(Response::new).map_err(refuse)
    }

    async fn purge_messages(
        &self,
        request: Request<proto::PurgeMessagesRequest>,
    ) -> Result<Response<proto::PurgeMessagesResponse>, Status> {
        let caller = Caller::of(&request);
        let purged = self.purge(&caller, request.into_inner()).await;
        purged.map(Response::new).map_err(refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> proto::InvokeMethodRequest {
        proto::InvokeMethodRequest {
            name: "devices/d".to_owned(),
            method_name: "reboot".to_owned(),
            ..Default::default()
        }
    }

    fn seconds(seconds: i64) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos: 0 }
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let read = read(request()).expect("it is good");
        assert_eq!(read.payload, "null");
        assert_eq!(read.response_within, Duration::from_secs(30));
        assert_eq!(read.connect_within, Duration::ZERO);
    }

    #[test]
    fn what_no_device_could_be_asked_is_refused_with_its_field() {
        type Change = fn(&mut proto::InvokeMethodRequest);
        let changes: [(&str, Change); 8] = [
            ("name", |it| it.name = "d".to_owned()),
            ("method_name", |it| it.method_name = "a b".to_owned()),
            ("payload_json", |it| it.payload_json = "{".to_owned()),
            ("payload_json", |it| it.payload_json = "1 2".to_owned()),
            ("response_timeout", |it| {
                it.response_timeout = Some(seconds(4));
            }),
            ("response_timeout", |it| {
                it.response_timeout = Some(seconds(301));
            }),
            ("connect_timeout", |it| {
                it.connect_timeout = Some(seconds(-1));
            }),
            ("connect_timeout", |it| {
                it.connect_timeout = Some(seconds(301));
            }),
        ];
        for (field, change) in changes {
            let mut wrong = request();
            change(&mut wrong);
            match read(wrong) {
                Err(Error::Field(problem)) => assert_eq!(problem.field, field),
                other => panic!("{field} is not refused: {:?}", other.map(|it| it.payload)),
            }
        }
    }

    #[test]
    fn a_payload_has_128_kib_at_most() {
        let sized = |bytes: usize| {
            let mut request = request();
            request.payload_json = format!("\"{}\"", "x".repeat(bytes - 2));
            read(request).map(|it| it.payload.len())
        };
        assert_eq!(
            sized(PAYLOAD_BYTES_MAX).expect("it fits"),
            PAYLOAD_BYTES_MAX
        );
        let error = sized(PAYLOAD_BYTES_MAX + 1).expect_err("it does not");
        assert!(matches!(
            error,
            Error::Command(CommandError::PayloadTooLarge { .. })
        ));
    }
}
