//! As much of JPEG as a source needs: the size of a picture, and where one ends and the next begins. Decoding is preprocessing.

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;

/// Whether `bytes` begin like a JPEG file.
pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, SOI, 0xff])
}

/// Width and height from the frame header (ITU-T T.81, B.2.2); None if there is none, or none before the picture data.
pub(super) fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut rest = bytes.strip_prefix(&[0xff, SOI])?;
    loop {
        let [0xff, marker, tail @ ..] = rest else { return None };
        match marker {
            0xff => rest = &rest[1..], // fill byte
            0x01 | 0xd0..=0xd7 => rest = tail,
            // SOF0 to SOF15, without DHT, JPG and DAC, which share the range
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                let [_, _, _, h1, h0, w1, w0, ..] = tail else { return None };
                return Some((u32::from(u16::from_be_bytes([*w1, *w0])), u32::from(u16::from_be_bytes([*h1, *h0]))));
            }
            _ if matches!(*marker, SOI | EOI | SOS) => return None,
            _ => {
                let [l1, l0, ..] = tail else { return None };
                rest = tail.get(usize::from(u16::from_be_bytes([*l1, *l0])).max(2)..)?;
            }
        }
    }
}
