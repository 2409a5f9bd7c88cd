//! What the layer lets through, what it answers, and what it says about it.

use std::convert::Infallible;

use http::header::AUTHORIZATION;
use tonic::Code;
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::auth::{AuthConfig, Role};
use crate::clock::SystemClock;
use crate::metrics::Registry;
use crate::secret::Secret;
use crate::status::RemoteError;

const TOKEN: &str = "0123456789abcdef";
const READ: &str = "/twinward.twin.v1.TwinService/GetTwin";
const WRITE: &str = "/twinward.twin.v1.TwinService/PatchTwin";
const DOOR: &str = "/twinward.agent.v1.AgentService/OpenSession";

fn layer_for(token: Option<&Secret>, config: &AuthConfig) -> AuthLayer {
    let credentials = Credentials {
        token,
        config,
        certificates: false,
        insecure: Insecure::Refused,
    };
    AuthLayer::new(credentials, SystemClock::shared()).expect("usable settings")
}

fn layer(roles: &[Role]) -> AuthLayer {
    let config = AuthConfig {
        token_name: "ops".to_owned(),
        token_roles: roles.to_vec(),
        ..AuthConfig::default()
    };
    layer_for(Some(&Secret::new(TOKEN)), &config)
        .rules([
            (READ, Permission::TwinsRead),
            (WRITE, Permission::TwinsWrite),
        ])
        .open("/twinward.agent.v1.AgentService/")
}

/// Calls through the layer; what is let through answers with the principal's name as its message.
async fn call(layer: &AuthLayer, path: &str, token: Option<&str>) -> tonic::Status {
    let service = layer.layer(tower::service_fn(async |request: Request<Body>| {
        let principal = request.extensions().get::<Principal>();
        let name = principal.map_or("nobody", |it| &it.name).to_owned();
        let answer = tonic::Status::already_exists(name).into_http();
        Ok::<Response<Body>, Infallible>(answer)
    }));
    let mut request = Request::builder().uri(path);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Body::empty()).expect("a request");
    let Ok(response) = service.oneshot(request).await;
    tonic::Status::from_header_map(response.headers()).expect("a status")
}

fn reason(status: &tonic::Status) -> String {
    let details = status.get_error_details();
    details.error_info().expect("a reason").reason.clone()
}

#[tokio::test]
async fn a_caller_that_may_reaches_the_service_as_who_it_is() {
    let layer = layer(&[Role::Reader]);
    let status = call(&layer, READ, Some(TOKEN)).await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::AlreadyExists, "ops")
    );
}

#[tokio::test]
async fn a_denial_says_which_permission_is_missing() {
    let layer = layer(&[Role::Reader]);
    let status = call(&layer, WRITE, Some(TOKEN)).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    let text = status.message();
    let wanted = "ops (roles: reader) may not call twinward.twin.v1.TwinService/PatchTwin: the \
                  permission twins.write is missing; the roles operator, admin have it";
    assert_eq!(text, wanted);
    let details = status.get_error_details();
    let info = details.error_info().expect("a reason");
    assert_eq!(info.reason, "PERMISSION_MISSING");
    assert_eq!(info.metadata["permission"], "twins.write");
    assert_eq!(info.metadata["roles"], "reader");
    assert_eq!(info.metadata["principal"], "ops");
    assert_eq!(info.metadata["iot_hub_code"], "401003");
}

#[tokio::test]
async fn who_does_not_say_who_it_is_is_not_asked_what_it_may() {
    let layer = layer(&[Role::Admin]);
    for (token, wanted) in [(None, "TOKEN_MISSING"), (Some("another"), "TOKEN_WRONG")] {
        // A method without a rule looks the same to a stranger.
        for path in [READ, WRITE, "/twinward.twin.v1.TwinService/Unheard"] {
            let status = call(&layer, path, token).await;
            assert_eq!(status.code(), Code::Unauthenticated, "{path} {token:?}");
            assert_eq!(reason(&status), wanted);
            let error = RemoteError::from(status.clone());
            assert_eq!(error.fact("iot_hub_code"), Some("401002"));
            assert!(!status.message().contains(TOKEN));
        }
    }
}

#[tokio::test]
async fn a_method_without_a_rule_is_not_served_to_anybody() {
    let ruled = layer(&Role::ALL);
    let path = "/twinward.twin.v1.TwinService/Forgotten";
    let status = call(&ruled, path, Some(TOKEN)).await;
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(reason(&status), "METHOD_NOT_SERVED");
    assert!(
        status.message().contains("TwinService/Forgotten"),
        "{status:?}"
    );
    let off = layer_for(None, &AuthConfig::default());
    assert_eq!(call(&off, path, None).await.code(), Code::Unimplemented);
}

#[tokio::test]
async fn probes_and_declared_doors_are_open() {
    let layer = layer(&[Role::Admin]);
    for path in [
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        DOOR,
    ] {
        let status = call(&layer, path, None).await;
        assert_eq!(
            (status.code(), status.message()),
            (Code::AlreadyExists, "nobody")
        );
    }
}

#[tokio::test]
async fn with_authorisation_off_whoever_calls_is_the_local_admin() {
    let layer = layer_for(None, &AuthConfig::default()).rules([(WRITE, Permission::TwinsWrite)]);
    let status = call(&layer, WRITE, None).await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::AlreadyExists, "admin")
    );
}

#[tokio::test]
async fn every_decision_is_counted() {
    let registry = Registry::new();
    let layer = layer(&[Role::Reader]).metrics(&registry.scope("demo"));
    for (path, token) in [
        (READ, Some(TOKEN)),
        (WRITE, Some(TOKEN)),
        (WRITE, None),
        ("/none/None", Some(TOKEN)),
    ] {
        call(&layer, path, token).await;
    }
    let page = registry.encode().expect("text");
    for labels in [
        "decision=\"allowed\",permission=\"twins.read\",via=\"token\"",
        "decision=\"denied\",permission=\"twins.write\",via=\"token\"",
        "decision=\"unauthenticated\",permission=\"twins.write\",via=\"nothing\"",
        "decision=\"not_served\",permission=\"none\",via=\"nothing\"",
    ] {
        let line = format!("twinward_demo_auth_decisions_total{{{labels}}} 1");
        assert!(page.contains(&line), "{line} is missing in\n{page}");
    }
}

#[test]
fn without_authorisation_other_machines_are_not_served() {
    let local = "127.0.0.1:1".parse().expect("an address");
    let open: SocketAddr = "0.0.0.0:1".parse().expect("an address");
    let config = AuthConfig::default();
    let listen = |token, address, insecure| {
        let credentials = Credentials {
            token,
            config: &config,
            certificates: false,
            insecure,
        };
        AuthLayer::for_listener(credentials, SystemClock::shared(), address).map(|_| ())
    };
    assert_eq!(listen(None, local, Insecure::Refused), Ok(()));
    let refused = Err(AuthError::OpenToOthers { address: open });
    assert_eq!(listen(None, open, Insecure::Refused), refused);
    assert_eq!(listen(None, open, Insecure::Allowed), Ok(()));
    let token = Secret::new(TOKEN);
    assert_eq!(listen(Some(&token), open, Insecure::Refused), Ok(()));
}
