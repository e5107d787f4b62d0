//! Any bytes from a backend: cut in any way the same, one response in and at most one out, and no panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_testkit::engine::properties::responses(data));
