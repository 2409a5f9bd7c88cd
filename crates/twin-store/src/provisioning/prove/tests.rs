use super::*;
use crate::provisioning::Reprovision;
use crate::record::{IdentityEtag, Status};
use crate::secrets::MasterKeys;
use crate::testing::now;

const SCOPE: &str = "0ne00AB0102";

struct Hub {
    sealer: Sealer,
    _folder: tempfile::TempDir,
}

impl Hub {
    fn new() -> Hub {
        let folder = tempfile::tempdir().unwrap();
        let keys = MasterKeys {
            file: folder.path().join("master.key"),
            ..MasterKeys::default()
        };
        Hub {
            sealer: Sealer::open(&keys).unwrap(),
            _folder: folder,
        }
    }

    fn enrollment(&self, kind: ProvisioningKind, id: &str, keys: [u8; 2]) -> Enrollment {
        let mut enrollment = Enrollment {
            kind,
            id: registration(id),
            generation_id: "g".to_owned(),
            etag: IdentityEtag::from_number(1),
            status: Status::Enabled,
            attestation: Attestation::Authorities(String::new()),
            device: None,
            iot_edge: false,
            security_module: true,
            tags: None,
            desired: None,
            reprovision: Reprovision::Keep,
            adopts: Vec::new(),
            created_at: now(),
            updated_at: now(),
        };
        let seal = |byte: u8| {
            let key = SymmetricKey::generate([byte; 32]).to_base64();
            self.sealer.seal(&enrollment.owner(), &key).unwrap()
        };
        enrollment.attestation = Attestation::Keys {
            primary: seal(keys[0]),
            secondary: seal(keys[1]),
        };
        enrollment
    }

    fn group(&self) -> Enrollment {
        self.enrollment(ProvisioningKind::Group, "plant", [1, 2])
    }

    fn prove(&self, enrollments: &[Enrollment], id: &str, proof: &Proof) -> Option<Proven> {
        let claim = Claim {
            id_scope: SCOPE,
            registration: &registration(id),
            proof,
        };
        prove(&self.sealer, enrollments.to_vec(), &claim, now()).unwrap()
    }
}

fn registration(id: &str) -> RegistrationId {
    RegistrationId::parse(id).unwrap()
}

fn token(key: &SymmetricKey, id: &str) -> Proof {
    let resource = registration(id).resource(SCOPE);
    let expires_at = now() + jiff::SignedDuration::from_hours(1);
    Proof::Token(SasToken::sign(resource, key, expires_at))
}

fn key(byte: u8) -> SymmetricKey {
    SymmetricKey::generate([byte; 32])
}

/// A certificate of a client, in DER form.
fn issued(authority: &testkit::TestCerts, name: &str) -> Vec<u8> {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let (certificate, _) = authority.issue_client(name);
    let pem = std::fs::read_to_string(certificate).unwrap();
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    BASE64_STANDARD.decode(lines.collect::<String>()).unwrap()
}

#[test]
fn a_device_of_a_group_has_keys_of_its_own_and_the_groups_open_nothing() {
    let hub = Hub::new();
    let groups = [
        hub.enrollment(ProvisioningKind::Group, "other", [8, 9]),
        hub.group(),
    ];
    for byte in [1, 2] {
        let derived = key(byte).derive(&registration("sn-1"));
        let proven = hub
            .prove(&groups, "sn-1", &token(&derived, "sn-1"))
            .unwrap();
        assert_eq!(proven.enrollment.id.as_str(), "plant");
        let Credentials::Keys(primary, secondary) = proven.credentials else {
            panic!("it has keys");
        };
        // Both of the device, whichever it used.
        assert_eq!(*primary, *key(1).derive(&registration("sn-1")).to_base64());
        assert_eq!(
            *secondary,
            *key(2).derive(&registration("sn-1")).to_base64()
        );
        // It is no other device's.
        assert!(
            hub.prove(&groups, "sn-2", &token(&derived, "sn-2"))
                .is_none()
        );
        assert!(
            hub.prove(&groups, "sn-2", &token(&derived, "sn-1"))
                .is_none()
        );
        assert!(
            hub.prove(&groups, "sn-1", &token(&key(byte), "sn-1"))
                .is_none()
        );
    }
    // Nor is the enrolment's own name a way in.
    assert!(
        hub.prove(&groups, "plant", &token(&key(1), "plant"))
            .is_none()
    );
}

