//! Where an export goes: standard output, or a file that appears when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::exit::Kind;
use crate::failure::Failure;

/// Read and write for the owner: it may hold keys.
const OWNER_ONLY: u32 = 0o600;

/// Takes lines.
pub(super) enum Sink {
    /// Standard output.
    Output,
    /// A file beside the one that is meant.
    File(Part),
}

/// A file that is not whole yet. Dropping it takes it away.
pub(super) struct Part {
    writer: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    whole: bool,
}

impl Sink {
    /// Opens a file, or standard output for `-`.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Output);
        }
        let mut part = path.as_os_str().to_owned();
        // With the process id, so that two exports do not write one file.
        part.push(format!(".{}.part", std::process::id()));
        let temporary = PathBuf::from(part);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(OWNER_ONLY)
            .open(&temporary)
            .map_err(|error| failed(path, &error))?;
        Ok(Self::File(Part {
            writer: BufWriter::new(file),
            temporary,
            path: path.to_owned(),
            whole: false,
        }))
    }

    /// Writes one line.
    pub(super) fn write(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_string(line)
            .map_err(|error| Failure::new(Kind::Internal, "cannot print a line").because(error))?;
        text.push('\n');
        match self {
            Self::Output => crate::output::write(&text),
            Self::File(part) => {
                let written = part.writer.write_all(text.as_bytes());
                written.map_err(|error| failed(&part.path, &error))
            }
        }
    }

    /// Lets the file appear; says whether there is one.
    pub(super) fn finish(self) -> Result<bool, Failure> {
        match self {
            Self::Output => Ok(false),
            Self::File(mut part) => {
                let done = part.finish();
                done.map_err(|error| failed(&part.path, &error))?;
                Ok(true)
            }
        }
    }
}

impl Part {
    fn finish(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.whole {
            // Best effort: what ended the export is what is to be told.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Kind::Failed, format!("cannot write {}", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.ndjson");
        let mut sink = Sink::open(&path).unwrap();
        sink.write(&1).unwrap();
        assert!(!path.exists());
        drop(sink);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let mut sink = Sink::open(&path).unwrap();
        sink.write(&"x").unwrap();
        sink.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "\"x\"\n");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let failure = Sink::open(Path::new("/nowhere/fleet")).err().unwrap();
        assert!(
            failure.render().contains("/nowhere/fleet"),
            "{}",
            failure.render()
        );
    }
}
