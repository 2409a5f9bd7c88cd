//! One device: bytes from its WebSocket to ingestion and back.
//!
//! The hop before is the device, the hop after `ingestion`'s link. Nothing is judged here but the
//! form of frames. Every branch of the loop may be cancelled: each waits on a channel or on bytes
//! that are not lost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use service_kit::client::{self, ClientConfig};
use service_kit::log_budget::LogBudget;
use service_kit::server::web::Visitor;
use service_kit::shutdown::ShutdownToken;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use wire::link::v1::device_link_service_client::DeviceLinkServiceClient;
use wire::link::v1::open_device_link_request::Content as Up;
use wire::link::v1::open_device_link_response::Content as Down;
use wire::link::v1::{DeviceArrival, OpenDeviceLinkRequest, OpenDeviceLinkResponse};

use super::frames::{self, Decoder, FrameError, Piece};
use crate::metrics::Metrics;
use crate::rates::Meter;

/// Bytes that are read at a time; a quiet connection keeps this buffer.
const READ_BYTES: usize = 4 << 10;

/// Messages that may wait for ingestion, each of at most [`READ_BYTES`] and what is buffered.
const UP_MAX: usize = 4;

/// Frames that are taken apart each second, and at once after a pause. Whatever is in them, each costs
/// us work: MQTT comes in as few as its packets, of which a device may send a thousand.
const FRAMES_PER_SECOND: u32 = 4000;

/// Bytes that may wait for a slow reader before nothing more is fetched for it.
const OUT_BYTES_MAX: usize = 64 << 10;

/// How long a device may take none of the bytes that wait for it. Ingestion cannot see that it is
/// gone: it sees that we take none.
const TAKES_WITHIN: Duration = Duration::from_mins(1);

/// How long the last bytes may take, either way.
const GOODBYE_WITHIN: Duration = Duration::from_secs(5);

