//! A picture as a webcam sends it: baseline JPEG, 4:2:2, without the Huffman tables that motion JPEG leaves out.
//!
//! What the headroom is measured with; a picture of coefficients, not of pixels, so that there is no transform here. It is as large as a
//! webcam's (about 1.5 bits a pixel), because the time of decoding goes with that. ITU-T T.81.

/// Coefficients of a block that are not zero, for luminance and for chrominance.
const KEPT: (usize, usize) = (12, 4);

/// Code lengths of the symbols used, from the typical tables of annex K.3: DC differences of 0 to 5 bits, AC values without a run of zeros
/// of 1 to 3 bits, and the end of the block.
struct Table {
    dc: [(u16, u8); 6],
    ac: [(u16, u8); 3],
    end: (u16, u8),
}

const LUMINANCE: Table = Table {
    dc: [(0b00, 2), (0b010, 3), (0b011, 3), (0b100, 3), (0b101, 3), (0b110, 3)],
    ac: [(0b00, 2), (0b01, 2), (0b100, 3)],
    end: (0b1010, 4),
};

const CHROMINANCE: Table = Table {
    dc: [(0b00, 2), (0b01, 2), (0b10, 2), (0b110, 3), (0b1110, 4), (0b11110, 5)],
    ac: [(0b01, 2), (0b100, 3), (0b1010, 4)],
    end: (0b00, 2),
};

/// A picture of `width` x `height`, of which every block is different.
pub fn picture(width: u16, height: u16) -> Vec<u8> {
    let mut out = vec![0xff, 0xd8];
    // two tables of quantization, flat: coarse enough that the few coefficients stay in range
    for id in 0..2 {
        out.extend([0xff, 0xdb, 0, 67, id]);
        out.extend([8; 64]);
    }
    out.extend([0xff, 0xc0, 0, 17, 8]);
    out.extend(height.to_be_bytes());
    out.extend(width.to_be_bytes());
    // luminance twice as wide as chrominance
    out.extend([3, 1, 0x21, 0, 2, 0x11, 1, 3, 0x11, 1]);
    out.extend([0xff, 0xda, 0, 12, 3, 1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0]);
    let mut bits = Bits { out, pending: 0, len: 0 };
    let mut noise = Noise(1);
    let mut last = [0_i16; 3];
    for _ in 0..usize::from(width).div_ceil(16) * usize::from(height).div_ceil(8) {
        for component in [0, 0, 1, 2] {
            let (table, kept) = if component == 0 { (&LUMINANCE, KEPT.0) } else { (&CHROMINANCE, KEPT.1) };
            block(&mut bits, &mut noise, table, kept, &mut last[component]);
        }
    }
    let mut out = bits.finish();
    out.extend([0xff, 0xd9]);
    out
}

fn block(bits: &mut Bits, noise: &mut Noise, table: &Table, kept: usize, last: &mut i16) {
    // around the middle, so that no sum of coefficients leaves the range of a pixel for long
    let level = noise.between(-12, 12);
    value(bits, &table.dc, level - *last);
    *last = level;
    for _ in 0..kept {
        // never 0, which would be a run
        let v = noise.between(-7, 6);
        value_without_zero(bits, &table.ac, if v >= 0 { v + 1 } else { v });
    }
    bits.put(table.end.0, table.end.1);
}

/// A difference of DC: its size's code, then its bits.
fn value(bits: &mut Bits, codes: &[(u16, u8)], v: i16) {
    let size = magnitude(v);
    let (code, len) = codes[usize::from(size)];
    bits.put(code, len);
    bits.put(low_bits(v, size), size);
}

/// An AC coefficient after no zero.
fn value_without_zero(bits: &mut Bits, codes: &[(u16, u8)], v: i16) {
    let size = magnitude(v);
    let (code, len) = codes[usize::from(size) - 1];
    bits.put(code, len);
    bits.put(low_bits(v, size), size);
}

/// Bits of the absolute value.
fn magnitude(v: i16) -> u8 {
    (16 - v.unsigned_abs().leading_zeros()) as u8
}

/// Table F.1: negative values are stored less one.
fn low_bits(v: i16, size: u8) -> u16 {
    let v = if v < 0 { v - 1 } else { v };
    v as u16 & ((1 << size) - 1)
}

/// Writes bits, the highest first, and stuffs a zero after every 0xff.
struct Bits {
    out: Vec<u8>,
    pending: u32,
    len: u8,
}

impl Bits {
    fn put(&mut self, bits: u16, len: u8) {
        self.pending = self.pending << len | u32::from(bits);
        self.len += len;
        while self.len >= 8 {
            let byte = (self.pending >> (self.len - 8)) as u8;
            self.out.push(byte);
            if byte == 0xff {
                self.out.push(0);
            }
            self.len -= 8;
            self.pending &= (1 << self.len) - 1;
        }
    }

    /// The last byte is filled with ones.
    fn finish(mut self) -> Vec<u8> {
        if self.len > 0 {
            self.put(0x7f, 7);
        }
        self.out
    }
}

/// The same numbers every time (Knuth, MMIX).
pub struct Noise(pub u64);

impl Noise {
    pub fn between(&mut self, low: i16, high: i16) -> i16 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + ((self.0 >> 33) % (i64::from(high) - i64::from(low) + 1).unsigned_abs()) as i16
    }
}

#[cfg(test)]
mod tests {
    use attendant::config::manifest::ImageSpec;
    use attendant::preprocess::{ImagePreprocessor, JpegDecoding};
    use attendant::signal::{Frame, PixelFormat, Tensor};

    use super::*;

    #[test]
    fn a_picture_is_as_large_as_a_webcams_and_is_decoded_to_its_end() {
        let spec: ImageSpec = toml::from_str("size = [16, 16]").unwrap();
        for (width, height) in [(640_u16, 480_u16), (16, 8), (17, 9), (1280, 720)] {
            let data = picture(width, height);
            let bits_per_pixel = data.len() as f64 * 8.0 / (f64::from(width) * f64::from(height));
            assert!(bits_per_pixel > 1.2, "{width}x{height}: {bits_per_pixel:.2} bits a pixel");
            let mut preprocessor = ImagePreprocessor::new(&spec).unwrap();
            let mut frame = Frame {
                width: width.into(),
                height: height.into(),
                format: PixelFormat::Jpeg,
                data,
                ..Frame::default()
            };
            let mut out = Tensor::zeros_f32(&[]);
            preprocessor.run(&frame, &mut out).unwrap();
            assert!(matches!(preprocessor.jpeg_decoding(), Some(JpegDecoding::Luminance { .. })), "{width}x{height}");
            // the last block is needed
            frame.data.truncate(frame.data.len() - 8);
            assert!(preprocessor.run(&frame, &mut out).is_err(), "{width}x{height}: cut");
        }
    }
}
