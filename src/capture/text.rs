//! Lines of text as utterances: standard input, a pipe, a file.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind as IoErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use crate::capture::{CaptureError, ErrorKind, TextSource, open_file};
use crate::signal::Utterance;
use crate::time::{Clock, Micros, VirtualClock};

/// Longer lines are cut here, and the rest of the line is dropped and counted.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// One utterance per line; blank lines are passed over, invalid UTF-8 becomes U+FFFD.
///
/// A read of standard input cannot be given a timeout: this source blocks until a line is complete, which is its time.
pub struct LineText<R> {
    name: String,
    reader: BufReader<R>,
    clock: Arc<dyn Clock>,
    line: Vec<u8>,
    /// The line at hand is too long: what still comes of it is dropped.
    overlong: bool,
    ended: bool,
    dropped_bytes: u64,
}

/// A text file whose lines come at a fixed pace from time 0: a script for tests and for playing beside other files.
pub struct ScriptText {
    lines: LineText<File>,
    clock: Arc<VirtualClock>,
    period: Micros,
}

impl ScriptText {
    /// Opens the file; its first line comes at `period`, and then one each `period`.
    ///
    /// # Errors
    /// `Fatal` if the file cannot be opened.
    pub fn open(path: &Path, period: Micros) -> Result<Self, CaptureError> {
        let clock = Arc::new(VirtualClock::default());
        let lines = LineText::new(&path.display().to_string(), open_file(path)?, Arc::clone(&clock) as Arc<dyn Clock>);
        Ok(ScriptText { lines, clock, period })
    }
}

impl TextSource for ScriptText {
    fn next(&mut self, into: &mut Utterance) -> Result<(), CaptureError> {
        self.clock.sleep_until(self.clock.now() + self.period);
        self.lines.next(into)
    }
}

impl<R: Read> LineText<R> {
    /// Reads lines from `reader`; `name` is what errors call it.
    pub fn new(name: &str, reader: R, clock: Arc<dyn Clock>) -> Self {
        LineText {
            name: name.into(),
            reader: BufReader::new(reader),
            clock,
            line: Vec::new(),
            overlong: false,
            ended: false,
            dropped_bytes: 0,
        }
    }