#[test]
fn a_single_device_has_the_keys_of_its_enrolment() {
    let hub = Hub::new();
    let single = [hub.enrollment(ProvisioningKind::Individual, "sn-1", [3, 4])];
    assert!(
        hub.prove(&single, "sn-1", &token(&key(4), "sn-1"))
            .is_some()
    );
    let derived = key(3).derive(&registration("sn-1"));
    assert!(
        hub.prove(&single, "sn-1", &token(&derived, "sn-1"))
            .is_none()
    );
    assert!(
        hub.prove(&single, "sn-1", &Proof::Chain(vec![b"x".to_vec()]))
            .is_none()
    );
    assert!(hub.prove(&[], "sn-1", &token(&key(3), "sn-1")).is_none());
}

#[test]
fn an_expired_token_proves_nothing() {
    let hub = Hub::new();
    let derived = key(1).derive(&registration("sn-1"));
    let resource = registration("sn-1").resource(SCOPE);
    let past = now() - jiff::SignedDuration::from_hours(1);
    let proof = Proof::Token(SasToken::sign(resource, &derived, past));
    assert!(hub.prove(&[hub.group()], "sn-1", &proof).is_none());
}

#[test]
fn keys_that_cannot_be_opened_stop_no_other_group() {
    let (hub, stranger) = (Hub::new(), Hub::new());
    let sealed_elsewhere = stranger.enrollment(ProvisioningKind::Group, "lost", [5, 6]);
    let derived = key(1).derive(&registration("sn-1"));
    let both = [sealed_elsewhere.clone(), hub.group()];
    assert!(hub.prove(&both, "sn-1", &token(&derived, "sn-1")).is_some());
    let claim = Claim {
        id_scope: SCOPE,
        registration: &registration("sn-1"),
        proof: &token(&derived, "sn-1"),
    };
    let error = prove(&hub.sealer, vec![sealed_elsewhere], &claim, now());
    assert!(
        matches!(error, Err(SecretError::UnknownKey { .. })),
        "{error:?}"
    );
}

#[test]
fn certificates_prove_by_thumbprint_or_by_authority_and_name() {
    let hub = Hub::new();
    let shown = b"a certificate".to_vec();
    let mut single = hub.enrollment(ProvisioningKind::Individual, "sn-1", [3, 4]);
    single.attestation = Attestation::Thumbprints {
        primary: "00".repeat(32),
        secondary: Some(Thumbprints::of(&shown).sha256().to_owned()),
    };
    let single = [single];
    assert!(
        hub.prove(&single, "sn-1", &Proof::Chain(vec![shown]))
            .is_some()
    );
    assert!(
        hub.prove(&single, "sn-1", &Proof::Chain(vec![b"other".to_vec()]))
            .is_none()
    );
    assert!(
        hub.prove(&single, "sn-1", &Proof::Chain(Vec::new()))
            .is_none()
    );
    assert!(
        hub.prove(&single, "sn-1", &token(&key(3), "sn-1"))
            .is_none()
    );

    let authority = testkit::TestCerts::new();
    let mut group = hub.group();
    let pem = std::fs::read_to_string(authority.ca()).unwrap();
    group.attestation = Attestation::Authorities(pem);
    let group = [group];
    let device = issued(&authority, "SN-1");
    let proven = hub
        .prove(&group, "sn-1", &Proof::Chain(vec![device.clone()]))
        .unwrap();
    let Credentials::Thumbprints(thumbprint, None) = proven.credentials else {
        panic!("it has a thumbprint");
    };
    assert_eq!(thumbprint, Thumbprints::of(&device).sha256());
    assert!(
        hub.prove(&group, "sn-2", &Proof::Chain(vec![device]))
            .is_none()
    );
    let stranger = issued(&testkit::TestCerts::new(), "sn-1");
    assert!(
        hub.prove(&group, "sn-1", &Proof::Chain(vec![stranger]))
            .is_none()
    );
}
