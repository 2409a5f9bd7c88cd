//! Where an export goes: standard output, or a file that appears when it is whole.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::whole_file::WholeFile;

/// Takes lines.
pub(super) enum Sink {
    /// Standard output.
    Output,
    /// A file.
    File(WholeFile),
}

impl Sink {
    /// Opens a file, or standard output for `-`.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Output);
        }
        WholeFile::begin(path).map(Self::File)
    }

    /// Writes one line.
    pub(super) fn write(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_string(line)
            .map_err(|error| Failure::new(Kind::Internal, "cannot print a line").because(error))?;
        text.push('\n');
        match self {
            Self::Output => crate::output::write(&text),
            Self::File(file) => {
                let written = file.write_all(text.as_bytes());
                written.map_err(|error| file.failed(&error))
            }
        }
    }

    /// Lets the file appear; says whether there is one.
    pub(super) fn finish(self) -> Result<bool, Failure> {
        match self {
            Self::Output => Ok(false),
            Self::File(file) => file.finish().map(|()| true),
        }
    }
}
