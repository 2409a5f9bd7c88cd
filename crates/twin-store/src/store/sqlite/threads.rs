//! Where the embedded store's work runs: one thread that writes, and blocking threads that read.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::connect::{READER_CACHE, connect};
use super::engine;
use crate::store::Error;

/// Jobs that wait for the writing thread. The engine has one commit in flight; the rest is rare.
const WRITE_QUEUE: usize = 64;
/// Short readings at once. More would be more threads for the same processors and disk, each with a page
/// cache of its own to warm; those that wait are short, too.
const SHORT_READERS: usize = 4;
/// Readings at once of what is to be written: the engine has one under way.
const WRITERS_READERS: usize = 1;
/// Reading connections kept open; more long readings at once open more and close them again.
const IDLE_READERS: usize = SHORT_READERS + WRITERS_READERS + 2;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The handle of the writing thread.
pub(super) struct Writer {
    /// None once it is closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    /// Answers when the thread has closed its connection.
    ended: tokio::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(mut connection: Connection) -> Result<Writer, Error> {
        let (jobs, mut queue) = mpsc::channel::<Job>(WRITE_QUEUE);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("twin-store-writer".to_owned())
            .spawn(move || {
                // Ends when the store is closed or dropped; what was queued is done before.
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
                if let Err((_, error)) = connection.close() {
                    tracing::warn!(error = %error, "the store could not be closed");
                }
                // Nobody waits when the store was only dropped.
                let _ = end.send(());
            })
            .map_err(engine("start its writing thread"))?;
        Ok(Writer {
            jobs: Mutex::new(Some(jobs)),
            ended: tokio::sync::Mutex::new(Some(ended)),
        })
    }

    /// Has the thread do something and waits for the result.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let jobs = self.jobs.lock().ok().and_then(|jobs| jobs.clone());
        let jobs = jobs.ok_or(Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // The asker may have gone; what was written stays written.
            let _ = answer.send(work(connection));
        });
        jobs.send(job).await.map_err(|_| Error::Closed)?;
        drop(jobs);
        answered.await.map_err(|_| Error::Closed)?
    }

    /// Takes no more work, does what is queued, and closes the connection.
    pub(super) async fn close(&self) {
        if let Ok(mut jobs) = self.jobs.lock() {
            jobs.take();
        }
        // Held while waiting, so that whoever closes it a second time waits, too.
        let mut ended = self.ended.lock().await;
        if let Some(end) = ended.as_mut() {
            // An error means that the thread is gone, which is as good.
            let _ = end.await;
            ended.take();
        }
    }
}

/// The reading connections.
pub(super) struct Readers {
    path: PathBuf,
    state: Mutex<State>,
    /// Turns of short readings.
    turns: Arc<Semaphore>,
    /// Turns of what is read to be written.
    to_write: Arc<Semaphore>,
    /// Told each time a reader has finished.
    finished: Notify,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    busy: usize,
    closed: bool,
}

/// One reader at work. Its connection goes back or is closed when it is dropped.
struct Reader {
    readers: Arc<Readers>,
    connection: Option<Connection>,
    /// Given back with the connection.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Readers {
    /// Readers of a file; none is opened yet.
    pub(super) fn new(path: PathBuf) -> Readers {
        Readers {
            path,
            state: Mutex::default(),
            turns: Arc::new(Semaphore::new(SHORT_READERS)),
            to_write: Arc::new(Semaphore::new(WRITERS_READERS)),
            finished: Notify::new(),
        }
    }

    /// Reads something short on a blocking thread, when it is its turn.
    pub(super) async fn run<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Error::Closed)?;
        self.enter(Some(turn))?.run(work).await
    }

    /// Reads what is to be written. It has turns of its own: all that is written waits for it, and must not wait for
    /// everybody who reads.
    pub(super) async fn run_to_write<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.to_write.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Error::Closed)?;
        self.enter(Some(turn))?.run(work).await
    }

    /// Reads something that may take long, beside those that are short.
    pub(super) async fn run_long<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.enter(None)?.run(work).await
    }

    fn enter(self: Arc<Self>, turn: Option<OwnedSemaphorePermit>) -> Result<Reader, Error> {
        let mut state = self.state.lock().map_err(|_| Error::Closed)?;
        if state.closed {
            return Err(Error::Closed);
        }
        state.busy += 1;
        let connection = state.idle.pop();
        drop(state);
        Ok(Reader {
            readers: self,
            connection,
            _turn: turn,
        })
    }

    /// Lets nobody in any more and waits for those inside; then no connection is open.
    pub(super) async fn close(&self) {
        loop {
            let finished = self.finished.notified();
            tokio::pin!(finished);
            // Before the look, or the last one could finish between the two.
            finished.as_mut().enable();
            let Ok(busy) = self.state.lock().map(|mut state| {
                state.closed = true;
                state.idle.clear();
                state.busy
            }) else {
                return;
            };
            if busy == 0 {
                return;
            }
            finished.await;
        }
    }
}

impl Reader {
    async fn run<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        tokio::task::spawn_blocking(move || work(self.connection()?))
            .await
            .map_err(|_| Error::Closed)?
    }

    fn connection(&mut self) -> Result<&Connection, Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(connect(&self.readers.path, READER_CACHE)?)),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Ok(mut state) = self.readers.state.lock() else {
            return;
        };
        if let Some(connection) = self.connection.take()
            && !state.closed
            && state.idle.len() < IDLE_READERS
        {
            state.idle.push(connection);
        }
        state.busy -= 1;
        drop(state);
        self.readers.finished.notify_waiters();
    }
}
