//! Where things are in the checkout.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The checkout's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // crates/xtask
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Where helper programs are kept, also when another target directory is set: they belong to the
/// checkout, and testkit looks for them there.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The cargo that runs us, in the checkout's root.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    // `cargo run`, which started us, tells its program about its package. A cargo below would take
    // that for a change of the environment, and build ring and everything behind it anew.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(of_a_package) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether cargo sets the variable for one package's program.
fn of_a_package(name: &str) -> bool {
    [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

/// The first file of that name on the path.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// A path as people read it: from the checkout's root on, if it is in there.
pub(crate) fn shown(path: &Path) -> String {
    let root = root();
    path.strip_prefix(&root)
        .unwrap_or(path)
        .display()
        .to_string()
}
