//! Any bytes from a backend behind its SETTINGS: cut in any way there is no panic, and an end.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_testkit::engine::frames::responses(data));
