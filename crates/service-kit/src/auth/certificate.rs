//! Client certificates as principals: which names a certificate carries, and who that is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Any, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::auth::{Principal, Role, Via};

/// The attribute `CN` of a distinguished name (X.520).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// What a client's certificate says of it. That an authority has signed it is checked elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Its names, the alternative ones first: `URI:spiffe://hub/policy`, `DNS:policy.hub`,
    /// `CN:policy`.
    pub(crate) names: Vec<String>,
    /// When it ends: connections may last longer.
    pub(crate) until: Option<Timestamp>,
}

impl Shown {
    /// Reads a certificate. What cannot be read is left out; it then names nobody.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Self {
        let Ok(certificate) = Certificate::from_der(certificate) else {
            return Self::default();
        };
        let ends = certificate.tbs_certificate.validity.not_after;
        let ends = i64::try_from(ends.to_unix_duration().as_secs()).ok();
        Self {
            names: names(&certificate),
            until: ends.and_then(|seconds| Timestamp::from_second(seconds).ok()),
        }
    }
}

fn names(certificate: &Certificate) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(Some((_, SubjectAltName(alternatives)))) = certificate.tbs_certificate.get() {
        names.extend(alternatives.iter().filter_map(alternative));
    }
    let subject = &certificate.tbs_certificate.subject;
    for attribute in subject.0.iter().flat_map(|part| part.0.iter()) {
        if attribute.oid == COMMON_NAME
            && let Some(name) = text(&attribute.value)
        {
            names.push(format!("CN:{name}"));
        }
    }
    names
}

/// The common name, if there is exactly one.
pub(crate) fn common_name(certificate: &Certificate) -> Option<String> {
    let subject = &certificate.tbs_certificate.subject;
    let attributes = subject.0.iter().flat_map(|part| part.0.iter());
    let mut names = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
    let only = names.next()?;
    names.next().is_none().then(|| text(&only.value)).flatten()
}

fn alternative(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(format!("URI:{uri}")),
        GeneralName::DnsName(name) => Some(format!("DNS:{name}")),
        GeneralName::Rfc822Name(name) => Some(format!("EMAIL:{name}")),
        GeneralName::OtherName(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::IpAddress(_)
        | GeneralName::RegisteredId(_) => None,
    }
}

fn text(value: &Any) -> Option<String> {
    let utf8 = value
        .decode_as::<Utf8StringRef<'_>>()
        .map(|text| text.as_str().to_owned());
    utf8.or_else(|_| {
        value
            .decode_as::<PrintableStringRef<'_>>()
            .map(|text| text.as_str().to_owned())
    })
    .or_else(|_| {
        value
            .decode_as::<Ia5StringRef<'_>>()
            .map(|text| text.as_str().to_owned())
    })
    .ok()
}

/// A line of the configuration that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MappingError {
    #[error("`{0}` is not of the form NAME=ROLE or NAME=ROLE+ROLE")]
    Form(String),
    #[error("`{0}`: a name in a certificate begins with CN:, DNS:, URI: or EMAIL:")]
    Kind(String),
    #[error("`{line}`: {source}")]
    Role {
        line: String,
        source: crate::auth::UnknownRole,
    },
}

/// Reads `NAME=ROLE+ROLE`.
pub(super) fn mapping(line: &str) -> Result<(String, BTreeSet<Role>), MappingError> {
    // The last one: names may hold it, roles do not.
    let Some((name, roles)) = line.rsplit_once('=') else {
        return Err(MappingError::Form(line.to_owned()));
    };
    let (name, roles) = (name.trim(), roles.trim());
    if name.is_empty() || roles.is_empty() {
        return Err(MappingError::Form(line.to_owned()));
    }
    let roles = roles
        .split('+')
        .map(|role| role.trim().parse())
        .collect::<Result<_, _>>()
        .map_err(|source| MappingError::Role {
            line: line.to_owned(),
            source,
        })?;
    Ok((name.to_owned(), roles))
}

/// Who is who, by the names in certificates.
#[derive(Debug, Clone, Default)]
pub(super) struct CertificateMap(BTreeMap<String, BTreeSet<Role>>);

impl CertificateMap {
    pub(super) fn read(lines: &[String]) -> Result<Self, MappingError> {
        let mut map = BTreeMap::new();
        for line in lines {
            let (name, roles) = mapping(line)?;
            let kinds = ["CN:", "DNS:", "URI:", "EMAIL:"];
            if !kinds.iter().any(|kind| name.starts_with(kind)) {
                return Err(MappingError::Kind(line.clone()));
            }
            map.insert(name, roles);
        }
        Ok(Self(map))
    }

    /// Who shows a certificate with these names: the first name that has roles. A certificate that
    /// none of our lines names belongs to somebody the authority knows, who has no role here.
    pub(super) fn principal(&self, names: &[String]) -> Principal {
        for name in names {
            if let Some(roles) = self.0.get(name) {
                return Principal::new(name, roles.iter().copied(), Via::Certificate);
            }
        }
        let name = names
            .first()
            .map_or("a certificate without a name", |it| it);
        Principal::new(name, [], Via::Certificate)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_certificate_is_known_by_its_alternative_names_and_its_common_name() {
        let mut params = CertificateParams::new(vec!["policy.hub".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, "Policy");
        let uri = "spiffe://hub/policy".try_into().expect("ASCII");
        params.subject_alt_names.push(SanType::URI(uri));
        params.not_after = rcgen::date_time_ymd(2030, 3, 17);
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        let shown = Shown::read(cert.der());
        assert_eq!(
            shown.names,
            ["DNS:policy.hub", "URI:spiffe://hub/policy", "CN:Policy"]
        );
        assert_eq!(shown.until, Timestamp::from_second(1_899_936_000).ok());
        let none = Shown::read(&CertificateDer::from(vec![1, 2, 3]));
        assert_eq!(none, Shown::default());
    }

    #[test]
    fn the_first_name_that_has_roles_decides() {
        let lines = ["CN:Policy = service", "URI:x?a=b=reader+operator"];
        let map = CertificateMap::read(&lines.map(str::to_owned)).expect("good lines");
        let who = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let principal = map.principal(&names);
            format!("{} {}", principal.name, principal.role_names())
        };
        assert_eq!(who(&["DNS:p", "CN:Policy"]), "CN:Policy service");
        assert_eq!(
            who(&["URI:x?a=b", "CN:Policy"]),
            "URI:x?a=b reader,operator"
        );
        assert_eq!(who(&["DNS:p", "CN:Other"]), "DNS:p ");
        assert_eq!(who(&[]), "a certificate without a name ");
    }

    #[test]
    fn lines_that_cannot_be_read_say_why() {
        for (line, wanted) in [
            ("CN:a", "NAME=ROLE"),
            ("=admin", "NAME=ROLE"),
            ("a=admin", "begins with CN:"),
            ("CN:a=root", "`root` is no role"),
        ] {
            let error = CertificateMap::read(&[line.to_owned()]).expect_err("refused");
            assert!(error.to_string().contains(wanted), "{line}: {error}");
        }
    }
}
