//! The `twinward` program: everything is in the library, so that tests start the same code.

use std::process::ExitCode;

/// The services make and drop many objects of all sizes on many threads. glibc's allocator spends a third of
/// the processor on that and keeps what a burst needed (docs/benchmarks.md, "The loop with 10,000 agents").
/// It stands for C's as well, because SQLite is C.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    twinward::main(std::env::args_os())
}
