//! Y4M files: formats, times, and every way a file can be wrong.

use std::io::Cursor;

use super::*;
use crate::capture::ErrorKind;

/// The markers of a 3x2 JPEG with stuffed bytes, a restart and a fill byte; the last byte of the scan tells frames apart.
fn jpeg(tag: u8) -> Vec<u8> {
    let mut out = b"\xff\xd8\xff\xe0\x00\x04\xff\xd9\xff\xff\xc0\x00\x0b\x08\x00\x02\x00\x03\x01\x01\x11\x00".to_vec();
    out.extend(b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x12\x34\xff\x00\xff\xd0\x56");
    out.extend([tag, 0xff, 0xd9]);
    out
}

fn chunk(id: &[u8], content: &[u8]) -> Vec<u8> {
    let mut out = [id, &(content.len() as u32).to_le_bytes(), content].concat();
    out.resize(out.len().next_multiple_of(2), 0);
    out
}

fn list(id: &[u8], kind: &[u8], content: &[Vec<u8>]) -> Vec<u8> {
    chunk(id, &[kind, &content.concat()].concat())
}

/// A sound stream, then a video stream of `coding` at 10 frames a second.
fn avi(coding: &[u8; 4], frames: &[Vec<u8>]) -> Vec<u8> {
    let strh = |kind: &[u8]| {
        let mut header = [kind, &[0; 16], &1u32.to_le_bytes(), &10u32.to_le_bytes()].concat();
        header.resize(56, 0);
        chunk(b"strh", &header)
    };
    let strf = |coding: &[u8]| chunk(b"strf", &[&[0; 16], coding, &[0; 20]].concat());
    let header = list(
        b"LIST",
        b"hdrl",
        &[
            chunk(b"avih", &[0; 56]),
            list(b"LIST", b"strl", &[strh(b"auds"), strf(b"\0\0\0\0")]),
            list(b"LIST", b"strl", &[strh(b"vids"), strf(coding), chunk(b"strn", b"name")]),
        ],
    );
    let mut movi = vec![chunk(b"00wb", b"sound")];
    movi.extend(frames.iter().map(|f| chunk(b"01dc", f)));
    let info = list(b"LIST", b"INFO", &[chunk(b"ISFT", b"a test")]);
    list(b"RIFF", b"AVI ", &[header, info, list(b"LIST", b"movi", &movi), chunk(b"idx1", &[0; 16])])
}

fn y4m(header: &str, frames: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("YUV4MPEG2 {header}\n").into_bytes();
    for frame in frames {
        out.extend(b"FRAME\n");
        out.extend(*frame);
    }
    out
}

/// Every frame, and how the file ended.
fn play(file: &[u8]) -> (Vec<Frame>, CaptureError) {
    let mut frames = Vec::new();
    let mut camera = match VideoCamera::from_reader("a.video", file) {
        Ok(camera) => camera,
        Err(e) => return (frames, e),
    };
    let mut frame = Frame::default();
    loop {
        match camera.capture(&mut frame) {
            Ok(()) => frames.push(frame.clone()),
            Err(e) => return (frames, e),
        }
    }
}

/// The only frame of a Y4M file.
fn y4m_frame(header: &str, planes: &[u8]) -> (PixelFormat, u32, Vec<u8>) {
    let (mut frames, end) = play(&y4m(header, &[planes]));
    assert_eq!(end.kind, ErrorKind::End, "{header}: {end}");
    let frame = frames.remove(0);
    (frame.format, frame.stride, frame.data)
}

#[test]
fn y4m_planes_become_the_pixel_format_that_fits() {
    use PixelFormat::{Gray, Nv12, Rgb, Yuyv};
    type Case = (&'static str, &'static [u8], PixelFormat, u32, &'static [u8]);
    let cases: &[Case] = &[
        ("W2 H1 F10:1 Cmono", b"ab", Gray, 2, b"ab"),
        ("W2 H2 F10:1 C420jpeg", b"abcdUV", Nv12, 2, b"abcdUV"),
        ("W2 H2 F10:1", b"abcdUV", Nv12, 2, b"abcdUV"),
        ("W4 H2 F10:1 C420mpeg2", b"abcdefghUuVv", Nv12, 4, b"abcdefghUVuv"),
        // odd sides: luma rows are padded to the chroma rows
        ("W3 H3 F10:1 C420", b"abcdefghiUUUUVVVV", Nv12, 4, b"abccdeffghiiUVUVUVUV"),
        ("W2 H2 F10:1 C422", b"abcdUuVv", Yuyv, 4, b"aUbVcudv"),
        ("W3 H1 F10:1 C422", b"abcUuVv", Yuyv, 8, b"aUbVcucv"),
        ("W2 H1 F10:1 C444", &[16, 235, 128, 128, 128, 128], Rgb, 6, &[0, 0, 0, 255, 255, 255]),
        ("W2 H1 F10:1 C444 XCOLORRANGE=FULL", &[16, 235, 128, 128, 128, 128], Rgb, 6, &[16, 16, 16, 235, 235, 235]),
        ("W2 H2 F10:1 C420 XCOLORRANGE=FULL", &[0, 255, 128, 128, 0, 255], Nv12, 2, &[16, 235, 126, 126, 16, 240]),
        ("W2 H1 F10:1 C422 XCOLORRANGE=FULL XA=b", &[0, 255, 128, 255], Yuyv, 4, &[16, 128, 235, 240]),
    ];
    for (header, planes, format, stride, data) in cases {
        assert_eq!(y4m_frame(header, planes), (*format, *stride, data.to_vec()), "{header}");
    }
}

#[test]
fn red_in_444_is_red() {
    // BT.601, limited range: 81 90 240
    let (_, _, data) = y4m_frame("W1 H1 F10:1 C444", &[81, 90, 240]);
    let expect = [255, 0, 0];
    assert!(data.iter().zip(expect).all(|(&got, want): (&u8, u8)| got.abs_diff(want) <= 2), "{data:?}");
}

#[test]
fn every_container_delivers_its_frames_with_number_size_and_time() {
    let frames = [jpeg(1), jpeg(2), jpeg(3)];
    let cases: &[(&str, Vec<u8>, u64)] = &[
        ("concatenated", frames.concat(), 40_000),
        ("with zeros between", [&frames[0], &[0, 0, 0][..], &frames[1], &frames[2], &[0]].concat(), 40_000),
        ("avi", avi(b"MJPG", &frames), 100_000),
    ];
    for (name, file, frame_us) in cases {
        let (got, end) = play(file);
        assert_eq!(end.kind, ErrorKind::End, "{name}: {end}");
        assert_eq!(got.len(), 3, "{name}");
        for (i, (frame, data)) in got.iter().zip(&frames).enumerate() {
            assert_eq!((frame.seq.0, frame.t.0), (i as u64, i as u64 * frame_us), "{name}");
            assert_eq!((frame.width, frame.height, frame.format), (3, 2, PixelFormat::Jpeg), "{name}");
            assert_eq!(&frame.data, data, "{name}: frame {i}");
        }
    }
}

#[test]
fn a_dropped_frame_of_an_avi_leaves_a_hole() {
    let (got, _) = play(&avi(b"MJPG", &[jpeg(1), vec![], jpeg(2)]));
    let holes: Vec<_> = got.iter().map(|f| (f.seq.0, f.t.as_ms())).collect();
    assert_eq!(holes, [(0, 0), (2, 200)]);
}

#[test]
fn an_avi_of_several_riffs_goes_on() {
    let mut file = avi(b"mjpg", &[jpeg(1)]);
    file.extend(list(
        b"RIFF",
        b"AVIX",
        &[list(b"LIST", b"movi", &[list(b"LIST", b"rec ", &[chunk(b"01db", &jpeg(2))])])],
    ));
    assert_eq!(play(&file).0.len(), 2);
}

#[test]
fn errors_say_what_it_is_and_how_to_convert_it() {
    let mono = |header: &str| y4m(header, &[b"ab"]);
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("nothing", vec![], "a.video: is empty, expected a video"),
        ("MP4", b"\0\0\0\x18ftypmp42".to_vec(), "is no Y4M, MJPEG or AVI file; convert it: `ffmpeg -i a.video"),
        ("WebP", b"RIFF\0\0\0\0WEBP".to_vec(), "is no Y4M, MJPEG or AVI file"),
        ("10 bit", mono("W2 H1 F10:1 C420p10"), "expected 8 bits; convert it"),
        ("411", mono("W2 H1 F10:1 C411"), "unknown colour space; convert it"),
        ("no width", mono("H1 F10:1 Cmono"), "the Y4M header is malformed"),
        ("huge", mono("W99999999999 H1 F10:1 Cmono"), "has W99999999999, expected 1 to 16384 pixels"),
        ("too many bytes", mono("W16384 H16384 F10:1 C444"), "frames have more than"),
        ("no rate", mono("W2 H1 F0:1 Cmono"), "has the rate 0:1, expected more than 0"),
        ("no frame", y4m("W2 H1 F10:1 Cmono", &[]), "holds no frame"),
        ("H.264", avi(b"H264", &[jpeg(1)]), "the video is coded as H264, expected MJPG; convert it: `ffmpeg"),
        ("not JPEG", avi(b"MJPG", &[jpeg(1), b"hello".to_vec()]), "a frame is no JPEG after 1 frames"),
        ("no frames", avi(b"MJPG", &[]), "holds no frame"),
        ("cut Y4M", y4m("W2 H1 F10:1 Cmono", &[b"ab", b"c"]), "is truncated after 1 frames"),
        ("cut JPEG", [jpeg(1), jpeg(2)[..20].to_vec()].concat(), "is truncated after 1 frames"),
        ("rubbish", [jpeg(1), b"hello".to_vec()].concat(), "expected a JPEG, which begins with ff d8 after 1 frames"),
    ];
    for (name, file, expect) in cases {
        let (_, end) = play(file);
        assert!(end.kind == ErrorKind::Fatal && end.to_string().contains(expect), "{name}: {end}");
    }
}

#[test]
fn an_endless_jpeg_is_given_up() {
    let mut file = jpeg(1);
    file.truncate(file.len() - 2);
    let endless = BufReader::new(Cursor::new(file).chain(io::repeat(7)));
    let mut camera = VideoCamera::from_reader("a.mjpeg", endless).unwrap();
    let error = camera.capture(&mut Frame::default()).unwrap_err().to_string();
    assert!(error.contains("a JPEG of more than 16777216 bytes"), "{error}");
}

#[test]
fn damage_ends_in_an_error_or_in_frames_but_never_in_a_panic() {
    let files = [
        [jpeg(1), jpeg(2)].concat(),
        avi(b"MJPG", &[jpeg(1), jpeg(2)]),
        y4m("W3 H3 F10:1 C420", &[b"abcdefghiUUUUVVVV", b"abcdefghiUUUUVVVV"]),
        y4m("W2 H2 F10:1 C444", &[b"abcdefghiUUU"]),
    ];
    for file in files {
        for cut in 0..file.len() {
            play(&file[..cut]);
        }
        for at in 0..file.len() {
            for flip in [0x01, 0x02, 0x10, 0x80, 0xff] {
                let mut bytes = file.clone();
                bytes[at] ^= flip;
                // a flipped height can make many small frames of one
                assert!(play(&bytes).0.len() <= 12, "byte {at} ^ {flip:#x}");
            }
        }
    }
}
