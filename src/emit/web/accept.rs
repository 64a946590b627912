//! Connections: taken up to a number, bounded in time and size, closed so that the last answer arrives.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use log::{debug, warn};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep, timeout};

use super::Shared;
use super::counts::{Counts, Reason};

/// Connections beside those of streams: requests that are answered at once.
const SHORT_MAX: usize = 32;

/// How long a client has for a request's head, from the connection's start or from the answer before.
const HEAD_WAIT: Duration = Duration::from_secs(10);

/// How long a client may leave what it is sent unread.
const READ_WAIT: Duration = Duration::from_secs(15);

/// Bytes of a request's head, and of what is read ahead.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Header fields of a request.
const HEADERS_MAX: usize = 64;

/// What the kernel holds for a client that does not read.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// After an answer that ends the connection, what the client still sends is read and thrown away, so that it gets to see the answer.
const LINGER: Duration = Duration::from_secs(1);

/// Wait after the system refused a connection: it has no more files.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// Takes connections for ever.
pub(super) async fn accept(listener: TcpListener, router: Router, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                shared.counts.connections.inc();
                let max = shared.clients_max + SHORT_MAX;
                let Some(seat) = shared.counts.open_connections.take(max) else {
                    shared.counts.refuse(Reason::Connections);
                    continue;
                };
                let (router, shared) = (router.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let watch = PanicWatch(&shared.counts);
                    converse(stream, peer, router, &shared).await;
                    drop(watch);
                    drop(seat);
                });
            }
            Err(error) => {
                warn!("web: no connection taken: {error}");
                shared.counts.refuse(Reason::Connections);
                sleep(ACCEPT_WAIT).await;
            }
        }
    }
}

/// One connection from its first request to its end.
async fn converse(stream: TcpStream, peer: SocketAddr, router: Router, shared: &Shared) {
    // neither is needed to go on
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES);
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| Box::pin(routes.call(request.map(Body::new))));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    let result = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    if let Err(error) = &result {
        let io_kind = std::error::Error::source(error).and_then(|s| s.downcast_ref::<io::Error>()).map(io::Error::kind);
        let reason = match io_kind {
            Some(io::ErrorKind::TimedOut) => Some(Reason::SlowClient),
            // kept open and not used again: nothing was refused
            _ if error.is_timeout() => (!read_buf.is_empty()).then_some(Reason::HeaderTimeout),
            _ if error.is_parse() => Some(Reason::Malformed),
            // a client that has gone is none of our doing
            _ => None,
        };
        debug!("web: {peer}: {error}");
        if let Some(reason) = reason {
            shared.counts.refuse(reason);
        }
        if reason != Some(Reason::Malformed) {
            return;
        }
    }
    farewell(io.into_inner().stream).await;
}

/// Says that no more comes, and reads what still does, for a while.
async fn farewell(mut stream: TcpStream) {
    let _ = timeout(LINGER, async {
        stream.shutdown().await?;
        let mut waste = [0_u8; 4096];
        while stream.read(&mut waste).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// Counts a connection whose task is unwound.
struct PanicWatch<'a>(&'a Counts);

impl Drop for PanicWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panics.inc();
        }
    }
}

/// A connection whose writes give up when the other side reads nothing for [`READ_WAIT`].
struct Patient {
    stream: TcpStream,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Self {
        Patient { stream, patience: None }
    }

    /// What a write came to, and whether it has waited too long.
    fn bear<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(READ_WAIT)));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bear(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.bear(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
