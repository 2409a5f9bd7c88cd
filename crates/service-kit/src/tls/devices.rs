//! TLS towards devices: a client certificate is asked for and none is turned away.
//!
//! Devices with self-signed certificates have no authority in common, and one that is refused in the
//! handshake takes it for a broken network and tries for ever. So the handshake only makes sure that
//! the device has the key of the certificate it shows; whose certificate it is, and what its owner
//! may do, is decided by whoever serves the connection, and never here.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use tokio_rustls::TlsAcceptor;

use crate::shutdown::ShutdownToken;
use crate::tls::server::{ServerSide, Serves};
use crate::tls::{ServerTls, TlsError, provider};

/// The TLS of a listener for devices. Clones share it.
#[derive(Debug, Clone)]
pub struct DeviceTls {
    side: Arc<ServerSide>,
}

impl DeviceTls {
    /// Reads the certificate and its key, which must be usable.
    pub fn load(settings: &ServerTls) -> Result<Self, TlsError> {
        let side = Arc::new(ServerSide::load_for(Serves::Devices, settings)?);
        Ok(Self { side })
    }

    /// What the next connection shakes hands with.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.side.config())
    }

    /// Takes over renewed certificates until told to stop.
    pub async fn follow(self, shutdown: ShutdownToken) {
        self.side.follow(shutdown).await;
    }
}

/// Believes that whoever has the key of a certificate is whoever the certificate says, which is
/// what everybody can have made out for themselves.
#[derive(Debug)]
pub(super) struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl AnyCertificate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            provider: provider(),
        })
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
