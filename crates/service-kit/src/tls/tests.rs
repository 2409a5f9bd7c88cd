//! Every mistake with certificate files is answered with the file's name and the reason.

use super::*;
use crate::error::chain;

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    /// Two certificates, each with its key, and a file of another kind.
    fn new() -> Self {
        let files = Self {
            dir: tempfile::tempdir().expect("a directory"),
        };
        for name in ["one", "two"] {
            let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
                .expect("a certificate");
            files.write(&format!("{name}.crt"), &pair.cert.pem());
            files.write(&format!("{name}.key"), &pair.signing_key.serialize_pem());
        }
        files.write("notes.txt", "the certificate is in the other folder\n");
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn server(&self, cert: &str, key: &str) -> ServerTls {
        ServerTls {
            cert_file: self.path(cert),
            key_file: self.path(key),
            client_ca_file: None,
        }
    }

    fn refusal(&self, cert: &str, key: &str) -> String {
        chain(&server_config(&self.server(cert, key)).expect_err("unusable files"))
    }
}

#[test]
fn a_certificate_with_its_key_is_accepted() {
    let files = Files::new();
    assert!(server_config(&files.server("one.crt", "one.key")).is_ok());
    let mut mutual = files.server("one.crt", "one.key");
    mutual.client_ca_file = Some(files.path("two.crt"));
    assert!(server_config(&mutual).is_ok());
}

#[test]
fn a_file_that_is_missing_or_of_another_kind_is_named() {
    let files = Files::new();
    let missing = files.refusal("none.crt", "one.key");
    assert!(
        missing.contains("cannot read the certificate file /"),
        "{missing}"
    );
    assert!(missing.contains("none.crt: No such file"), "{missing}");
    let other = files.refusal("notes.txt", "one.key");
    assert!(
        other.contains("notes.txt is not usable: no certificate in PEM form"),
        "{other}"
    );
    let key = files.refusal("one.crt", "notes.txt");
    assert!(
        key.contains("notes.txt is not usable: no private key in PEM form"),
        "{key}"
    );
    let swapped = files.refusal("one.key", "one.crt");
    assert!(
        swapped.contains("one.key is not usable: no certificate"),
        "{swapped}"
    );
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let files = Files::new();
    let text = files.refusal("one.crt", "two.key");
    assert!(
        text.contains("one.crt") && text.contains("two.key"),
        "{text}"
    );
    assert!(text.contains("cannot be used together"), "{text}");
}

#[test]
fn plain_text_is_served_to_this_machine_only() {
    let files = Files::new();
    let tls = files.server("one.crt", "one.key");
    let open: SocketAddr = "0.0.0.0:1".parse().expect("an address");
    for local in ["127.0.0.1:1", "[::1]:1"] {
        let local = local.parse().expect("an address");
        assert!(check_listener(local, None, Insecure::Refused).is_ok());
    }
    let text = check_listener(open, None, Insecure::Refused)
        .expect_err("refused")
        .to_string();
    assert!(
        text.contains("0.0.0.0:1") && text.contains("allow_insecure"),
        "{text}"
    );
    assert!(check_listener(open, Some(&tls), Insecure::Refused).is_ok());
    assert!(check_listener(open, None, Insecure::Allowed).is_ok());
}

#[test]
fn an_https_url_needs_authorities_to_believe() {
    let files = Files::new();
    let none = ClientTls::default();
    assert!(
        client_config("http://localhost:1", &none)
            .expect("no TLS")
            .is_none()
    );
    let text = client_config("https://localhost:1", &none)
        .expect_err("refused")
        .to_string();
    assert!(text.contains("needs tls.ca_file"), "{text}");
    let some = ClientTls {
        ca_file: Some(files.path("one.crt")),
        domain: None,
    };
    assert!(
        client_config("https://localhost:1", &some)
            .expect("valid")
            .is_some()
    );
    let wrong = ClientTls {
        ca_file: Some(files.path("notes.txt")),
        domain: None,
    };
    let text = client_config("https://localhost:1", &wrong)
        .expect_err("refused")
        .to_string();
    assert!(text.contains("notes.txt"), "{text}");
}
