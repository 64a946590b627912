//! Fuzz targets of Attendant: every parser of bytes that the program did not write. How to run them: docs/fuzzing.md.

pub mod targets;
