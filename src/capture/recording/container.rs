//! The MCAP container: records, chunks, channels. Yields messages and knows nothing of what is in them.
//!
//! Written against the MCAP specification (mcap.dev/spec) instead of the crate's reader, for three reasons: messages of a chunk
//! that a power cut has left unfinished are still delivered; a record is read into one reused buffer; and lengths in a
//! damaged file are checked before they are believed (the crate's reader overflows on a record that outgrows its chunk).

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use mcap::MAGIC;
use mcap::records::op;

use super::MAX_RECORD_BYTES;
use super::schema::Schema;

/// More channels or schemas than any device has.
const MAX_CHANNELS: usize = 256;

/// Opcode and length in front of each record.
const RECORD_HEADER_BYTES: u64 = 1 + 8;

/// Channel, sequence, log time and publish time in front of a message's body.
const MESSAGE_HEADER_BYTES: usize = 2 + 4 + 8 + 8;

/// One stream of messages.
pub(super) struct Channel {
    id: u16,
    pub topic: String,
    /// Name of the source in samples: the topic without its slash, for sensors without `/sensor/`.
    pub source: Arc<str>,
    /// None if it is someone else's.
    pub schema: Option<Schema>,
}

/// A message whose body is [`Container::body`].
#[derive(Clone, Copy)]
pub(super) struct Message {
    /// For [`Container::channel`].
    pub channel: usize,
    pub log_time_ns: u64,
}

pub(super) struct Container<R> {
    reader: R,
    /// Bytes read from the start of the file.
    position: u64,
    /// The record at hand, without opcode and length.
    record: Vec<u8>,
    sequence: u32,
    chunk: Option<Chunk>,
    schemas: Vec<SchemaRecord>,
    channels: Vec<Channel>,
    end: Option<Result<(), String>>,
    is_cut: bool,
    about: BTreeMap<String, String>,
}

struct SchemaRecord {
    id: u16,
    name: String,
}

/// The chunk that the records come from.
struct Chunk {
    start: u64,
    /// Bytes of records not yet read.
    left: u64,
    /// Saved checksum, and what the records amount to so far; None if the writer saved none.
    crc: Option<(u32, crc32fast::Hasher)>,
}

impl<R: Read> Container<R> {
    pub fn open(mut reader: R) -> Result<Self, String> {
        let mut magic = [0; 8];
        match reader.read_exact(&mut magic) {
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(format!("cannot be read: {e}")),
            Ok(()) if magic == MAGIC => {}
            _ => return Err("is no recording: it does not begin like an MCAP file; see docs/recordings.md".into()),
        }
        Ok(Container {
            reader,
            position: MAGIC.len() as u64,
            record: Vec::new(),
            sequence: 0,
            chunk: None,
            schemas: Vec::new(),
            channels: Vec::new(),
            end: None,
            is_cut: false,
            about: BTreeMap::new(),
        })
    }

    pub fn channel(&self, index: usize) -> &Channel {
        &self.channels[index]
    }

    /// Whether the end that was reached is that of a file whose writer was cut off.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// What the recorder said of itself, once the first message has been read.
    pub fn about(&self) -> &BTreeMap<String, String> {
        &self.about
    }

    /// Body of the message that [`Container::next_message`] returned last.
    pub fn body(&self) -> &[u8] {
        self.record.get(MESSAGE_HEADER_BYTES..).unwrap_or(&[])
    }

