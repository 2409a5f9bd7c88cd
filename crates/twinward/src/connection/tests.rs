use clap::Parser as _;

use super::*;
use crate::args::Cli;
use crate::env_file;

fn global() -> Global {
    Cli::try_parse_from(["twinward", "--timeout", "1s", "status"])
        .unwrap()
        .global
}

fn file(dir: &Path, url: &str) -> PathBuf {
    let path = env_file::path_in(dir);
    env_file::write(&path, &[(variable::TWIN_STORE_URL, url.to_owned())]).unwrap();
    path
}

fn twin_store(global: &Global, environment: &Environment) -> (String, String) {
    let found = Connection::find(global, environment)
        .unwrap()
        .twin_store()
        .unwrap();
    (found.value, found.origin.to_string())
}

#[test]
fn what_is_named_on_the_command_line_comes_before_variables_and_these_before_the_default_file() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let in_file = file(dir.path(), "http://file");
    let home = dir.path().to_str().unwrap();
    let only_file = Environment::from([("TWINWARD_DATA_DIR", home)]);
    let both = Environment::from([
        ("TWINWARD_DATA_DIR", home),
        ("TWINWARD_TWIN_STORE_URL", "http://variable"),
    ]);
    let from_file = (
        "http://file".to_owned(),
        format!("from {}", in_file.display()),
    );

    assert_eq!(twin_store(&global(), &only_file), from_file);
    assert_eq!(twin_store(&global(), &both).0, "http://variable");
    assert_eq!(
        twin_store(
            &Global {
                env_file: Some(in_file),
                ..global()
            },
            &both
        ),
        from_file,
        "--env-file"
    );
    file(other.path(), "http://other");
    let data_dir = Global {
        data_dir: Some(other.path().to_owned()),
        ..global()
    };
    assert_eq!(twin_store(&data_dir, &both).0, "http://other", "--data-dir");
    let option = Global {
        twin_store_url: Some("http://option".to_owned()),
        ..data_dir
    };
    assert_eq!(
        twin_store(&option, &both),
        (
            "http://option".to_owned(),
            "from --twin-store-url".to_owned()
        )
    );
}

#[test]
fn nothing_known_says_where_it_was_looked_for_and_what_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let environment = Environment::from([("XDG_DATA_HOME", dir.path().to_str().unwrap())]);
    let connection = Connection::find(&global(), &environment).unwrap();
    let failure = connection.twin_store().unwrap_err();
    assert_eq!(failure.kind(), Kind::Unavailable);
    let text = failure.render();
    let path = dir.path().join("twinward/twinward.env");
    for words in ["--twin-store-url", path.to_str().unwrap(), "`twinward up`"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn a_named_file_must_be_there() {
    let global = Global {
        env_file: Some(PathBuf::from("/nowhere/x.env")),
        ..global()
    };
    let home = Environment::from([("HOME", "/nowhere")]);
    let failure = Connection::find(&global, &home).unwrap_err();
    assert_eq!(failure.kind(), Kind::NotFound);
    assert!(
        failure.render().contains("/nowhere/x.env"),
        "{}",
        failure.render()
    );
}

#[tokio::test]
async fn nobody_listening_names_the_address_its_origin_and_the_next_step() {
    // Bound and dropped: whoever gets this port next will not speak gRPC either.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("http://127.0.0.1:{port}");
    let global = Global {
        twin_store_url: Some(url.clone()),
        ..global()
    };
    let home = Environment::from([("HOME", "/nowhere")]);
    let connection = Connection::find(&global, &home).unwrap();
    let status = connection
        .registry()
        .unwrap()
        .get_device(wire::registry::v1::GetDeviceRequest::default())
        .await
        .unwrap_err();
    let failure = connection.refused("cannot get device x", status);
    assert_eq!(failure.kind(), Kind::Unavailable);
    let text = failure.render();
    for words in [
        "Connection refused",
        &url,
        "from --twin-store-url",
        "is `twinward up` running?",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[tokio::test]
async fn a_token_file_in_a_variable_counts_more_than_a_token_that_lies_in_the_default_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = env_file::path_in(dir.path());
    let of_file = "token-of-the-env-file-0123456789";
    env_file::write(&path, &[(variable::ADMIN_TOKEN, of_file.to_owned())]).unwrap();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "token-of-the-token-file-01234\n").unwrap();
    let home = dir.path().to_str().unwrap();
    let token = |environment: &Environment| {
        let connection = Connection::find(&global(), environment).unwrap();
        connection.token.unwrap().expose().to_owned()
    };
    assert_eq!(
        token(&Environment::from([("TWINWARD_DATA_DIR", home)])),
        of_file
    );
    let with_variable = Environment::from([
        ("TWINWARD_DATA_DIR", home),
        ("TWINWARD_TOKEN_FILE", token_file.to_str().unwrap()),
    ]);
    assert_eq!(token(&with_variable), "token-of-the-token-file-01234");
}

#[test]
fn a_client_certificate_without_its_key_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = dir.path().join("client.pem");
    let environment = Environment::from([
        ("TWINWARD_DATA_DIR", dir.path().to_str().unwrap()),
        ("TWINWARD_TWIN_STORE_URL", "https://127.0.0.1:1"),
        ("TWINWARD_CLIENT_CERT_FILE", certificate.to_str().unwrap()),
    ]);
    let connection = Connection::find(&global(), &environment).unwrap();
    let failure = connection.twins().unwrap_err();
    let text = failure.render();
    assert!(
        text.contains("client.pem") || text.contains("key_file"),
        "{text}"
    );
}
