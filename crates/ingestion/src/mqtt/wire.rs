//! The bytes of one connection: packets in, packets out, and how much may wait on either side.

use std::io;

use bytes::BytesMut;
use futures::StreamExt;
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::v3::{Codec, Packet};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::codec::{Encoder, FramedRead};

use super::end::End;

/// Largest message: body and properties together, as in IoT Hub.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Largest packet of a device that was let in: a message, its topic, and what frames them.
const PACKET_BYTES_MAX: u32 = (256 << 10) + (64 << 10) + 16;

/// Largest CONNECT: names and a token need 6 KiB, the rest is room for a will. Whoever reaches the
/// port can make us keep that much.
const CONNECT_BYTES_MAX: u32 = 32 << 10;

/// Bytes that are read at a time at first: most packets are small, and a quiet connection keeps
/// this buffer.
const READ_BYTES: usize = 512;

/// Bytes that may wait for a slow reader before it is not listened to any more.
const OUT_BYTES_MAX: usize = 64 << 10;

/// What a device is connected by: TLS here, or a link to the gateway.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One of them.
pub(super) type AnyStream = Box<dyn Stream>;

/// Both directions of a connection.
pub(super) struct Wire<S> {
    pub(super) reader: Reader<S>,
    pub(super) writer: Writer<S>,
}

/// Packets that come.
pub(super) struct Reader<S> {
    frames: FramedRead<ReadHalf<S>, Codec>,
}

/// Packets that go.
pub(super) struct Writer<S> {
    half: WriteHalf<S>,
    codec: Codec,
    waiting: BytesMut,
    /// What was written may still be with TLS.
    unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        let (reading, half) = tokio::io::split(stream);
        let frames = FramedRead::with_capacity(reading, Codec::new(CONNECT_BYTES_MAX), READ_BYTES);
        Self {
            reader: Reader { frames },
            writer: Writer {
                half,
                codec: Codec::default(),
                waiting: BytesMut::new(),
                unflushed: false,
            },
        }
    }
}

impl<S: AsyncRead> Reader<S> {
    /// The next packet. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Packet, End> {
        let (packet, _bytes) = self.next_with_bytes().await?;
        Ok(packet)
    }

    /// The same, and how many bytes follow its header. Safe to cancel.
    pub(super) async fn next_with_bytes(&mut self) -> Result<(Packet, u32), End> {
        match self.frames.next().await {
            Some(Ok(read)) => Ok(read),
            // The codec's word for a connection that broke.
            Some(Err(DecodeError::Io(_))) | None => Err(End::Lost),
            Some(Err(error)) => Err(End::Malformed(error)),
        }
    }

    /// The device was let in.
    pub(super) fn proven(&mut self) {
        self.frames.decoder_mut().set_max_size(PACKET_BYTES_MAX);
    }
}

impl<S: AsyncWrite> Writer<S> {
    /// Puts a packet behind those that wait.
    pub(super) fn put(&mut self, packet: Packet) -> Result<(), End> {
        self.codec
            .encode(packet, &mut self.waiting)
            .map_err(End::Encode)
    }

    /// Whether there is something to write.
    pub(super) fn has_work(&self) -> bool {
        self.unflushed || !self.waiting.is_empty()
    }

    /// Whether the device reads what it is sent.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < OUT_BYTES_MAX
    }

    /// Goes on with writing. Safe to cancel: what was not taken still waits.
    pub(super) async fn step(&mut self) -> Result<(), End> {
        if self.waiting.is_empty() {
            self.half.flush().await.map_err(End::Broke)?;
            self.unflushed = false;
            // A long answer need not be paid for by every quiet connection.
            self.waiting = BytesMut::new();
            return Ok(());
        }
        match self.half.write_buf(&mut self.waiting).await {
            Ok(0) => Err(End::Broke(io::ErrorKind::WriteZero.into())),
            Ok(_) => {
                self.unflushed = true;
                Ok(())
            }
            Err(error) => Err(End::Broke(error)),
        }
    }

    /// Writes all that waits, and closes.
    pub(super) async fn finish(&mut self) -> Result<(), End> {
        while self.has_work() {
            self.step().await?;
        }
        self.half.shutdown().await.map_err(End::Broke)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_util::codec::Decoder;

    use super::*;

    proptest! {
        /// Bytes of strangers: a packet, an error or a wait for more, never a panic.
        #[test]
        fn the_codec_reads_anything(
            first in any::<u8>(),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut codec = Codec::new(CONNECT_BYTES_MAX);
            let mut bytes = BytesMut::from(&[first, u8::try_from(rest.len().min(127)).unwrap()][..]);
            bytes.extend_from_slice(&rest);
            while let Ok(Some(_)) = codec.decode(&mut bytes) {}
        }
    }

    #[test]
    fn a_packet_over_the_bound_is_refused_before_it_is_read() {
        let mut codec = Codec::new(CONNECT_BYTES_MAX);
        let mut bytes = BytesMut::from(&[0x10, 0xff, 0xff, 0xff, 0x7f][..]);
        assert!(codec.decode(&mut bytes).is_err());
        assert!(bytes.capacity() < 1 << 20);
    }
}
