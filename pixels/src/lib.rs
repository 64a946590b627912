//! A camera's picture to the few pixels that a network takes.
//!
//! Owns JPEG ([`jpeg`]), the resampling of planes ([`resize`]) and colour spaces ([`color`]). Plain numbers in and out: which part of a frame is taken, what
//! a channel means and how it is normalized is the caller's. A package of its own because it is built for speed where the
//! program around it is built for size.

pub mod color;
pub mod jpeg;
pub mod resize;

/// Largest side of a frame, and of a picture tensor, in pixels.
pub const MAX_IMAGE_SIDE: u32 = 8192;
