//! WAV files as a microphone, and whole clips for evaluation.
//!
//! Header and samples are read by our own code: a file whose header lies about its length (a recorder that lost power, a
//! stream that was never closed) still has sound in it, which the hound crate refuses to read. Layout: Microsoft,
//! "Multimedia Programming Interface and Data Specifications 1.0", and `WAVEFORMATEXTENSIBLE`.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use crate::capture::{CaptureError, Mic, open_file};
use crate::signal::{AudioBlock, SampleIdx};
use crate::time::Micros;

/// Longest clip that [`read_clip`] holds in memory, in samples: 20 minutes at 48 kHz.
pub const MAX_CLIP_SAMPLES: usize = 20 * 60 * 48_000;

const MAX_CHANNELS: u16 = 64;
const MAX_RATE_HZ: u32 = 768_000;
/// Programs that write to a pipe cannot know the length: they announce 0, or about 2 or 4 GiB.
const UNKNOWN_LENGTH: u32 = 0x7fff_0000;

/// A WAV file: 8 to 32 bit integers or 32 bit floats, any rate, channels averaged.
///
/// Delivers as fast as it is read; the supervisor paces by the blocks' times, which count from the start of the file.
pub struct WavMic<R = BufReader<File>> {
    name: String,
    reader: R,
    layout: Layout,
    rate_hz: u32,
    /// Bytes of sound that the header announces; None if it does not know.
    announced: Option<u64>,
    /// Bytes of sound read.
    consumed: u64,
    block_len: usize,
    next: SampleIdx,
    bytes: Vec<u8>,
}

/// How samples are stored.
#[derive(Clone, Copy)]
struct Layout {
    channels: usize,
    /// Of one sample. Fewer bits in use lie at its upper end, so that they need no care.
    bytes: usize,
    float: bool,
}

impl WavMic {
    /// Opens the file at `path`, to be delivered in blocks of `block_ms`.
    ///
    /// # Errors
    /// `Fatal` if it is missing or is no WAV file of a supported coding; the message has the command that converts it.
    pub fn open(path: &Path, block_ms: u32) -> Result<Self, CaptureError> {
        Self::from_reader(&path.display().to_string(), BufReader::new(open_file(path)?), block_ms)
    }
}

