//! Enrolment: a token for credentials.

use iot_hub::ConnectionString;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wire::agent::v1 as wire_agent;

use crate::hub::{HOST, Hub};

async fn enroll(hub: &Hub, token: &str, device: &str, nonce: &str) -> Result<String, Status> {
    let request = wire_agent::EnrollRequest {
        token: token.to_owned(),
        device_id: device.to_owned(),
        nonce: nonce.to_owned(),
    };
    let answer = hub.client().await.enroll(request).await?;
    Ok(answer.into_inner().connection_string)
}

const NONCE: &str = "0123456789abcdef";

#[tokio::test]
async fn a_good_token_brings_a_connection_string_for_this_hub() {
    let hub = Hub::start().await;
    let text = enroll(&hub, "good-token", "d", NONCE).await.unwrap();
    assert!(
        text.starts_with(&format!("HostName={HOST};DeviceId=d;ModuleId=")),
        "{text}"
    );
    assert!(ConnectionString::parse(&text).is_ok());
    let redeemed = hub.store.state().redeemed.clone();
    assert_eq!((redeemed.len(), redeemed[0].nonce.as_str()), (1, NONCE));
    hub.stop().await;
}

#[tokio::test]
async fn a_bad_request_names_every_field_and_a_bad_token_its_reason() {
    let hub = Hub::start_with(|config| config.limits.enroll_failures_per_minute = 2).await;
    let status = enroll(&hub, "", "not an id", "short").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let fields: Vec<_> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["token", "device_id", "nonce"]);
    assert!(hub.store.state().redeemed.is_empty());

    let status = enroll(&hub, "bad-token", "d", NONCE).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(
        status.get_error_details().error_info().unwrap().reason,
        "TOKEN_UNKNOWN"
    );

    for _ in 0..5 {
        let status = enroll(&hub, "bad-token", "d", NONCE).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "TOO_MANY_FAILURES");
    }
    // Others are behind that address.
    assert!(enroll(&hub, "good-token", "d", NONCE).await.is_ok());
    hub.stop().await;
}
