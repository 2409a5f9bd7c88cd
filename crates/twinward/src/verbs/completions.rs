//! `twinward completions`: lets a shell complete our commands and options.

use clap::Args;
use clap_complete::Shell;

use crate::args;
use crate::failure::Failure;
use crate::output;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward completions bash > ~/.local/share/bash-completion/completions/twinward\n  \
    twinward completions zsh > ~/.zfunc/_twinward\n  \
    twinward completions fish > ~/.config/fish/completions/twinward.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(arguments: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut args::command(),
        "twinward",
        &mut script,
    );
    output::write(&String::from_utf8_lossy(&script))
}
