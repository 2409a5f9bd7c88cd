//! Accepts connections, shakes hands, and closes those that do not prove themselves.
//!
//! The handshake is part of the connection's own reading and writing, so that it runs in the
//! connection's task: accepting waits for nobody.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tonic::transport::server::Connected;

use crate::auth::Shown;
use crate::places::Shares;
use crate::server::balancers::{Balancers, HEADERS_MAX, read_header};
use crate::server::connections::{Connections, Peer};
use crate::tls::server::ServerSide;

/// How long accepting rests when the system has no more to give (descriptors, memory): trying at
/// once would only use up a processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections that come in.
pub(super) struct Incoming {
    listener: TcpListener,
    connections: Arc<Connections>,
    tls: Option<Arc<ServerSide>>,
    pause: Option<Pin<Box<Sleep>>>,
    balancers: Balancers,
    headers: Shares,
    /// Connections of balancers that have not said yet whose they are.
    announced: FuturesUnordered<BoxFuture<'static, Option<(TcpStream, SocketAddr)>>>,
}

impl Incoming {
    pub(super) fn new(
        listener: TcpListener,
        connections: Arc<Connections>,
        tls: Option<Arc<ServerSide>>,
    ) -> Self {
        Self {
            listener,
            connections,
            tls,
            pause: None,
            balancers: Balancers::default(),
            headers: Shares::new(HEADERS_MAX),
            announced: FuturesUnordered::new(),
        }
    }

    /// Has connections of these say whose they are before anything else.
    pub(super) fn behind(self, balancers: Balancers) -> Self {
        Self { balancers, ..self }
    }

    /// Waits for a balancer to say whose connection it is.
    fn announce(&self, mut tcp: TcpStream, balancer: SocketAddr) {
        let Ok(share) = self.headers.take(Some(balancer.ip())) else {
            self.connections.count_closed();
            tracing::debug!(%balancer, "connection refused: too many wait for their header");
            return;
        };
        let within = self.connections.limits().prove_within.get();
        let connections = Arc::clone(&self.connections);
        let reading = async move {
            let read = tokio::time::timeout(within, read_header(&mut tcp, balancer)).await;
            drop(share);
            match read {
                Ok(Ok(address)) => return Some((tcp, address)),
                Ok(Err(error)) => {
                    tracing::debug!(%balancer, %error, "connection of a balancer closed");
                }
                Err(_elapsed) => {
                    tracing::debug!(%balancer, "a balancer does not say whose connection it is");
                }
            }
            connections.count_closed();
            None
        };
        self.announced.push(reading.boxed());
    }

    /// Takes in who is there; none if there is no room.
    fn admit(&self, tcp: TcpStream, address: SocketAddr) -> Option<Connection> {
        if let Some(peer) = self.connections.admit(address) {
            return Some(self.connection(tcp, peer));
        }
        tracing::debug!(peer = %address, "connection refused: there are too many");
        None
    }

