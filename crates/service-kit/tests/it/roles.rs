//! Each role at each method, over the wire, and the one warning when there are none.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use service_kit::auth::{AuthConfig, Role};
use service_kit::error::{Classified as _, Kind};
use service_kit::secret::Secret;
use service_kit::server::GrpcConfig;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use crate::bouncer::{Bouncer, READ, RULES, call};

const TOKEN: &str = "a-token-that-is-long-enough";

/// What each role may, written out: if the table in the code changes, somebody must mean it.
fn may(role: Role) -> &'static str {
    match role {
        Role::Reader => "twins.read registry.read policies.read operations.read audit.read",
        Role::Operator => {
            "twins.read registry.read policies.read operations.read audit.read twins.write \
             registry.write policies.write operations.cancel"
        }
        Role::Admin => {
            "twins.read registry.read policies.read operations.read audit.read twins.write \
             registry.write policies.write operations.cancel registry.keys.read store.admin"
        }
        Role::Service => "twins.read twins.write_as audit.record devices.act policies.apply",
    }
}

#[tokio::test]
async fn each_role_may_call_what_it_may_and_is_told_what_is_missing_for_the_rest() {
    for role in Role::ALL {
        let config = GrpcConfig {
            token: Some(Secret::new(TOKEN)),
            auth: AuthConfig {
                token_name: "somebody".to_owned(),
                token_roles: vec![role],
                ..AuthConfig::default()
            },
            ..GrpcConfig::default()
        };
        let server = Bouncer::start(&config).await;
        let channel = server.with_token(Some(TOKEN));
        let allowed: Vec<&str> = may(role).split_whitespace().collect();
        for (path, permission) in RULES {
            let answer = call(&channel, path).await;
            if allowed.contains(&permission.name()) {
                let who = answer.unwrap_or_else(|error| panic!("{role} at {path}: {error}"));
                assert_eq!(who, format!("somebody [{role}]"));
                continue;
            }
            let refused = answer.expect_err("refused");
            assert_eq!(refused.kind(), Kind::PermissionDenied, "{role} at {path}");
            assert_eq!(refused.reason(), "PERMISSION_MISSING");
            assert_eq!(refused.fact("iot_hub_code"), Some("401003"));
            assert_eq!(refused.fact("permission"), Some(permission.name()));
            assert_eq!(refused.fact("roles"), Some(role.name()));
            assert_eq!(refused.fact("principal"), Some("somebody"));
        }
        server.stop().await;
    }
}

/// Keeps the warnings of this thread.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() <= Level::WARN {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().expect("one thread").push(text.0);
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

#[tokio::test]
async fn with_authorisation_off_everybody_may_everything_after_one_warning() {
    let warnings = Warnings::default();
    let subscriber = tracing_subscriber::registry().with(warnings.clone());
    let _guard = tracing::subscriber::set_default(subscriber);

    let server = Bouncer::start(&GrpcConfig::default()).await;
    let channel = server.with_token(None);
    for (path, _) in RULES {
        let who = call(&channel, path).await.expect("let in");
        assert_eq!(who, "admin [reader,operator,admin,service]");
    }
    // A token does no harm where none is asked for.
    call(&server.with_token(Some(TOKEN)), READ)
        .await
        .expect("let in");
    server.stop().await;
    let warned = warnings.0.lock().expect("one thread").clone();
    let [only] = warned.as_slice() else {
        panic!("one warning is wanted: {warned:?}");
    };
    assert!(only.contains("authorisation is off"), "{only}");
}
