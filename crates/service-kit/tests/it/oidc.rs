//! Tokens of a real (small) OIDC provider: good ones, wrong ones in every way, and keys that change.

use serde_json::{Value, json};
use service_kit::auth::{AuthConfig, Role};
use service_kit::error::{Classified as _, Kind};
use service_kit::secret::Secret;
use service_kit::server::{GrpcConfig, GrpcServer};
use testkit::oidc::{AUDIENCE, now};
use testkit::{OidcProvider, SigningKey, TestCerts, wait_for};

use crate::bouncer::{Bouncer, READ, call, refusal};
use crate::support::PATIENCE;

const WRITE: &str = "/test.Club/twins.write";
fn config(provider: &OidcProvider) -> GrpcConfig {
    GrpcConfig {
        auth: AuthConfig {
            oidc_issuer: Some(provider.issuer().to_owned()),
            oidc_audience: vec![AUDIENCE.to_owned()],
            ..AuthConfig::default()
        },
        ..GrpcConfig::default()
    }
}

async fn answer(server: &Bouncer, token: &str) -> String {
    match call(&server.with_token(Some(token)), READ).await {
        Ok(who) => who,
        Err(error) => error.reason().to_owned(),
    }
}

/// The claims with some of them changed.
fn with(mut claims: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else {
        panic!("an object is wanted")
    };
    for (name, value) in changes {
        claims[name] = value;
    }
    claims
}

