//! Fetches one small document over HTTP or HTTPS. For what a service must ask of others that do
//! not speak gRPC (an OIDC provider); follows no redirections and keeps no connections.

use std::io;
use std::time::Duration;

use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::codegen::Bytes;

use crate::tls::client::{ClientSide, HTTP1};
use crate::tls::{ClientTls, TlsError};

/// The largest document that is read. Key sets have some thousand bytes.
const BODY_MAX: usize = 1024 * 1024;

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The address cannot be used.
    #[error("it is no address of the form https://host/path")]
    Url,
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server cannot be reached, or is not who it should be.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// It does not speak HTTP.
    #[error("the exchange failed")]
    Http(#[from] hyper::Error),
    /// It answers something else.
    #[error("the answer is {0} and not 200 OK")]
    Status(StatusCode),
    /// The document cannot be read to its end.
    #[error("the document cannot be read, or has more than {BODY_MAX} bytes: {0}")]
    Body(String),
    /// It takes too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// Fetches a document.
pub(crate) async fn get(
    url: &str,
    tls: &ClientTls,
    within: Duration,
) -> Result<Vec<u8>, FetchError> {
    tokio::time::timeout(within, fetch(url, tls))
        .await
        .unwrap_or(Err(FetchError::Late(within)))
}

async fn fetch(url: &str, tls: &ClientTls) -> Result<Vec<u8>, FetchError> {
    let url: Uri = url.parse().map_err(|_| FetchError::Url)?;
    let secure = match url.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        Some(_) | None => return Err(FetchError::Url),
    };
    let host = url.host().ok_or(FetchError::Url)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let side = if secure {
        Some(ClientSide::load(tls, host, HTTP1)?)
    } else {
        None
    };
    let tcp = TcpStream::connect((host, port))
        .await
        .map_err(FetchError::Connect)?;
    match side {
        Some(side) => exchange(&url, side.secure(tcp).await.map_err(FetchError::Connect)?).await,
        None => exchange(&url, tcp).await,
    }
}

async fn exchange<T>(url: &Uri, stream: T) -> Result<Vec<u8>, FetchError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let authority = url.authority().map_or("", |it| it.as_str());
    let path = url.path_and_query().map_or("/", |it| it.as_str());
    let request = Request::get(path)
        .header(HOST, authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "twinward")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url)?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|error| FetchError::Body(error.to_string()))?;
        Ok(body.to_bytes().to_vec())
    };
    // The connection does the reading and writing. It may end before the answer has been looked
    // at, and never says anything that the answer does not.
    let (answer, _) = futures::future::join(answer, connection).await;
    answer
}
