//! Every mistake with certificate files is answered with the file's name and the reason.

use super::client::{ClientSide, HTTP2};
use super::server::ServerSide;
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
        ServerTls::new(self.path(cert), self.path(key))
    }

    fn refusal(&self, cert: &str, key: &str) -> String {
        chain(&ServerSide::load(&self.server(cert, key), HTTP2).expect_err("unusable files"))
    }
}

#[test]
fn a_certificate_with_its_key_is_accepted() {
    let files = Files::new();
    assert!(ServerSide::load(&files.server("one.crt", "one.key"), HTTP2).is_ok());
    let mut mutual = files.server("one.crt", "one.key");
    mutual.client_ca_file = Some(files.path("two.crt"));
    assert!(ServerSide::load(&mutual, HTTP2).is_ok());
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
fn a_client_believes_the_system_or_the_file_it_is_given() {
    let files = Files::new();
    let load = |tls: &ClientTls| ClientSide::load(tls, "localhost", HTTP2);
    // A machine without authorities of its own says so; any other needs no file.
    if let Err(error) = load(&ClientTls::default()) {
        assert!(error.to_string().contains("set tls.ca_file"), "{error}");
    }
    assert!(load(&ClientTls::believing(files.path("one.crt"))).is_ok());
    let wrong = load(&ClientTls::believing(files.path("notes.txt")));
    let text = wrong.expect_err("refused").to_string();
    assert!(text.contains("notes.txt"), "{text}");
}

#[test]
fn a_client_certificate_needs_its_own_key() {
    let files = Files::new();
    let load = |cert: Option<&str>, key: Option<&str>| {
        let tls = ClientTls {
            cert_file: cert.map(|name| files.path(name)),
            key_file: key.map(|name| files.path(name)),
            ..ClientTls::believing(files.path("one.crt"))
        };
        ClientSide::load(&tls, "localhost", HTTP2).map(|_| ())
    };
    assert!(load(Some("two.crt"), Some("two.key")).is_ok());
    for (cert, key) in [(Some("two.crt"), None), (None, Some("two.key"))] {
        let text = load(cert, key).expect_err("refused").to_string();
        assert!(text.contains("needed together"), "{text}");
    }
    let text = chain(&load(Some("two.crt"), Some("one.key")).expect_err("refused"));
    assert!(
        text.contains("two.crt") && text.contains("one.key"),
        "{text}"
    );
}

#[test]
fn a_client_takes_renewed_files_over_and_keeps_the_former_if_they_are_broken() {
    let files = Files::new();
    let tls = ClientTls {
        cert_file: Some(files.path("one.crt")),
        key_file: Some(files.path("one.key")),
        ..ClientTls::believing(files.path("one.crt"))
    };
    let side = ClientSide::load(&tls, "localhost", HTTP2).expect("usable files");
    let first = side.fresh();
    assert!(Arc::ptr_eq(&first, &side.fresh()), "nothing has changed");
    for suffix in ["crt", "key"] {
        let text = std::fs::read_to_string(files.path(&format!("two.{suffix}"))).expect("a file");
        files.write(&format!("one.{suffix}"), &text);
    }
    let second = side.fresh();
    assert!(!Arc::ptr_eq(&first, &second), "renewed");
    files.write("one.key", "half a file");
    assert!(Arc::ptr_eq(&second, &side.fresh()), "broken");
}
