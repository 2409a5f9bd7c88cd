//! Certificates for a start: an authority of one's own, and what it signs for the door of devices
//! and for whoever calls.
//!
//! For one machine, a test or a small site. Whoever has an authority already uses that, and names
//! its files in the configuration. The authority's key never leaves its directory.

use std::io;
use std::path::{Path, PathBuf};

use iot_hub::Thumbprints;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::private_file;

/// How long an authority is believed.
const AUTHORITY_YEARS: i32 = 10;
/// How long what it signs is believed: the longest that common libraries accept.
const SIGNED_DAYS: i32 = 825;
/// How long before its end a certificate is made anew.
const RENEW_DAYS: i32 = 30;
/// Says of which names the server's certificate is, and until when.
const SERVER_NOTE: &str = "server.txt";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertError {
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The authority's key is not one.
    #[error("{} holds no key of an authority", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rcgen::Error,
    },
    /// A name cannot stand in a certificate.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
}

/// A certificate and its key, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PairFiles {
    /// PEM file of the certificate.
    pub(crate) cert: PathBuf,
    /// PEM file of its key.
    pub(crate) key: PathBuf,
}

/// An authority in a directory.
pub(crate) struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    today: Date,
}

impl Authority {
    /// The authority of a directory; makes one if there is none.
    pub(crate) fn open(directory: &Path, now: Timestamp) -> Result<Self, CertError> {
        private_file::create_directory(directory).map_err(|source| CertError::File {
            path: directory.to_owned(),
            source,
        })?;
        let today = now.to_zoned(TimeZone::UTC).date();
        let key_path = directory.join("ca.key");
        let key = match std::fs::read_to_string(&key_path) {
            Ok(text) => KeyPair::from_pem(&text).map_err(|source| CertError::Key {
                path: key_path,
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate()?;
                // The certificate first: a key without one would look like an authority.
                let certificate = authority(&key, today)?.self_signed(&key)?;
                write(&directory.join("ca.pem"), &certificate.pem())?;
                write(&key_path, &key.serialize_pem())?;
                key
            }
            Err(source) => {
                return Err(CertError::File {
                    path: key_path,
                    source,
                });
            }
        };
        // What it signs carries its name and nothing else of its certificate.
        let issuer = Issuer::new(authority(&key, today)?, key);
        Ok(Self {
            directory: directory.to_owned(),
            issuer,
            today,
        })
    }

    /// PEM file of the authority's certificate: what devices must believe.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The server's certificate for these names and addresses; the one that is there, if it has
    /// them and some time left.
    pub(crate) fn server(&self, names: &[String]) -> Result<PairFiles, CertError> {
        let files = self.files("server");
        let note_path = self.directory.join(SERVER_NOTE);
        if let Ok(note) = std::fs::read_to_string(&note_path)
            && let Some((until, of)) = note.split_once('\n')
            && let Ok(until) = until.parse::<Date>()
            && of.lines().eq(names.iter().map(String::as_str))
            && self.today.saturating_add(RENEW_DAYS.days()) < until
            && files.cert.exists()
            && files.key.exists()
        {
            return Ok(files);
        }
        self.sign(&files, "server", names, ExtendedKeyUsagePurpose::ServerAuth)?;
        let mut note = self.until().to_string();
        for name in names {
            note.push('\n');
            note.push_str(name);
        }
        write(&note_path, &note)?;
        Ok(files)
    }

    /// A client's certificate with this common name.
    pub(crate) fn client(&self, name: &str) -> Result<PairFiles, CertError> {
        let files = self.files(name);
        self.sign(&files, name, &[], ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(files)
    }

    /// The certificate of a device or module, which proves it where this authority is trusted.
    pub(crate) fn device(&self, identity: &str, file: &str) -> Result<PairFiles, CertError> {
        let files = self.files(file);
        self.sign(&files, identity, &[], ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(files)
    }

    fn files(&self, name: &str) -> PairFiles {
        PairFiles {
            cert: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        }
    }

    fn until(&self) -> Date {
        self.today.saturating_add(SIGNED_DAYS.days())
    }

    fn sign(
        &self,
        files: &PairFiles,
        common_name: &str,
        names: &[String],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<(), CertError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        limit(&mut params, self.today, self.until());
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&files.key, &key.serialize_pem())?;
        write(&files.cert, &certificate.pem())
    }
}

/// What an authority with this key says of itself. Its name comes from the key, so that two
/// authorities are never taken for one, and the certificate need not be read to sign.
fn authority(key: &KeyPair, today: Date) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    let print = Thumbprints::of(key.public_key_raw());
    let id = print.sha256().get(..12).unwrap_or_default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("Twinward authority {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit(
        &mut params,
        today,
        today.saturating_add(AUTHORITY_YEARS.years()),
    );
    Ok(params)
}

/// From the day before, because clocks differ.
fn limit(params: &mut CertificateParams, today: Date, until: Date) {
    let small = |number: i8| u8::try_from(number).unwrap_or(1);
    let midnight = |date: Date| {
        rcgen::date_time_ymd(date.year().into(), small(date.month()), small(date.day()))
    };
    params.not_before = midnight(today.saturating_sub(1.day()));
    params.not_after = midnight(until);
}

fn write(path: &Path, text: &str) -> Result<(), CertError> {
    private_file::replace(path, text.as_bytes()).map_err(|source| CertError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_authority_stays_and_a_server_certificate_until_its_names_or_its_time_change() {
        let dir = tempfile::tempdir().unwrap();
        let open = |now| Authority::open(dir.path(), at(now)).unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let authority = open("2026-01-31T12:00:00Z");
        let ca = read(&authority.ca_file());
        let one = names(&["localhost", "127.0.0.5"]);
        let files = authority.server(&one).unwrap();
        let first = read(&files.cert);

        let authority = open("2026-07-01T00:00:00Z");
        assert_eq!(authority.server(&one).unwrap(), files);
        assert_eq!(read(&files.cert), first, "it has the names and time left");
        let other = names(&["localhost"]);
        authority.server(&other).unwrap();
        let second = read(&files.cert);
        assert_ne!(second, first, "it had another name");
        open("2028-09-20T00:00:00Z").server(&other).unwrap();
        assert_ne!(read(&files.cert), second, "its time was nearly over");
        assert_eq!(read(&authority.ca_file()), ca);
    }

    #[test]
    fn what_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.key"), "nothing").unwrap();
        let refused = Authority::open(dir.path(), at("2026-01-31T12:00:00Z"));
        let error = refused.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("ca.key"), "{error}");
    }
}
