//! How a device or module is to prove itself, as a person says it.

use clap::{Args, ValueEnum};
use wire::registry::v1 as api;

use crate::failure::Failure;

/// Options that say how an identity proves itself.
#[derive(Debug, Args)]
pub(crate) struct AuthenticationArgs {
    /// How it proves itself [default for new ones: sas]
    #[arg(long, value_enum, value_name = "KIND")]
    auth: Option<Kind>,
    /// SHA-1 or SHA-256 of an accepted certificate, in hex; given twice, the second is accepted,
    /// too
    #[arg(long = "thumbprint", value_name = "HEX", value_parser = thumbprint)]
    thumbprints: Vec<String>,
}

/// The ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A token signed with one of two symmetric keys
    Sas,
    /// A certificate with one of two thumbprints
    SelfSigned,
    /// A certificate of a known authority whose common name is the id
    Ca,
    /// Not at all: it cannot connect
    None,
}

impl AuthenticationArgs {
    /// The kind as messages have it. Thumbprints alone say it as well.
    pub(crate) fn kind(&self) -> api::AuthenticationType {
        match self.auth {
            Some(Kind::Sas) => api::AuthenticationType::Sas,
            Some(Kind::SelfSigned) => api::AuthenticationType::SelfSigned,
            Some(Kind::Ca) => api::AuthenticationType::CertificateAuthority,
            Some(Kind::None) => api::AuthenticationType::None,
            None if !self.thumbprints.is_empty() => api::AuthenticationType::SelfSigned,
            None => api::AuthenticationType::Unspecified,
        }
    }

    /// The thumbprints as messages have them. More than there is room for would be lost silently.
    pub(crate) fn thumbprints(&self) -> Result<Option<api::Thumbprints>, Failure> {
        let (primary, secondary) = match self.thumbprints.as_slice() {
            [] => return Ok(None),
            [primary] => (primary.clone(), String::new()),
            [primary, secondary] => (primary.clone(), secondary.clone()),
            [..] => {
                let what = "--thumbprint may be given twice at most";
                return Err(Failure::new(crate::exit::Kind::Usage, what));
            }
        };
        Ok(Some(api::Thumbprints { primary, secondary }))
    }
}

/// What is called `authentication.type` in IoT Hub's documents.
pub(crate) fn name(kind: api::AuthenticationType) -> &'static str {
    match kind {
        api::AuthenticationType::Unspecified => "",
        api::AuthenticationType::Sas => "sas",
        api::AuthenticationType::SelfSigned => "selfSigned",
        api::AuthenticationType::CertificateAuthority => "certificateAuthority",
        api::AuthenticationType::None => "none",
    }
}

/// Reads a thumbprint as tools print it: with or without colons, in either case.
pub(crate) fn thumbprint(text: &str) -> Result<String, String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match (hex, digits.len()) {
        (true, 40 | 64) => Ok(digits.to_ascii_uppercase()),
        (true | false, _) => Err(format!(
            "is no thumbprint: 40 (SHA-1) or 64 (SHA-256) hex digits are needed, {} were given",
            digits.chars().count()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_may_be_pasted_from_openssl() {
        let pasted = ["ab"; 20].join(":");
        assert_eq!(thumbprint(&pasted).unwrap(), "AB".repeat(20));
        for wrong in ["", "abcd", &"g".repeat(40)] {
            assert!(
                thumbprint(wrong).unwrap_err().contains("64 (SHA-256)"),
                "{wrong}"
            );
        }
    }
}
