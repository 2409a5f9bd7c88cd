//! Devices that the gateway brings: carries the bytes of one connection between a gRPC stream and
//! the devices' door.
//!
//! The hop before is the gateway, which has shaken hands with the device; the hop after is
//! `crate::mqtt`, as for devices that come by themselves. It looks at no byte, and decides nothing
//! about the device. Both ways are bounded: who does not read is not read.

use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt;
use service_kit::error::{Classified, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::link::v1 as link;
use wire::link::v1::device_link_service_server::DeviceLinkService;
use wire::link::v1::open_device_link_request::Content as Comes;
use wire::link::v1::open_device_link_response::Content as Goes;

use crate::grpc::Door;
use crate::mqtt::{self, Room};

/// Bytes that may wait between the stream and the session, each way.
const PIPE_BYTES: usize = 16 << 10;

/// Messages that may wait for the gateway, each of at most [`PIPE_BYTES`].
const ANSWERS_MAX: usize = 4;

/// Certificates that are looked at; chains have three or four.
const CERTIFICATES_MAX: usize = 10;

/// How long the last bytes of a device may take to be handed over.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// Why a link is not opened. Its reader is whoever runs the gateway.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the first message of a link must come within {} s, and say who arrives", .within.as_secs())]
    NoArrival { within: Duration },
    #[error("`peer` is `{found}`; it must be address:port")]
    Peer { found: String },
    #[error("there are {found} certificates; at most {CERTIFICATES_MAX} are looked at")]
    Certificates { found: usize },
    #[error("the service stops")]
    Stopping,
}

impl Classified for LinkError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoArrival { .. } | Self::Peer { .. } | Self::Certificates { .. } => {
                Kind::InvalidArgument
            }
            Self::Stopping => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::NoArrival { .. } => "ARRIVAL_MISSING",
            Self::Peer { .. } => "PEER_MALFORMED",
            Self::Certificates { .. } => "TOO_MANY_CERTIFICATES",
            Self::Stopping => "SERVICE_STOPPING",
        }
    }
}

/// The end of links.
#[derive(Clone)]
pub(crate) struct Link {
    door: Door,
}

type Answers = mpsc::Sender<Result<link::OpenDeviceLinkResponse, Status>>;
type Incoming = Streaming<link::OpenDeviceLinkRequest>;

impl Link {
    pub(crate) fn new(door: Door) -> Self {
        Self { door }
    }

    /// Waits for who arrives.
    async fn arrival(&self, incoming: &mut Incoming) -> Result<Arrival, LinkError> {
        let within = self.door.parts.connect_within;
        let first = tokio::time::timeout(within, incoming.message()).await;
        let Ok(Ok(Some(link::OpenDeviceLinkRequest {
            content: Some(Comes::Arrival(arrival)),
        }))) = first
        else {
            return Err(LinkError::NoArrival { within });
        };
        let found = arrival.certificates.len();
        if found > CERTIFICATES_MAX {
            return Err(LinkError::Certificates { found });
        }
        let peer = arrival.peer.parse().map_err(|_| LinkError::Peer {
            found: crate::text::shorten(arrival.peer, 64),
        })?;
        Ok(Arrival {
            peer,
            certificates: arrival.certificates,
        })
    }
}

struct Arrival {
    peer: SocketAddr,
    certificates: Vec<Vec<u8>>,
}

#[tonic::async_trait]
impl DeviceLinkService for Link {
    type OpenDeviceLinkStream = ReceiverStream<Result<link::OpenDeviceLinkResponse, Status>>;

    async fn open_device_link(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Self::OpenDeviceLinkStream>, Status> {
        let refused = |error: LinkError| service_kit::status::to_status(&error);
        let mut incoming = request.into_inner();
        let arrival = self.arrival(&mut incoming).await.map_err(refused)?;
        let (answers, responses) = mpsc::channel(ANSWERS_MAX);
        let carrying = carry(self.door.clone(), arrival, incoming, answers).boxed();
        let begun = self.door.parts.nursery.begin(carrying).await;
        begun.map_err(|_| refused(LinkError::Stopping))?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// Serves the device over a pipe, and keeps the pipe moving.
async fn carry(door: Door, arrival: Arrival, incoming: Incoming, answers: Answers) {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (from_session, to_session) = tokio::io::split(far);
    let (let_in, told) = oneshot::channel();
    let room = Room::counted_elsewhere(let_in);
    let session = mqtt::serve_link(door, near, arrival.certificates, arrival.peer, room);
    let mut session = std::pin::pin!(session);
    let mut upward = std::pin::pin!(take(incoming, to_session));
    let mut downward = std::pin::pin!(give(from_session, told, answers));
    let (mut reads, mut writes) = (true, true);
    loop {
        tokio::select! {
            () = &mut session => break,
            () = &mut upward, if reads => reads = false,
            () = &mut downward, if writes => writes = false,
        }
    }
    // What it said last, a refusal for example, is still in the pipe.
    if writes {
        let _ = tokio::time::timeout(GOODBYE_WITHIN, downward).await;
    }
}

/// From the gateway to the session, until either ends.
async fn take(mut incoming: Incoming, mut to_session: WriteHalf<DuplexStream>) {
    while let Ok(Some(message)) = incoming.message().await {
        let Some(Comes::Data(data)) = message.content else {
            tracing::debug!("a link was ended: it says again who arrives, or nothing");
            break;
        };
        if to_session.write_all(&data).await.is_err() {
            return;
        }
    }
    // Then the session sees that the device is gone.
    let _ = to_session.shutdown().await;
}

/// From the session to the gateway, until either ends. That the device was let in goes before the
/// first bytes, which are its CONNACK.
async fn give(
    mut from_session: ReadHalf<DuplexStream>,
    mut told: oneshot::Receiver<()>,
    answers: Answers,
) {
    let mut bytes = vec![0; PIPE_BYTES];
    let mut waits = true;
    loop {
        let content = tokio::select! {
            biased;
            outcome = &mut told, if waits => {
                waits = false;
                match outcome {
                    Ok(()) => Goes::LetIn(link::DeviceLetIn {}),
                    Err(_) => continue,
                }
            }
            read = from_session.read(&mut bytes) => match read {
                Ok(count) if count > 0 => {
                    Goes::Data(bytes.get(..count).unwrap_or_default().to_vec())
                }
                Ok(_) | Err(_) => return,
            },
        };
        let message = link::OpenDeviceLinkResponse {
            content: Some(content),
        };
        if answers.send(Ok(message)).await.is_err() {
            return;
        }
    }
}