/// Why it ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the device closed")]
    Device,
    #[error("ingestion closed")]
    Hub,
    #[error("ingestion cannot be reached, or ended the link")]
    Link(#[source] Status),
    #[error("the link to ingestion cannot be made")]
    Client(#[from] client::ClientError),
    #[error("the connection broke")]
    Broke(#[source] io::Error),
    #[error("the connection was not taken over")]
    Upgrade(#[source] hyper::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the device takes nothing")]
    Stuck,
    #[error("the service stops")]
    Stopping,
}

impl End {
    /// The stable code, for logs and counters.
    fn code(&self) -> &'static str {
        match self {
            Self::Device => "DEVICE_CLOSED",
            Self::Hub => "HUB_CLOSED",
            Self::Link(_) | Self::Client(_) => "INGESTION_UNAVAILABLE",
            Self::Broke(_) | Self::Upgrade(_) => "CONNECTION_LOST",
            Self::Frame(error) => error.code(),
            Self::Stuck => "NOT_TAKEN",
            Self::Stopping => "SERVICE_STOPPING",
        }
    }

    /// Whether whoever looks after the device would ask why.
    fn is_told(&self) -> bool {
        match self {
            Self::Frame(_) | Self::Link(_) | Self::Client(_) | Self::Stuck => true,
            // Devices leave, networks break, ingestion tells of its own ends, and a service that
            // stops says so.
            Self::Device | Self::Hub | Self::Broke(_) | Self::Upgrade(_) | Self::Stopping => false,
        }
    }

    /// What the device is told; `None`: it cannot be.
    fn close_code(&self) -> Option<u16> {
        match self {
            Self::Device | Self::Hub => Some(1000),
            Self::Stopping => Some(1001),
            Self::Frame(error) => Some(error.close_code()),
            // To be tried again.
            Self::Link(_) | Self::Client(_) => Some(1013),
            Self::Broke(_) | Self::Upgrade(_) | Self::Stuck => None,
        }
    }
}

/// A device that is to be carried.
pub(super) struct Tunnel {
    pub(super) ingestion: ClientConfig,
    pub(super) visitor: Visitor,
    pub(super) meter: Arc<Meter>,
    pub(super) log: Arc<LogBudget>,
    pub(super) metrics: Metrics,
    pub(super) stop: ShutdownToken,
}

type Socket = TokioIo<Upgraded>;

impl Tunnel {
    /// Carries it from the end of the handshake until either side is done.
    pub(super) async fn run(self, upgrade: OnUpgrade) {
        let peer = self.visitor.address();
        self.metrics.websockets.inc();
        let end = match self.stop.run_until(upgrade).await {
            None => End::Stopping,
            Some(Err(error)) => End::Upgrade(error),
            Some(Ok(upgraded)) => self.carry(TokioIo::new(upgraded)).await,
        };
        self.metrics.websockets.dec();
        self.metrics.websocket_ended(end.code());
        let error = service_kit::error::chain(&end);
        let reason = end.code();
        let tells = || self.log.tells(reason, Instant::now().into_std());
        if let Some(untold) = end.is_told().then(tells).flatten() {
            tracing::info!(%peer, reason, error, untold, "WebSocket closed");
        } else {
            tracing::debug!(%peer, reason, error, "WebSocket closed");
        }
    }

    /// Ingestion has let the device in.
    fn let_in(&self) {
        self.visitor.let_in();
        self.meter.came_in(self.visitor.address().ip());
    }

    async fn carry(&self, socket: Socket) -> End {
        let (reader, mut writer) = tokio::io::split(socket);
        let mut out = BytesMut::new();
        let end = match self.stop.run_until(self.connect()).await {
            None => End::Stopping,
            Some(Err(end)) => end,
            Some(Ok(link)) => {
                let mut pipe = Pipe {
                    reader,
                    writer,
                    inbox: BytesMut::new(),
                    decoder: Decoder::default(),
                    pending: Vec::new(),
                    closed: false,
                    out,
                    unflushed: false,
                };
                let (up, mut down) = link;
                let end = self.pump(&mut pipe, &up, &mut down).await;
                drop(up);
                if matches!(end, End::Device) {
                    // What it said last, a goodbye, is to arrive: a call that is dropped takes it
                    // away with it.
                    let over = async { while let Ok(Some(_)) = down.message().await {} };
                    let _ = tokio::time::timeout(GOODBYE_WITHIN, over).await;
                }
                (writer, out) = (pipe.writer, pipe.out);
                end
            }
        };
        if let Some(code) = end.close_code() {
            frames::put_close(code, &mut out);
            let goodbye = async {
                writer.write_all_buf(&mut out).await?;
                writer.shutdown().await
            };
            // Who does not take it in time has lost it.
            let _ = tokio::time::timeout(GOODBYE_WITHIN, goodbye).await;
        }
        end
    }

    /// Opens the link.
    async fn connect(
        &self,
    ) -> Result<
        (
            mpsc::Sender<OpenDeviceLinkRequest>,
            Streaming<OpenDeviceLinkResponse>,
        ),
        End,
    > {
        let (up, requests) = mpsc::channel(UP_MAX);
        let arrival = DeviceArrival {
            peer: self.visitor.address().to_string(),
            certificates: self.visitor.certificates().to_vec(),
        };
        // The queue is empty.
        let _ = up.try_send(message(Up::Arrival(arrival)));
        let mut client = DeviceLinkServiceClient::new(client::connect(&self.ingestion)?);
        let answer = client.open_device_link(ReceiverStream::new(requests)).await;
        Ok((up, answer.map_err(End::Link)?.into_inner()))
    }

    async fn pump(
        &self,
        pipe: &mut Pipe,
        up: &mpsc::Sender<OpenDeviceLinkRequest>,
        down: &mut Streaming<OpenDeviceLinkResponse>,
    ) -> End {
        let mut stopped = Box::pin(self.stop.triggered());
        let mut stuck = Box::pin(tokio::time::sleep(TAKES_WITHIN));
        let mut writing = false;
        let mut pace = Pace::new(Instant::now());
        let mut pause = Box::pin(tokio::time::sleep(Duration::ZERO));
        let mut paced = false;
        loop {
            let room = pipe.out.len() < OUT_BYTES_MAX;
            if room && !paced && pipe.pending.is_empty() {
                match pipe.decode() {
                    Ok(false) => {}
                    Ok(true) => return End::Device,
                    Err(error) => return error.into(),
                }
                if let Some(at) = pace.on_frames(pipe.decoder.take_count(), Instant::now()) {
                    pause.as_mut().reset(at);
                    paced = true;
                }
            }
            let reads = room && !paced && pipe.pending.is_empty();
            let writes = pipe.unflushed || !pipe.out.is_empty();
            if writes && !writing {
                stuck.as_mut().reset(Instant::now() + TAKES_WITHIN);
            }
            writing = writes;
            pipe.inbox.reserve(READ_BYTES);
            let outcome = tokio::select! {
                () = &mut stopped => Err(End::Stopping),
                () = &mut stuck, if writes => Err(End::Stuck),
                () = &mut pause, if paced => {
                    paced = false;
                    Ok(())
                }
                permit = up.reserve(), if !pipe.pending.is_empty() => match permit {
                    Ok(permit) => {
                        permit.send(message(Up::Data(std::mem::take(&mut pipe.pending))));
                        Ok(())
                    }
                    Err(_) => Err(End::Hub),
                },
                answer = down.message(), if room => match answer {
                    Ok(Some(answer)) => {
                        match answer.content {
                            Some(Down::Data(data)) => frames::put_data(&data, &mut pipe.out),
                            Some(Down::LetIn(_)) => self.let_in(),
                            // Of a later version.
                            None => {}
                        }
                        Ok(())
                    }
                    Ok(None) => Err(End::Hub),
                    Err(status) => Err(End::Link(status)),
                },
                written = step(&mut pipe.writer, &mut pipe.out, &mut pipe.unflushed), if writes => {
                    stuck.as_mut().reset(Instant::now() + TAKES_WITHIN);
                    written.map_err(End::Broke)
                }
                read = pipe.reader.read_buf(&mut pipe.inbox), if reads => match read {
                    Ok(0) => Err(End::Device),
                    Ok(_) => Ok(()),
                    Err(error) => Err(End::Broke(error)),
                },
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }
}

/// Both ways of the socket, and what waits on them.
struct Pipe {
    reader: ReadHalf<Socket>,
    writer: WriteHalf<Socket>,
    inbox: BytesMut,
    decoder: Decoder,
    /// For ingestion: what has come in however many frames goes as one message.
    pending: Vec<u8>,
    /// The device takes its leave, when ingestion has that.
    closed: bool,
    /// For the device.
    out: BytesMut,
    /// What was written may still be with TLS.
    unflushed: bool,
}

impl Pipe {
    /// Takes apart what has come, until there is enough for ingestion. Answers whether the device
    /// takes its leave and nothing of it is left.
    fn decode(&mut self) -> Result<bool, FrameError> {
        while !self.closed && self.pending.len() < READ_BYTES && self.out.len() < OUT_BYTES_MAX {
            match self.decoder.next(&mut self.inbox)? {
                Some(Piece::Data(data)) => self.pending.extend_from_slice(&data),
                Some(Piece::Ping(payload)) => frames::put_pong(&payload, &mut self.out),
                Some(Piece::Pong) => {}
                Some(Piece::Close) => self.closed = true,
                None => break,
            }
        }
        Ok(self.closed && self.pending.is_empty())
    }
}

/// How fast frames are taken apart. Who sends more is read later.
struct Pace {
    even_at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { even_at: now }
    }

    /// So many were taken apart; when the next may be, if not now.
    fn on_frames(&mut self, frames: u32, now: Instant) -> Option<Instant> {
        const SECOND: Duration = Duration::from_secs(1);
        self.even_at = self.even_at.max(now) + SECOND / FRAMES_PER_SECOND * frames;
        let wait = self.even_at.duration_since(now).checked_sub(SECOND)?;
        (!wait.is_zero()).then(|| now + wait)
    }
}

/// Goes on with writing. Safe to cancel: what was not taken still waits.
async fn step(
    writer: &mut WriteHalf<Socket>,
    out: &mut BytesMut,
    unflushed: &mut bool,
) -> io::Result<()> {
    if out.is_empty() {
        writer.flush().await?;
        *unflushed = false;
        // A long answer need not be paid for by every quiet connection.
        *out = BytesMut::new();
        return Ok(());
    }
    if writer.write_buf(out).await? == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    *unflushed = true;
    Ok(())
}

fn message(content: Up) -> OpenDeviceLinkRequest {
    OpenDeviceLinkRequest {
        content: Some(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_apart_at_a_pace_whatever_is_in_them() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.on_frames(FRAMES_PER_SECOND, start), None, "at once");
        let wait = Duration::from_millis(500);
        let again = pace.on_frames(FRAMES_PER_SECOND / 2, start);
        assert_eq!(again, Some(start + wait));
        let later = start + Duration::from_mins(1);
        assert_eq!(pace.on_frames(FRAMES_PER_SECOND, later), None);
        assert!(pace.on_frames(1, later).is_some(), "no more is saved");
    }
}
