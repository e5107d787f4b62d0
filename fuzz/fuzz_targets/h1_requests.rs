//! Any bytes from a client: cut in any way the same, one request in and at most one out, and no panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_testkit::engine::properties::requests(data));
