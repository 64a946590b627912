//! The luminance decoder against the library, on whole and on damaged files.

use super::*;
use crate::resize::{Axis, Component, Plane, Resizer, Span};

macro_rules! golden {
    ($($name:literal),*) => { &[$(($name, include_bytes!(concat!("../../../tests/golden/jpeg/", $name)))),*] };
}

/// Every layout that the decoder takes, 67 x 53.
const OURS: &[(&str, &[u8])] = golden!(
    "sampled_444.jpg",
    "sampled_422.jpg",
    "sampled_420.jpg",
    "sampled_440.jpg",
    "sampled_411.jpg",
    "sampled_gray.jpg",
    "sampled_restart.jpg",
    "sampled_optimized.jpg"
);
const PROGRESSIVE: &[u8] = include_bytes!("../../../tests/golden/jpeg/sampled_progressive.jpg");
/// A rendered card, as a camera sends it.
const CARD: &[u8] = include_bytes!("../../../benches/peers/card.jpg");

/// Rows and columns of a resampling.
type Axes = (Axis, Axis);

fn whole(width: usize, height: usize) -> Axes {
    let axis = |len: usize| Axis::new(len, Span { start: 0.0, len: len as f64 }, len);
    (axis(height), axis(width))
}

/// The centred square of 640 x 480, `side` x `side`.
fn centre(side: usize) -> Axes {
    let span = |start| Span { start, len: 480.0 };
    (Axis::new(480, span(0.0), side), Axis::new(640, span(80.0), side))
}

fn ours(jpeg: &[u8], axes: &Axes) -> Result<Vec<f32>, String> {
    let mut decoder = LumaDecoder::default();
    let header = decoder.header(jpeg).ok_or("one for the library")?;
    let mut out = vec![f32::NAN; axes.0.out_len() * axes.1.out_len()];
    let mut resampler = Resampler::new(&axes.0, &axes.1);
    decoder.run(jpeg, &header, &mut resampler, &mut out).map_err(|e| e.to_string())?;
    Ok(out)
}

fn library_luma(jpeg: &[u8], axes: &Axes) -> Vec<f32> {
    let mut buffer = Vec::new();
    let decoded = library::decode(jpeg, true, &mut buffer).unwrap();
    assert_eq!(decoded.channels, 1);
    let mut out = vec![0.0; axes.0.out_len() * axes.1.out_len()];
    let component = Component { offset: 0, step: 1, axis: &axes.1 };
    let plane = Plane { data: decoded.data, stride: decoded.width };
    Resizer::default().run(plane, &axes.0, &[component], &mut out);
    out
}

/// Mean and largest difference.
fn differences(a: &[f32], b: &[f32]) -> (f32, f32) {
    assert_eq!(a.len(), b.len());
    let each = || a.iter().zip(b).map(|(a, b)| (a - b).abs());
    (each().sum::<f32>() / a.len() as f32, each().fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most }))
}

#[test]
fn every_pixel_is_within_one_of_the_library() {
    for (name, jpeg) in OURS {
        let axes = whole(67, 53);
        let (mean, most) = differences(&ours(jpeg, &axes).unwrap(), &library_luma(jpeg, &axes));
        // The library rounds to whole levels.
        assert!(most <= 1.0 && mean <= 0.4, "{name}: mean {mean}, most {most}");
    }
    let axes = whole(640, 480);
    let (mean, most) = differences(&ours(CARD, &axes).unwrap(), &library_luma(CARD, &axes));
    assert!(most <= 1.0 && mean <= 0.4, "card: mean {mean}, most {most}");
}

#[test]
fn coefficients_that_are_left_out_do_not_show() {
    // Sides of the tensor, coefficients that are decoded.
    for (side, coefficients) in [(32, 6), (64, 10), (96, 15), (160, 21), (224, 28), (320, 64), (480, 64)] {
        let axes = centre(side);
        let (mean, most) = differences(&ours(CARD, &axes).unwrap(), &library_luma(CARD, &axes));
        println!("{side}: mean {mean:.3}, most {most:.2}");
        assert_eq!(Resampler::new(&axes.0, &axes.1).coefficients(), coefficients, "{side}");
        assert!(mean < 0.4 && most < 3.0, "{side}: mean {mean}, most {most}");
    }
    let axes = centre(64);
    let (mean, most) = differences(&ours(CARD, &axes).unwrap(), &library_luma(CARD, &axes));
    assert!(mean < 0.1 && most < 1.0, "the card's encoder: mean {mean}, most {most}");
}

#[test]
fn a_region_is_cut_at_any_place() {
    for (name, jpeg) in OURS {
        for (left, top, width, height, side) in
            [(0.0, 0.0, 8.0, 8.0, 8), (30.3, 17.0, 31.0, 30.5, 7), (60.0, 45.0, 7.0, 8.0, 9)]
        {
            let axes = (
                Axis::new(53, Span { start: top, len: height }, side),
                Axis::new(67, Span { start: left, len: width }, side),
            );
            let (_, most) = differences(&ours(jpeg, &axes).unwrap(), &library_luma(jpeg, &axes));
            assert!(most < 2.5, "{name}, {side} from {left} {top}: {most}");
        }
    }
}

/// The position of a marker.
fn find(jpeg: &[u8], marker: u8) -> usize {
    jpeg.windows(2).position(|m| m == [0xff, marker]).unwrap()
}

