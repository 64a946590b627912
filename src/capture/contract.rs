//! What every implementation of a source's trait must hold to, checked against all of them that need no device.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::capture::fake::{Fake, Step};
use crate::capture::faults::{Fault, Faulty, Window};
use crate::capture::image::ImageCamera;
use crate::capture::sensor::CsvSensor;
use crate::capture::text::LineText;
use crate::capture::video::VideoCamera;
use crate::capture::wav::WavMic;
use crate::capture::{Camera, CaptureError, ErrorKind, Mic, Sensor, TextSource};
use crate::signal::{AudioBlock, Frame, FrameSeq, PixelFormat, Reading, SampleIdx, Utterance};
use crate::time::{Micros, VirtualClock};

/// A source, made anew.
type Make<S> = (&'static str, Box<dyn Fn() -> Box<S>>);

/// Reads up to 50 samples. A source ends for good, delivers into whatever buffer it is given, and delivers the same when it is
/// opened again.
fn contract<S: ?Sized, T: Clone + Default + PartialEq + std::fmt::Debug>(
    sources: &[Make<S>],
    read: impl Fn(&mut S, &mut T) -> Result<(), CaptureError>,
    check: impl Fn(&str, &[T]),
) {
    for (name, make) in sources {
        let play = |reuse: bool| {
            let (mut source, mut into, mut all) = (make(), T::default(), Vec::new());
            while all.len() < 50 {
                if !reuse {
                    into = T::default();
                }
                match read(&mut source, &mut into) {
                    Ok(()) => all.push(into.clone()),
                    Err(e) if e.kind == ErrorKind::Retry => {}
                    Err(e) => {
                        assert_eq!(e.kind, ErrorKind::End, "{name}: {e}");
                        let again = read(&mut source, &mut into).expect_err("a source that ended delivered again");
                        assert_eq!(again.kind, ErrorKind::End, "{name}: {again}");
                        break;
                    }
                }
            }
            all
        };
        let (reused, fresh) = (play(true), play(false));
        assert!(reused.len() >= 2, "{name} delivered {} samples", reused.len());
        assert_eq!(reused, fresh, "{name}: what is in the buffer beforehand shows");
        check(name, &reused);
    }
}

fn in_order(name: &str, times: impl Iterator<Item = Micros> + Clone) {
    let later = times.clone().skip(1);
    assert!(times.zip(later).all(|(a, b)| a <= b), "{name}: goes back in time");
}

const WINDOWS: [Window; 2] = [
    Window { fault: Fault::Stall, from: Micros(30_000), to: Micros(60_000) },
    Window { fault: Fault::DropEvery(3), from: Micros(60_000), to: Micros(u64::MAX) },
];

fn frames() -> impl Iterator<Item = Step<Frame>> {
    (0..8).map(|i| {
        let frame = Frame {
            t: Micros::from_ms(i * 20),
            seq: FrameSeq(i),
            width: 2,
            height: 1,
            stride: 2,
            format: PixelFormat::Gray,
            data: vec![i as u8; 2],
        };
        Step::Deliver(frame)
    })
}

fn picture(i: u8) -> Vec<u8> {
    [b"P6 1 1 255 ab", &[i][..]].concat()
}

#[test]
fn cameras() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..4 {
        std::fs::write(dir.path().join(format!("{i}.ppm")), picture(i)).unwrap();
    }
    let (folder, still) = (dir.path().to_path_buf(), dir.path().join("0.ppm"));
    let y4m = |coding: &str, n: usize| {
        let frame = [&b"FRAME\n"[..], &vec![7; n]].concat();
        [format!("YUV4MPEG2 W3 H3 F30:1 {coding}\n").as_bytes(), &frame, &frame, &frame].concat()
    };
    let video = |file: Vec<u8>| {
        move || -> Box<dyn Camera> {
            let reader = std::io::Cursor::new(file.clone());
            Box::new(VideoCamera::from_reader("a.video", reader).unwrap())
        }
    };
    let jpeg = b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x02\x00\x02\x01\x01\x11\x00\xff\xd9".repeat(3);
    let sources: Vec<Make<dyn Camera>> = vec![
        ("fake", Box::new(|| Box::new(Fake::new("camera", frames())))),
        ("faulty", Box::new(|| Box::new(Faulty::new("camera", Fake::new("camera", frames()), WINDOWS)))),
        ("still", Box::new(move || Box::new(ImageCamera::open(&still, 5.0).unwrap()))),
        ("folder", Box::new(move || Box::new(ImageCamera::open(&folder, 5.0).unwrap()))),
        ("y4m mono", Box::new(video(y4m("Cmono", 9)))),
        ("y4m 420", Box::new(video(y4m("C420", 17)))),
        ("y4m 422", Box::new(video(y4m("C422", 21)))),
        ("y4m 444", Box::new(video(y4m("C444", 27)))),
        ("mjpeg", Box::new(video(jpeg))),
    ];
    contract(
        &sources,
        |s, into| s.capture(into),
        |name, all: &[Frame]| {
            in_order(name, all.iter().map(|f| f.t));
            let numbers: BTreeSet<_> = all.iter().map(|f| f.seq).collect();
            assert_eq!(numbers.len(), all.len(), "{name}: numbers repeat");
            for f in all {
                let (width, height, stride) = (f.width as usize, f.height as usize, f.stride as usize);
                let (row, rows) = match f.format {
                    PixelFormat::Jpeg => {
                        assert_eq!(stride, 0, "{name}");
                        continue;
                    }
                    PixelFormat::Gray => (width, height),
                    PixelFormat::Rgb => (width * 3, height),
                    PixelFormat::Yuyv => (width.div_ceil(2) * 4, height),
                    PixelFormat::Nv12 => (width.div_ceil(2) * 2, height + height.div_ceil(2)),
                };
                assert!(stride >= row && f.data.len() >= stride * (rows - 1) + row, "{name}: {f:?}");
            }
        },
    );
}