#[tokio::test]
async fn a_token_of_the_provider_opens_for_the_roles_it_names() {
    let (rsa, p256, ed) = (
        SigningKey::rsa("r"),
        SigningKey::p256("p"),
        SigningKey::ed25519("e"),
    );
    let provider = OidcProvider::start(&[&rsa, &p256, &ed]).await;
    let server = Bouncer::start(&config(&provider)).await;
    for key in [&rsa, &p256, &ed] {
        let token = key.token(&provider.claims("alice", &["reader"]));
        assert_eq!(answer(&server, &token).await, "alice [reader]");
    }
    let reader = rsa.token(&provider.claims("alice", &["reader", "of-no-meaning"]));
    let refused = call(&server.with_token(Some(&reader)), WRITE).await;
    let refused = refused.expect_err("a reader does not write");
    assert_eq!(refused.kind(), Kind::PermissionDenied);
    assert_eq!(refused.fact("principal"), Some("alice"));
    assert_eq!(refused.fact("permission"), Some("twins.write"));
    let operator = p256.token(&provider.claims("bob", &["operator"]));
    let who = call(&server.with_token(Some(&operator)), WRITE).await;
    assert_eq!(who.expect("let in"), "bob [operator]");
    let nobody = ed.token(&provider.claims("carol", &[]));
    assert_eq!(answer(&server, &nobody).await, "PERMISSION_MISSING");
    let page = server.registry.encode().expect("text");
    let line =
        "auth_decisions_total{decision=\"denied\",permission=\"twins.write\",via=\"oidc\"} 1";
    assert!(page.contains(line), "{page}");
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_is_wrong_in_any_way_is_refused_with_what_is_wrong() {
    let rsa = SigningKey::rsa("r");
    let p256 = SigningKey::p256("p");
    let provider = OidcProvider::start(&[&rsa, &p256]).await;
    let server = Bouncer::start(&config(&provider)).await;
    let good = provider.claims("alice", &["reader"]);
    assert_eq!(answer(&server, &rsa.token(&good)).await, "alice [reader]");

    let forged = {
        let token = rsa.token(&with(good.clone(), json!({"sub": "mallory"})));
        let (message, _) = token.rsplit_once('.').expect("three parts");
        let signature = rsa.token(&good);
        let (_, signature) = signature.rsplit_once('.').expect("three parts");
        format!("{message}.{signature}")
    };
    let stranger = SigningKey::p256("p");
    let unpublished = SigningKey::p256("unheard-of");
    let header = |algorithm: &str, key: &str| json!({"alg": algorithm, "kid": key});
    let unsigned = {
        let token = rsa.token_with(&header("none", "r"), &good);
        let (message, _) = token.rsplit_once('.').expect("three parts");
        format!("{message}.")
    };
    let changed = |changes| rsa.token(&with(good.clone(), changes));
    for (what, token, reason) in [
        ("changed", forged, "TOKEN_SIGNATURE_WRONG"),
        (
            "another key by the name",
            stranger.token(&good),
            "TOKEN_SIGNATURE_WRONG",
        ),
        ("unknown key", unpublished.token(&good), "TOKEN_KEY_UNKNOWN"),
        ("unsigned", unsigned, "TOKEN_MALFORMED"),
        (
            "the public key as a shared secret",
            rsa.token_with(&header("HS256", "r"), &good),
            "TOKEN_ALGORITHM_REFUSED",
        ),
        (
            "a key of another algorithm",
            p256.token_with(&header("ES256", "r"), &good),
            "TOKEN_KEY_UNKNOWN",
        ),
        (
            "something critical",
            rsa.token_with(&json!({"alg": "RS256", "kid": "r", "crit": ["b64"]}), &good),
            "TOKEN_MALFORMED",
        ),
        (
            "expired",
            changed(json!({"exp": now() - 31})),
            "TOKEN_EXPIRED",
        ),
        (
            "without end",
            changed(json!({"exp": null})),
            "TOKEN_CLAIM_MISSING",
        ),
        (
            "of tomorrow",
            changed(json!({"nbf": now() + 600})),
            "TOKEN_NOT_YET_VALID",
        ),
        (
            "for others",
            changed(json!({"aud": "billing"})),
            "TOKEN_AUDIENCE_WRONG",
        ),
        (
            "of others",
            changed(json!({"iss": "https://evil"})),
            "TOKEN_ISSUER_WRONG",
        ),
        (
            "of nobody",
            changed(json!({"sub": ""})),
            "TOKEN_CLAIM_MISSING",
        ),
        (
            "no JSON",
            "aaaaaaaa.bbbbbbbb.cccccccc".to_owned(),
            "TOKEN_MALFORMED",
        ),
        (
            "no token of theirs",
            "something-else-entirely".to_owned(),
            "TOKEN_WRONG",
        ),
    ] {
        let refused = call(&server.with_token(Some(&token)), READ).await;
        let refused = refused.expect_err(what);
        assert_eq!(refused.reason(), reason, "{what}");
        assert_eq!(refused.kind(), Kind::Unauthenticated, "{what}");
    }
    // A token without a key's name fits if only one key fits its algorithm.
    let nameless = rsa.token_with(&json!({"alg": "RS256"}), &good);
    assert_eq!(answer(&server, &nameless).await, "alice [reader]");
    server.stop().await;
}

#[tokio::test]
async fn new_keys_are_known_at_once_and_unknown_ones_do_not_flood_the_provider() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::ed25519("new"));
    let provider = OidcProvider::start(&[&old]).await;
    let server = Bouncer::start(&config(&provider)).await;
    let claims = provider.claims("alice", &["reader"]);
    assert_eq!(answer(&server, &old.token(&claims)).await, "alice [reader]");
    // The keys were fetched when the server began, or for that first call.
    wait_for("the first fetch", PATIENCE, async || {
        (provider.key_requests() > 0).then_some(())
    })
    .await;

    provider.publish(&[&old, &new]);
    let rotated = wait_for("the new key", PATIENCE, async || {
        let said = answer(&server, &new.token(&claims)).await;
        (said != "TOKEN_KEY_UNKNOWN").then_some(said)
    })
    .await;
    assert_eq!(rotated, "alice [reader]");

    let before = provider.key_requests();
    let guesses: Vec<_> = (0..20)
        .map(|n| SigningKey::ed25519(&format!("k{n}")))
        .collect();
    for key in &guesses {
        assert_eq!(
            answer(&server, &key.token(&claims)).await,
            "TOKEN_KEY_UNKNOWN"
        );
    }
    let asked = provider.key_requests() - before;
    assert!(asked <= 1, "20 unknown keys made {asked} requests");
    assert_eq!(answer(&server, &old.token(&claims)).await, "alice [reader]");
    server.stop().await;
}

