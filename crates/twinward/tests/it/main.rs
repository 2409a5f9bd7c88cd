//! The program as a person or a service manager meets it: started, asked, signalled, killed.

mod support;

mod alone;
mod ask;
mod store;
mod up;
