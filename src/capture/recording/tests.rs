//! A written recording reads back, and every way one can be damaged.

use std::collections::BTreeMap;
use std::io::Cursor;

use mcap::records::MessageHeader;

use super::*;
use crate::capture::ErrorKind;
use crate::signal::PixelFormat;

/// Writes recordings with the mcap crate: an implementation that is not ours.
struct Author {
    writer: mcap::Writer<Cursor<Vec<u8>>>,
    channels: BTreeMap<&'static str, u16>,
    sequence: u32,
}

impl Author {
    fn new(options: mcap::WriteOptions) -> Self {
        let writer = options.compression(None).create(Cursor::new(Vec::new())).unwrap();
        Author { writer, channels: BTreeMap::new(), sequence: 0 }
    }

    fn channel(&mut self, topic: &'static str, schema: &str, encoding: &str) -> &mut Self {
        let schema = self.writer.add_schema(schema, encoding, b"{}").unwrap();
        let id = self.writer.add_channel(schema, topic, encoding, &BTreeMap::new()).unwrap();
        self.channels.insert(topic, id);
        self
    }

    fn message(&mut self, topic: &'static str, t_us: u64, body: &[u8]) -> &mut Self {
        // recordings of devices begin at any time
        let log_time = (1_700_000_000_000_000 + t_us) * 1000;
        self.sequence += 1;
        let header = MessageHeader {
            channel_id: self.channels[topic],
            sequence: self.sequence,
            log_time,
            publish_time: log_time,
        };
        self.writer.write_to_known_channel(&header, body).unwrap();
        self
    }

    fn finish(mut self) -> Vec<u8> {
        self.writer.finish().unwrap();
        self.writer.into_inner().into_inner()
    }
}

fn all_channels(options: mcap::WriteOptions) -> Author {
    let mut author = Author::new(options);
    author
        .channel("/truth", "attendant.Truth", "json")
        .channel("/camera", "foxglove.CompressedImage", "protobuf")
        .channel("/thermal", "foxglove.RawImage", "protobuf")
        .channel("/mic", "foxglove.RawAudio", "protobuf")
        .channel("/text", "attendant.Text", "json")
        .channel("/sensor/distance", "attendant.Reading", "json")
        .channel("/fault", "attendant.Fault", "json")
        .channel("/tf", "foxglove.FrameTransform", "protobuf");
    author
}

/// A field of bytes, shorter than 16 kB.
fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len();
    [&[number << 3 | 2, 0x80 | (len & 0x7f) as u8, (len >> 7) as u8], bytes].concat()
}

fn fixed32_field(number: u8, value: u32) -> Vec<u8> {
    [&[number << 3 | 5], &value.to_le_bytes()[..]].concat()
}

/// With the fields that are passed over: a timestamp, a frame id, and a number that a later version may add.
fn jpeg(data: &[u8], format: &str) -> Vec<u8> {
    let others = [&bytes_field(1, b"\x08\x01")[..], &bytes_field(4, b"camera"), b"\x78\x96\x01"].concat();
    [others, bytes_field(2, data), bytes_field(3, format.as_bytes())].concat()
}

fn raw(width: u32, height: u32, encoding: &str, step: u32, data: &[u8]) -> Vec<u8> {
    let size = [fixed32_field(2, width), fixed32_field(3, height), fixed32_field(5, step)].concat();
    [size, bytes_field(4, encoding.as_bytes()), bytes_field(6, data)].concat()
}

fn pcm(samples: &[i16], rate: u32, channels: u32) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    let format = bytes_field(3, b"pcm-s16");
    [bytes_field(2, &data), format, fixed32_field(4, rate), fixed32_field(5, channels)].concat()
}

