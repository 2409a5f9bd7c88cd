//! Where the machine's sources lie.

use std::path::{Path, PathBuf};

/// The root below which sources are read: `/`, or a tree of fixtures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// The machine this process runs on.
    pub fn this() -> Self {
        Self::at("/")
    }

    /// A machine whose files lie below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether kernel interfaces that are no files (netlink, uname) speak of the same machine.
    pub(crate) fn is_this(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The path of a source, given without its leading slash.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// A text file without its surrounding blanks; `None` when it is absent, unreadable or empty.
    pub(crate) fn text(&self, relative: &str) -> Option<String> {
        let bytes = std::fs::read(self.path(relative)).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }
}