    fn connection(&self, tcp: TcpStream, peer: Arc<Peer>) -> Connection {
        // Small messages should not wait for more to come; without it things only get slower.
        let _ = tcp.set_nodelay(true);
        let stream = match &self.tls {
            Some(tls) => {
                Transport::Handshake(Box::new(TlsAcceptor::from(tls.config()).accept(tcp)))
            }
            None => Transport::Plain(tcp),
        };
        let within = self.connections.limits().prove_within.get();
        Connection {
            stream,
            hurry: Some(Box::pin(tokio::time::sleep(within))),
            within,
            keeps_chain: self.tls.as_ref().is_some_and(|tls| tls.asks_anybody()),
            peer,
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            while let Poll::Ready(Some(announced)) = this.announced.poll_next_unpin(cx) {
                let admitted = announced.and_then(|(tcp, address)| this.admit(tcp, address));
                if let Some(connection) = admitted {
                    return Poll::Ready(Some(Ok(connection)));
                }
            }
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            match ready!(this.listener.poll_accept(cx)) {
                // The next turn of the loop asks for its header.
                Ok((tcp, address)) if this.balancers.have(address.ip()) => {
                    this.announce(tcp, address);
                }
                Ok((tcp, address)) => {
                    if let Some(connection) = this.admit(tcp, address) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "connections cannot be accepted for the moment");
                    this.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// True if the error concerns a connection that was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A connection, from its first byte on.
pub(super) struct Connection {
    stream: Transport,
    /// Until when it must have made a call; `None` once it has.
    hurry: Option<Pin<Box<Sleep>>>,
    within: Duration,
    /// Whether somebody will judge the certificates that were shown.
    keeps_chain: bool,
    peer: Arc<Peer>,
}

enum Transport {
    Plain(TcpStream),
    Handshake(Box<Accept<TcpStream>>),
    Secure(Box<TlsStream<TcpStream>>),
    /// The handshake failed; nothing more comes of it.
    Failed,
}

impl Connection {
    /// Closes what was evicted or is too late.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.peer.waker().register(cx.waker());
        if self.peer.is_cut() {
            let problem = "cut, because the service stops";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, problem));
        }
        if self.peer.is_evicted() {
            self.peer.closed_unproven();
            let problem = "closed to make room: no call of it was let in";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, problem));
        }
        if let Some(hurry) = &mut self.hurry {
            if !self.peer.is_silent() {
                self.hurry = None;
            } else if hurry.as_mut().poll(cx).is_ready() {
                if !self.peer.waits_for_an_answer() {
                    self.peer.closed_unproven();
                    let problem = "no call of it was let in for too long";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
                }
                // It is we who are slow.
                hurry.as_mut().reset(Instant::now() + self.within);
                let _ = hurry.as_mut().poll(cx);
            }
        }
        Ok(())
    }

    /// Goes on with the handshake, if there is one.
    fn poll_secure(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Transport::Handshake(handshake) = &mut self.stream else {
            return Poll::Ready(Ok(()));
        };
        match ready!(Pin::new(handshake).poll(cx)) {
            Ok(stream) => {
                if let Some(chain) = stream.get_ref().1.peer_certificates() {
                    if let [certificate, ..] = chain {
                        self.peer.shown(Shown::read(certificate));
                    }
                    if self.keeps_chain {
                        self.peer.keep_chain(chain);
                    }
                }
                self.stream = Transport::Secure(Box::new(stream));
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                tracing::debug!(peer = %self.peer.address(), %error, "TLS handshake failed");
                self.stream = Transport::Failed;
                Poll::Ready(Err(error))
            }
        }
    }

    /// The stream, once the handshake is done.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Open<'_>>> {
        if let Err(error) = self.check(cx) {
            return Poll::Ready(Err(error));
        }
        ready!(self.poll_secure(cx))?;
        match &mut self.stream {
            Transport::Plain(tcp) => Poll::Ready(Ok(Open::Plain(Pin::new(tcp)))),
            Transport::Secure(tls) => Poll::Ready(Ok(Open::Secure(Pin::new(&mut **tls)))),
            Transport::Handshake(_) | Transport::Failed => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
        }
    }
}

/// A stream that can be read and written.
enum Open<'a> {
    Plain(Pin<&'a mut TcpStream>),
    Secure(Pin<&'a mut TlsStream<TcpStream>>),
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.peer.gone();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match ready!(self.poll_open(cx))? {
            Open::Plain(tcp) => tcp.poll_read(cx, buffer),
            Open::Secure(tls) => tls.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_open(cx))? {
            Open::Plain(tcp) => tcp.poll_write(cx, bytes),
            Open::Secure(tls) => tls.poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.poll_open(cx))? {
            Open::Plain(tcp) => tcp.poll_flush(cx),
            Open::Secure(tls) => tls.poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Secure(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
            // Nothing was agreed on that would have to be taken leave of.
            Transport::Handshake(_) | Transport::Failed => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_open(cx))? {
            Open::Plain(tcp) => tcp.poll_write_vectored(cx, slices),
            Open::Secure(tls) => tls.poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        // TCP and rustls both are; before the handshake is over nobody writes.
        true
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerHandle;

    fn connect_info(&self) -> PeerHandle {
        PeerHandle(Arc::clone(&self.peer))
    }
}

/// Who is at the other end, as the extension of a request.
#[derive(Debug, Clone)]
pub(crate) struct PeerHandle(pub(crate) Arc<Peer>);