#[test]
fn tables_that_are_left_out_are_the_standard_ones() {
    let mut jpeg = OURS[2].1.to_vec();
    let full = ours(&jpeg, &whole(67, 53)).unwrap();
    while let Some(at) = jpeg.windows(2).position(|m| m == [0xff, 0xc4]) {
        let length = usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        jpeg.drain(at..at + 2 + length);
    }
    assert_eq!(ours(&jpeg, &whole(67, 53)).unwrap(), full);
}

#[test]
fn tables_of_one_picture_do_not_reach_the_next() {
    let axes = whole(67, 53);
    let mut decoder = LumaDecoder::default();
    let mut resampler = Resampler::new(&axes.0, &axes.1);
    let mut out = vec![0.0; 67 * 53];
    for (name, jpeg) in OURS.iter().chain(OURS.iter().rev()) {
        let header = decoder.header(jpeg).unwrap();
        decoder.run(jpeg, &header, &mut resampler, &mut out).unwrap();
        assert_eq!(out, ours(jpeg, &axes).unwrap(), "{name}");
    }
}

#[test]
fn other_pictures_are_left_to_the_library() {
    let left = |what: &str, jpeg: &[u8]| assert!(LumaDecoder::default().header(jpeg).is_none(), "{what}");
    left("progressive", PROGRESSIVE);
    left("nothing", &[]);
    left("no jpeg", b"GIF89a");
    let changed = |marker: u8, offset: usize, value: u8| {
        let mut jpeg = OURS[0].1.to_vec();
        let at = find(&jpeg, marker) + offset;
        jpeg[at] = value;
        jpeg
    };
    left("12 bits", &changed(0xc0, 4, 12));
    left("arithmetic", &changed(0xc0, 1, 0xc9));
    left("no height", &changed(0xc0, 6, 0));
    left("four components", &changed(0xc0, 9, 4));
    left("part of the spectrum", &changed(0xda, 12, 5));
    left("codes that cannot be", &changed(0xc4, 5, 3));
    // A table without codes, alone or behind one that could not be made, has nothing to look codes up in.
    let empty = huffman::Definition { counts: &[0; 16], symbols: &[] };
    let mut table = huffman::Table::new(huffman::Class::Ac);
    assert!(!table.define(empty));
    assert!(!table.define(huffman::Definition { counts: &[3; 16], symbols: &[0; 48] }) && !table.define(empty));
    let chroma =
        (0..OURS[2].1.len() - 5).find(|i| OURS[2].1[*i..].starts_with(&[0xff, 0xc4]) && OURS[2].1[i + 4] == 0x11);
    let mut no_codes = OURS[2].1.to_vec();
    let at = chroma.unwrap();
    let length = usize::from(u16::from_be_bytes([no_codes[at + 2], no_codes[at + 3]]));
    no_codes.splice(at + 2..at + 2 + length, [&[0, 19, 0x11][..], &[0; 16]].concat());
    left("no codes", &no_codes);
    let mut rgb = OURS[0].1.to_vec();
    let adobe = [&[0xff, 0xee, 0, 14][..], b"Adobe", &[0, 100, 0, 0, 0, 0, 0]].concat();
    rgb.splice(2..2, adobe);
    left("RGB", &rgb);
}

/// Decodes to 5 x 5 what may be of any size.
fn small(decoder: &mut LumaDecoder, jpeg: &[u8]) -> Option<Result<[f32; 25], JpegError>> {
    let header = decoder.header(jpeg)?;
    let axis = |len: usize| Axis::new(len, Span { start: 0.0, len: len as f64 }, 5);
    let mut out = [f32::NAN; 25];
    let mut resampler = Resampler::new(&axis(header.height), &axis(header.width));
    Some(decoder.run(jpeg, &header, &mut resampler, &mut out).map(|()| out))
}

#[test]
fn a_cut_file_is_an_error_wherever_it_is_cut() {
    let mut decoder = LumaDecoder::default();
    for (name, jpeg) in OURS {
        // The last byte of data may hold nothing but padding; behind it is the marker of the end.
        for end in (0..jpeg.len() - 3).rev().step_by(23) {
            let result = small(&mut decoder, &jpeg[..end]);
            assert!(!matches!(result, Some(Ok(_))), "{name} cut at {end} of {}", jpeg.len());
        }
    }
}

#[test]
fn damage_is_no_panic() {
    let mut decoder = LumaDecoder::default();
    let (mut decoded, mut refused) = (0, 0);
    for (_, jpeg) in OURS {
        let mut damaged = jpeg.to_vec();
        // All of the header, and every so often a byte of the data.
        let scan = find(jpeg, 0xda);
        for at in (0..scan).step_by(5).chain((scan..scan + 16).chain((scan..jpeg.len()).step_by(61))) {
            for value in [0, 0xff, jpeg[at] ^ 0x11] {
                damaged[at] = value;
                // Some changes still make a picture, of other sizes too.
                match small(&mut decoder, &damaged) {
                    Some(Ok(out)) => {
                        assert!(out.iter().all(|v| (0.0..=255.0).contains(v)));
                        decoded += 1;
                    }
                    _ => refused += 1,
                }
            }
            damaged[at] = jpeg[at];
        }
    }
    assert!(decoded > 50 && refused > 50, "{decoded} decoded, {refused} refused");
}

#[test]
fn a_restart_that_does_not_come_in_turn_is_an_error() {
    let mut jpeg = OURS[6].1.to_vec();
    let at = find(&jpeg, 0xd1);
    jpeg[at + 1] = 0xd3;
    assert!(ours(&jpeg, &whole(67, 53)).unwrap_err().contains("marker ff d3 where a restart was due"));
}