impl<R: Read> WavMic<R> {
    /// Reads a WAV file from `reader`; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`WavMic::open`].
    pub fn from_reader(name: &str, mut reader: R, block_ms: u32) -> Result<Self, CaptureError> {
        let fatal = |message: String| CaptureError::fatal(name, message);
        let convert = format!("convert it: `ffmpeg -i {name} -c:a pcm_s16le OUT.wav` or `sox {name} -b 16 OUT.wav`");
        let mut magic = [0; 12];
        let n = read_fully(&mut reader, &mut magic).map_err(|e| fatal(format!("cannot be read: {e}")))?;
        if let Some(format) = other_format(&magic[..n]) {
            return Err(fatal(format!("is {format}, expected WAV; {convert}")));
        }
        if n < 12 || !magic.starts_with(b"RIFF") || !magic.ends_with(b"WAVE") {
            return Err(fatal("is no WAV file: it does not begin with RIFF and WAVE".into()));
        }
        let (format, announced) = read_header(&mut reader).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => fatal("the WAV header is cut off before the first sample".into()),
            io::ErrorKind::InvalidData => fatal(format!("the WAV header is malformed: {e}")),
            _ => fatal(format!("cannot be read: {e}")),
        })?;
        let Format { tag, channels, rate_hz, align } = format;
        if !(1..=MAX_CHANNELS).contains(&channels) || !(1..=MAX_RATE_HZ).contains(&rate_hz) {
            return Err(fatal(format!(
                "has {channels} channels at {rate_hz} Hz, expected 1 to {MAX_CHANNELS} at 1 to {MAX_RATE_HZ} Hz"
            )));
        }
        let bytes = align / channels;
        let float = tag == FLOAT;
        if !(float && bytes == 4 || tag == PCM && (1..=4).contains(&bytes)) {
            return Err(fatal(format!(
                "is coded as {tag:#06x} with {bytes} bytes a sample, expected integers of 1 to 4 bytes or floats of 4; {convert}"
            )));
        }
        let layout = Layout { channels: usize::from(channels), bytes: usize::from(bytes), float };
        let block_len = (u64::from(rate_hz) * u64::from(block_ms.clamp(1, 10_000)) / 1000).max(1) as usize;
        Ok(WavMic {
            name: name.into(),
            reader,
            layout,
            rate_hz,
            announced: (1..UNKNOWN_LENGTH).contains(&announced).then_some(u64::from(announced)),
            consumed: 0,
            block_len,
            next: SampleIdx(0),
            bytes: Vec::new(),
        })
    }

    /// Samples per second of the file.
    #[must_use]
    pub fn sample_rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Reads at most `frames` frames and appends their means to `into`; 0 at the end.
    fn read_frames(&mut self, frames: usize, into: &mut Vec<f32>) -> Result<usize, CaptureError> {
        let frame_bytes = self.layout.channels * self.layout.bytes;
        let left = self.announced.map_or(u64::MAX, |n| n - self.consumed);
        let want = left.min((frames * frame_bytes) as u64);
        self.bytes.clear();
        (&mut self.reader)
            .take(want)
            .read_to_end(&mut self.bytes)
            .map_err(|e| CaptureError::fatal(&*self.name, format!("cannot be read: {e}")))?;
        self.consumed += self.bytes.len() as u64;
        self.layout.decode(&self.bytes, into);
        Ok(self.bytes.len() / frame_bytes)
    }

    /// What is said when there are no more samples.
    fn end(&self) -> CaptureError {
        let frame_bytes = (self.layout.channels * self.layout.bytes) as u64;
        match self.announced {
            Some(announced) if self.consumed < announced => CaptureError::fatal(
                &*self.name,
                format!("is truncated: the header announces {announced} bytes of sound, {} are there", self.consumed),
            ),
            _ if self.consumed < frame_bytes => CaptureError::fatal(&*self.name, "holds no sample"),
            _ if !self.consumed.is_multiple_of(frame_bytes) => CaptureError::fatal(
                &*self.name,
                format!("ends within a sample: {} bytes of sound, expected a multiple of {frame_bytes}", self.consumed),
            ),
            _ => CaptureError::end(&*self.name),
        }
    }
}

impl<R: Read + Send> Mic for WavMic<R> {
    fn read(&mut self, into: &mut AudioBlock) -> Result<(), CaptureError> {
        into.data.clear();
        let frames = self.read_frames(self.block_len, &mut into.data)?;
        if frames == 0 {
            return Err(self.end());
        }
        into.t = Micros(self.next.0 * 1_000_000 / u64::from(self.rate_hz));
        into.first = self.next;
        into.gap_samples = 0;
        into.sample_rate_hz = self.rate_hz;
        self.next.0 += frames as u64;
        Ok(())
    }
}

impl Layout {
    /// Appends the mean of each whole frame in `bytes`, in [-1, 1].
    fn decode(self, bytes: &[u8], into: &mut Vec<f32>) {
        let frames = bytes.chunks_exact(self.channels * self.bytes);
        let scale = 1.0 / self.channels as f32;
        into.extend(frames.map(|frame| frame.chunks_exact(self.bytes).map(|s| self.sample(s)).sum::<f32>() * scale));
    }

    fn sample(self, bytes: &[u8]) -> f32 {
        if let (true, &[a, b, c, d]) = (self.float, bytes) {
            let x = f32::from_le_bytes([a, b, c, d]);
            return if x.is_nan() { 0.0 } else { x.clamp(-1.0, 1.0) };
        }
        let mut word = [0; 4];
        word[4 - bytes.len()..].copy_from_slice(bytes);
        let word = u32::from_le_bytes(word);
        // single bytes are unsigned
        let signed = if self.bytes == 1 { word ^ 0x8000_0000 } else { word };
        signed.cast_signed() as f32 / 2_147_483_648.0
    }
}

