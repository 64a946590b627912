//! Configuration that people write: the bundle's manifest ([`manifest`]) and the device's own file ([`runtime`]).
//!
//! Types, defaults and value checks only. Opening the files a manifest names is [`crate::bundle`]'s work; what a board
//! can do is [`crate::board`]'s. Unknown keys are errors that name the file, the line and the known keys ([`ConfigError`]).

mod check;
mod check_heads;
mod error;
pub mod manifest;
pub mod mqtt;
pub mod privacy;
pub mod recording;
pub mod runtime;
mod spans;
pub mod speech;
pub mod trust;

pub use check::{Wrong, check_manifest};
pub use error::{ConfigError, from_toml};
pub use spans::{Step, is_given, line_of};
