//! Server-sent events: one small task a client, which follows the ring, and a body that hands on what the task sends.
//!
//! A client that does not read stalls its own task and nothing else: the task holds a few references and no copies, the connection is
//! cut by `accept` when nothing has moved for a while, and a client that comes back in time is told what it missed.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::emit::body::Resume;

use super::counts::Seat;
use super::{Helper, Shared};

/// A comment this often keeps proxies from closing, and lets a dead client be noticed.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Frames handed to a connection before it has sent the ones before.
const AHEAD: usize = 16;

/// The first bytes: a browser that loses the stream comes back after two seconds.
const HELLO: Bytes = Bytes::from_static(b"retry: 2000\n\n");

const STILL_HERE: Bytes = Bytes::from_static(b": still here\n\n");

/// The body of a stream.
#[derive(Debug)]
pub(super) struct Stream {
    frames: mpsc::Receiver<Bytes>,
    _seat: Seat,
    _task: Helper,
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.frames.poll_recv(cx).map(|bytes| bytes.map(|b| Ok(Frame::data(b))))
    }
}

/// The frame of an event.
pub(super) fn frame(run: &str, seq: u64, json: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(json.len() + 48);
    frame.extend_from_slice(format!("id: {run}-{seq}\ndata: ").as_bytes());
    frame.extend_from_slice(json);
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

fn gap(missed: u64) -> Bytes {
    format!("event: gap\ndata: {{\"missed\":{missed}}}\n\n").into()
}

/// The events, as they come.
pub(super) fn events(shared: &Arc<Shared>, seat: Seat, from: Resume) -> Stream {
    let (to, frames) = mpsc::channel(AHEAD);
    let mine = Arc::clone(shared);
    let mut cursor = match from {
        Resume::Now => shared.ring().next(),
        Resume::After(seq) => seq.saturating_add(1),
        Resume::AnotherRun => 0,
    };
    let task = Helper(tokio::spawn(async move {
        let mut news = mine.news.subscribe();
        let mut is_restart = from == Resume::AnotherRun;
        if to.send(HELLO).await.is_err() {
            return;
        }
        loop {
            // seen before looking: what comes in between is looked at again
            news.borrow_and_update();
            let due = mine.ring().take(&mut cursor, AHEAD);
            if due.missed > 0 || std::mem::take(&mut is_restart) {
                mine.counts.missed.add(due.missed);
                if to.send(gap(due.missed)).await.is_err() {
                    return;
                }
            }
            let had_some = !due.frames.is_empty();
            for frame in due.frames {
                if to.send(frame).await.is_err() {
                    return;
                }
            }
            if had_some {
                continue;
            }
            match timeout(HEARTBEAT, news.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) if to.send(STILL_HERE).await.is_err() => return,
                Err(_) => {}
            }
        }
    }));
    Stream { frames, _seat: seat, _task: task }
}

/// The telemetry, newest only: a client that is behind skips.
pub(super) fn telemetry(shared: &Arc<Shared>, seat: Seat) -> Stream {
    let (to, frames) = mpsc::channel(1);
    let mut newest = shared.telemetry.subscribe();
    let task = Helper(tokio::spawn(async move {
        if to.send(HELLO).await.is_err() {
            return;
        }
        while newest.changed().await.is_ok() {
            let frame = newest.borrow_and_update().clone();
            if to.send(frame).await.is_err() {
                return;
            }
        }
    }));
    Stream { frames, _seat: seat, _task: task }
}

/// The frame of one look at the monitor.
pub(super) fn telemetry_frame(json: &[u8]) -> Bytes {
    [b"data: ", json, b"\n\n"].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_an_id_and_one_line() {
        assert_eq!(&frame("a1", 7, b"{}")[..], b"id: a1-7\ndata: {}\n\n");
        assert_eq!(&gap(3)[..], b"event: gap\ndata: {\"missed\":3}\n\n");
    }
}
