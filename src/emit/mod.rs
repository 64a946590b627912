//! Events to the outside: JSON lines, output lines, the live view on a terminal, the web server, the summary of a run.
//!
//! The supervisor hands every event to every [`Sink`]. A sink writes and reports what went wrong ([`SinkError::kind`]);
//! whether to go on without it is the supervisor's decision. No sink opens a file or a connection here.

pub mod body;
mod json_lines;
pub mod lines;
mod live_view;
pub mod mqtt;
mod result;
pub mod speech;
pub mod summary;
mod terminal;
#[cfg(feature = "web")]
pub mod web;

use std::io;

use crate::signal::Event;
use crate::time::Micros;

pub use json_lines::JsonLines;
pub use live_view::{LiveView, LiveViewOptions};

/// Takes events out of the program.
///
/// Contract: one call is one event, whole and in order; after an error the sink is still usable, and the event of that call
/// is lost; nothing is written after a `flush` that returned `Ok` until the next `emit`.
pub trait Sink: Send {
    /// Writes one event.
    ///
    /// # Errors
    /// [`SinkError`] says which sink, why, and by its kind what to do.
    fn emit(&mut self, event: &Event) -> Result<(), SinkError>;

    /// Hands on what is still buffered.
    ///
    /// # Errors
    /// As [`Sink::emit`].
    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Time passes: called at least every tenth of a second while a live run goes on.
    ///
    /// # Errors
    /// As [`Sink::emit`].
    fn tick(&mut self, _now: Micros) -> Result<(), SinkError> {
        Ok(())
    }
}

impl<S: Sink + ?Sized> Sink for &mut S {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        (**self).emit(event)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        (**self).flush()
    }

    fn tick(&mut self, now: Micros) -> Result<(), SinkError> {
        (**self).tick(now)
    }
}

impl<S: Sink + ?Sized> Sink for Box<S> {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        (**self).emit(event)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        (**self).flush()
    }

    fn tick(&mut self, now: Micros) -> Result<(), SinkError> {
        (**self).tick(now)
    }
}