#[test]
fn microphones() {
    let blocks = || {
        (0..8u64).map(|i| {
            Step::Deliver(AudioBlock {
                t: Micros::from_ms(i * 20),
                first: SampleIdx(i * 20),
                gap_samples: 0,
                sample_rate_hz: 1000,
                data: vec![0.1; 20],
            })
        })
    };
    let mut file = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 11_025,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
    (0..1000i16).for_each(|s| writer.write_sample(s * 30).unwrap());
    writer.finalize().unwrap();
    let file = file.into_inner();
    let wav = move || -> Box<dyn Mic> {
        Box::new(WavMic::from_reader("a.wav", std::io::Cursor::new(file.clone()), 7).unwrap())
    };
    let sources: Vec<Make<dyn Mic>> = vec![
        ("fake", Box::new(move || Box::new(Fake::new("mic", blocks())))),
        ("faulty", Box::new(move || Box::new(Faulty::new("mic", Fake::new("mic", blocks()), WINDOWS)))),
        ("wav", Box::new(wav)),
    ];
    contract(
        &sources,
        |s, into| s.read(into),
        |name, all: &[AudioBlock]| {
            let mut next = 0;
            for b in all {
                assert_eq!(b.first.0, next + b.gap_samples, "{name}: neither sound nor a gap");
                next = b.first.0 + b.data.len() as u64;
                let t_us = b.first.0 * 1_000_000 / u64::from(b.sample_rate_hz);
                assert!(b.t.0.abs_diff(t_us) <= 1, "{name}: sample {} at {}", b.first.0, b.t);
                assert!(!b.data.is_empty() && b.data.iter().all(|x| x.abs() <= 1.0), "{name}");
            }
        },
    );
}

#[test]
fn text_sources() {
    let lines = || (0..8).map(|i| Step::Deliver(Utterance { t: Micros::from_ms(i * 20), text: format!("line {i}") }));
    let stdin = || -> Box<dyn TextSource> {
        Box::new(LineText::new("stdin", &b"one\n\ntwo\r\n\xff\n"[..], Arc::new(VirtualClock::default())))
    };
    let sources: Vec<Make<dyn TextSource>> = vec![
        ("fake", Box::new(move || Box::new(Fake::new("text", lines())))),
        ("faulty", Box::new(move || Box::new(Faulty::new("text", Fake::new("text", lines()), WINDOWS)))),
        ("lines", Box::new(stdin)),
    ];
    contract(
        &sources,
        |s, into| s.next(into),
        |name, all: &[Utterance]| {
            in_order(name, all.iter().map(|u| u.t));
            assert!(all.iter().all(|u| !u.text.trim().is_empty()), "{name}: {all:?}");
        },
    );
}

#[test]
fn sensors() {
    let readings =
        || (0..8).map(|i| Step::Deliver(Reading { t: Micros::from_ms(i * 20), values: vec![i as f32, 1.0] }));
    let csv = || -> Box<dyn Sensor> { Box::new(CsvSensor::from_reader("a.csv", &b"t_s,a\n0,1\n0.5,2\n"[..])) };
    let json = || -> Box<dyn Sensor> {
        let file = &b"{\"t_s\":0,\"values\":[1]}\n{\"t_s\":1,\"values\":[2]}"[..];
        Box::new(CsvSensor::from_reader("a.jsonl", file))
    };
    let sources: Vec<Make<dyn Sensor>> = vec![
        ("fake", Box::new(move || Box::new(Fake::new("sensor", readings())))),
        ("faulty", Box::new(move || Box::new(Faulty::new("sensor", Fake::new("sensor", readings()), WINDOWS)))),
        ("csv", Box::new(csv)),
        ("json lines", Box::new(json)),
    ];
    contract(
        &sources,
        |s, into| s.read(into),
        |name, all: &[Reading]| {
            in_order(name, all.iter().map(|r| r.t));
            assert!(all.iter().all(|r| r.values.len() == all[0].values.len()), "{name}: {all:?}");
        },
    );
}
