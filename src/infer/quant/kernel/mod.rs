//! Loops over numbers: one file a family, each for every tier that the CPU may have.
//!
//! The planner calls them with slices; what a slice must hold is asserted at the entry, so that the vector code behind it may
//! use pointers. They deliberately know nothing of graphs, layouts by name, or tract.

mod fake;
pub(crate) mod real;

pub(super) use fake::{dequantize, fake_quantize, quantize};