/// An event that did not get out.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The reader has gone.
    #[error("{name}: the reader has gone; start it again, or run without this output")]
    Closed {
        /// The sink: a file, `stdout`.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no room.
    #[error("{name}: no space left ({source}); free some, or write events elsewhere: lines are lost until then")]
    Full {
        /// The sink.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else.
    #[error("{name}: {source}")]
    Io {
        /// The sink.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What the caller does about a [`SinkError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkErrorKind {
    /// Nobody listens: drop the sink; if it was the last, end.
    Exit,
    /// Count the lost event and go on: room may come back.
    Degrade,
    /// Open the sink again.
    Reopen,
}

impl SinkError {
    /// The error of `name`, sorted by what the caller can do.
    #[must_use]
    pub fn from_io(name: &str, source: io::Error) -> SinkError {
        let name = name.to_owned();
        match source.kind() {
            io::ErrorKind::BrokenPipe => SinkError::Closed { name, source },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                SinkError::Full { name, source }
            }
            _ => SinkError::Io { name, source },
        }
    }

    /// What to do.
    #[must_use]
    pub fn kind(&self) -> SinkErrorKind {
        match self {
            SinkError::Closed { .. } => SinkErrorKind::Exit,
            SinkError::Full { .. } => SinkErrorKind::Degrade,
            SinkError::Io { .. } => SinkErrorKind::Reopen,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A scripted sink, a scripted writer, and events to feed them.

    use super::*;
    use crate::signal::{
        Advice, Choice, Decision, DecisionState, EventKind, ModalityState, ModalityView, SCHEMA_VERSION,
    };
    use crate::time::Micros;

    /// Remembers what it was given; fails when the script says so.
    #[derive(Default)]
    pub struct ScriptedSink {
        /// What to answer, in turn; `Ok` once it is used up.
        pub script: std::collections::VecDeque<Option<io::ErrorKind>>,
        /// Sequence numbers of the events that got out.
        pub got: Vec<u64>,
    }

    impl Sink for ScriptedSink {
        fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
            match self.script.pop_front().flatten() {
                Some(kind) => Err(SinkError::from_io("scripted", kind.into())),
                None => {
                    self.got.push(event.seq);
                    Ok(())
                }
            }
        }
    }

    /// A writer that accepts some bytes and then fails, by script: `(bytes to accept, then this error)`.
    #[derive(Default)]
    pub struct ScriptedWriter {
        pub script: std::collections::VecDeque<(usize, io::ErrorKind)>,
        pub written: Vec<u8>,
        pub calls: usize,
    }

    impl io::Write for ScriptedWriter {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            match self.script.front_mut() {
                None => self.written.extend_from_slice(buf),
                Some((0, kind)) => {
                    let error = (*kind).into();
                    self.script.pop_front();
                    return Err(error);
                }
                Some((room, _)) => {
                    let n = buf.len().min(*room);
                    *room -= n;
                    self.written.extend_from_slice(&buf[..n]);
                    return Ok(n);
                }
            }
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub fn event(seq: u64, t_ms: u64, kind: EventKind) -> Event {
        let view = |name: &str, weight, state, age| ModalityView {
            name: name.into(),
            weight,
            contribution: weight / 2.0,
            age,
            state,
        };
        let modalities = [
            view("card", 0.62, ModalityState::Ok, Some(Micros::from_ms(60))),
            view("speech", 0.38, ModalityState::Ok, Some(Micros::from_ms(140))),
            view("request", 0.0, ModalityState::Absent, None),
        ];
        Event {
            v: SCHEMA_VERSION,
            seq,
            t_us: Micros::from_ms(t_ms),
            kind,
            modalities: modalities.into_iter().collect(),
            bundle: "kiosk@1.0.0".into(),
            board: "host",
        }
    }

    pub fn decision(state: DecisionState, class: &str, p: f32, text: &str) -> EventKind {
        let choices = if state == DecisionState::Ask {
            [Choice { class: class.into(), p }, Choice { class: "desk_8".into(), p: 0.4 }].into_iter().collect()
        } else {
            heapless::Vec::new()
        };
        EventKind::Decision(Decision {
            class: class.into(),
            p,
            state,
            by: None,
            intent: None,
            advice: Some(Advice { id: class.into(), lang: "en".into(), text: text.into() }),
            choices,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ScriptedSink, ScriptedWriter, decision, event};
    use super::*;
    use crate::signal::{DecisionState, EventKind};

    /// What every sink promises, run against every sink: `lost` is called with a sink whose second event fails.
    fn keeps_the_contract(name: &str, sink: &mut dyn Sink) {
        let events = [
            event(0, 0, EventKind::Start),
            event(1, 400, decision(DecisionState::Enter, "desk_3", 0.94, "Go to 3.")),
            event(2, 900, decision(DecisionState::Exit, "desk_3", 0.2, "Bye.")),
            event(3, 1000, EventKind::End),
        ];
        let results: Vec<_> = events.iter().map(|e| sink.emit(e).map_err(|e| e.kind())).collect();
        assert_eq!(results, [Ok(()), Err(SinkErrorKind::Degrade), Ok(()), Ok(())], "{name}");
        assert!(sink.flush().is_ok(), "{name}");
    }

    #[test]
    fn every_sink_goes_on_after_an_error() {
        let full = io::ErrorKind::StorageFull;
        let mut scripted = ScriptedSink { script: [None, Some(full)].into(), ..ScriptedSink::default() };
        keeps_the_contract("scripted", &mut scripted);
        assert_eq!(scripted.got, [0, 2, 3]);

        let first_line = {
            let mut probe = JsonLines::new("probe", Vec::new());
            probe.emit(&event(0, 0, EventKind::Start)).unwrap();
            probe.into_inner().len()
        };
        let writer = ScriptedWriter { script: [(first_line + 10, full)].into(), ..ScriptedWriter::default() };
        let mut lines = JsonLines::new("events.jsonl", writer);
        keeps_the_contract("json lines", &mut lines);

        let first_block = {
            let mut probe = LiveView::new(Vec::new(), LiveViewOptions::default());
            probe.emit(&event(0, 0, EventKind::Start)).unwrap();
            probe.into_inner().len()
        };
        let writer = ScriptedWriter { script: [(first_block + 10, full)].into(), ..ScriptedWriter::default() };
        keeps_the_contract("live view", &mut LiveView::new(writer, LiveViewOptions::default()));
    }

    #[test]
    fn an_error_says_which_sink_and_what_to_do() {
        let cases = [
            (io::ErrorKind::BrokenPipe, SinkErrorKind::Exit, "stdout: the reader has gone; start it again"),
            (io::ErrorKind::StorageFull, SinkErrorKind::Degrade, "stdout: no space left"),
            (io::ErrorKind::QuotaExceeded, SinkErrorKind::Degrade, "stdout: no space left"),
            (io::ErrorKind::PermissionDenied, SinkErrorKind::Reopen, "stdout: permission denied"),
        ];
        for (io_kind, kind, message) in cases {
            let error = SinkError::from_io("stdout", io_kind.into());
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().starts_with(message), "{error}");
        }
    }
}
