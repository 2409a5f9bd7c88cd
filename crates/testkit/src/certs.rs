//! A certificate authority and certificates for one test, as files.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// An authority, a server certificate for `localhost` and `127.0.0.1`, and client certificates.
/// The files are removed when the last clone is dropped.
#[derive(Clone)]
pub struct TestCerts {
    directory: Arc<TempDir>,
    issuer: Arc<Issuer<'static, KeyPair>>,
}

impl fmt::Debug for TestCerts {
    /// Without the authority's key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCerts")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl TestCerts {
    /// Makes fresh ones.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("twinward-certs-")
            .tempdir()
            .expect("the temporary directory can be written");
        let (ca, issuer) = authority();
        let certs = Self {
            directory: Arc::new(directory),
            issuer: Arc::new(issuer),
        };
        certs.write("ca.pem", &ca);
        certs.renew_server();
        certs.issue_client("client");
        certs
    }

    /// Makes the server another certificate, in the same files.
    pub fn renew_server(&self) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.issue("server", &names, ExtendedKeyUsagePurpose::ServerAuth);
    }

    /// Makes a client certificate with this common name, which is also its alternative DNS name;
    /// answers its files, the certificate's and the key's.
    pub fn issue_client(&self, name: &str) -> (PathBuf, PathBuf) {
        self.issue(
            name,
            &[name.to_owned()],
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        (
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        )
    }

    /// PEM file of the authority.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// PEM file of the server's certificate.
    pub fn server_certificate(&self) -> PathBuf {
        self.path("server.pem")
    }

    /// PEM file of the server's key.
    pub fn server_key(&self) -> PathBuf {
        self.path("server.key")
    }

    /// PEM file of the client's certificate, common name `client`.
    pub fn client_certificate(&self) -> PathBuf {
        self.path("client.pem")
    }

    /// PEM file of the client's key.
    pub fn client_key(&self) -> PathBuf {
        self.path("client.key")
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn issue(&self, name: &str, names: &[String], usage: ExtendedKeyUsagePurpose) {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(names).expect("the names are good");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("the authority signs");
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("our own directory can be written");
    }
}

/// An authority: its certificate, and what signs with its key.
fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names to refuse");
    params
        .distinguished_name
        .push(DnType::CommonName, "Twinward test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params
        .self_signed(&key)
        .expect("the authority signs itself");
    (ca.pem(), Issuer::new(params, key))
}

impl Default for TestCerts {
    fn default() -> Self {
        Self::new()
    }
}