/// The whole of a WAV file, channels averaged, and its sample rate.
///
/// # Errors
/// As [`WavMic::open`], and for a truncated file: a clip is evaluated whole or not at all.
pub fn read_clip(path: &Path) -> Result<(Vec<f32>, u32), CaptureError> {
    let mut wav = WavMic::open(path, 1)?;
    let mut clip = Vec::new();
    while wav.read_frames(4096, &mut clip)? > 0 {
        if clip.len() > MAX_CLIP_SAMPLES {
            return Err(CaptureError::fatal(&*wav.name, format!("has more than {MAX_CLIP_SAMPLES} samples; cut it")));
        }
    }
    match wav.end() {
        e if e.kind == crate::capture::ErrorKind::End => Ok((clip, wav.rate_hz)),
        e => Err(e),
    }
}

const PCM: u16 = 1;
const FLOAT: u16 = 3;
const EXTENSIBLE: u16 = 0xfffe;
/// What follows the tag in the sub-format of an extensible header, if the tag is an ordinary one.
const SUBFORMAT_TAIL: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

/// What the `fmt ` chunk says.
struct Format {
    tag: u16,
    channels: u16,
    rate_hz: u32,
    /// Bytes of one sample of every channel.
    align: u16,
}

/// Reads chunks up to the data; also the length that the data's header announces.
fn read_header(reader: &mut impl Read) -> io::Result<(Format, u32)> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut format = None;
    loop {
        let mut chunk = [0; 8];
        reader.read_exact(&mut chunk)?;
        let [id @ .., l0, l1, l2, l3] = chunk;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        match &id {
            b"data" => return Ok((format.ok_or_else(|| invalid("no format before the data"))?, len)),
            b"fmt " => {
                let mut fmt = [0; 40];
                let fmt = &mut fmt[..(len as usize).min(40)];
                reader.read_exact(fmt)?;
                format = Some(parse_format(fmt).ok_or_else(|| invalid("the format chunk is too short"))?);
                skip(reader, u64::from(len) - fmt.len() as u64 + u64::from(len % 2))?;
            }
            // chunks are padded to even lengths
            _ => skip(reader, u64::from(len) + u64::from(len % 2))?,
        }
    }
}

fn parse_format(fmt: &[u8]) -> Option<Format> {
    let u16_at = |at: usize| fmt.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let mut tag = u16_at(0)?;
    if tag == EXTENSIBLE && fmt.get(26..40)? == SUBFORMAT_TAIL {
        tag = u16_at(24)?;
    }
    let rate_hz = u32::from(u16_at(4)?) | u32::from(u16_at(6)?) << 16;
    u16_at(14)?; // bits in use
    Some(Format { tag, channels: u16_at(2)?, rate_hz, align: u16_at(12)? })
}

fn skip(reader: &mut impl Read, len: u64) -> io::Result<()> {
    let skipped = io::copy(&mut reader.take(len), &mut io::sink())?;
    if skipped < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// What people pass instead of a WAV file.
fn other_format(magic: &[u8]) -> Option<&'static str> {
    match magic {
        [b'O', b'g', b'g', b'S', ..] => Some("Ogg"),
        [b'f', b'L', b'a', b'C', ..] => Some("FLAC"),
        [b'I', b'D', b'3', ..] | [0xff, 0xe2..=0xff, ..] => Some("MP3"),
        [b'F', b'O', b'R', b'M', ..] => Some("AIFF"),
        [b'R', b'F', b'6', b'4', ..] => Some("RF64"),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some("MP4"),
        _ => None,
    }
}

