//! Everything the demo waits for, in one queue: states of the twin, programs that end, Ctrl-C.

use std::fmt;
use std::process::{self, ExitStatus};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::children::Kill;
use super::twin::Twin;

/// What a shell reports of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A signal reaches all of a terminal's programs at once.
const SIGNAL_WITHIN: Duration = Duration::from_millis(100);

/// Something happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The twin is like this now.
    Twin(Box<Twin>),
    /// A line of the watch cannot be read.
    Unreadable(String),
    /// A program of ours has ended.
    Ended {
        name: &'static str,
        status: ExitStatus,
    },
    /// Somebody pressed Ctrl-C, or told us to end in another way.
    Interrupted,
}

/// Somebody wants us to end.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// The queue.
#[derive(Debug)]
pub(crate) struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Events {
    /// A queue that hears of signals. A first one is an event; a second one kills what runs and
    /// ends us on the spot.
    pub(crate) fn listen(kill: Kill) -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let mut signals =
            Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen to signals")?;
        let interrupted = sender.clone();
        thread::spawn(move || {
            let mut signals = signals.forever();
            if signals.next().is_some() {
                // Nobody listens only when we are about to end.
                let _ = interrupted.send(Event::Interrupted);
            }
            if signals.next().is_some() {
                kill.all();
                process::exit(INTERRUPTED);
            }
        });
        Ok(Self { sender, receiver })
    }

    /// Where events are put in.
    pub(crate) fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// The next state of the twin; `None` when the deadline has passed. A program that ends and
    /// Ctrl-C are errors here: nothing goes on without the former or after the latter.
    pub(crate) fn twin(&self, deadline: Option<Instant>) -> Result<Option<Box<Twin>>> {
        match self.next(deadline) {
            Some(Event::Twin(twin)) => Ok(Some(twin)),
            Some(Event::Unreadable(why)) => {
                Err(anyhow!("the watch said what cannot be read: {why}"))
            }
            Some(Event::Ended { name, status }) => Err(anyhow!("{name} has ended with {status}")),
            Some(Event::Interrupted) => Err(Interrupted.into()),
            None => Ok(None),
        }
    }

    /// The next event of any kind.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> Option<Event> {
        let Some(deadline) = deadline else {
            return self.receiver.recv().ok();
        };
        let left = deadline.saturating_duration_since(Instant::now());
        // We hold a sender ourselves, so the only failure is that the time is over.
        self.receiver.recv_timeout(left).ok()
    }

    /// Whether somebody wanted us to end. Ctrl-C goes to cargo and to the verbs that we run, too;
    /// their failure may be here before the signal is.
    pub(crate) fn were_interrupted(&self) -> bool {
        let deadline = Instant::now() + SIGNAL_WITHIN;
        loop {
            match self.next(Some(deadline)) {
                Some(Event::Interrupted) => return true,
                Some(Event::Twin(_) | Event::Unreadable(_) | Event::Ended { .. }) => {}
                None => return false,
            }
        }
    }

    /// An error if somebody wants us to end, for the moments in which nothing is waited for.
    pub(crate) fn check(&self) -> Result<()> {
        match self.receiver.try_recv() {
            Ok(Event::Interrupted) => Err(Interrupted.into()),
            Ok(Event::Ended { name, status }) => Err(anyhow!("{name} has ended with {status}")),
            Ok(Event::Twin(_) | Event::Unreadable(_)) | Err(_) => Ok(()),
        }
    }
}
