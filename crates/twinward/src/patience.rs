//! Calls that are worth repeating: long work must not end because a service restarts.
//!
//! Only what may be repeated goes through here: reads, and writes with a request id or without an
//! effect of their own.

use std::time::Duration;

use service_kit::backoff::{Backoff, Policy};
use tonic::{Response, Status};

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;

/// About half a minute: as long as a service takes to restart, and a replica to take over.
const AGAIN: Policy = Policy {
    first: Duration::from_millis(100),
    cap: Duration::from_secs(4),
    budget: Some(13),
};

/// Why an attempt failed: before anything was sent, or by the answer.
pub(crate) enum Attempt {
    /// Nothing was sent.
    Unsent(Failure),
    /// The service's answer, or that there was none.
    Answer(Status),
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Attempt::Unsent(failure)
    }
}

impl From<Status> for Attempt {
    fn from(status: Status) -> Self {
        Attempt::Answer(status)
    }
}

/// Makes a call, and again while the service is away.
pub(crate) async fn call<T>(
    connection: &Connection,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<Response<T>, Attempt>,
) -> Result<T, Failure> {
    let mut backoff = Backoff::new(AGAIN);
    loop {
        let failure = match attempt().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(Attempt::Unsent(failure)) => return Err(failure),
            Err(Attempt::Answer(status)) => connection.refused(what, status),
        };
        if failure.kind() != Kind::Unavailable {
            return Err(failure);
        }
        let Some(delay) = backoff.next_delay() else {
            return Err(failure);
        };
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;
    use crate::environment::Environment;

    /// Makes calls that are answered like this, one after the other; says how many were made.
    async fn run(answers: &[Result<u8, Status>]) -> (Result<u8, Failure>, usize) {
        let global = Cli::parse_from(["twinward", "status"]).global;
        let environment = Environment::from([("TWINWARD_DATA_DIR", "/nowhere")]);
        let connection = Connection::find(&global, &environment).unwrap();
        let mut made = 0;
        let result = call(&connection, "cannot ask", async || {
            made += 1;
            answers[made - 1]
                .clone()
                .map(Response::new)
                .map_err(Into::into)
        })
        .await;
        (result, made)
    }

    #[tokio::test]
    async fn a_service_that_is_away_is_asked_again() {
        let away = || Err(Status::unavailable("restarting"));
        let (result, made) = run(&[away(), away(), Ok(7)]).await;
        assert_eq!((result.unwrap(), made), (7, 3));
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let (result, made) = run(&[Err(Status::invalid_argument("no")), Ok(7)]).await;
        assert_eq!((result.unwrap_err().kind(), made), (Kind::Invalid, 1));
    }
}
