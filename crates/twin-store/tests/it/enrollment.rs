use service_kit::error::Classified as _;
use testkit::NatsServer;
use wire::registry::v1 as proto;

use crate::service::{Service, refusal, refused_with};

fn redeem(token: &str, device: &str, nonce: &str) -> proto::RedeemEnrollmentTokenRequest {
    proto::RedeemEnrollmentTokenRequest {
        token: token.to_owned(),
        device_id: device.to_owned(),
        nonce: nonce.to_owned(),
    }
}

const NONCE: &str = "0123456789abcdef";

#[tokio::test]
async fn an_agent_enrols_once_and_may_repeat_the_call_also_after_a_restart() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let made = service
        .registry()
        .create_enrollment_token(proto::CreateEnrollmentTokenRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(made.token.starts_with("twe_"), "{}", made.token);
    let mut door = service.credentials();
    let module = door
        .redeem_enrollment_token(redeem(&made.token, "new", NONCE))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(module.name, "devices/new/modules/DefenderIotMicroAgent");
    assert!(module.keys.is_some());
    service.device("new").await;
    service.stop().await;

    let service = Service::start(&nats, &folder).await;
    let mut door = service.credentials();
    let again = door
        .redeem_enrollment_token(redeem(&made.token, "new", NONCE))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, module);
    let other = door
        .redeem_enrollment_token(redeem(&made.token, "new", "fedcba9876543210"))
        .await;
    refused_with(other, "ENROLLMENT_DENIED");
    let used_up = door
        .redeem_enrollment_token(redeem(&made.token, "another", NONCE))
        .await;
    let refused = refusal(used_up);
    assert_eq!(refused.reason(), "ENROLLMENT_TOKEN_REFUSED");
    assert!(
        !refused.to_string().contains(&made.token),
        "no token in words"
    );
    service.stop().await;
}

#[tokio::test]
async fn bad_tokens_and_nonces_are_refused() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let mut door = service.credentials();
    let unknown = door
        .redeem_enrollment_token(redeem("twe_x", "d", NONCE))
        .await;
    refused_with(unknown, "ENROLLMENT_TOKEN_REFUSED");
    let short = door
        .redeem_enrollment_token(redeem("twe_x", "d", "1"))
        .await;
    assert_eq!(refused_with(short, "INVALID_FIELD"), ["nonce"]);
    let mut registry = service.registry();
    for ttl in [0, 31 * 24 * 3600] {
        let request = proto::CreateEnrollmentTokenRequest {
            ttl: Some(std::time::Duration::from_secs(ttl).try_into().unwrap()),
            ..proto::CreateEnrollmentTokenRequest::default()
        };
        let refused = registry.create_enrollment_token(request).await;
        assert_eq!(refused_with(refused, "INVALID_FIELD"), ["ttl"]);
    }
    service.stop().await;
}
