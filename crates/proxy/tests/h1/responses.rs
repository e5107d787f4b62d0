//! One answer of a backend per file in `responses/`, in every split of its bytes.
//!
//! `portway_testkit::engine::corpus` has the form of a file; `to: HEAD` where it answers a HEAD. Verdicts:
//! - `502`: there is no answer, and the connection is closed;
//! - `body`: there is one, but its body fails, and the connection is closed;
//! - a status: whoever asked sees what `sees` has; `then` the connection is `reused` or `closed`.

use std::path::Path;

use bytes::Bytes;
use http::Method;
use portway_testkit::engine::corpus::{self, Case};
use portway_testkit::engine::{Answered, Fetched, fetch};

use crate::harness::run;

pub(crate) fn cases() -> Vec<Case> {
    let cases = corpus::cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/h1/responses")).unwrap();
    assert!(cases.len() > 80, "the corpus is not there");
    cases
}

pub(crate) fn method(case: &Case) -> Method {
    case.get("to").map_or(Method::GET, |method| method.parse().unwrap())
}

/// The lines of a file that say what became of its bytes.
fn told(fetched: &Fetched) -> String {
    let answered = match &fetched.answer {
        Err(_) => return "verdict: 502\n".to_owned(),
        Ok(Answered { fault: Some(_), .. }) => return "verdict: body\n".to_owned(),
        Ok(answered) => answered,
    };
    let fields = |pairs: &[(String, String)]| {
        pairs.iter().map(|(name, value)| format!("{name}: {value}; ")).collect::<String>()
    };
    let body = String::from_utf8_lossy(&answered.body);
    let sees = format!("{}{body} {}", fields(&answered.fields), fields(&answered.trailers));
    let then = if fetched.reusable { "reused" } else { "closed" };
    format!("verdict: {}\nsees: {}\nthen: {then}\n", answered.status, sees.trim())
}

fn expected(case: &Case) -> String {
    let line = |key: &str| case.get(key).map(|value| format!("{key}: {value}\n")).unwrap_or_default();
    line("verdict") + &line("sees") + &line("then")
}

#[test]
fn every_answer_in_every_split() {
    run(async {
        let mut wrong = String::new();
        for case in cases() {
            let all = Bytes::from(case.payload.clone());
            // Long payloads are about their length; where they are cut says nothing new.
            let step = 1 + all.len() / 400;
            let mut splits = vec![vec![all.clone()]];
            splits.extend((1..all.len()).step_by(step).map(|at| vec![all.slice(..at), all.slice(at..)]));
            splits.push(all.chunks(step).map(Bytes::copy_from_slice).collect());
            for pieces in splits {
                let how = pieces.first().map_or(0, Bytes::len);
                let told = told(&fetch(pieces, method(&case)).await);
                if told != expected(&case) {
                    wrong += &format!("{}, cut at {how}:\n{told}", case.name);
                    break;
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    });
}
