//! See `packed` in ../src/targets.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| attendant_fuzz::targets::packed(data));
