//! Files that appear when they are whole: half an export or backup must not be taken for all of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::exit::Kind;
use crate::failpoint;
use crate::failure::Failure;

/// Read and write for the owner: such files may hold keys.
const OWNER_ONLY: u32 = 0o600;

/// A file that is not whole yet, under another name beside its own. Dropping it takes it away.
pub(crate) struct WholeFile {
    writer: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    whole: bool,
}

impl WholeFile {
    /// Begins it. What is at `path` stays there until the new one is whole.
    pub(crate) fn begin(path: &Path) -> Result<Self, Failure> {
        let mut temporary = path.as_os_str().to_owned();
        // With the process id, so that two commands do not write one file.
        temporary.push(format!(".{}.part", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(OWNER_ONLY)
            .open(&temporary)
            .map_err(|error| failed(path, &error))?;
        Ok(Self {
            writer: BufWriter::new(file),
            temporary,
            path: path.to_owned(),
            whole: false,
        })
    }

    /// Lets it appear, durably.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let finish = |this: &mut Self| {
            this.writer.flush()?;
            failpoint::hit("file.written");
            this.writer.get_ref().sync_all()?;
            failpoint::hit("file.synced");
            fs::rename(&this.temporary, &this.path)?;
            this.whole = true;
            failpoint::hit("file.named");
            // Its name is durable when its folder is.
            let folder = this.path.parent().filter(|it| !it.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        finish(&mut self).map_err(|error| failed(&self.path, &error))
    }

    /// Explains why it could not be written.
    pub(crate) fn failed(&self, error: &io::Error) -> Failure {
        failed(&self.path, error)
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if !self.whole {
            // Best effort: what ended the work is what is to be told.
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
        let mut file = WholeFile::begin(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let mut file = WholeFile::begin(&path).unwrap();
        file.write_all(b"all").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "all");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    const PLAN: &str = "TWINWARD_WHOLE_FILE_PLAN";

    /// A kill at any durable step leaves the file before or the whole new one, never a part.
    #[test]
    #[allow(clippy::disallowed_methods)] // a child is told by its environment
    fn a_kill_leaves_the_file_before_or_the_new_one() {
        let mut found = Vec::new();
        for point in ["file.written", "file.synced", "file.named"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("twins.backup");
            fs::write(&path, "before").unwrap();
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "whole_file::tests::child", "--ignored"])
                .env(PLAN, format!("{point}|{}", path.display()))
                .output()
                .unwrap();
            assert!(!child.status.success(), "{point} kills");
            found.push(fs::read_to_string(&path).unwrap());
        }
        assert_eq!(found, ["before", "before", "after"]);
    }

    #[test]
    #[ignore = "a child of the test above, which tells it what to do"]
    #[allow(clippy::disallowed_methods)]
    fn child() {
        let Ok(plan) = std::env::var(PLAN) else {
            return;
        };
        let (point, path) = plan.split_once('|').unwrap();
        failpoint::arm(point);
        let mut file = WholeFile::begin(Path::new(path)).unwrap();
        file.write_all(b"after").unwrap();
        file.finish().unwrap();
    }

    #[test]
    fn a_file_without_a_folder_in_its_name_is_written_here() {
        // The folder of the test is that of the crate; the file goes with the test.
        let name = format!("whole-file-{}", std::process::id());
        let mut file = WholeFile::begin(Path::new(&name)).unwrap();
        file.write_all(b"all").unwrap();
        let finished = file.finish();
        let text = fs::read_to_string(&name);
        fs::remove_file(&name).unwrap();
        finished.unwrap();
        assert_eq!(text.unwrap(), "all");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let failure = WholeFile::begin(Path::new("/nowhere/fleet")).err().unwrap();
        let text = failure.render();
        assert!(text.contains("/nowhere/fleet"), "{text}");
    }
}
