//! Reads [FlatBuffers] that nobody has checked.
//!
//! Libraries for the format come with generated code, which needs `unsafe`; and what they verify
//! may still name one text a thousand times. Here each offset is held against the buffer when it
//! is followed, and what is read of a buffer in all is no more than the buffer has: a writer does
//! not refer to a thing twice. Knows no schema; a slot is the number of a field in its table.
//!
//! [FlatBuffers]: https://flatbuffers.dev/internals/

use std::cell::Cell;
use std::fmt;

/// Bytes that should be a FlatBuffer.
#[derive(Debug)]
pub(super) struct Buffer<'b> {
    bytes: &'b [u8],
    /// How many bytes of texts and lists may still be read.
    left: Cell<usize>,
}

/// What keeps a buffer from being read, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken {
    at: usize,
    what: &'static str,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at, self.what)
    }
}

/// A table: fields, each at its slot or absent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'b> {
    buffer: &'b Buffer<'b>,
    /// Where it is.
    at: usize,
    /// Where its fields are, from there; two bytes for each.
    slots: &'b [u8],
    /// How many bytes its fields take, with the table's own first four.
    size: usize,
}

impl<'b> Buffer<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Buffer<'b> {
        Buffer {
            bytes,
            left: Cell::new(bytes.len()),
        }
    }

    /// The outermost table.
    pub(super) fn root(&'b self) -> Result<Table<'b>, Broken> {
        self.table(self.follow(0)?)
    }

    fn slice(&self, at: usize, count: usize) -> Result<&'b [u8], Broken> {
        let end = at.checked_add(count);
        end.and_then(|end| self.bytes.get(at..end)).ok_or(Broken {
            at,
            what: "the body ends before what should be here does",
        })
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Broken> {
        let slice = self.slice(at, N)?;
        slice.try_into().map_err(|_| Broken {
            at,
            what: "the body ends before what should be here does",
        })
    }

    /// Where an offset leads; all but those to tables' slots lead on.
    fn follow(&self, at: usize) -> Result<usize, Broken> {
        let offset = u32::from_le_bytes(self.array(at)?);
        let target = usize::try_from(offset).ok();
        let target = target.and_then(|offset| at.checked_add(offset));
        target.filter(|target| *target > at).ok_or(Broken {
            at,
            what: "the offset leads nowhere",
        })
    }

    fn table(&'b self, at: usize) -> Result<Table<'b>, Broken> {
        let back = i64::from(i32::from_le_bytes(self.array(at)?));
        let slots_at = i64::try_from(at).ok().and_then(|at| at.checked_sub(back));
        let slots_at = slots_at.and_then(|slots_at| usize::try_from(slots_at).ok());
        let slots_at = slots_at.ok_or(Broken {
            at,
            what: "the offset to the table's slots leads nowhere",
        })?;
        let length = usize::from(u16::from_le_bytes(self.array(slots_at)?));
        let size = u16::from_le_bytes(self.array(slots_at.saturating_add(2))?);
        let slots = self.slice(slots_at, length)?;
        let slots = slots.get(4..).ok_or(Broken {
            at: slots_at,
            what: "a list of slots has at least 4 bytes",
        })?;
        Ok(Table {
            buffer: self,
            at,
            slots,
            size: usize::from(size),
        })
    }

    /// A list: where its entries begin, and how many there are.
    fn list(&self, at: usize, entry_bytes: usize) -> Result<(usize, usize), Broken> {
        let count = usize::try_from(u32::from_le_bytes(self.array(at)?)).unwrap_or(usize::MAX);
        let bytes = count.saturating_mul(entry_bytes);
        let begin = at.saturating_add(4);
        self.slice(begin, bytes)?;
        self.left
            .set(self.left.get().checked_sub(bytes).ok_or(Broken {
                at,
                what: "more is named than the body has, so something is named twice",
            })?);
        Ok((begin, count))
    }
}

impl<'b> Table<'b> {
    /// Where a field is; none: it is absent.
    fn field(&self, slot: usize, bytes: usize) -> Result<Option<usize>, Broken> {
        let Some([low, high]) = self.slots.get(slot * 2..slot * 2 + 2) else {
            return Ok(None);
        };
        let offset = usize::from(u16::from_le_bytes([*low, *high]));
        if offset == 0 {
            return Ok(None);
        }
        if offset + bytes > self.size {
            return Err(Broken {
                at: self.at,
                what: "a field lies outside of its table",
            });
        }
        Ok(Some(self.at.saturating_add(offset)))
    }

    /// The bytes of a number or struct that lies in the table.
    pub(super) fn inline<const N: usize>(&self, slot: usize) -> Result<Option<[u8; N]>, Broken> {
        let at = self.field(slot, N)?;
        at.map(|at| self.buffer.array(at)).transpose()
    }

    pub(super) fn byte(&self, slot: usize) -> Result<u8, Broken> {
        Ok(self.inline::<1>(slot)?.map_or(0, u8::from_le_bytes))
    }

    pub(super) fn short(&self, slot: usize) -> Result<u16, Broken> {
        Ok(self.inline::<2>(slot)?.map_or(0, u16::from_le_bytes))
    }

    /// A number that is this one if it is absent.
    pub(super) fn word(&self, slot: usize, absent: u32) -> Result<u32, Broken> {
        Ok(self.inline::<4>(slot)?.map_or(absent, u32::from_le_bytes))
    }

    /// A table within.
    pub(super) fn table(&self, slot: usize) -> Result<Option<Table<'b>>, Broken> {
        let Some(at) = self.field(slot, 4)? else {
            return Ok(None);
        };
        self.buffer.table(self.buffer.follow(at)?).map(Some)
    }

    /// A text; none if it is absent or empty.
    pub(super) fn text(&self, slot: usize) -> Result<Option<&'b str>, Broken> {
        let Some(at) = self.field(slot, 4)? else {
            return Ok(None);
        };
        let (begin, count) = self.buffer.list(self.buffer.follow(at)?, 1)?;
        let text = std::str::from_utf8(self.buffer.slice(begin, count)?);
        let text = text.map_err(|_| Broken {
            at: begin,
            what: "the text is no UTF-8",
        })?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// The places of the tables of a list; each may be broken for itself. None: there is no list.
    pub(super) fn tables(&self, slot: usize) -> Result<Option<Places<'b>>, Broken> {
        let Some(at) = self.field(slot, 4)? else {
            return Ok(None);
        };
        let (begin, count) = self.buffer.list(self.buffer.follow(at)?, 4)?;
        Ok(Some(Places {
            buffer: self.buffer,
            at: begin,
            left: count,
        }))
    }

    /// The structs of a list, each of so many bytes; none if there is no list.
    pub(super) fn structs<const N: usize>(&self, slot: usize) -> Result<&'b [[u8; N]], Broken> {
        let Some(at) = self.field(slot, 4)? else {
            return Ok(&[]);
        };
        let (begin, count) = self.buffer.list(self.buffer.follow(at)?, N)?;
        let (structs, _) = self
            .buffer
            .slice(begin, count.saturating_mul(N))?
            .as_chunks();
        Ok(structs)
    }
}

#[cfg(test)]
impl Table<'_> {
    /// Where it is, for tests that rewrite a buffer.
    pub(super) fn place(&self) -> usize {
        self.at
    }

    /// Where a field of four bytes is.
    pub(super) fn place_of(&self, slot: usize) -> Option<usize> {
        self.field(slot, 4).ok().flatten()
    }
}

/// The tables of a list.
#[derive(Debug)]
pub(super) struct Places<'b> {
    buffer: &'b Buffer<'b>,
    at: usize,
    left: usize,
}

impl Places<'_> {
    /// How many are still to come.
    pub(super) fn to_come(&self) -> usize {
        self.left
    }
}

impl<'b> Iterator for Places<'b> {
    type Item = Result<Table<'b>, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let at = self.at;
        self.at = at.saturating_add(4);
        let buffer = self.buffer;
        Some(buffer.follow(at).and_then(|at| buffer.table(at)))
    }
}
