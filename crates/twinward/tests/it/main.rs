//! The program as a person or a service manager meets it: started, asked, signalled, killed.

mod support;

mod alone;
mod ask;
mod fleet;
mod past;
mod store;
mod up;
