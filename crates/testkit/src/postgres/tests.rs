//! The server itself: it starts, crashes, comes back, and never outlives its test.

use super::*;

/// Tells the test below that it is the child which is to be killed.
const CHILD: &str = "TWINWARD_TEST_POSTGRES_CHILD";

#[tokio::test]
async fn databases_are_empty_and_apart() {
    let (one, other) = (database().await, database().await);
    one.execute("CREATE TABLE t (x int); INSERT INTO t VALUES (7)")
        .await;
    assert_eq!(one.ask("SELECT x FROM t").await.as_deref(), Some("7"));
    let there = "SELECT count(*) FROM pg_tables WHERE tablename = 't'";
    assert_eq!(other.ask(there).await.as_deref(), Some("0"));
    assert_eq!(other.ask("SHOW fsync").await.as_deref(), Some("on"));
    assert_eq!(
        other.ask("SHOW server_encoding").await.as_deref(),
        Some("UTF8")
    );
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_crash_and_nothing_is_left_in_the_end() {
    let mut server = PostgresServer::start().await;
    let database = server.database().await;
    database
        .execute("CREATE TABLE t (x int); INSERT INTO t VALUES (7)")
        .await;
    server.kill();
    assert!(database.try_connect().await.is_err());
    server.restart().await;
    assert_eq!(database.ask("SELECT x FROM t").await.as_deref(), Some("7"));
    let (tcp, directory) = (database.tcp_url(), server.directory.clone());
    assert!(tokio_postgres::connect(&tcp, NoTls).await.is_ok());
    drop(server);
    assert!(!directory.exists());
    assert!(tokio_postgres::connect(&tcp, NoTls).await.is_err());
}

#[tokio::test]
async fn the_server_of_a_killed_test_goes_away() {
    if let Some(socket) = std::env::vars_os().find(|(name, _)| name == CHILD) {
        // We are the child: tell where the server is, and wait to be killed.
        let server = PostgresServer::start().await;
        let told = server.directory.display().to_string();
        fs::write(socket.1, told).expect("the parent made the directory");
        std::future::pending::<()>().await;
    }
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let file = directory.path().join("where");
    let mut child = Command::new(std::env::current_exe().expect("a running program has a path"))
        .args([
            "--exact",
            "postgres::tests::the_server_of_a_killed_test_goes_away",
        ])
        .env(CHILD, &file)
        .stdout(Stdio::null())
        .spawn()
        .expect("this very program can be started");
    let server = wait_for("the child's server", STARTS_WITHIN, async || {
        let told = fs::read_to_string(&file).ok()?;
        (!told.is_empty()).then(|| PathBuf::from(told))
    });
    let server = server.await;
    assert!(server.join("data/postmaster.pid").exists());
    child.kill().expect("it runs");
    child.wait().expect("a child of ours can be waited for");
    wait_for("the child's server to go away", STARTS_WITHIN, async || {
        (!server.exists()).then_some(())
    })
    .await;
}