fn read_fully(reader: &mut impl Read, into: &mut [u8; 12]) -> io::Result<usize> {
    let mut n = 0;
    while n < into.len() {
        match reader.read(&mut into[n..])? {
            0 => break,
            read => n += read,
        }
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use hound::SampleFormat::{Float, Int};

    use super::*;
    use crate::capture::ErrorKind;

    /// A WAV file with a plain header. `tag` 1 is integer, 3 float.
    fn wav(tag: u16, channels: u16, rate: u32, bits: u16, announced: u32, data: &[u8]) -> Vec<u8> {
        let align = channels * bits.div_ceil(8);
        let mut out = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
        out.extend(tag.to_le_bytes());
        out.extend(channels.to_le_bytes());
        out.extend(rate.to_le_bytes());
        out.extend((rate * u32::from(align)).to_le_bytes());
        out.extend(align.to_le_bytes());
        out.extend(bits.to_le_bytes());
        out.extend(b"data");
        out.extend(announced.to_le_bytes());
        out.extend(data);
        out
    }

    /// Every sample, and how the file ended.
    fn play(bytes: &[u8], block_ms: u32) -> (Vec<f32>, CaptureError) {
        let mut all = Vec::new();
        let mut mic = match WavMic::from_reader("a.wav", bytes, block_ms) {
            Ok(mic) => mic,
            Err(e) => return (all, e),
        };
        let mut block = AudioBlock::default();
        loop {
            match mic.read(&mut block) {
                Ok(()) => {
                    assert_eq!(block.first.0, all.len() as u64);
                    all.extend(&block.data);
                }
                Err(e) => return (all, e),
            }
        }
    }

    #[test]
    fn every_coding_gives_the_same_samples() {
        let codings: &[(&str, Vec<u8>)] = &[
            ("8 bit", wav(1, 1, 8000, 8, 4, &[0x80, 0xc0, 0x00, 0x40])),
            ("16 bit", wav(1, 1, 8000, 16, 8, &[0, 0, 0, 0x40, 0, 0x80, 0, 0xc0])),
            ("24 bit", wav(1, 1, 8000, 24, 12, &[0, 0, 0, 0, 0, 0x40, 0, 0, 0x80, 0, 0, 0xc0])),
            ("32 bit", wav(1, 1, 8000, 32, 16, &[0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0x80, 0, 0, 0, 0xc0])),
            ("float", wav(3, 1, 8000, 32, 16, &[0f32, 0.5, -1.0, -0.5].map(f32::to_le_bytes).concat())),
            ("stereo", wav(1, 2, 8000, 8, 8, &[0x80, 0x80, 0xff, 0x81, 0x00, 0x00, 0x00, 0x80])),
        ];
        for (name, bytes) in codings {
            let (samples, end) = play(bytes, 20);
            assert_eq!(samples, [0.0, 0.5, -1.0, -0.5], "{name}");
            assert_eq!(end.kind, ErrorKind::End, "{name}: {end}");
        }
    }

    /// The hound crate writes extensible headers from 24 bits on.
    #[test]
    fn what_another_implementation_writes_is_read() {
        for (bits, sample_format) in [(8, Int), (16, Int), (24, Int), (32, Int), (32, Float)] {
            let mut file = std::io::Cursor::new(Vec::new());
            let spec = hound::WavSpec { channels: 2, sample_rate: 8000, bits_per_sample: bits, sample_format };
            let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
            for sample in [0.5f32, 0.5, -1.0, 0.0] {
                match sample_format {
                    Int => writer.write_sample((sample * (1u32 << (bits - 1)) as f32) as i32).unwrap(),
                    Float => writer.write_sample(sample).unwrap(),
                }
            }
            writer.finalize().unwrap();
            let (samples, end) = play(file.get_ref(), 20);
            assert_eq!((samples.as_slice(), end.kind), (&[0.5, -0.5][..], ErrorKind::End), "{bits} {sample_format:?}");
        }
    }

    #[test]
    fn floats_out_of_range_are_clamped_and_nan_is_silence() {
        let data = [2.0f32, -7.0, f32::NAN, f32::INFINITY].map(f32::to_le_bytes).concat();
        assert_eq!(play(&wav(3, 1, 8000, 32, 16, &data), 20).0, [1.0, -1.0, 0.0, 1.0]);
    }

    #[test]
    fn blocks_carry_times_that_do_not_drift() {
        let bytes = wav(1, 1, 44_100, 8, 2205, &[0x80; 2205]);
        let mut mic = WavMic::from_reader("a.wav", &bytes[..], 10).unwrap();
        let mut block = AudioBlock::default();
        let mut got = Vec::new();
        while mic.read(&mut block).is_ok() {
            got.push((block.t.0, block.first.0, block.data.len()));
        }
        assert_eq!(
            got,
            [(0, 0, 441), (10_000, 441, 441), (20_000, 882, 441), (30_000, 1323, 441), (40_000, 1764, 441)]
        );
    }

    #[test]
    fn a_header_that_lies_costs_nothing_that_is_there() {
        let data = [0x90; 10];
        let cases = [
            (1000, 10, ErrorKind::Fatal, "announces 1000 bytes of sound, 10 are there"),
            (0, 10, ErrorKind::End, "end of the file"),
            (u32::MAX, 10, ErrorKind::End, "end of the file"),
            (0x7fff_f000, 10, ErrorKind::End, "end of the file"),
            (4, 4, ErrorKind::End, "end of the file"),
        ];
        for (announced, expect, kind, message) in cases {
            let (samples, end) = play(&wav(1, 1, 8000, 8, announced, &data), 1);
            assert_eq!((samples.len(), end.kind), (expect, kind), "announced {announced}: {end}");
            assert!(end.to_string().contains(message), "announced {announced}: {end}");
        }
    }

    #[test]
    fn errors_say_what_it_is_and_how_to_convert_it() {
        let good = wav(1, 1, 8000, 16, 2, &[0, 0]);
        let cases: &[(&str, Vec<u8>, &str)] = &[
            ("Ogg", b"OggS\0\x02\0\0\0\0\0\0\0".to_vec(), "a.wav: is Ogg, expected WAV; convert it: `ffmpeg -i a.wav"),
            ("MP3", b"ID3\x04\0\0\0\0\0\0\0\0\0".to_vec(), "is MP3, expected WAV"),
            ("text", b"hello, this is no sound".to_vec(), "is no WAV file"),
            ("nothing", vec![], "is no WAV file"),
            ("cut header", good[..30].to_vec(), "the WAV header is cut off before the first sample"),
            (
                "a-law",
                wav(6, 1, 8000, 8, 2, &[0, 0]),
                "is coded as 0x0006 with 1 bytes a sample, expected integers of 1 to 4 bytes or floats of 4; convert it",
            ),
            ("64 bit float", wav(3, 1, 8000, 64, 8, &[0; 8]), "is coded as 0x0003 with 8 bytes a sample"),
            ("no rate", wav(1, 1, 0, 16, 2, &[0, 0]), "1 channels at 0 Hz, expected 1 to 64 at 1 to 768000 Hz"),
            ("100 channels", wav(1, 100, 8000, 16, 200, &[0; 200]), "has 100 channels"),
            ("no samples", wav(1, 1, 8000, 16, 0, &[]), "holds no sample"),
            ("half a sample", wav(1, 1, 8000, 16, 3, &[0; 3]), "ends within a sample: 3 bytes of sound"),
        ];
        for (name, bytes, expect) in cases {
            let (_, end) = play(bytes, 20);
            assert!(end.kind == ErrorKind::Fatal && end.to_string().contains(expect), "{name}: {end}");
        }
    }

    #[test]
    fn a_clip_is_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.wav");
        std::fs::write(&path, wav(1, 1, 8000, 8, 10_000, &[0xc0; 10_000])).unwrap();
        assert_eq!(read_clip(&path).unwrap(), (vec![0.5; 10_000], 8000));
        std::fs::write(&path, wav(1, 1, 8000, 8, 10_000, &[0xc0; 9_999])).unwrap();
        let message = read_clip(&path).unwrap_err().to_string();
        assert!(message.contains("clip.wav: is truncated") && message.contains("9999 are there"), "{message}");
        assert!(read_clip(dir.path()).unwrap_err().to_string().contains("is a directory"));
        assert!(read_clip(&dir.path().join("none.wav")).unwrap_err().to_string().contains("cannot be opened"));
    }

    #[test]
    fn damage_ends_in_an_error_or_in_samples_but_never_in_a_panic() {
        let good = wav(1, 2, 8000, 24, 60, &[0x55; 60]);
        for cut in 0..good.len() {
            let (samples, end) = play(&good[..cut], 20);
            assert_eq!(end.kind, ErrorKind::Fatal, "cut at {cut}");
            assert_eq!(samples.len(), cut.saturating_sub(44) / 6, "cut at {cut}");
        }
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                assert!(play(&bytes, 20).0.len() <= 60, "byte {at} ^ {flip:#x}");
            }
        }
    }
}
