//! The pool of connections, and what is done when one fails.
//!
//! Everything has a time limit. What does no harm when it is done twice is repeated a few times with
//! growing waits, so that a restart of the server or a deadlock is not noticed by callers. A commit is
//! repeated only if it is certain that nothing of it was written.

use std::io::ErrorKind;
use std::time::Duration;

use deadpool_postgres::{
    Client, Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime,
};
use futures::future::BoxFuture;
use tokio_postgres::error::SqlState;

use super::settings::{CONNECT_WITHIN, PostgresSettings};
use super::{Error, engine};

/// How long a call waits for a connection that is free.
const WAIT_WITHIN: Duration = Duration::from_secs(5);
/// How long a call may take on its connection, whatever the server's own limits do: they do not
/// help when the network is gone.
const CALL_WITHIN: Duration = Duration::from_secs(20);
/// The same for a call that may go through all rows; its own statements end a little sooner.
const LOOK_WITHIN: Duration = Duration::from_secs(80);
/// How often something is tried. With the waits below it gets over a second of interruption; a
/// longer one is for the callers to know of.
const ATTEMPTS: u32 = 4;
/// How long to wait before the second attempt; doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// At the start more patience is in place: services and database often start together. With waits of
/// at most [`LONGEST_WAIT`] this is about half a minute.
const ATTEMPTS_AT_START: u32 = 30;
/// Growing waits stop growing here.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// `remote_apply` stays: it promises more. The weaker ones acknowledge before the log is on disk.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false)
     WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')";

/// When something may be done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// As [`Repeat::Always`], with patience for a server that is starting, and for work that takes
    /// as long as it takes.
    AtStart,
    /// Whenever the connection or the server failed.
    Always,
    /// As [`Repeat::Always`], for what may go through all rows.
    Look,
    /// Only if nothing was written.
    IfUndone,
}

/// The connections to the database.
pub(super) struct Connections {
    pool: Pool,
}

/// What became of an attempt that failed.
struct Failure {
    error: Error,
    /// It is certain that nothing was written.
    undone: bool,
    /// Another attempt may succeed.
    passing: bool,
}

impl Connections {
    /// Reads the settings; connects to nothing yet.
    pub(super) fn new(settings: &PostgresSettings) -> Result<Connections, Error> {
        let action = "use its settings";
        let config = settings.config().map_err(engine(action))?;
        let tls = settings.tls().map_err(engine(action))?;
        let manager = ManagerConfig {
            // Asking the server each time costs a round trip; a dead connection shows itself.
            recycling_method: RecyclingMethod::Fast,
        };
        let pool = Pool::builder(Manager::from_config(config, tls, manager))
            .runtime(Runtime::Tokio1)
            .max_size(usize::from(settings.connections))
            .wait_timeout(Some(WAIT_WITHIN))
            .create_timeout(Some(CONNECT_WITHIN))
            .recycle_timeout(Some(CONNECT_WITHIN))
            .post_create(Hook::async_fn(|client, _| {
                Box::pin(async move {
                    let durable = client.batch_execute(DURABLE).await;
                    durable.map_err(HookError::Backend)
                })
            }))
            .build()
            .map_err(engine(action))?;
        Ok(Connections { pool })
    }

    /// Does something on a connection, as often as `repeat` allows and it takes.
    pub(super) async fn run<T, W>(&self, repeat: Repeat, work: W) -> Result<T, Error>
    where
        W: for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Error>> + Send + Sync,
    {
        let (attempts, limit) = match repeat {
            Repeat::AtStart => (ATTEMPTS_AT_START, Duration::MAX),
            Repeat::Always | Repeat::IfUndone => (ATTEMPTS, CALL_WITHIN),
            Repeat::Look => (ATTEMPTS, LOOK_WITHIN),
        };
        let mut wait = FIRST_WAIT;
        let mut attempt = 1;
        loop {
            let failure = match self.attempt(limit, &work).await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let harmless = repeat != Repeat::IfUndone || failure.undone;
            if attempt == attempts || !harmless || !failure.passing {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, attempt, "the database failed; trying again");
            tokio::time::sleep(wait.mul_f64(jitter())).await;
            wait = LONGEST_WAIT.min(wait * 2);
            attempt += 1;
        }
    }

