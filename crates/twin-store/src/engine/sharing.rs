//! Partitions that come and go while the writer runs, in a store that replicas share.
//!
//! Without this the writer has its partitions from the start to the end, and ends when a commit
//! fails. With it, it is told what it owns; and when a commit fails it gives everything up, says so,
//! and goes on: whoever owns the [`Control`] gives the partitions back and claims them anew, so that
//! nothing is built on what is in doubt.

use service_kit::error::chain;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;
use twin::{Partition, Revision};

use super::{Logs, OutboxEnd, Writer};
use crate::store::{self, PartitionState};

/// Commands that wait; there is one sender, which waits for each to be done.
const COMMANDS: usize = 8;

enum Command {
    Take(PartitionState, oneshot::Sender<OutboxEnd>),
    LayDown(Partition, oneshot::Sender<()>),
}

/// Tells the writer what it owns.
pub struct Control {
    commands: mpsc::Sender<Command>,
    given_up: watch::Receiver<u64>,
}

/// The writer's end.
pub(super) struct Sharing {
    commands: mpsc::Receiver<Command>,
    given_up: watch::Sender<u64>,
    published: mpsc::Sender<(Partition, Revision)>,
}

impl Control {
    /// Has the writer take up a partition. None: the writer has ended.
    pub async fn take(&self, state: PartitionState) -> Option<OutboxEnd> {
        let (answer, answered) = oneshot::channel();
        self.commands
            .send(Command::Take(state, answer))
            .await
            .ok()?;
        answered.await.ok()
    }

    /// Has the writer lay down a partition. When it is done, nothing more is committed to it, and its
    /// outbox publishes what is left and ends.
    pub fn laying_down(&self, partition: Partition) -> impl Future<Output = ()> + Send + use<> {
        let commands = self.commands.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            let command = Command::LayDown(partition, answer);
            if commands.send(command).await.is_ok() {
                // An error means that the writer has ended, and commits no more either.
                let _ = answered.await;
            }
        }
    }

    /// Waits until the writer has given everything up since this was last asked. Cancel-safe.
    pub async fn given_up(&mut self) {
        if self.given_up.changed().await.is_err() {
            // The writer has ended; it gives nothing up any more.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the writer has ended.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }
}

impl Sharing {
    /// The next command. Cancel-safe.
    async fn next(&mut self) -> Option<Command> {
        self.commands.recv().await
    }
}

/// Waits for the next command; forever, if nothing is shared or nobody commands any more.
pub(super) async fn commanded(sharing: &mut Option<Sharing>) -> Due {
    if let Some(sharing) = sharing
        && let Some(command) = sharing.next().await
    {
        return Due(command);
    }
    std::future::pending().await
}

/// A command that is to be carried out.
pub(super) struct Due(Command);

impl Writer {
    /// Makes the writer one of several: it owns what it is told to own.
    #[must_use]
    pub fn shared(mut self, published: mpsc::Sender<(Partition, Revision)>) -> (Writer, Control) {
        let (commands_in, commands) = mpsc::channel(COMMANDS);
        let (given_up_in, given_up) = watch::channel(0);
        self.sharing = Some(Sharing {
            commands,
            given_up: given_up_in,
            published,
        });
        let control = Control {
            commands: commands_in,
            given_up,
        };
        (self, control)
    }

    /// Carries out a command.
    pub(super) fn obey(&mut self, due: Due) {
        match due.0 {
            Command::Take(state, answer) => {
                let Some(sharing) = &self.sharing else { return };
                let (log_in, log) = watch::channel(state.revision);
                let end = OutboxEnd {
                    partition: state.partition,
                    published_before: state.published,
                    log: log.clone(),
                    published: sharing.published.clone(),
                };
                self.open_log(state.partition, log_in, log);
                self.states.insert(state.partition, state);
                // Whoever asked and went away lets the outbox's end drop, and nothing is published.
                let _ = answer.send(end);
            }
            Command::LayDown(partition, answer) => {
                self.states.remove(&partition);
                self.trimmed.remove(&partition);
                self.close_log(partition);
                let _ = answer.send(());
            }
        }
    }

    /// What a failure of the store means: the end, or that everything is given up.
    pub(super) fn failed(&mut self, error: store::Error) -> Result<(), store::Error> {
        let Some(sharing) = &self.sharing else {
            return Err(error);
        };
        warn!(
            error = chain(&error),
            "the shared store failed; every partition is given up and claimed anew"
        );
        sharing.given_up.send_modify(|times| *times += 1);
        self.states.clear();
        self.trimmed.clear();
        self.close_logs();
        Ok(())
    }

    fn open_log(
        &mut self,
        partition: Partition,
        log_in: watch::Sender<Revision>,
        log: watch::Receiver<Revision>,
    ) {
        self.logs.insert(partition, log_in);
        self.readable_logs.insert(partition, log);
    }

    fn close_log(&mut self, partition: Partition) {
        self.logs.remove(&partition);
        self.readable_logs.remove(partition);
    }

    fn close_logs(&mut self) {
        self.logs.clear();
        self.readable_logs.clear();
    }

    /// Lets go of what would keep outboxes from being the last ones to publish; answers whether the
    /// store was shared.
    pub(super) fn stop_sharing(&mut self) -> bool {
        self.sharing.take().is_some()
    }
}

impl Logs {
    fn insert(&self, partition: Partition, log: watch::Receiver<Revision>) {
        self.write().insert(partition, log);
    }

    fn remove(&self, partition: Partition) {
        self.write().remove(&partition);
    }

    fn clear(&self) {
        self.write().clear();
    }
}
