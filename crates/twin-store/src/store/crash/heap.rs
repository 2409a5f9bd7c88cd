//! Flips bits in the heap file of a database while it is stopped. A server with checksums of its
//! pages finds every one itself; one without gives out what it reads, and the rows' own checksums find
//! what is in them. Either way a check says so, and no twin is read as another than it was.

use testkit::PostgresOptions;
use testkit::PostgresServer;

use super::Place;
use super::flips::{Numbers, twins, use_all};
use crate::store::maintain::verify;
use crate::store::sample;

const PAGE: usize = 8192;
/// How many are tried; each is a restart of the server.
const FLIPS: usize = 4;
const SEED: u64 = 0x5eed_4ea9;

#[tokio::test]
async fn a_flipped_bit_in_a_stopped_database_is_found_and_changes_no_twin_unnoticed() {
    let rows = flipped(PostgresServer::start().await, |page, upper| {
        (upper..page.len()).collect()
    });
    rows.await;
}

#[tokio::test]
async fn a_flipped_bit_of_a_row_is_found_without_the_server() {
    let options = PostgresOptions {
        without_checksums: true,
        ..PostgresOptions::default()
    };
    let server = PostgresServer::start_with(options).await;
    let rows = flipped(server, |page, _| {
        // The tags; what the server keeps beside a row is its own to protect.
        let tags = b"{\"name\":\"";
        let starts = page.windows(tags.len()).enumerate();
        let starts = starts.filter(|(_, at)| at == tags).map(|(at, _)| at);
        starts.flat_map(|at| at..at + 30).collect()
    });
    rows.await;
}

/// Flips some bits of the first page of twins, one at a time.
async fn flipped(mut server: PostgresServer, places: fn(&[u8], usize) -> Vec<usize>) {
    let database = server.database().await;
    let place = Place::Database(database.url());
    let store = place.open().await;
    sample::fill(&*store).await;
    let whole = twins(&*store).await;
    assert!(whole.values().all(Result::is_ok));
    store.close().await;
    let file = database.ask("SELECT pg_relation_filepath('twins')").await;
    let file = server.data().join(file.expect("a path"));
    // What was written is in the files, and nothing is replayed over it.
    database.execute("CHECKPOINT").await;
    server.kill();
    let bytes = std::fs::read(&file).expect("readable");
    let upper = usize::from(u16::from_le_bytes([bytes[14], bytes[15]]));
    assert!(0 < upper && upper < PAGE, "{upper} is where rows begin");

    let places = places(&bytes[..PAGE], upper);
    let mut numbers = Numbers::new(SEED);
    let mut hurt = 0;
    for _ in 0..FLIPS {
        let (at, bit) = (places[numbers.below(places.len())], numbers.below(8));
        let context = format!("bit {bit} of byte {at}");
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        std::fs::write(&file, flipped).expect("written");
        server.restart().await;
        let sound = match verify(&*place.rows(), |_, _| ()).await {
            Ok(report) => report.is_sound(),
            Err(_) => false,
        };
        let store = place.open().await;
        for (name, read) in twins(&*store).await {
            match (&whole[name], read) {
                (Ok(was), Ok(is)) => assert_eq!(&is, was, "{context}: {name} is another"),
                (_, Err(problem)) => {
                    hurt += 1;
                    assert!(
                        !sound,
                        "{context}: {name}: {problem}, and no check finds it"
                    );
                }
                (Err(_), Ok(_)) => unreachable!("all were whole"),
            }
        }
        use_all(&*store).await;
        store.close().await;
        server.kill();
    }
    assert!(hurt > 0, "no flip hit a twin");
}