    /// Bytes of lines that were too long, since the start.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    /// Reads into `self.line` until the line is complete; what was read stays when an error interrupts.
    fn read_line(&mut self) -> std::io::Result<()> {
        loop {
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                self.ended = true;
                return Ok(());
            }
            let end = available.iter().position(|&b| b == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            let kept = part.len().min(MAX_LINE_BYTES - self.line.len());
            self.line.extend_from_slice(&part[..kept]);
            // a carriage return right after the longest line is no loss
            if part.len() > kept && part[kept..] != *b"\r" {
                self.overlong = true;
                self.dropped_bytes += (part.len() - kept) as u64;
            }
            let consumed = part.len() + usize::from(end.is_some());
            self.reader.consume(consumed);
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

impl<R: Read + Send> TextSource for LineText<R> {
    fn next(&mut self, into: &mut Utterance) -> Result<(), CaptureError> {
        loop {
            if self.ended {
                return Err(CaptureError::end(&*self.name));
            }
            self.read_line().map_err(|e| match e.kind() {
                IoErrorKind::Interrupted | IoErrorKind::WouldBlock | IoErrorKind::TimedOut => {
                    CaptureError::new(ErrorKind::Retry, &*self.name, "no complete line yet")
                }
                _ => CaptureError::fatal(&*self.name, format!("cannot be read: {e}")),
            })?;
            if std::mem::take(&mut self.overlong) {
                log::warn!(
                    "{}: a line has more than {MAX_LINE_BYTES} bytes; the rest of it is dropped, {} bytes so far",
                    self.name,
                    self.dropped_bytes
                );
                // the cut may have split a character, which is no invalid input
                let whole = self.line.len() - split_character(&self.line);
                self.line.truncate(whole);
            }
            into.text.clear();
            for chunk in self.line.trim_ascii().utf8_chunks() {
                into.text.push_str(chunk.valid());
                if !chunk.invalid().is_empty() {
                    into.text.push(char::REPLACEMENT_CHARACTER);
                }
            }
            self.line.clear();
            if !into.text.trim().is_empty() {
                into.t = self.clock.now();
                return Ok(());
            }
        }
    }
}

/// Bytes at the end of `line` that begin a character and do not complete it.
fn split_character(line: &[u8]) -> usize {
    match line.utf8_chunks().last() {
        // an incomplete sequence at the very end is at most three bytes and would be valid with more
        Some(chunk) if matches!(std::str::from_utf8(chunk.invalid()), Err(e) if e.error_len().is_none()) => {
            chunk.invalid().len()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::time::{Micros, VirtualClock};

    fn lines(input: impl Read + Send) -> (Vec<String>, LineText<impl Read + Send>) {
        let mut source = LineText::new("stdin", input, Arc::new(VirtualClock::starting_at(Micros(7))));
        let mut out = Vec::new();
        let mut utterance = Utterance::default();
        loop {
            match source.next(&mut utterance) {
                Ok(()) => {
                    assert_eq!(utterance.t, Micros(7));
                    out.push(utterance.text.clone());
                }
                Err(e) if e.kind == ErrorKind::Retry => {}
                Err(e) => {
                    assert_eq!(e.kind, ErrorKind::End, "{e}");
                    return (out, source);
                }
            }
        }
    }

    #[test]
    fn each_line_is_an_utterance() {
        let cases: &[(&str, &[u8], &[&str])] = &[
            ("nothing", b"", &[]),
            ("one", b"hello\n", &["hello"]),
            ("without its end", b"a\nb", &["a", "b"]),
            ("Windows", b"a\r\nb\r\n", &["a", "b"]),
            ("blank lines", b"\n\n  \n\xe3\x80\x80\na\n\n", &["a"]),
            ("Chinese", "我的卡丢了\n".as_bytes(), &["我的卡丢了"]),
            ("invalid UTF-8", b"a\xffb\xc3\n\xf0\x9f\n", &["a\u{fffd}b\u{fffd}", "\u{fffd}"]),
            ("zero bytes", b"a\0b\n", &["a\0b"]),
        ];
        for (name, input, expect) in cases {
            assert_eq!(lines(*input).0, *expect, "{name}");
        }
    }

    #[test]
    fn ten_megabytes_without_a_line_break_are_one_short_utterance_and_a_count() {
        let mut input = vec![b'x'; 10_000_000];
        input.extend(b"\nnext\n");
        let (got, source) = lines(&input[..]);
        assert_eq!((got[0].len(), got[1].as_str()), (MAX_LINE_BYTES, "next"));
        assert_eq!(source.dropped_bytes(), 10_000_000 - MAX_LINE_BYTES as u64);
        assert!(source.line.capacity() <= 2 * MAX_LINE_BYTES);
    }

    #[test]
    fn a_line_of_exactly_the_longest_length_loses_nothing() {
        let mut input = vec![b'x'; MAX_LINE_BYTES];
        input.extend(b"\r\n");
        let (got, source) = lines(&input[..]);
        assert_eq!((got[0].len(), source.dropped_bytes()), (MAX_LINE_BYTES, 0));
    }

    #[test]
    fn a_cut_does_not_leave_half_a_character() {
        let mut input = vec![b'x'; MAX_LINE_BYTES - 1];
        input.extend("é and more\n".as_bytes());
        let (got, _) = lines(&input[..]);
        assert_eq!(got[0], "x".repeat(MAX_LINE_BYTES - 1));
    }

    /// Yields its parts one by one, with an error that means "later" between them.
    struct Slow(Vec<&'static [u8]>, bool);

    impl Read for Slow {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(IoErrorKind::WouldBlock.into());
            }
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            into[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    #[test]
    fn an_interrupted_line_goes_on_where_it_stopped() {
        assert_eq!(lines(Slow(vec![b"he", b"llo\nwor", b"ld"], false)).0, ["hello", "world"]);
    }
}
