//! Any bytes from a client behind its SETTINGS: cut in any way there is no panic, and an end.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_testkit::engine::frames::requests(data));