#[tokio::test]
async fn the_last_good_keys_stay_while_the_provider_is_away_and_withdrawn_ones_go() {
    let (one, two) = (SigningKey::p256("one"), SigningKey::p256("two"));
    let provider = OidcProvider::start(&[&one, &two]).await;
    let mut config = config(&provider);
    config.auth.oidc_jwks_url = Some(provider.keys_url());
    config.auth.oidc_keys_refresh = service_kit::units::Duration::millis(20);
    let server = Bouncer::start(&config).await;
    let claims = provider.claims("alice", &["reader"]);
    let (first, second) = (one.token(&claims), two.token(&claims));
    assert_eq!(answer(&server, &first).await, "alice [reader]");

    provider.set_away(true);
    let asked = provider.key_requests();
    wait_for("the health to say so", PATIENCE, async || {
        let report = serde_json::to_value(server.health.report()).expect("JSON");
        let text = report.to_string();
        (text.contains("degraded") && text.contains("503")).then_some(())
    })
    .await;
    assert!(server.health.is_ready(), "others may still call");
    wait_for("two failed fetches", PATIENCE, async || {
        (provider.key_requests() >= asked + 2).then_some(())
    })
    .await;
    assert_eq!(answer(&server, &first).await, "alice [reader]");
    assert_eq!(answer(&server, &second).await, "alice [reader]");

    provider.publish(&[&two]);
    provider.set_away(false);
    let gone = wait_for("the withdrawal", PATIENCE, async || {
        let said = answer(&server, &first).await;
        (said != "alice [reader]").then_some(said)
    })
    .await;
    assert!(gone == "TOKEN_KEY_UNKNOWN", "{gone}");
    assert_eq!(answer(&server, &second).await, "alice [reader]");
    server.stop().await;
}

#[tokio::test]
async fn a_provider_that_was_never_there_is_no_fault_of_the_caller() {
    let key = SigningKey::p256("k");
    let provider = OidcProvider::start(&[&key]).await;
    provider.set_away(true);
    let server = Bouncer::start(&config(&provider)).await;
    let token = key.token(&provider.claims("alice", &["reader"]));
    let refused = call(&server.with_token(Some(&token)), READ).await;
    let refused = refused.expect_err("nobody can tell");
    assert_eq!(refused.kind(), Kind::Unavailable);
    assert_eq!(refused.reason(), "OIDC_PROVIDER_UNAVAILABLE");
    server.stop().await;
}

#[tokio::test]
async fn keys_come_over_tls_from_whom_we_believe() {
    let certs = TestCerts::new();
    let key = SigningKey::ed25519("k");
    let provider = OidcProvider::start_secure(&[&key], &certs).await;
    let token = key.token(&provider.claims("alice", &["reader"]));
    let mut believing = config(&provider);
    believing.auth.oidc_ca_file = Some(certs.ca());
    let server = Bouncer::start(&believing).await;
    assert_eq!(answer(&server, &token).await, "alice [reader]");
    server.stop().await;

    let mut elsewhere = believing.clone();
    let strangers = TestCerts::new();
    elsewhere.auth.oidc_ca_file = Some(strangers.ca());
    let server = Bouncer::start(&elsewhere).await;
    assert_eq!(answer(&server, &token).await, "OIDC_PROVIDER_UNAVAILABLE");
    server.stop().await;
}

#[tokio::test]
async fn keys_in_a_file_need_no_provider_and_a_configured_token_goes_beside_them() {
    let key = SigningKey::rsa("k");
    let provider = OidcProvider::start(&[]).await;
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("keys.json");
    let mut config = config(&provider);
    config.auth.oidc_jwks_file = Some(file.clone());
    let error = GrpcServer::bind(&config).await.expect_err("no such file");
    assert!(error.to_string().contains("keys.json"), "{error}");
    let set = json!({"keys": [key.published()]}).to_string();
    std::fs::write(&file, set).expect("a file");
    config.token = Some(Secret::new("a-token-that-is-long-enough"));
    config.auth.oidc_roles = vec!["hub-readers=reader".to_owned()];
    config.auth.oidc_roles_claim = "realm_access.roles".to_owned();
    config.auth.oidc_name_claim = "email".to_owned();
    config.auth.token_roles = vec![Role::Admin];
    let server = Bouncer::start(&config).await;
    let claims = with(
        provider.claims("5f0c", &["admin"]),
        json!({"email": "alice@hub", "realm_access": {"roles": ["hub-readers", "admin"]}}),
    );
    assert_eq!(
        answer(&server, &key.token(&claims)).await,
        "alice@hub [reader]"
    );
    let configured = answer(&server, "a-token-that-is-long-enough").await;
    assert_eq!(configured, "admin [admin]");
    assert_eq!(
        refusal(&server.with_token(None), READ).await,
        "TOKEN_MISSING"
    );
    assert_eq!(provider.key_requests(), 0);
    server.stop().await;
}
