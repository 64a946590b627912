//! The advice catalogue.
