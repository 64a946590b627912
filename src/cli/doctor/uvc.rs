//! What a USB camera can deliver, from the descriptors that the kernel keeps of it: no device is opened, so that it works for a
//! camera that is busy, forbidden, or on another machine.
//!
//! USB Video Class 1.5, payload and frame descriptors (section 3.9.2.3 and the payload documents).

use std::fmt;

/// One picture size of one format.
#[derive(Clone, Debug, PartialEq)]
pub struct Mode {
    /// Four characters, as V4L2 calls it.
    pub format: String,
    pub width: u32,
    pub height: u32,
    /// Fastest rate; None if nothing says it.
    pub rate_hz: Option<f32>,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}x{}", self.format, self.width, self.height)?;
        match self.rate_hz {
            Some(rate) => write!(f, " at {rate:.0}/s"),
            None => Ok(()),
        }
    }
}

const INTERFACE: u8 = 0x04;
const CS_INTERFACE: u8 = 0x24;
/// Class and subclass of an interface that streams video.
const VIDEO_STREAMING: (u8, u8) = (0x0e, 0x02);
const FORMAT_UNCOMPRESSED: u8 = 0x04;
const FRAME_UNCOMPRESSED: u8 = 0x05;
const FORMAT_MJPEG: u8 = 0x06;
const FRAME_MJPEG: u8 = 0x07;
const FORMAT_FRAME_BASED: u8 = 0x10;
const FRAME_FRAME_BASED: u8 = 0x11;

/// Modes in the bytes of a device's `descriptors`. What is cut or makes no sense is left out.
pub fn modes(bytes: &[u8]) -> Vec<Mode> {
    let mut found = Vec::new();
    let (mut is_video, mut format) = (false, None);
    let mut rest = bytes;
    while let [len, kind, ..] = *rest {
        // a descriptor is never shorter than its own head
        let len = usize::from(len);
        if len < 2 || len > rest.len() {
            break;
        }
        let (descriptor, after) = rest.split_at(len);
        rest = after;
        match (kind, descriptor.get(2)) {
            (INTERFACE, _) => {
                is_video = descriptor.get(5).copied().zip(descriptor.get(6).copied()) == Some(VIDEO_STREAMING);
                format = None;
            }
            (CS_INTERFACE, Some(&subtype)) if is_video => match subtype {
                FORMAT_MJPEG => format = Some("MJPG".to_owned()),
                FORMAT_UNCOMPRESSED | FORMAT_FRAME_BASED => format = descriptor.get(5..9).map(four_characters),
                FRAME_UNCOMPRESSED | FRAME_MJPEG | FRAME_FRAME_BASED => {
                    found.extend(format.as_ref().and_then(|format| frame(format, descriptor)));
                }
                _ => {}
            },
            _ => {}
        }
    }
    found
}

/// The first four bytes of a format's GUID are its code.
fn four_characters(guid: &[u8]) -> String {
    guid.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '?' }).collect()
}

/// Where the intervals begin, in 100 ns, in all three kinds of frames.
const INTERVALS: usize = 26;

/// Of a frame descriptor.
fn frame(format: &str, descriptor: &[u8]) -> Option<Mode> {
    let half = |at: usize| Some(u32::from(u16::from_le_bytes(descriptor.get(at..at + 2)?.try_into().ok()?)));
    let (width, height) = (half(5)?, half(7)?);
    if width == 0 || height == 0 {
        return None;
    }
    // each interval, shortest first, or shortest and longest of a range: the first is the shortest
    let interval = descriptor.get(INTERVALS..INTERVALS + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let rate_hz = interval.filter(|i| *i > 0).map(|i| 1e7 / i as f32);
    Some(Mode { format: format.to_owned(), width, height, rate_hz })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Head and body of a descriptor.
    fn descriptor(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[u8::try_from(body.len() + 2).unwrap(), kind], body].concat()
    }

    fn interface(class: u8, subclass: u8) -> Vec<u8> {
        descriptor(INTERFACE, &[1, 0, 1, class, subclass, 0, 0])
    }

    fn frame(subtype: u8, width: u16, height: u16, interval: u32) -> Vec<u8> {
        let mut body = vec![subtype, 1, 0];
        body.extend(width.to_le_bytes());
        body.extend(height.to_le_bytes());
        body.extend([0; 17]);
        body.extend(interval.to_le_bytes());
        descriptor(CS_INTERFACE, &body)
    }

    fn uncompressed(code: &[u8; 4]) -> Vec<u8> {
        let mut body = vec![FORMAT_UNCOMPRESSED, 1, 1];
        body.extend(code);
        body.extend([0; 18]);
        descriptor(CS_INTERFACE, &body)
    }

    fn check(parts: &[Vec<u8>], expected: &[&str]) {
        let said: Vec<String> = modes(&parts.concat()).iter().map(ToString::to_string).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn formats_sizes_and_rates_are_read() {
        let device = descriptor(1, &[0; 16]);
        let mjpeg = descriptor(CS_INTERFACE, &[FORMAT_MJPEG, 1, 2, 1, 1, 0, 0, 0, 0]);
        check(
            &[
                device,
                interface(0x0e, 0x01),
                // a control interface: the same numbers mean something else there
                descriptor(CS_INTERFACE, &[FORMAT_MJPEG, 1, 2]),
                frame(FRAME_MJPEG, 1, 1, 1),
                interface(0x0e, 0x02),
                mjpeg,
                frame(FRAME_MJPEG, 1280, 720, 333_333),
                frame(FRAME_MJPEG, 640, 480, 166_666),
                uncompressed(b"YUY2"),
                frame(FRAME_UNCOMPRESSED, 640, 480, 333_333),
                frame(FRAME_FRAME_BASED, 320, 240, 0),
            ],
            &["MJPG 1280x720 at 30/s", "MJPG 640x480 at 60/s", "YUY2 640x480 at 30/s", "YUY2 320x240"],
        );
    }

    #[test]
    fn what_is_cut_or_makes_no_sense_is_left_out() {
        let video = interface(0x0e, 0x02);
        check(&[], &[]);
        check(&[video.clone(), vec![0, 0x24, 1]], &[]);
        check(&[video.clone(), vec![200, 0x24, 7]], &[]);
        check(&[video.clone(), frame(FRAME_MJPEG, 640, 480, 1)], &[]);
        check(&[video.clone(), uncompressed(b"YUY2"), frame(FRAME_UNCOMPRESSED, 0, 480, 1)], &[]);
        let whole = [video, uncompressed(b"YUY2"), frame(FRAME_UNCOMPRESSED, 640, 480, 1)].concat();
        for len in 0..whole.len() {
            assert!(modes(&whole[..len]).len() <= 1, "cut after {len}");
        }
    }
}
