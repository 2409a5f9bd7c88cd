//! Lines of a file or of standard input, with their numbers. A line that cannot be read is told as
//! one, and the next one follows.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _};
use std::path::Path;

use crate::exit::Kind;
use crate::failure::Failure;

/// Bytes of a line: a twin's tags and desired section are 40 KB at most by IoT Hub's counting, which
/// escapes in JSON can make six times as long.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// What a line came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Text that is not blank.
    Line { number: u64, text: String },
    /// Bytes that are no line of text, or too many.
    Unreadable { number: u64, problem: String },
}

/// Reads line by line.
pub(super) struct Reader {
    name: String,
    file: Option<File>,
    source: Box<dyn BufRead>,
    number: u64,
}

impl Reader {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self {
                name: "standard input".to_owned(),
                file: None,
                source: Box::new(BufReader::new(io::stdin())),
                number: 0,
            });
        }
        let name = path.display().to_string();
        let open = || {
            let file = File::open(path)?;
            let second = file.try_clone()?;
            Ok((file, second))
        };
        let (file, second) = open().map_err(|error: io::Error| {
            let kind = match error.kind() {
                io::ErrorKind::NotFound => Kind::NotFound,
                _ => Kind::Failed,
            };
            Failure::new(kind, format!("cannot read {name}")).because(error)
        })?;
        Ok(Self {
            name,
            file: Some(second),
            source: Box::new(BufReader::new(file)),
            number: 0,
        })
    }

    /// How many lines there are, for the progress; none for what cannot be read twice.
    pub(super) fn count(&self) -> Result<Option<u64>, Failure> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        count_lines(file).map_err(|error| self.broken(&error))
    }

    /// The next line that is not blank; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Read>, Failure> {
        loop {
            let mut bytes = Vec::new();
            let mut limited = (&mut self.source).take(LINE_BYTES_MAX + 1);
            let read = limited.read_until(b'\n', &mut bytes);
            if read.map_err(|error| self.broken(&error))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            if !bytes.ends_with(b"\n") && bytes.len() as u64 > LINE_BYTES_MAX {
                self.skip_line()?;
                let problem = format!("is longer than {LINE_BYTES_MAX} bytes");
                return Ok(Some(Read::Unreadable { number, problem }));
            }
            let Ok(text) = String::from_utf8(bytes) else {
                let problem = "is not UTF-8".to_owned();
                return Ok(Some(Read::Unreadable { number, problem }));
            };
            // Editors of one system begin a file with a mark that is no text.
            let text = match number {
                1 => text.trim_start_matches('\u{feff}'),
                _ => text.as_str(),
            };
            let text = text.trim();
            if !text.is_empty() {
                let text = text.to_owned();
                return Ok(Some(Read::Line { number, text }));
            }
        }
    }

    fn skip_line(&mut self) -> Result<(), Failure> {
        loop {
            let (found, used) = {
                let bytes = self.source.fill_buf();
                let bytes = match bytes {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        let what = format!("cannot read {}", self.name);
                        return Err(Failure::new(Kind::Failed, what).because(error));
                    }
                };
                match bytes.iter().position(|byte| *byte == b'\n') {
                    Some(position) => (true, position + 1),
                    None => (bytes.is_empty(), bytes.len()),
                }
            };
            self.source.consume(used);
            if found {
                return Ok(());
            }
        }
    }

    fn broken(&self, error: &io::Error) -> Failure {
        Failure::new(Kind::Failed, format!("cannot read {}", self.name)).because(error)
    }
}

/// Counts the lines of a regular file, and goes back to its beginning.
fn count_lines(mut file: &File) -> io::Result<Option<u64>> {
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut lines = 0;
    let mut last = b'\n';
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        let bytes = &buffer[..read];
        let Some(end) = bytes.last() else { break };
        lines += bytes
            .iter()
            .map(|byte| u64::from(*byte == b'\n'))
            .sum::<u64>();
        last = *end;
    }
    file.rewind()?;
    Ok(Some(lines + u64::from(last != b'\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(content: &[u8]) -> (tempfile::TempDir, Reader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        std::fs::write(&path, content).unwrap();
        let reader = Reader::open(&path).unwrap();
        (dir, reader)
    }

    #[test]
    fn lines_are_counted_and_blank_ones_skipped() {
        let (_dir, mut reader) = reader("\u{feff}a\r\n\n  \nb \nc".as_bytes());
        assert_eq!(reader.count().unwrap(), Some(5));
        let mut lines = Vec::new();
        while let Some(Read::Line { number, text }) = reader.next().unwrap() {
            lines.push((number, text));
        }
        let expected = [(1, "a"), (4, "b"), (5, "c")];
        assert_eq!(
            lines,
            expected.map(|(number, text)| (number, text.to_owned()))
        );
    }

    #[test]
    fn a_line_that_is_no_text_or_too_long_does_not_hide_the_next_one() {
        let mut content = b"\xff\xfe\n".to_vec();
        content.extend(vec![b'x'; (1 << 20) + 70_000]);
        content.extend(b"\nlast\n");
        let (_dir, mut reader) = reader(&content);
        let mut found = Vec::new();
        while let Some(read) = reader.next().unwrap() {
            found.push(match read {
                Read::Line { number, text } => format!("{number} {text}"),
                Read::Unreadable { number, problem } => format!("{number} {problem}"),
            });
        }
        assert_eq!(
            found,
            ["1 is not UTF-8", "2 is longer than 1048576 bytes", "3 last"]
        );
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_read() {
        let mut content = vec![b'x'; 1 << 20];
        content.push(b'\n');
        content.push(b'y');
        let (_dir, mut reader) = reader(&content);
        assert!(matches!(
            reader.next().unwrap(),
            Some(Read::Line { number: 1, .. })
        ));
        assert!(matches!(
            reader.next().unwrap(),
            Some(Read::Line { number: 2, .. })
        ));
        assert_eq!(reader.next().unwrap(), None);
    }
}