    async fn attempt<T, W>(&self, limit: Duration, work: &W) -> Result<T, Failure>
    where
        W: for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Error>> + Send + Sync,
    {
        let client = self.pool.get().await.map_err(Failure::without_connection)?;
        let mut lent = Lent(Some(client));
        let done = match &mut lent.0 {
            Some(client) => tokio::time::timeout(limit, work(client)).await,
            None => return Err(Failure::without_connection(PoolError::Closed)),
        };
        let client = lent.0.take();
        let failure = match done {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => Failure::of(error),
            Err(_) => Failure {
                error: Error::Engine {
                    action: "do as asked in time",
                    source: format!("no answer within {limit:?}").into(),
                },
                undone: false,
                passing: true,
            },
        };
        if failure.passing {
            // Whatever is still under way on it, nobody else is to wait behind that.
            drop(client.map(Client::take));
        }
        Err(failure)
    }

    /// A connection, for tests that look behind the store.
    #[cfg(test)]
    pub(super) async fn get(&self) -> Client {
        self.pool.get().await.expect("a connection")
    }

    /// A connection for work that takes as long as it takes, and is not repeated.
    pub(super) async fn lend(&self) -> Result<Client, Error> {
        let lent = self.pool.get().await;
        lent.map_err(|error| Failure::without_connection(error).error)
    }

    /// Closes all connections; nobody gets one any more.
    pub(super) async fn close(&self) {
        self.pool.close();
        // Connections that are in use go when they are given back.
        while self.pool.status().size > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A connection at work. If the work is dropped in the middle because its caller has gone, the
/// connection goes, too: nobody else is to wait behind what is still under way on it.
struct Lent(Option<Client>);

impl Drop for Lent {
    fn drop(&mut self) {
        drop(self.0.take().map(Client::take));
    }
}

impl Failure {
    fn without_connection(error: PoolError) -> Failure {
        let passing = match &error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                is_passing(error)
            }
            PoolError::Timeout(_) => true,
            PoolError::PostCreateHook(HookError::Message(_))
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified => false,
        };
        Failure {
            error: match error {
                PoolError::Closed => Error::Closed,
                // Its own words are only that the backend failed.
                PoolError::Backend(error) => engine("connect")(error),
                other => engine("connect")(other),
            },
            undone: true,
            passing,
        }
    }

    fn of(error: Error) -> Failure {
        let Error::Engine { source, .. } = &error else {
            return Failure {
                error,
                undone: true,
                passing: false,
            };
        };
        let driver = source.downcast_ref::<tokio_postgres::Error>();
        let (undone, passing) = driver.map_or((false, false), |error| {
            let undone = error.code().is_some_and(|code| {
                *code == SqlState::T_R_SERIALIZATION_FAILURE
                    || *code == SqlState::T_R_DEADLOCK_DETECTED
            });
            (undone, is_passing(error))
        });
        Failure {
            error,
            undone,
            passing,
        }
    }
}

/// Whether the failure is one of the connection, the server's state, or other transactions, so that
/// it may be gone in a moment.
fn is_passing(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code() else {
        // No answer of the server. The network fails with errors that pass, the peers of TLS with
        // ones of their data.
        let source = std::error::Error::source(error);
        let network = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        let network = network.is_some_and(|error| {
            !matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::InvalidInput
            )
        });
        return network || error.is_closed();
    };
    let passing = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        // A server that has become a standby; the next connection finds the new one.
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::LOCK_NOT_AVAILABLE,
    ];
    passing.contains(code) || code.code().starts_with("08")
}

/// Between a half and one and a half, so that replicas that failed together do not try together.
fn jitter() -> f64 {
    let (random, ..) = uuid::Uuid::new_v4().as_fields();
    0.5 + f64::from(random) / f64::from(u32::MAX)
}
