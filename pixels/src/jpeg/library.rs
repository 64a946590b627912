//! Any JPEG to 8-bit samples, with the library.
//!
//! Owns the library's settings and bounds. It asks for luminance alone when no more is needed: chroma is then never
//! transformed nor converted. The library is strict: a truncated file is an error, not a picture with a grey half. It
//! allocates in every call.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::MAX_IMAGE_SIDE;

use super::{JpegError, can_hold, damaged};

/// A decoded JPEG: rows of `width * channels` bytes without padding.
#[derive(Clone, Copy, Debug)]
pub struct Decoded<'a> {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// 1: full-range luminance; 3: R G B.
    pub channels: usize,
    /// Row after row.
    pub data: &'a [u8],
}

/// Decodes `data` into `buffer`, which grows once to the size of the camera's frames.
///
/// # Errors
/// [`JpegError`] for what is no whole JPEG, or larger than [`MAX_IMAGE_SIDE`].
pub fn decode<'a>(data: &[u8], want_gray: bool, buffer: &'a mut Vec<u8>) -> Result<Decoded<'a>, JpegError> {
    let bad = |e: zune_jpeg::errors::DecodeErrors| damaged(data, e);
    let side = MAX_IMAGE_SIDE as usize;
    let options = DecoderOptions::new_fast().set_strict_mode(true).set_max_width(side).set_max_height(side);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(data), options);
    decoder.decode_headers().map_err(bad)?;
    let (width, height) = decoder.dimensions().unwrap_or((0, 0));
    if !can_hold(data.len(), width, height) {
        return Err(damaged(data, format_args!("says it is {width} x {height}, which cannot fit")));
    }
    // From other colour spaces the decoder offers no way to luminance; their RGB is mixed after resizing.
    let luma = want_gray && matches!(decoder.input_colorspace(), Some(ColorSpace::YCbCr | ColorSpace::Luma));
    let (space, channels) = if luma { (ColorSpace::Luma, 1) } else { (ColorSpace::RGB, 3) };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let bytes = width * height * channels;
    buffer.resize(bytes, 0);
    decoder.decode_into(buffer).map_err(bad)?;
    Ok(Decoded { width, height, channels, data: &buffer[..bytes] })
}
