//! JPEG pictures.
//!
//! Owns the two ways to decode: the luminance decoder ([`LumaDecoder`]), which takes what a camera sends to an encoder
//! that looks at luminance alone, and the library (`library`) for everything else. The picture code calls them once a
//! frame. The luminance decoder exists because the picture an encoder takes is a tenth of a camera's: it decodes only
//! the coefficients that survive the resampling, resamples without an inverse transform, steps over colour, and
//! allocates nothing after the largest frame so far. No library does.
//!
//! | module | owns |
//! |---|---|
//! | `header` | segments, and which pictures the luminance decoder takes |
//! | `huffman`, `standard` | code tables |
//! | `bits` | bytes to bits |
//! | `scan` | blocks of coefficients, in their order |
//! | `resample` | coefficients to resampled pixels |

mod bits;
mod header;
mod huffman;
mod library;
mod resample;
mod scan;
mod standard;
#[cfg(test)]
mod tests;

pub use header::Header;
pub use library::{Decoded, decode};
pub use resample::Resampler;

/// Pixels that one byte of a JPEG can stand for at most: every block of 8 x 8 needs at least one bit of luminance.
const MAX_PIXELS_PER_BYTE: usize = 8 * 64;

/// Whether so many bytes can hold a picture of this size.
fn can_hold(bytes: usize, width: usize, height: usize) -> bool {
    width * height <= bytes.saturating_mul(MAX_PIXELS_PER_BYTE)
}

/// A JPEG that is none, or not a whole one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("jpeg of {bytes} bytes: {what}; expected a whole JPEG")]
pub struct JpegError {
    /// Bytes that were given.
    bytes: usize,
    /// What is wrong with them.
    what: String,
}

fn damaged(data: &[u8], what: impl std::fmt::Display) -> JpegError {
    JpegError { bytes: data.len(), what: what.to_string() }
}

/// What is wrong with entropy-coded data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Damage {
    #[error("the data ends before the picture does")]
    Short,
    #[error("a code that its table does not have")]
    NoCode,
    #[error("a block of more than 64 coefficients")]
    LongBlock,
    #[error("marker ff {0:02x} where a restart was due")]
    Marker(u8),
}

/// Decodes luminance, with its tables and buffers.
#[derive(Debug, Default)]
pub struct LumaDecoder {
    tables: header::Tables,
    scan: bits::Scan,
    coefficients: scan::Coefficients,
}

impl LumaDecoder {
    /// The header of `data`; None if the picture is one for the library.
    pub fn header(&mut self, data: &[u8]) -> Option<Header> {
        Header::read(data, &mut self.tables).filter(|header| can_hold(data.len(), header.width, header.height))
    }

    /// Decodes the picture whose header was read last and resamples it into `out`, values in [0, 255].
    ///
    /// # Errors
    /// [`JpegError`] for damaged data; `out` is then unspecified.
    pub fn run(
        &mut self,
        data: &[u8],
        header: &Header,
        resampler: &mut Resampler,
        out: &mut [f32],
    ) -> Result<(), JpegError> {
        let want = resampler.want().clone();
        let each = |row: scan::BlockRow<'_>| resampler.push(row, out);
        scan::read(data, header, &self.tables, &want, &mut self.scan, &mut self.coefficients, each)
            .map_err(|e| damaged(data, e))
    }
}
