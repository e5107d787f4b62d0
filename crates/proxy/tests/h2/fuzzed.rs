//! What the fuzz targets (`fuzz/`) check, over a bounded number of sequences of frames. `FUZZ_TIMES` and
//! `FUZZ_SEED` as for HTTP/1.1.

use portway_testkit::engine::frames;
use portway_testkit::engine::properties::{Chance, mutated};

/// Header blocks of requests: GET and POST, with and without a body, malformed ones, trailers.
const REQUESTS: [&[u8]; 7] = [
    b"\x82\x86\x84\x41\x01a",
    b"\x83\x86\x84\x41\x01a\x0f\x0d\x017",
    b"\x82\x86\x84\x41\x01a\x40\x01x\x01y\xbe\xbe",
    b"\x82\x86\x44\x06/../..\x41\x01a",
    b"\x82\x84\x41\x01a",
    b"\x00\x0bgrpc-status\x010",
    b"\x20\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
];

/// Header blocks of responses: final ones, interim ones, with a length, malformed ones, trailers.
const RESPONSES: [&[u8]; 7] = [
    b"\x88",
    b"\x88\x0f\x0d\x017",
    b"\x08\x03103\x00\x04link\x01a",
    b"\x89",
    b"\x8b\x0f\x0d\x019",
    b"\x82",
    b"\x00\x0bgrpc-status\x010",
];

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn hold(property: fn(&[u8]), heads: &[&[u8]]) {
    let mut chance = Chance::new(number("FUZZ_SEED", 1) as u64);
    for _ in 0..number("FUZZ_TIMES", 2_000) {
        let mut data = frames::random(heads, &mut chance);
        if chance.below(3) == 0 {
            data = mutated(&[data], &mut chance);
        }
        if std::panic::catch_unwind(|| property(&data)).is_err() {
            panic!("it does not hold for b\"{}\"", data.escape_ascii());
        }
    }
}

#[test]
fn requests() {
    hold(frames::requests, &REQUESTS);
}

#[test]
fn answers() {
    hold(frames::responses, &RESPONSES);
}
