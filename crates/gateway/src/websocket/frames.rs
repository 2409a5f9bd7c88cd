//! Frames of WebSocket (RFC 6455), as a server reads and writes them.
//!
//! Pure: bytes in, pieces out. Data is handed on as it comes, whatever frames and messages it is cut
//! into, because MQTT cuts it in its own way: so a frame may have any size, and none is kept.

use bytes::{Buf, BufMut as _, Bytes, BytesMut};

/// The longest payload of a frame that controls the connection.
const CONTROL_BYTES_MAX: u64 = 125;

/// What the other side sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes of MQTT; never none.
    Data(Bytes),
    /// It wants to hear this again.
    Ping(Bytes),
    /// It heard something that nobody asked.
    Pong,
    /// It takes its leave.
    Close,
}

/// Why the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// MQTT travels in binary frames.
    #[error("a frame with text; MQTT needs binary ones")]
    Text,
    /// A bit is set that means nothing to us.
    #[error("a frame of an extension that was not agreed on")]
    Extension,
    /// An opcode that means nothing.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// Clients mask what they send.
    #[error("a frame that is not masked")]
    NotMasked,
    /// A control frame in parts, or too long.
    #[error("a control frame in parts, or of more than {CONTROL_BYTES_MAX} bytes")]
    Control,
    /// A continuation of nothing, or a beginning inside something.
    #[error("a frame that does not go on where the last one ended")]
    Order,
    /// Its length has 64 bits.
    #[error("a frame with a length that no frame may have")]
    Length,
}

impl FrameError {
    /// The code that the other side is told.
    pub(super) fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::Extension
            | Self::Kind(_)
            | Self::NotMasked
            | Self::Control
            | Self::Order
            | Self::Length => 1002,
        }
    }

    /// Its stable name, for counters.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Text => "TEXT_FRAME",
            Self::Extension
            | Self::Kind(_)
            | Self::NotMasked
            | Self::Control
            | Self::Order
            | Self::Length => "MALFORMED_FRAME",
        }
    }
}

/// What kind of frame it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Close,
    Ping,
    Pong,
}

/// A frame whose payload has not come to its end.
#[derive(Debug)]
struct Open {
    kind: Kind,
    left: u64,
    mask: [u8; 4],
    /// Which byte of the mask is next.
    at: usize,
}

/// Takes frames apart.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    open: Option<Open>,
    /// A message has begun whose last frame has not come.
    inside: bool,
    /// Frames that have begun since somebody asked.
    count: u32,
}

impl Decoder {
    /// How many frames have begun since this was asked last; empty ones count.
    pub(super) fn take_count(&mut self) -> u32 {
        std::mem::take(&mut self.count)
    }

    /// The next piece; `None`: more bytes are needed. Leaves at most a header or a control frame.
    pub(super) fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Piece>, FrameError> {
        loop {
            let open = match self.open.take() {
                Some(open) => open,
                None => match self.header(bytes)? {
                    Some(open) => open,
                    None => return Ok(None),
                },
            };
            if let Some(piece) = self.payload(open, bytes) {
                return Ok(Some(piece));
            }
            if self.open.is_some() {
                return Ok(None);
            }
        }
    }

    /// The next frame's header, if it is there as a whole.
    fn header(&mut self, bytes: &mut BytesMut) -> Result<Option<Open>, FrameError> {
        let [first, second, ..] = **bytes else {
            return Ok(None);
        };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 {
            return Err(FrameError::Extension);
        }
        let (kind, inside) = match (opcode, self.inside) {
            (0x0, true) | (0x2, false) => (Kind::Data, !fin),
            (0x0, false) | (0x2, true) => return Err(FrameError::Order),
            (0x1, _) => return Err(FrameError::Text),
            (0x8, inside) => (Kind::Close, inside),
            (0x9, inside) => (Kind::Ping, inside),
            (0xa, inside) => (Kind::Pong, inside),
            (other, _) => return Err(FrameError::Kind(other)),
        };
        if second & 0x80 == 0 {
            return Err(FrameError::NotMasked);
        }
        let (short, extended) = match second & 0x7f {
            126 => (0, 2),
            127 => (0, 8),
            short => (u64::from(short), 0),
        };
        if kind != Kind::Data && (!fin || extended > 0) {
            return Err(FrameError::Control);
        }
        if bytes.len() < 2 + extended + 4 {
            return Ok(None);
        }
        bytes.advance(2);
        let left = match extended {
            2 => u64::from(bytes.get_u16()),
            8 => bytes.get_u64(),
            _ => short,
        };
        if left > u64::MAX >> 1 {
            return Err(FrameError::Length);
        }
        let mut mask = [0; 4];
        bytes.copy_to_slice(&mut mask);
        self.inside = inside;
        self.count = self.count.saturating_add(1);
        Ok(Some(Open {
            kind,
            left,
            mask,
            at: 0,
        }))
    }

    /// What is there of a frame's payload. A control frame is awaited as a whole.
    fn payload(&mut self, mut open: Open, bytes: &mut BytesMut) -> Option<Piece> {
        let whole = usize::try_from(open.left).unwrap_or(usize::MAX);
        let count = whole.min(bytes.len());
        if open.kind != Kind::Data && count < whole {
            self.open = Some(open);
            return None;
        }
        let mut payload = bytes.split_to(count);
        for byte in payload.iter_mut() {
            *byte ^= open.mask.get(open.at).copied().unwrap_or_default();
            open.at = (open.at + 1) % open.mask.len();
        }
        open.left -= u64::try_from(count).unwrap_or(open.left);
        let kind = open.kind;
        if open.left > 0 {
            self.open = Some(open);
        }
        match kind {
            Kind::Data if payload.is_empty() => None,
            Kind::Data => Some(Piece::Data(payload.freeze())),
            Kind::Ping => Some(Piece::Ping(payload.freeze())),
            Kind::Pong => Some(Piece::Pong),
            Kind::Close => Some(Piece::Close),
        }
    }
}

/// Writes bytes of MQTT as one frame.
pub(super) fn put_data(data: &[u8], out: &mut BytesMut) {
    put(0x82, data, out);
}

/// Answers a ping.
pub(super) fn put_pong(payload: &[u8], out: &mut BytesMut) {
    put(0x8a, payload, out);
}

/// Takes leave with a code.
pub(super) fn put_close(code: u16, out: &mut BytesMut) {
    put(0x88, &code.to_be_bytes(), out);
}

fn put(first: u8, payload: &[u8], out: &mut BytesMut) {
    out.put_u8(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => out.put_u8(short),
        (_, Ok(length)) => {
            out.put_u8(126);
            out.put_u16(length);
        }
        (_, Err(_)) => {
            out.put_u8(127);
            out.put_u64(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        }
    }
    out.put_slice(payload);
}

#[cfg(test)]
mod tests;
