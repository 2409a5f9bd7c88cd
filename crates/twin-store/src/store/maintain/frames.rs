//! A backup as bytes: a first line, then frames of length, CRC-32 and content. The last frame says
//! how many came before it, and the SHA-256 of everything; without it a backup is not whole. Where a
//! table could not be read to its end, a frame says so.
//!
//! Numbers are little-endian. The ordinals of tables and values are frozen.

use std::io::{self, Read, Write};

use ring::digest;

use super::{MaintainError, Row, Table, Value};

/// What a backup begins with; the number is the format's.
const MAGIC: &[u8] = b"twinward twin-store backup 1\n";
/// The part of it that never changes.
const MAGIC_NAME: &[u8] = b"twinward twin-store backup ";
/// The format this program writes and reads.
const FORMAT: u32 = 1;
/// Of a frame, so that a damaged length does not ask for all memory. Twins have 10 KB, an answer
/// 4 MiB at most.
const FRAME_MAX: u32 = 64 * 1024 * 1024;
/// Ordinal of the frame that describes the backup.
const HEADER: u8 = 0;
/// Ordinal of the frame that says that a table breaks off.
const BREAK: u8 = 254;
/// Ordinal of the last frame.
const TRAILER: u8 = 255;

/// A frame, read back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// JSON; always the first.
    Header(String),
    /// A row.
    Row(Row),
    /// This table could not be read any further, and why.
    Break(Table, String),
    /// Everything was read and nothing is missing.
    End,
}

/// Writes frames.
pub(super) struct FrameWriter<W> {
    to: W,
    digest: digest::Context,
    count: u64,
}

impl<W: Write> FrameWriter<W> {
    /// Begins a backup.
    pub(super) fn begin(mut to: W, header: &str) -> Result<Self, MaintainError> {
        to.write_all(MAGIC).map_err(MaintainError::Write)?;
        let mut writer = FrameWriter {
            to,
            digest: digest::Context::new(&digest::SHA256),
            count: 0,
        };
        writer.digest.update(MAGIC);
        let mut content = vec![HEADER];
        content.extend_from_slice(header.as_bytes());
        writer.frame(&content)?;
        Ok(writer)
    }

    /// Writes a row.
    pub(super) fn row(&mut self, row: &Row) -> Result<(), MaintainError> {
        let mut content = vec![ordinal(row.table)];
        for value in &row.values {
            match value {
                Value::Null => content.push(0),
                Value::Integer(number) => {
                    content.push(1);
                    content.extend_from_slice(&number.to_le_bytes());
                }
                Value::Text(text) => bytes(&mut content, 2, text.as_bytes()),
                Value::Bytes(all) => bytes(&mut content, 3, all),
            }
        }
        self.frame(&content)
    }

    /// Says that the rest of a table could not be read.
    pub(super) fn broken(&mut self, table: Table, problem: &str) -> Result<(), MaintainError> {
        let mut content = vec![BREAK, ordinal(table)];
        content.extend_from_slice(problem.as_bytes());
        self.frame(&content)
    }

    /// Ends the backup.
    pub(super) fn end(mut self) -> Result<W, MaintainError> {
        let mut content = vec![TRAILER];
        content.extend_from_slice(&self.count.to_le_bytes());
        content.extend_from_slice(self.digest.clone().finish().as_ref());
        self.frame(&content)?;
        self.to.flush().map_err(MaintainError::Write)?;
        Ok(self.to)
    }

    fn frame(&mut self, content: &[u8]) -> Result<(), MaintainError> {
        let length = u32::try_from(content.len())
            .ok()
            .filter(|length| *length <= FRAME_MAX)
            .ok_or_else(|| MaintainError::Write(io::Error::other("a row is too large")))?;
        let mut head = [0; 8];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
        for part in [&head, content] {
            self.digest.update(part);
            self.to.write_all(part).map_err(MaintainError::Write)?;
        }
        self.count += 1;
        Ok(())
    }
}

fn bytes(content: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    content.push(tag);
    // A frame is bounded by less than 32 bits; one that is not is refused as a whole.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    content.extend_from_slice(&length.to_le_bytes());
    content.extend_from_slice(bytes);
}

/// Reads frames.
pub(super) struct FrameReader<R> {
    from: R,
    digest: digest::Context,
    count: u64,
    at: u64,
}

