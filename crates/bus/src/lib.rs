//! The JetStream port: the only crate that speaks NATS.
//!
//! Services hand it bytes and get bytes back; what the bytes mean is `wire`'s. Three promises hold
//! everything else up:
//!
//! 1. [`Bus::publish`] returns only after the server has stored the message durably.
//! 2. [`Packer`] keeps one publish in flight per partition, so the order in which items were
//!    handed over is the order in the stream.
//! 3. [`Pull`] yields a stream's messages in order from a position that the caller keeps with its
//!    own state, never twice and never with a silent hole.
//!
//! It never acknowledges for the caller, keeps no position of its own on the server, and never
//! starts a task: what has to run ([`PackerWorker`]) is handed to the caller, who supervises it.
//!
//! Modules in reading order: [`config`] and [`connection`] (who we talk to), [`streams`] (what must
//! exist), [`message`] (what travels), [`publish`] and [`mod@packer`] (the way in), [`pull`] (the way
//! out), [`queues`] (of devices), [`reject`] (poison), [`hints`] (fire-and-forget notices), [`requests`] (questions and answers), [`error`].

pub mod config;
pub mod connection;
pub mod error;
pub mod hints;
pub mod message;
pub mod packer;
pub mod publish;
pub mod pull;
pub mod queues;
pub mod reject;
pub mod requests;
pub mod settings;
pub mod streams;

pub use config::{BusConfig, Credentials, Replicas, Tls};
pub use connection::{Bus, Link, LinkState};
pub use error::{
    AskError, ConnectError, EnsureError, HintError, PackError, PublishError, PullError,
};
pub use hints::{Hint, Hints};
pub use message::{Headers, Outgoing, Sequence};
pub use packer::{Encoded, Packer, PackerOptions, PackerWorker, Receipt, packer};
pub use publish::{DurablePublisher, PublishOptions, Published};
pub use pull::{Fetched, Pull, PullOptions};
pub use queues::Queued;
pub use reject::Reject;
pub use requests::{Answers, Question, Questions};
pub use settings::NatsSettings;
pub use streams::{APPLICATION_KEPT, StreamSpec, StreamStatus, WhenFull};
