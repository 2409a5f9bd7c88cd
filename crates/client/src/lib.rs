//! What services and tools need to follow the twins of twin-store.
//!
//! [`Watch`] is one watch that outlives its connections: it resumes where it was, begins anew where
//! it must, and says which. [`Informer`] keeps a local cache in step with one, holding of each twin
//! only what its user makes of it. Both only read, know no store, and decide nothing about twins.
//!
//! The other side is `twin-store/src/grpc/watch.rs`.

pub mod informer;
pub mod watch;

pub use informer::{Came, Change, Changes, Informer, InformerConfig, InformerError, Kept, Runner};
pub use watch::{Begin, Event, Tuning, Watch, WatchError, What};