    /// Sequence number of that message in its channel.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// None after the last message. The end, good or bad, is final.
    pub fn next_message(&mut self) -> Result<Option<Message>, String> {
        if self.end.is_none() {
            match self.read_message() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => self.end = Some(Ok(())),
                Err(e) => self.end = Some(Err(e)),
            }
        }
        self.end.clone().expect("set above").map(|()| None)
    }

    fn read_message(&mut self) -> Result<Option<Message>, String> {
        loop {
            self.leave_chunk_when_done()?;
            let (opcode, len) = self.record_header()?;
            match opcode {
                op::MESSAGE => {
                    self.read_record(opcode, len)?;
                    return self.message().map(Some);
                }
                op::SCHEMA => {
                    self.read_record(opcode, len)?;
                    self.schema()?;
                }
                op::CHANNEL => {
                    self.read_record(opcode, len)?;
                    self.open_channel()?;
                }
                op::METADATA if self.chunk.is_none() && self.about.is_empty() => {
                    self.read_record(opcode, len)?;
                    self.metadata()?;
                }
                op::CHUNK if self.chunk.is_none() => self.enter_chunk(len)?,
                // what follows is an index over what was read
                op::DATA_END | op::FOOTER if self.chunk.is_none() => return Ok(None),
                _ => self.skip(len)?,
            }
        }
    }

    fn record_header(&mut self) -> Result<(u8, u64), String> {
        let mut header = [0; RECORD_HEADER_BYTES as usize];
        self.account(RECORD_HEADER_BYTES)?;
        self.read_exact(&mut header)?;
        self.checksum(&header);
        let [opcode, len @ ..] = header;
        Ok((opcode, u64::from_le_bytes(len)))
    }

    fn read_record(&mut self, opcode: u8, len: u64) -> Result<(), String> {
        if len > MAX_RECORD_BYTES {
            return Err(format!(
                "record {opcode:#04x} at byte {} has {len} bytes, expected at most {MAX_RECORD_BYTES}: the file is damaged",
                self.position - RECORD_HEADER_BYTES
            ));
        }
        self.account(len)?;
        self.record.clear();
        // grows with what is really there, not with what the length promises
        let read = (&mut self.reader).take(len).read_to_end(&mut self.record).map_err(|e| self.unreadable(&e))?;
        self.position += read as u64;
        if (read as u64) < len {
            return Err(self.cut_off());
        }
        if let Some(Chunk { crc: Some((_, hasher)), .. }) = &mut self.chunk {
            hasher.update(&self.record);
        }
        Ok(())
    }

    /// Passes over what is of no interest, in pieces, so that the checksum covers it.
    fn skip(&mut self, mut len: u64) -> Result<(), String> {
        self.account(len)?;
        let mut piece = [0; 4096];
        while len > 0 {
            let n = len.min(piece.len() as u64);
            self.read_exact(&mut piece[..n as usize])?;
            self.checksum(&piece[..n as usize]);
            len -= n;
        }
        Ok(())
    }

    fn read_exact(&mut self, into: &mut [u8]) -> Result<(), String> {
        if let Err(e) = self.reader.read_exact(into) {
            return Err(if e.kind() == io::ErrorKind::UnexpectedEof { self.cut_off() } else { self.unreadable(&e) });
        }
        self.position += into.len() as u64;
        Ok(())
    }

    fn checksum(&mut self, bytes: &[u8]) {
        if let Some(Chunk { crc: Some((_, hasher)), .. }) = &mut self.chunk {
            hasher.update(bytes);
        }
    }

    /// Takes `len` bytes from what the current chunk has left.
    fn account(&mut self, len: u64) -> Result<(), String> {
        let Some(chunk) = &mut self.chunk else { return Ok(()) };
        chunk.left = chunk.left.checked_sub(len).ok_or_else(|| {
            format!("chunk at byte {}: a record of {len} bytes outgrows it: the file is damaged", chunk.start)
        })?;
        Ok(())
    }

    fn enter_chunk(&mut self, len: u64) -> Result<(), String> {
        let start = self.position - RECORD_HEADER_BYTES;
        let damaged = |what: String| format!("chunk at byte {start}: {what}: the file is damaged");
        // start and end time, uncompressed size, checksum, length of the compression's name
        let mut fixed = [0; 8 + 8 + 8 + 4 + 4];
        self.read_exact(&mut fixed)?;
        let saved_crc = u32::from_le_bytes([fixed[24], fixed[25], fixed[26], fixed[27]]);
        let name_len = u32::from_le_bytes([fixed[28], fixed[29], fixed[30], fixed[31]]);
        if name_len > 32 {
            return Err(damaged(format!("the name of its compression has {name_len} bytes, expected at most 32")));
        }
        let mut name = [0; 32];
        let name = &mut name[..name_len as usize];
        self.read_exact(name)?;
        if !name.is_empty() {
            return Err(format!(
                "chunk at byte {start} is compressed with {}, expected no compression; record it again without, or run \
                 `mcap compress --compression none IN -o OUT`",
                String::from_utf8_lossy(name)
            ));
        }
        let mut size = [0; 8];
        self.read_exact(&mut size)?;
        let left = u64::from_le_bytes(size);
        let expected = len.checked_sub((fixed.len() + name.len() + size.len()) as u64);
        if expected != Some(left) {
            return Err(damaged(format!("its records have {left} bytes, the chunk {len}")));
        }
        let crc = (saved_crc != 0).then(|| (saved_crc, crc32fast::Hasher::new()));
        self.chunk = Some(Chunk { start, left, crc });
        Ok(())
    }

    fn leave_chunk_when_done(&mut self) -> Result<(), String> {
        match self.chunk.take_if(|chunk| chunk.left == 0) {
            Some(Chunk { start, crc: Some((saved, hasher)), .. }) => {
                let found = hasher.finalize();
                if found != saved {
                    return Err(format!(
                        "chunk at byte {start} has checksum {found:08x}, expected {saved:08x}: the file is damaged"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn message(&mut self) -> Result<Message, String> {
        let mut fields = Fields { bytes: &self.record };
        let damaged = || format!("message before byte {} is too short: the file is damaged", self.position);
        let id = fields.u16().ok_or_else(damaged)?;
        self.sequence = fields.u32().ok_or_else(damaged)?;
        let log_time_ns = fields.u64().ok_or_else(damaged)?;
        fields.u64().ok_or_else(damaged)?; // the publish time: devices stamp at capture, which is the log time
        let channel = self.channels.iter().position(|c| c.id == id).ok_or_else(|| {
            format!("message before byte {} is of unknown channel {id}: the file is damaged", self.position)
        })?;
        Ok(Message { channel, log_time_ns })
    }

    fn schema(&mut self) -> Result<(), String> {
        let mut fields = Fields { bytes: &self.record };
        let (Some(id), Some(name)) = (fields.u16(), fields.string()) else {
            return Err(format!("schema before byte {} is malformed: the file is damaged", self.position));
        };
        if self.schemas.iter().any(|s| s.id == id) {
            return Ok(()); // writers repeat them
        }
        if self.schemas.len() == MAX_CHANNELS {
            return Err(format!("has more than {MAX_CHANNELS} schemas"));
        }
        self.schemas.push(SchemaRecord { id, name: name.into() });
        Ok(())
    }

    fn open_channel(&mut self) -> Result<(), String> {
        let mut fields = Fields { bytes: &self.record };
        let (Some(id), Some(schema), Some(topic), Some(encoding)) =
            (fields.u16(), fields.u16(), fields.string(), fields.string())
        else {
            return Err(format!("channel before byte {} is malformed: the file is damaged", self.position));
        };
        if self.channels.iter().any(|c| c.id == id) {
            return Ok(());
        }
        if self.channels.len() == MAX_CHANNELS {
            return Err(format!("has more than {MAX_CHANNELS} channels"));
        }
        let schema = self.schemas.iter().find(|s| s.id == schema).map_or("", |s| s.name.as_str());
        let known = Schema::of(schema);
        if let Some(expected) = known.map(Schema::encoding).filter(|expected| *expected != encoding) {
            return Err(format!("channel {topic} ({schema}) is encoded as {encoding:?}, expected {expected:?}"));
        }
        let source = topic.strip_prefix("/sensor/").or(topic.strip_prefix('/')).unwrap_or(topic).into();
        self.channels.push(Channel { id, topic: topic.into(), source, schema: known });
        Ok(())
    }

    fn metadata(&mut self) -> Result<(), String> {
        let damaged = || format!("metadata before byte {} is malformed: the file is damaged", self.position);
        let mut fields = Fields { bytes: &self.record };
        let name = fields.string().ok_or_else(damaged)?;
        if name != super::writer::ABOUT {
            return Ok(());
        }
        fields.u32().ok_or_else(damaged)?; // bytes of the map, which is the rest
        while !fields.bytes.is_empty() {
            let (key, value) = (fields.string().ok_or_else(damaged)?, fields.string().ok_or_else(damaged)?);
            self.about.insert(key.into(), value.into());
        }
        Ok(())
    }

    fn cut_off(&mut self) -> String {
        self.is_cut = true;
        format!(
            "ends in the middle of a record after byte {}, expected the end marker of a finished recording",
            self.position
        )
    }

    fn unreadable(&self, e: &io::Error) -> String {
        format!("cannot be read after byte {}: {e}", self.position)
    }
}

/// Little-endian fields in front of a record.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(n)?;
        self.bytes = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Option<&'a str> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?).and_then(|b| std::str::from_utf8(b).ok())
    }
}
