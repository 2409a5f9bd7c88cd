//! Authorities whose certificates prove devices: which there are in a PEM text, and whether one of
//! them signed what a device showed.
//!
//! A handshake that accepts any certificate ([`super::devices`]) has proven that the device has its key
//! and nothing more; this says the rest.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::provider;

/// Authorities that are trusted for one purpose.
#[derive(Debug, Clone)]
pub struct Authorities {
    verifier: Arc<dyn ClientCertVerifier>,
    count: usize,
}

/// Why authorities or a chain are of no use.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// It is no PEM, or what is in it is no certificate.
    #[error("the certificate at place {place} cannot be read: {problem}")]
    Unreadable {
        /// Its place in the text, from 1.
        place: usize,
        /// What is wrong.
        problem: String,
    },
    /// There is none.
    #[error("it holds no certificate in PEM form")]
    Empty,
    /// The device showed none.
    #[error("no certificate was shown")]
    NoneShown,
    /// None of the authorities signed it, or it is not for now.
    #[error("the certificate is not one of these authorities: {0}")]
    NotTheirs(String),
}

impl Authorities {
    /// Reads certificates of authorities, one after another.
    ///
    /// # Errors
    /// Names the first that cannot be read, or says that there is none.
    pub fn parse(pem: &str) -> Result<Authorities, AuthoritiesError> {
        let mut roots = RootCertStore::empty();
        for (place, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
            let unreadable = |problem: String| AuthoritiesError::Unreadable {
                place: place + 1,
                problem,
            };
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| unreadable(error.to_string()))?;
        }
        let count = roots.len();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|_| AuthoritiesError::Empty)?;
        Ok(Authorities { verifier, count })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether one of them signed the first certificate of a chain, with the help of the others, and
    /// the certificate is for clients and for now.
    ///
    /// # Errors
    /// Why not.
    pub fn signed(
        &self,
        chain: &[impl AsRef<[u8]>],
        now: Timestamp,
    ) -> Result<(), AuthoritiesError> {
        let chain: Vec<CertificateDer<'_>> = chain
            .iter()
            .map(|certificate| CertificateDer::from(certificate.as_ref()))
            .collect();
        let (device, others) = chain.split_first().ok_or(AuthoritiesError::NoneShown)?;
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let verified = self.verifier.verify_client_cert(device, others, now);
        verified
            .map(drop)
            .map_err(|error| AuthoritiesError::NotTheirs(error.to_string()))
    }
}

/// When a certificate in DER form ends; none if it cannot be read.
pub fn ends_at(certificate: &[u8]) -> Option<Timestamp> {
    crate::auth::Shown::read(&CertificateDer::from(certificate)).until
}

/// The common name of a certificate in DER form; none if it has none or more than one.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    crate::auth::common_name(&certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An authority and a certificate that it signed for a common name.
    fn pair(name: &str) -> (String, Vec<u8>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let kind = rcgen::DnType::CommonName;
        params.distinguished_name.push(kind, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let device = params.signed_by(&key, &authority).unwrap();
        (authority.pem(), device.der().to_vec())
    }

    #[test]
    fn what_an_authority_signed_is_told_from_what_it_did_not() {
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let (pem, device) = pair("sn-1");
        let authorities = Authorities::parse(&pem).unwrap();
        assert_eq!(authorities.count(), 1);
        authorities.signed(&[&device], now).expect("it did");
        assert_eq!(common_name(&device).as_deref(), Some("sn-1"));
        assert!(ends_at(&device).is_some_and(|end| end > now));
        let (other, stranger) = pair("sn-1");
        let refused = authorities.signed(&[&stranger], now);
        assert!(matches!(refused, Err(AuthoritiesError::NotTheirs(_))));
        let both = Authorities::parse(&format!("{pem}\n{other}")).unwrap();
        both.signed(&[stranger], now).expect("the second did");
        let early = "1960-01-01T00:00:00Z".parse().unwrap();
        assert!(both.signed(&[device], early).is_err());
        let none: [Vec<u8>; 0] = [];
        assert!(matches!(
            both.signed(&none, now),
            Err(AuthoritiesError::NoneShown)
        ));
    }

    #[test]
    fn what_is_no_authority_says_so() {
        let error = Authorities::parse("nothing").unwrap_err();
        assert!(matches!(error, AuthoritiesError::Empty), "{error}");
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = Authorities::parse(bad).unwrap_err().to_string();
        assert!(error.contains("place 1"), "{error}");
        assert_eq!(common_name(b"no certificate"), None);
        assert_eq!(ends_at(b"no certificate"), None);
    }
}