fn one_of_each(options: mcap::WriteOptions) -> Vec<u8> {
    let mut author = all_channels(options);
    author
        .message("/truth", 0, br#"{"label":"desk_3","shown":["card","speech"],"note":"clean"}"#)
        .message("/camera", 5_000, &jpeg(&[0xff, 0xd8, 1, 2], "jpeg"))
        .message("/tf", 6_000, b"\x01\x02")
        .message("/mic", 10_000, &pcm(&[0, 16384, -32768], 8000, 1))
        .message("/text", 20_000, "{\"text\":\"caf\u{e9} \\\"now\\\"\"}".as_bytes())
        .message("/sensor/distance", 30_000, br#"{"unit":"m","values":[1.5,null,-2]}"#)
        .message("/fault", 40_000, br#"{"source":"camera","reason":"covered"}"#)
        .message("/thermal", 50_000, &raw(2, 2, "mono8", 0, &[1, 2, 3, 4]));
    author.finish()
}

/// Every sample, and how the recording ended.
fn play(bytes: &[u8]) -> (Vec<(String, Sample)>, Result<(), CaptureError>) {
    let mut samples = Vec::new();
    let mut into = Sample::Text(Utterance::default());
    let mut recording = match Recording::from_reader("test.mcap", bytes) {
        Ok(r) => r,
        Err(e) => return (samples, Err(e)),
    };
    loop {
        match recording.next(&mut into) {
            Ok(Some(source)) => samples.push((source.to_string(), into.clone())),
            Ok(None) => return (samples, Ok(())),
            Err(e) => return (samples, Err(e)),
        }
    }
}

fn expected() -> Vec<(String, Sample)> {
    let ms = Micros::from_ms;
    let frame = |t, seq, width, height, stride, format, data: &[u8]| {
        Sample::Frame(Frame { t, seq: crate::signal::FrameSeq(seq), width, height, stride, format, data: data.into() })
    };
    vec![
        ("camera".into(), frame(ms(5), 2, 0, 0, 0, PixelFormat::Jpeg, &[0xff, 0xd8, 1, 2])),
        (
            "mic".into(),
            Sample::Audio(AudioBlock {
                t: ms(10),
                sample_rate_hz: 8000,
                data: vec![0.0, 0.5, -1.0],
                ..AudioBlock::default()
            }),
        ),
        ("text".into(), Sample::Text(Utterance { t: ms(20), text: "café \"now\"".into() })),
        // NaN never equals NaN: compared by value below
        ("distance".into(), Sample::Reading(Reading { t: ms(30), values: vec![1.5, f32::NAN, -2.0] })),
        ("camera".into(), Sample::Fault { t: ms(40), reason: "covered".into() }),
        ("thermal".into(), frame(ms(50), 8, 2, 2, 2, PixelFormat::Gray, &[1, 2, 3, 4])),
    ]
}

#[test]
fn every_kind_of_sample_comes_back_whatever_the_layout_of_the_file() {
    let layouts = [
        ("chunks", mcap::WriteOptions::new()),
        ("tiny chunks", mcap::WriteOptions::new().chunk_size(Some(1))),
        ("no chunks", mcap::WriteOptions::new().use_chunks(false)),
        ("no checksums", mcap::WriteOptions::new().calculate_chunk_crcs(false)),
    ];
    for (layout, options) in layouts {
        let (samples, end) = play(&one_of_each(options));
        assert!(end.is_ok(), "{layout}: {end:?}");
        assert_eq!(format!("{samples:?}"), format!("{:?}", expected()), "{layout}");
    }
}

#[test]
fn a_survey_knows_what_is_shown_when() {
    let bytes = one_of_each(mcap::WriteOptions::new());
    let survey = Survey::of_recording(Recording::from_reader("test.mcap", &bytes[..]).unwrap()).unwrap();
    let source = |name: &str| (Arc::from(name), 1);
    assert_eq!(
        survey,
        Survey {
            start: Micros(1_700_000_000_000_000),
            duration: Micros::from_ms(50),
            sources: vec![source("camera"), source("mic"), source("text"), source("distance"), source("thermal")],
            truths: vec![Truth {
                t: Micros::ZERO,
                label: "desk_3".into(),
                shown: vec!["card".into(), "speech".into()],
                note: "clean".into(),
            }],
            ..Survey::default()
        }
    );
}

#[test]
fn missing_audio_is_a_gap_and_jitter_is_none() {
    let mut author = all_channels(mcap::WriteOptions::new());
    let block = pcm(&[0; 80], 8000, 1); // 10 ms
    for t_ms in [0, 10, 25, 60, 70] {
        author.message("/mic", t_ms * 1000, &block);
    }
    let (samples, end) = play(&author.finish());
    end.unwrap();
    let got: Vec<_> = samples
        .iter()
        .map(|(_, s)| if let Sample::Audio(a) = s { (a.first.0, a.gap_samples) } else { panic!("{s:?}") })
        .collect();
    // 5 ms late is jitter; 25 ms late is 200 samples
    assert_eq!(got, [(0, 0), (80, 0), (160, 0), (440, 200), (520, 0)]);
}

#[test]
fn channels_of_audio_are_averaged() {
    let mut author = all_channels(mcap::WriteOptions::new());
    author.message("/mic", 0, &pcm(&[32767, 32767, 16384, 0, -32768, 16384], 44_100, 2));
    let (samples, _) = play(&author.finish());
    let Sample::Audio(block) = &samples[0].1 else { panic!("{samples:?}") };
    assert_eq!(block.data, [32767.0 / 32768.0, 0.25, -0.25]);
}

#[test]
fn buffers_are_kept_when_the_kinds_alternate() {
    let mut author = all_channels(mcap::WriteOptions::new());
    for t in 0..8 {
        author.message("/camera", t * 2, &jpeg(&[7; 1000], "jpeg")).message(
            "/mic",
            t * 2 + 1,
            &pcm(&[1; 500], 8000, 1),
        );
    }
    let bytes = author.finish();
    let mut recording = Recording::from_reader("test.mcap", &bytes[..]).unwrap();
    let mut into = Sample::Text(Utterance::default());
    let mut frames = std::collections::BTreeSet::new();
    let mut blocks = std::collections::BTreeSet::new();
    while recording.next(&mut into).unwrap().is_some() {
        match &into {
            Sample::Frame(f) => frames.insert(f.data.as_ptr()),
            Sample::Audio(a) => blocks.insert(a.data.as_ptr()),
            _ => panic!("{into:?}"),
        };
    }
    assert!(frames.len() == 1 && blocks.len() == 1, "{} and {} buffers", frames.len(), blocks.len());
}

#[test]
fn a_cut_recording_delivers_everything_before_the_cut() {
    let whole = one_of_each(mcap::WriteOptions::new());
    let (all, _) = play(&whole);
    // the last record of the data section; what follows is an index
    let data_end = whole.windows(13).rposition(|w| w[0] == 0x0f && w[1..9] == 4u64.to_le_bytes()).unwrap();
    let mut delivered = 0;
    for cut in 0..data_end + 9 {
        let (samples, end) = play(&whole[..cut]);
        let error = end.expect_err("a cut recording ended like a whole one");
        assert_eq!(error.kind, ErrorKind::Fatal);
        assert!(samples.len() >= delivered, "cut at {cut}: fewer samples than at {}", cut - 1);
        delivered = samples.len();
        assert_eq!(format!("{samples:?}"), format!("{:?}", &all[..delivered]), "cut at {cut}");
    }
    assert_eq!(delivered, all.len(), "the unfinished chunk's messages are delivered too");
}

#[test]
fn errors_name_what_is_wrong() {
    let whole = one_of_each(mcap::WriteOptions::new());
    let cut = whole[..whole.len() / 3].to_vec();
    let mut flipped = whole.clone();
    let at = whole.windows(4).position(|w| w == [0xff, 0xd8, 1, 2]).unwrap();
    flipped[at + 3] ^= 1;
    let with = |topic, body: &[u8]| {
        let mut author = all_channels(mcap::WriteOptions::new());
        author.message(topic, 0, body);
        author.finish()
    };
    let misencoded = {
        let mut author = Author::new(mcap::WriteOptions::new());
        author.channel("/camera", "foxglove.CompressedImage", "json").message("/camera", 0, b"{}");
        author.finish()
    };
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("an empty file", vec![], "test.mcap: is no recording: it does not begin like an MCAP file"),
        ("a JPEG", vec![0xff; 100], "is no recording"),
        ("no messages", all_channels(mcap::WriteOptions::new()).finish(), "complete but holds no sample"),
        ("only truth", with("/truth", br#"{"label":"none"}"#), "complete but holds no sample"),
        ("a cut", cut, "samples up to 0.000 s were readable before that"),
        ("a flipped bit", flipped, "the file is damaged; 6 samples up to 0.050 s were readable"),
        (
            "not jpeg",
            with("/camera", &jpeg(&[1], "webp")),
            "/camera at 0.000 s: image format \"webp\", expected \"jpeg\"",
        ),
        ("no data", with("/camera", &jpeg(&[], "jpeg")), "image without data"),
        ("bad protobuf", with("/camera", b"\xff\xff\xff"), "is no foxglove.CompressedImage"),
        ("json for protobuf", misencoded, "is encoded as \"json\", expected \"protobuf\""),
        (
            "short image",
            with("/thermal", &raw(4, 4, "rgb8", 0, &[0; 47])),
            "has 47 bytes, expected rows of 12 and 48 bytes",
        ),
        ("narrow rows", with("/thermal", &raw(4, 4, "nv12", 3, &[0; 100])), "expected rows of 4"),
        ("no size", with("/thermal", &raw(0, 4, "mono8", 0, &[])), "image of 0x4, expected 1 to 16384"),
        ("huge", with("/thermal", &raw(u32::MAX, u32::MAX, "rgb8", 0, &[])), "expected 1 to 16384"),
        ("encoding", with("/thermal", &raw(4, 4, "bayer_rggb8", 0, &[0; 16])), "expected mono8, rgb8, yuyv or nv12"),
        ("no rate", with("/mic", &pcm(&[1], 0, 1)), "audio of 1 channels at 0 Hz"),
        ("no channels", with("/mic", &pcm(&[1], 8000, 0)), "audio of 0 channels"),
        ("half a frame", with("/mic", &pcm(&[1], 8000, 2)), "audio of 2 bytes, expected a multiple of 4"),
        ("bad json", with("/text", b"{\"text\":\"a"), "is no attendant.Text"),
        ("invalid UTF-8", with("/text", b"{\"text\":\"\xff\"}"), "is no attendant.Text"),
        ("no values", with("/sensor/distance", b"{}"), "missing field `values`"),
        ("text values", with("/sensor/distance", b"{\"values\":[\"a\"]}"), "is no attendant.Reading"),
        ("no reason", with("/fault", b"{\"source\":\"camera\"}"), "missing field `reason`"),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, expect) in cases {
        match play(bytes).1 {
            Err(e) if e.kind == ErrorKind::Fatal && e.to_string().contains(expect) => {}
            other => wrong.push(format!("{name}: {other:?}, expected {expect:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_compressed_chunk_is_refused_with_the_command_that_helps() {
    let mut bytes = mcap::MAGIC.to_vec();
    let mut chunk = vec![0; 28];
    chunk.extend(4u32.to_le_bytes());
    chunk.extend(b"zstd");
    chunk.extend(0u64.to_le_bytes());
    bytes.push(0x06);
    bytes.extend((chunk.len() as u64).to_le_bytes());
    bytes.extend(chunk);
    let error = play(&bytes).1.unwrap_err().to_string();
    assert!(error.contains("compressed with zstd") && error.contains("--compression none"), "{error}");
}

#[test]
fn the_end_is_final() {
    let whole = one_of_each(mcap::WriteOptions::new());
    let cut = &whole[..whole.len() / 3];
    let mut into = Sample::Text(Utterance::default());
    let mut recording = Recording::from_reader("test.mcap", cut).unwrap();
    while let Ok(Some(_)) = recording.next(&mut into) {}
    let first = recording.next(&mut into).unwrap_err().to_string();
    assert_eq!(recording.next(&mut into).unwrap_err().to_string(), first);
}

#[test]
fn nothing_is_delivered_behind_a_message_that_cannot_be_read() {
    let mut author = all_channels(mcap::WriteOptions::new());
    author.message("/text", 0, br#"{"text":"a"}"#).message("/text", 1_000, b"no JSON").message(
        "/text",
        2_000,
        br#"{"text":"b"}"#,
    );
    let bytes = author.finish();
    let (samples, end) = play(&bytes);
    assert_eq!((samples.len(), end.is_err()), (1, true));
    let mut into = Sample::Text(Utterance::default());
    let mut recording = Recording::from_reader("test.mcap", &bytes[..]).unwrap();
    recording.next(&mut into).unwrap();
    let first = recording.next(&mut into).unwrap_err().to_string();
    assert!(first.contains("/text at 0.001"), "{first}");
    for _ in 0..3 {
        assert_eq!(recording.next(&mut into).unwrap_err().to_string(), first);
    }
}

#[test]
fn damage_ends_in_an_error_or_in_samples_but_never_in_a_panic() {
    let whole = one_of_each(mcap::WriteOptions::new().calculate_chunk_crcs(false));
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let (samples, _) = play(&bytes);
            assert!(samples.len() <= 8, "byte {at} ^ {flip:#x} made {} samples", samples.len());
        }
    }
}

/// Written by training/kiosk/mcapio.py with the reference implementations in Python.
#[test]
fn the_recording_that_python_wrote_is_read_sample_by_sample() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recordings/small.mcap");
    let mut recording = Recording::open(&path).unwrap();
    let mut into = Sample::Text(Utterance::default());
    let mut log = Vec::new();
    while let Some(source) = recording.next(&mut into).unwrap() {
        let what = match &into {
            Sample::Frame(f) => format!("{:?} {} {}x{}", f.format, f.seq.0, f.width, f.height),
            Sample::Audio(a) => {
                let peak = a.data.iter().fold(0f32, |m, x| m.max(x.abs()));
                format!("{} Hz {}+{} gap {} peak {peak:.2}", a.sample_rate_hz, a.first.0, a.data.len(), a.gap_samples)
            }
            Sample::Text(u) => u.text.clone(),
            Sample::Reading(r) => format!("{:?}", r.values),
            Sample::Fault { reason, .. } => format!("failed: {reason}"),
        };
        log.push(format!("{} {source} {what}", into.t()));
    }
    let expect = "\
        0.000 s camera Jpeg 0 160x120\n\
        0.000 s mic 8000 Hz 0+2000 gap 0 peak 0.25\n\
        0.200 s camera Jpeg 1 160x120\n\
        0.250 s mic 8000 Hz 2000+2000 gap 0 peak 0.25\n\
        0.400 s camera Jpeg 2 160x120\n\
        0.500 s mic 8000 Hz 4000+2000 gap 0 peak 0.25\n\
        0.500 s distance [1.25, NaN]\n\
        0.600 s camera Jpeg 3 160x120\n\
        0.750 s mic 8000 Hz 6000+2000 gap 0 peak 0.25\n\
        0.800 s camera Jpeg 4 160x120\n\
        1.000 s camera failed: covered\n\
        1.250 s mic 8000 Hz 10000+2000 gap 2000 peak 0.25\n\
        1.500 s mic 8000 Hz 12000+2000 gap 0 peak 0.25\n\
        1.500 s text where do I change my café card?\n\
        1.750 s mic 8000 Hz 14000+1000 gap 0 peak 0.25\n\
        1.750 s thermal Gray 0 4x4";
    assert_eq!(log.join("\n"), expect);
    let survey = Survey::of(&path).unwrap();
    let labels: Vec<_> = survey.truths.iter().map(|t| (t.t.as_ms(), t.label.as_str())).collect();
    assert_eq!(labels, [(0, "desk_3"), (1000, "none")]);
    assert_eq!(survey.duration, Micros::from_ms(1750));
}
