//! One event, one line of JSON, one write.

use std::io::Write;

use crate::signal::Event;

use super::{Sink, SinkError};

/// Writes events as JSON lines (docs/events.md). The line is built in a buffer that is reused and goes out in one write, so
/// that several writers can append to one file.
#[derive(Debug)]
pub struct JsonLines<W> {
    name: String,
    out: W,
    line: Vec<u8>,
    /// The last line may have been cut off by an error.
    torn: bool,
}

impl<W: Write> JsonLines<W> {
    /// `name` is what errors call it: a path, `stdout`.
    pub fn new(name: impl Into<String>, out: W) -> Self {
        JsonLines { name: name.into(), out, line: Vec::with_capacity(1024), torn: false }
    }

    /// The writer.
    pub fn into_inner(self) -> W {
        self.out
    }
}

impl<W: Write + Send> Sink for JsonLines<W> {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        self.line.clear();
        if self.torn {
            // Ends whatever got out of the line that failed; at worst a reader sees an empty line.
            self.line.push(b'\n');
        }
        let result = event
            .write_json(&mut self.line)
            .map_err(std::io::Error::from)
            .and_then(|()| {
                self.line.push(b'\n');
                self.out.write_all(&self.line)
            })
            .and_then(|()| self.out.flush());
        self.torn = result.is_err();
        result.map_err(|source| SinkError::from_io(&self.name, source))
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.out.flush().map_err(|source| SinkError::from_io(&self.name, source))
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::super::testing::{ScriptedWriter, event};
    use super::*;
    use crate::signal::EventKind;

    #[test]
    fn an_event_is_one_write() {
        let mut sink = JsonLines::new("x", ScriptedWriter::default());
        for seq in 0..3 {
            sink.emit(&event(seq, seq, EventKind::Start)).unwrap();
        }
        let writer = sink.into_inner();
        assert_eq!(writer.calls, 3);
        let text = String::from_utf8(writer.written).unwrap();
        let seqs: Vec<_> = text
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["seq"].as_u64().unwrap())
            .collect();
        assert_eq!(seqs, [0, 1, 2]);
    }

    #[test]
    fn a_torn_line_spoils_no_other() {
        let writer = ScriptedWriter { script: [(10, ErrorKind::StorageFull)].into(), ..ScriptedWriter::default() };
        let mut sink = JsonLines::new("x", writer);
        sink.emit(&event(0, 0, EventKind::Start)).unwrap_err();
        sink.emit(&event(1, 0, EventKind::Start)).unwrap();
        sink.emit(&event(2, 0, EventKind::End)).unwrap();
        let text = String::from_utf8(sink.into_inner().written).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], r#"{"v":1,"seq"#.get(..10).unwrap());
        for line in &lines[1..] {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}
