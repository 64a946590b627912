//! Writes a recording: chunks that are complete at least once a second, so that a power cut costs no more than that.
//!
//! A chunk is put together in memory and written at once; the index follows at the end. No compression: pictures and sound hardly shrink,
//! and the compressors are C libraries. It has no thread and no clock: who owns it says when to save.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use mcap::records::{MessageHeader, Metadata};
use mcap::write::NoSeek;
use mcap::{McapError, WriteOptions, Writer};

use super::schema::Schema;

/// Name of the metadata record that says what was recorded with what.
pub const ABOUT: &str = "attendant";

/// A chunk is ended when it has this many bytes, so that memory has a bound.
const CHUNK_BYTES_MAX: usize = 512 << 10;

/// A message ready to be written.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Topic and schema, which name the channel.
    pub topic: String,
    /// None in an empty buffer.
    pub schema: Option<Schema>,
    /// Capture time of samples, time of the call for the rest, in nanoseconds.
    pub log_time_ns: u64,
    /// Its encoding.
    pub body: Vec<u8>,
}

/// A recording that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; what was saved before is readable", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// A recording that is being written to a file.
pub struct RecordingWriter<W: Write = BufWriter<File>> {
    path: PathBuf,
    writer: Writer<NoSeek<W>>,
    /// Handle for telling the disk to keep what was written.
    file: Option<File>,
    channels: Vec<(String, Schema, u16, u32)>,
    /// Bytes since the last chunk ended.
    open_bytes: usize,
    written_bytes: u64,
    /// Whether the disk has been told of everything.
    is_saved: bool,
}

impl RecordingWriter {
    /// Creates `path`, which must not be there: a recording is never overwritten. `about` goes in front.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn create(path: &Path, about: &BTreeMap<String, String>) -> Result<Self, WriteError> {
        let failed = |source| WriteError { path: path.to_owned(), source };
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        let twin = file.try_clone().map_err(failed)?;
        let mut writer = RecordingWriter::to(path, BufWriter::with_capacity(64 << 10, file), about)?;
        writer.file = Some(twin);
        Ok(writer)
    }
}

impl<W: Write> RecordingWriter<W> {
    /// Writes to `out`, which errors call `path`.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn to(path: &Path, out: W, about: &BTreeMap<String, String>) -> Result<Self, WriteError> {
        let failed = |e| WriteError { path: path.to_owned(), source: io_error(e) };
        let options = WriteOptions::new()
            .compression(None)
            .chunk_size(None)
            .disable_seeking(true)
            .profile("attendant")
            .library(concat!("attendant ", env!("CARGO_PKG_VERSION")));
        let mut writer = options.create(NoSeek::new(out)).map_err(failed)?;
        writer.write_metadata(&Metadata { name: ABOUT.into(), metadata: about.clone() }).map_err(failed)?;
        writer.flush().map_err(failed)?;
        let path = path.to_owned();
        Ok(RecordingWriter {
            path,
            writer,
            file: None,
            channels: Vec::new(),
            open_bytes: 0,
            written_bytes: 0,
            is_saved: false,
        })
    }

    /// Appends a message to the open chunk.
    ///
    /// # Errors
    /// [`WriteError`]; the writer is of no more use then.
    pub fn write(&mut self, message: &Message) -> Result<(), WriteError> {
        let Some(schema) = message.schema else { return Ok(()) };
        let i = match self.channels.iter().position(|(topic, s, ..)| *topic == message.topic && *s == schema) {
            Some(i) => i,
            None => {
                let id = self.open_channel(&message.topic, schema).map_err(|e| self.failed(e))?;
                self.channels.push((message.topic.clone(), schema, id, 0));
                self.channels.len() - 1
            }
        };
        let (_, _, id, sequence) = &mut self.channels[i];
        let header = MessageHeader {
            channel_id: *id,
            sequence: *sequence,
            log_time: message.log_time_ns,
            publish_time: message.log_time_ns,
        };
        *sequence = sequence.wrapping_add(1);
        self.writer.write_to_known_channel(&header, &message.body).map_err(|e| self.failed(e))?;
        self.is_saved = false;
        self.open_bytes += message.body.len();
        self.written_bytes += message.body.len() as u64;
        if self.open_bytes >= CHUNK_BYTES_MAX { self.end_chunk() } else { Ok(()) }
    }

    fn open_channel(&mut self, topic: &str, schema: Schema) -> Result<u16, McapError> {
        let (described_by, description) = schema.described();
        let id = self.writer.add_schema(schema.name(), described_by, &description)?;
        self.writer.add_channel(id, topic, schema.encoding(), &BTreeMap::new())
    }

    fn failed(&self, error: McapError) -> WriteError {
        WriteError { path: self.path.clone(), source: io_error(error) }
    }

    fn end_chunk(&mut self) -> Result<(), WriteError> {
        self.open_bytes = 0;
        self.writer.flush().map_err(|e| self.failed(e))
    }

    /// Ends the chunk and has the disk keep it: from here on a power cut does not lose it.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn save(&mut self) -> Result<(), WriteError> {
        if self.is_saved {
            return Ok(());
        }
        if self.open_bytes > 0 {
            self.end_chunk()?;
        }
        self.is_saved = true;
        self.sync()
    }

    fn sync(&self) -> Result<(), WriteError> {
        let failed = |source| WriteError { path: self.path.clone(), source };
        self.file.as_ref().map_or(Ok(()), |file| file.sync_data().map_err(failed))
    }

    /// Bytes of the messages written.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Writes the index and the end marker.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.writer.finish().map_err(|e| self.failed(e))?;
        self.sync()
    }
}

fn io_error(error: McapError) -> io::Error {
    match error {
        McapError::Io(e) => e,
        other => io::Error::other(other.to_string()),
    }
}
