use super::*;

fn keys(folder: &Path) -> MasterKeys {
    MasterKeys {
        file: folder.join("master.key"),
        ..MasterKeys::default()
    }
}

#[test]
fn a_sealed_key_opens_for_its_owner_after_a_restart_and_for_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(folder.path());
    let sealed = Sealer::open(&keys)
        .unwrap()
        .seal("d/m#1", "secret")
        .unwrap();
    assert!(!format!("{sealed:?}").contains(&sealed.0));
    let reopened = Sealer::open(&keys).unwrap();
    assert_eq!(*reopened.open_sealed("d/m#1", &sealed).unwrap(), "secret");
    assert!(matches!(
        reopened.open_sealed("d/m#2", &sealed),
        Err(SecretError::Open)
    ));
    let (id, text) = sealed.parts().unwrap();
    for damaged in [
        String::new(),
        "AAAA".to_owned(),
        "v1.".to_owned(),
        format!("v1.{id}.AAAA"),
        format!("v1.{id}.!"),
        format!("v2.{id}.{text}"),
    ] {
        assert!(matches!(
            reopened.open_sealed("d/m#1", &Sealed(damaged)),
            Err(SecretError::Open)
        ));
    }
}

#[test]
fn a_former_master_key_opens_what_it_sealed_and_seals_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let first = MasterKeys {
        file: folder.path().join("first.key"),
        ..MasterKeys::default()
    };
    let sealed = Sealer::open(&first).unwrap().seal("d", "secret").unwrap();

    let mut second = keys(folder.path());
    let alone = Sealer::open(&second).unwrap();
    let error = alone.open_sealed("d", &sealed).unwrap_err();
    assert!(matches!(error, SecretError::UnknownKey { .. }), "{error}");
    assert!(error.to_string().contains("previous_master_key_files"));

    second.former_files = vec![first.file];
    let both = Sealer::open(&second).unwrap();
    assert!(!both.is_current(&sealed));
    assert_eq!(*both.open_sealed("d", &sealed).unwrap(), "secret");
    let anew = both.seal("d", "secret").unwrap();
    assert!(both.is_current(&anew));
    assert_eq!(*alone.open_sealed("d", &anew).unwrap(), "secret");
}

#[test]
fn a_master_key_may_be_given_instead_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = keys(folder.path());
    keys.present = Secret::new(BASE64_STANDARD.encode([7_u8; 32]));
    let sealed = Sealer::open(&keys).unwrap().seal("d", "secret").unwrap();
    assert!(!keys.file.exists(), "no file is made");
    assert!(Sealer::open(&keys).unwrap().is_current(&sealed));
    keys.present = Secret::new(BASE64_STANDARD.encode([7_u8; 31]));
    assert!(matches!(Sealer::open(&keys), Err(SecretError::Given)));
}

#[test]
fn a_former_master_key_is_never_made() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = keys(folder.path());
    keys.former_files = vec![folder.path().join("former.key")];
    assert!(matches!(Sealer::open(&keys), Err(SecretError::File { .. })));
    assert!(!keys.former_files[0].exists());
}

#[test]
fn a_master_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(folder.path());
    Sealer::open(&keys).unwrap();
    std::fs::set_permissions(&keys.file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Sealer::open(&keys).err().unwrap().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

#[test]
fn a_master_key_file_with_other_content_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(folder.path());
    create_synced(&keys.file, b"not a key").unwrap();
    assert!(matches!(
        Sealer::open(&keys),
        Err(SecretError::FileContent { .. })
    ));
}
