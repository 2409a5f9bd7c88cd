//! Where the provider's keys come from: a file, an address, or the address that the provider's own
//! description names (`OpenID` Connect Discovery).

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde_json::Value;

use crate::auth::config::AuthConfig;
use crate::auth::oidc::keys::{KeySet, KeySetError};
use crate::auth::{AuthError, Insecure};
use crate::https::{self, FetchError};
use crate::tls::ClientTls;

/// How long one answer of the provider may take.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// Where a provider describes itself, below its issuer.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Where the keys come from.
#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    Url {
        url: String,
        tls: ClientTls,
    },
    Discovery {
        issuer: String,
        tls: ClientTls,
        insecure: Insecure,
    },
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("cannot read the key file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot fetch {url}")]
    Fetch {
        url: String,
        #[source]
        source: Box<FetchError>,
    },
    #[error("the keys in {from} cannot be used")]
    Keys {
        from: String,
        #[source]
        source: KeySetError,
    },
    #[error("{url} is no description of the provider: {problem}")]
    Description { url: String, problem: String },
}

/// Why keys may not be fetched from there: on the way anybody could put in keys of their own.
pub(crate) fn url_problem(url: &str, insecure: Insecure) -> Option<String> {
    let wanted = || Some("must be of the form https://host/path".to_owned());
    let Ok(parsed) = url.parse::<Uri>() else {
        return wanted();
    };
    let Some(host) = parsed.host() else {
        return wanted();
    };
    let local = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
    match parsed.scheme_str() {
        Some("https") => None,
        Some("http") if local || insecure == Insecure::Allowed => None,
        Some("http") => Some(
            "must be https, or anybody on the way could put in keys of their own; \
             allow_insecure = true accepts http"
                .to_owned(),
        ),
        Some(_) | None => wanted(),
    }
}

impl Source {
    /// Reads the settings; what is most particular wins.
    pub(super) fn read(config: &AuthConfig, insecure: Insecure) -> Result<Self, AuthError> {
        let tls = ClientTls {
            ca_file: config.oidc_ca_file.clone(),
            ..ClientTls::default()
        };
        let checked = |key, url: &str| match url_problem(url, insecure) {
            Some(problem) => Err(AuthError::Setting { key, problem }),
            None => Ok(url.to_owned()),
        };
        if let Some(path) = &config.oidc_jwks_file {
            return Ok(Self::File(path.clone()));
        }
        if let Some(url) = &config.oidc_jwks_url {
            let url = checked("oidc_jwks_url", url)?;
            return Ok(Self::Url { url, tls });
        }
        let issuer = config.oidc_issuer.as_deref().unwrap_or_default();
        Ok(Self::Discovery {
            issuer: checked("oidc_issuer", issuer)?,
            tls,
            insecure,
        })
    }

    /// Reads a file; blocks. `None` for what must be fetched.
    pub(super) fn load_file(&self) -> Option<Result<KeySet, SourceError>> {
        let Self::File(path) = self else {
            return None;
        };
        let text = std::fs::read(path).map_err(|source| SourceError::Read {
            path: path.clone(),
            source,
        });
        Some(text.and_then(|text| keys(&path.display().to_string(), &text)))
    }

    /// Fetches the keys.
    pub(super) async fn load(&self) -> Result<KeySet, SourceError> {
        match self {
            Self::File(path) => {
                let read = tokio::fs::read(path).await;
                let text = read.map_err(|source| SourceError::Read {
                    path: path.clone(),
                    source,
                })?;
                keys(&path.display().to_string(), &text)
            }
            Self::Url { url, tls } => keys(url, &fetch(url, tls).await?),
            Self::Discovery {
                issuer,
                tls,
                insecure,
            } => {
                let url = format!("{}{DISCOVERY}", issuer.trim_end_matches('/'));
                let text = fetch(&url, tls).await?;
                let keys_at = described(&text, issuer, *insecure)
                    .map_err(|problem| SourceError::Description { url, problem })?;
                keys(&keys_at, &fetch(&keys_at, tls).await?)
            }
        }
    }
}

async fn fetch(url: &str, tls: &ClientTls) -> Result<Vec<u8>, SourceError> {
    https::get(url, tls, FETCH_WITHIN)
        .await
        .map_err(|source| SourceError::Fetch {
            url: url.to_owned(),
            source: Box::new(source),
        })
}

fn keys(from: &str, text: &[u8]) -> Result<KeySet, SourceError> {
    KeySet::parse(text).map_err(|source| SourceError::Keys {
        from: from.to_owned(),
        source,
    })
}

/// Where a provider's description says that its keys are.
fn described(text: &[u8], issuer: &str, insecure: Insecure) -> Result<String, String> {
    let description: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let said = description["issuer"].as_str().unwrap_or_default();
    // Else one provider could speak for another.
    if said != issuer {
        return Err(format!("its issuer is `{said}` and not `{issuer}`"));
    }
    let keys_at = description["jwks_uri"]
        .as_str()
        .ok_or("it names no jwks_uri")?;
    match url_problem(keys_at, insecure) {
        Some(problem) => Err(format!("its jwks_uri `{keys_at}` {problem}")),
        None => Ok(keys_at.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_a_protected_way_or_from_this_machine() {
        let problem = |url| url_problem(url, Insecure::Refused);
        for good in [
            "https://id.example",
            "https://id.example:8443/realms/hub",
            "http://127.0.0.1:9000",
            "http://localhost/x",
            "http://[::1]:9000/",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        let plain = problem("http://id.example").expect("refused");
        assert!(plain.contains("must be https"), "{plain}");
        assert_eq!(url_problem("http://id.example", Insecure::Allowed), None);
        for bad in [
            "",
            "id.example",
            "ftp://id.example",
            "https://",
            "not a url",
        ] {
            assert!(problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_description_is_believed_only_about_its_own_issuer() {
        let said = |text: &str| described(text.as_bytes(), "https://id.example", Insecure::Refused);
        let good = r#"{"issuer": "https://id.example", "jwks_uri": "https://id.example/keys"}"#;
        assert_eq!(said(good), Ok("https://id.example/keys".to_owned()));
        for (text, wanted) in [
            (
                r#"{"issuer": "https://evil.example", "jwks_uri": "https://x"}"#,
                "evil.example",
            ),
            (r#"{"issuer": "https://id.example"}"#, "no jwks_uri"),
            (
                r#"{"issuer": "https://id.example", "jwks_uri": "http://x"}"#,
                "must be https",
            ),
            ("<html>", "expected value"),
        ] {
            let problem = said(text).expect_err(text);
            assert!(problem.contains(wanted), "{problem}");
        }
    }
}
