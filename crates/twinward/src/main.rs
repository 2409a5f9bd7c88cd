//! The `twinward` program: everything is in the library, so that tests start the same code.

use std::process::ExitCode;

fn main() -> ExitCode {
    twinward::main(std::env::args_os())
}
