//! Messages of the corpus, changed at random: each that is taken here, the others take, too, and for the same.
//!
//! `FUZZ_TIMES` and `FUZZ_SEED` are as in `fuzzed.rs`.

use bytes::Bytes;
use http::Method;
use portway_testkit::engine::properties::{Chance, mutated};
use portway_testkit::engine::{Answered, Meaning, fetch, serve};

use super::llhttp::{Job, parse};
use super::{Comparable, Verdict, compare, hyper};
use crate::fuzzed::{chance, number, seeds};
use crate::harness::run;
use crate::{hostile, responses};

fn changed(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<Vec<u8>> {
    (0..number("FUZZ_TIMES", 3_000)).map(|_| mutated(seeds, chance)).collect()
}

/// Ours are among theirs; or why that is not so.
fn check<T: Comparable + std::fmt::Debug>(wire: &[u8], ours: &[T], theirs: &[T]) -> Option<String> {
    let verdict = compare(ours, theirs);
    let differs = !matches!(verdict, Verdict::Same | Verdict::Takes);
    differs.then(|| format!("b\"{}\": {verdict:?}: {ours:?} {theirs:?}\n", wire.escape_ascii()))
}

fn none(wrong: &[String]) {
    let shown: String = wrong.iter().take(20).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} of them:\n{shown}", wrong.len());
}

async fn ours(wire: &[u8]) -> Vec<Meaning> {
    serve(vec![Bytes::copy_from_slice(wire)]).await.seen
}

async fn our_answer(wire: &[u8]) -> Vec<Answered> {
    fetch(vec![Bytes::copy_from_slice(wire)], Method::GET).await.answer.into_iter().collect()
}

#[test]
fn what_is_taken_here_means_the_same_to_hyper() {
    let (requests, answers) = (seeds(hostile::cases()), seeds(responses::cases()));
    let (chance, mut wrong) = (&mut chance(), Vec::new());
    for wire in changed(&requests, chance) {
        wrong.extend(run(async {
            let ours = ours(&wire).await;
            check(&wire, &ours, &hyper::requests(&wire).await).filter(|_| !hyper::is_known(&ours))
        }));
    }
    for wire in changed(&answers, chance) {
        wrong.extend(run(async {
            let theirs: Vec<_> = hyper::response(&wire, Method::GET).await.into_iter().collect();
            check(&wire, &our_answer(&wire).await, &theirs)
        }));
    }
    none(&wrong);
}

#[test]
#[ignore = "needs Node: cargo xtask ci llhttp"]
fn what_is_taken_here_means_the_same_to_llhttp() {
    let (requests, answers) = (seeds(hostile::cases()), seeds(responses::cases()));
    let (chance, mut wrong) = (&mut chance(), Vec::new());
    for (response, seeds) in [(false, requests), (true, answers)] {
        let wires = changed(&seeds, chance);
        let jobs: Vec<Job<'_>> = wires.iter().map(|bytes| Job { response, head: false, bytes }).collect();
        for (wire, parsed) in wires.iter().zip(parse(&jobs)) {
            let found = run(async {
                if response {
                    let theirs: Vec<_> = parsed.response().into_iter().collect();
                    check(wire, &our_answer(wire).await, &theirs)
                } else {
                    check(wire, &ours(wire).await, &parsed.requests())
                }
            });
            wrong.extend(found.filter(|_| !parsed.is_known()).map(|found| format!("{parsed:?}: {found}")));
        }
    }
    none(&wrong);
}