impl<R: Read> FrameReader<R> {
    /// Looks whether it is a backup.
    pub(super) fn begin(mut from: R) -> Result<Self, MaintainError> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            if line.len() > MAGIC.len() + 8 {
                return Err(MaintainError::Foreign);
            }
            match from.read(&mut byte) {
                Ok(0) => return Err(MaintainError::Foreign),
                Ok(_) => line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(MaintainError::Read(error)),
            }
        }
        if line != MAGIC {
            let number = line.strip_prefix(MAGIC_NAME);
            let number = number.and_then(|text| std::str::from_utf8(text).ok());
            return match number.and_then(|text| text.trim_end().parse::<u32>().ok()) {
                Some(found) if found > FORMAT => Err(MaintainError::Newer {
                    found,
                    known: FORMAT,
                }),
                Some(_) | None => Err(MaintainError::Foreign),
            };
        }
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(MAGIC);
        Ok(FrameReader {
            from,
            digest,
            count: 0,
            at: u64::try_from(MAGIC.len()).unwrap_or_default(),
        })
    }

    /// Reads the next frame.
    pub(super) fn next(&mut self) -> Result<Frame, MaintainError> {
        let before = self.digest.clone();
        let (mut length, mut sum) = ([0; 4], [0; 4]);
        self.fill(&mut length)?;
        self.fill(&mut sum)?;
        self.digest.update(&length);
        self.digest.update(&sum);
        let length = u32::from_le_bytes(length);
        if length == 0 || length > FRAME_MAX {
            return Err(self.damaged("the length of a frame is impossible"));
        }
        // Grows as bytes come, so that a wrong length in a short file asks for no memory.
        let mut content = Vec::new();
        let read = (&mut self.from)
            .take(u64::from(length))
            .read_to_end(&mut content)
            .map_err(MaintainError::Read)?;
        if u32::try_from(read).ok() != Some(length) {
            return Err(self.damaged("it is cut off"));
        }
        if crc32fast::hash(&content) != u32::from_le_bytes(sum) {
            return Err(self.damaged("a checksum does not match"));
        }
        self.digest.update(&content);
        let frame = self.parse(&content, &before)?;
        self.at += u64::from(length) + 8;
        self.count += 1;
        Ok(frame)
    }

    fn parse(&mut self, content: &[u8], before: &digest::Context) -> Result<Frame, MaintainError> {
        let (first, rest) = content
            .split_first()
            .ok_or_else(|| self.damaged("a frame is empty"))?;
        match *first {
            HEADER if self.count == 0 => String::from_utf8(rest.to_vec())
                .map(Frame::Header)
                .map_err(|_| self.damaged("its description is no text")),
            TRAILER => {
                let mut expected = self.count.to_le_bytes().to_vec();
                expected.extend_from_slice(before.clone().finish().as_ref());
                if rest != expected {
                    return Err(self.damaged("its end is that of another backup"));
                }
                let mut more = [0];
                match self.from.read(&mut more).map_err(MaintainError::Read)? {
                    0 => Ok(Frame::End),
                    _ => Err(self.damaged("something follows behind its end")),
                }
            }
            BREAK => {
                let broken = rest.split_first().and_then(|(number, problem)| {
                    let problem = std::str::from_utf8(problem).ok()?;
                    Some(Frame::Break(table(*number)?, problem.to_owned()))
                });
                broken.ok_or_else(|| self.damaged("the end of a table is torn"))
            }
            number => {
                let table = table(number).ok_or_else(|| self.damaged("a table is unknown"))?;
                let values = values(rest).ok_or_else(|| self.damaged("a row is torn"))?;
                Ok(Frame::Row(Row { table, values }))
            }
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), MaintainError> {
        self.from.read_exact(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                self.damaged("it is cut off")
            } else {
                MaintainError::Read(error)
            }
        })
    }

    fn damaged(&self, problem: &'static str) -> MaintainError {
        MaintainError::Damaged {
            at: self.at,
            problem,
        }
    }
}

fn values(mut rest: &[u8]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    while let Some((tag, after)) = rest.split_first() {
        rest = after;
        let value = match tag {
            0 => Value::Null,
            1 => {
                let (number, after) = rest.split_first_chunk()?;
                rest = after;
                Value::Integer(i64::from_le_bytes(*number))
            }
            2 | 3 => {
                let (length, after) = rest.split_first_chunk()?;
                let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
                let (bytes, after) = after.split_at_checked(length)?;
                rest = after;
                match tag {
                    2 => Value::Text(std::str::from_utf8(bytes).ok()?.to_owned()),
                    _ => Value::Bytes(bytes.to_vec()),
                }
            }
            _ => return None,
        };
        values.push(value);
    }
    Some(values)
}

const fn ordinal(table: Table) -> u8 {
    match table {
        Table::Partitions => 1,
        Table::Twins => 2,
        Table::Index => 3,
        Table::Log => 4,
        Table::History => 5,
        Table::Audit => 6,
        Table::Requests => 7,
        Table::Tokens => 8,
        Table::Enrollments => 9,
        Table::Operations => 10,
        Table::Results => 11,
        Table::Provisioning => 12,
    }
}

fn table(number: u8) -> Option<Table> {
    Table::ALL
        .into_iter()
        .find(|table| ordinal(*table) == number)
}
