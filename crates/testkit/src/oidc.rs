//! An OIDC provider for one test: it describes itself, publishes keys, and signs tokens with them.
//!
//! It signs with `ring` directly and knows nothing of the code that checks its tokens.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::TestCerts;

/// An RSA key of 2048 bits (PKCS #8). `ring` uses such keys and makes none.
const RSA_KEY: &[u8] = include_bytes!("../fixtures/rsa-2048.der");
/// How long the tokens are good.
const TOKEN_LASTS: Duration = Duration::from_mins(5);
/// What the tokens are meant for.
pub const AUDIENCE: &str = "twinward";

/// A key that signs tokens.
pub struct SigningKey {
    id: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// RS256, always with the same key.
    pub fn rsa(id: &str) -> Arc<Self> {
        let pair = RsaKeyPair::from_pkcs8(RSA_KEY).expect("our own file");
        Self::new(id, Pair::Rsa(Box::new(pair)))
    }

    /// ES256, with a fresh key.
    pub fn p256(id: &str) -> Arc<Self> {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let made = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key can be made");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, made.as_ref(), &random);
        Self::new(id, Pair::P256(pair.expect("a key just made")))
    }

    /// `EdDSA`, with a fresh key.
    pub fn ed25519(id: &str) -> Arc<Self> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let pair = Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("a key just made");
        Self::new(id, Pair::Ed25519(pair))
    }

    fn new(id: &str, pair: Pair) -> Arc<Self> {
        let id = id.to_owned();
        Arc::new(Self { id, pair })
    }

    fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    /// The public half as a JSON Web Key.
    pub fn published(&self) -> Value {
        let mut key = match &self.pair {
            Pair::Rsa(pair) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": encode(&public.n), "e": encode(&public.e)})
            }
            Pair::P256(pair) => {
                // The point, uncompressed: 4, then both coordinates.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)})
            }
            Pair::Ed25519(pair) => {
                let x = encode(pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "x": x})
            }
        };
        key["kid"] = self.id.clone().into();
        key["use"] = "sig".into();
        key["alg"] = self.algorithm().into();
        key
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let header = json!({"typ": "JWT", "alg": self.algorithm(), "kid": self.id});
        self.token_with(&header, claims)
    }

    /// A token whose header says what it likes.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let text = |value: &Value| encode(value.to_string().as_bytes());
        let message = format!("{}.{}", text(header), text(claims));
        let signature = encode(&self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .expect("the key signs");
                signature
            }
            Pair::P256(pair) => {
                let signature = pair.sign(&random, message).expect("the key signs");
                signature.as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970, as tokens count.
pub fn now() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "tokens of tests are good from now on"
    )]
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH);
    since.expect("the clock is set").as_secs()
}

struct State {
    issuer: String,
    keys: Mutex<Vec<Value>>,
    key_requests: AtomicUsize,
    away: AtomicBool,
}

/// A provider on a port of its own, gone when it is dropped.
pub struct OidcProvider {
    state: Arc<State>,
    server: AbortHandle,
}

impl OidcProvider {
    /// Serves plain HTTP and publishes these keys.
    pub async fn start(keys: &[&SigningKey]) -> Self {
        Self::serve(keys, None).await
    }

    /// Serves HTTPS with the server's certificate.
    pub async fn start_secure(keys: &[&SigningKey], certs: &TestCerts) -> Self {
        let chain = CertificateDer::from_pem_file(certs.server_certificate());
        let chain = vec![chain.expect("our own certificate")];
        let key = PrivateKeyDer::from_pem_file(certs.server_key()).expect("our own key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows them")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("our own certificate");
        Self::serve(keys, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(keys: &[&SigningKey], tls: Option<TlsAcceptor>) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(State {
            issuer: format!("{scheme}://{address}/realms/hub"),
            keys: Mutex::new(keys.iter().map(|key| key.published()).collect()),
            key_requests: AtomicUsize::new(0),
            away: AtomicBool::new(false),
        });
        let serving = accept(listener, tls, Arc::clone(&state));
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        let server = tokio::spawn(serving).abort_handle();
        Self { state, server }
    }

    /// Its name, and where it describes itself.
    pub fn issuer(&self) -> &str {
        &self.state.issuer
    }

    /// Where it publishes its keys.
    pub fn keys_url(&self) -> String {
        format!("{}/keys", self.state.issuer)
    }

    /// Publishes these keys and no others.
    pub fn publish(&self, keys: &[&SigningKey]) {
        let mut published = self
            .state
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *published = keys.iter().map(|key| key.published()).collect();
    }

    /// From now on it answers that it cannot, or can again.
    pub fn set_away(&self, away: bool) {
        self.state.away.store(away, Ordering::SeqCst);
    }

    /// How often somebody asked for the keys.
    pub fn key_requests(&self) -> usize {
        self.state.key_requests.load(Ordering::SeqCst)
    }

    /// Claims of a token that is good for five minutes.
    pub fn claims(&self, subject: &str, roles: &[&str]) -> Value {
        json!({
            "iss": self.issuer(), "aud": AUDIENCE, "sub": subject, "roles": roles,
            "iat": now(), "nbf": now(), "exp": now() + TOKEN_LASTS.as_secs(),
        })
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            return;
        };
        // One after the other: whoever asks here asks seldom. A failure is the client's to notice.
        match &tls {
            Some(tls) => {
                if let Ok(stream) = tls.accept(tcp).await {
                    let _ = answer(stream, &state).await;
                }
            }
            None => {
                let _ = answer(tcp, &state).await;
            }
        }
    }
}

/// Reads the head of one request, answers, and closes.
async fn answer<T>(mut stream: T, state: &State) -> std::io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (status, body) = respond(path, state);
    let text = body.to_string();
    let length = text.len();
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{text}"
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

fn respond(path: &str, state: &State) -> (&'static str, Value) {
    let keys = path.ends_with("/keys");
    if keys {
        state.key_requests.fetch_add(1, Ordering::SeqCst);
    }
    if state.away.load(Ordering::SeqCst) {
        return ("503 Service Unavailable", json!({}));
    }
    if keys {
        let published = state.keys.lock().unwrap_or_else(PoisonError::into_inner);
        return ("200 OK", json!({ "keys": *published }));
    }
    if path.ends_with("/.well-known/openid-configuration") {
        let keys = format!("{}/keys", state.issuer);
        return ("200 OK", json!({"issuer": state.issuer, "jwks_uri": keys}));
    }
    ("404 Not Found", json!({}))
}
