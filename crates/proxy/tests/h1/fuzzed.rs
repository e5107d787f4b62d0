//! What the fuzz targets (`fuzz/`) check, over the corpus and a bounded number of changed messages: cut in
//! any way the same, one in and at most one out, and never a panic.
//!
//! `FUZZ_TIMES=1000000 cargo test --release -p portway-proxy --test h1 fuzzed` looks longer, and
//! `FUZZ_SEED` begins elsewhere.

use portway_testkit::engine::corpus::Case;
use portway_testkit::engine::properties::{self, Chance};

use crate::{hostile, responses};

/// The payloads that are worth changing: those that are not about their length.
pub(crate) fn seeds(cases: Vec<Case>) -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = cases.into_iter().map(|case| case.payload).collect();
    seeds.retain(|payload| !payload.is_empty() && payload.len() < 2048);
    seeds
}

/// A number from the environment.
pub(crate) fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

pub(crate) fn chance() -> Chance {
    Chance::new(number("FUZZ_SEED", 1) as u64)
}

#[test]
fn requests() {
    let seeds = seeds(hostile::cases());
    properties::hold(properties::requests, &seeds, number("FUZZ_TIMES", 4_000), &mut chance());
}

#[test]
fn answers() {
    let seeds = seeds(responses::cases());
    properties::hold(properties::responses, &seeds, number("FUZZ_TIMES", 4_000), &mut chance());
}
