//! llhttp as a third opinion: `tests/llhttp/parse.mjs`, which needs Node and `npm ci` in its folder.
//! `cargo xtask ci llhttp` sees to both.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use bytes::Bytes;
use portway_testkit::engine::{Answered, Meaning, Pairs, fetch, serve};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::Deserialize;
use serde_json::json;

use super::{Verdict, check_listed, compare, request_wire};
use crate::harness::run;
use crate::property::message;
use crate::{hostile, responses};

/// Why llhttp refuses what is taken here, besides what the corpus lists.
pub(super) const KNOWN: [&str; 3] = [
    "llhttp knows a list of methods; here any token of up to 32 bytes is one (RFC 9110 section 9.1).",
    "llhttp reads `Content-Length` and `Transfer-Encoding` among trailers as framing, and refuses them; here they are \
     dropped unread (RFC 9110 section 6.5.1).",
    "llhttp takes no tab behind the value of `Content-Length`; it may stand there as a space may (RFC 9112 section 5).",
];

/// Bytes to parse.
pub(super) struct Job<'a> {
    pub(super) response: bool,
    /// The response is to a HEAD.
    pub(super) head: bool,
    pub(super) bytes: &'a [u8],
}

/// What llhttp makes of them.
#[derive(Debug, Deserialize)]
pub(super) struct Parsed {
    /// Why it stopped, as llhttp names it.
    error: Option<String>,
    messages: Vec<Message>,
    /// Another way to cut them, with another result.
    #[serde(default)]
    splits: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    method: String,
    #[serde(default)]
    status: u16,
    target: String,
    fields: Vec<Line>,
    trailers: Vec<Line>,
    body: String,
    whole: bool,
}

#[derive(Debug, Deserialize)]
struct Line(String, String);

fn pairs(lines: &[Line]) -> Pairs {
    lines.iter().map(|Line(name, value)| (name.clone(), value.clone())).collect()
}

fn bytes(latin1: &str) -> Vec<u8> {
    latin1.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

impl Parsed {
    pub(super) fn requests(&self) -> Vec<Meaning> {
        let meaning = |message: &Message| Meaning {
            method: message.method.clone(),
            target: message.target.clone(),
            fields: pairs(&message.fields),
            body: bytes(&message.body),
            trailers: pairs(&message.trailers),
            fault: (!message.whole).then_some("llhttp"),
            ..Meaning::default()
        };
        self.messages.iter().map(meaning).collect()
    }

    /// Whether it is for one of the reasons in [`KNOWN`] that it stopped.
    pub(super) fn is_known(&self) -> bool {
        let last = |section: fn(&Message) -> &[Line]| self.messages.last().and_then(|m| section(m).last());
        let is_framing = |line: &Line| {
            ["content-length", "transfer-encoding"].iter().any(|name| line.0.eq_ignore_ascii_case(name))
        };
        match self.error.as_deref() {
            Some("HPE_INVALID_METHOD") => true,
            Some("HPE_INVALID_CONTENT_LENGTH" | "HPE_INVALID_TRANSFER_ENCODING") => {
                // It stops at a trailer field ahead of its value; at the tab it has had all of the number.
                last(|message| &message.trailers).is_some_and(is_framing)
                    || last(|message| &message.fields)
                        .is_some_and(|line| is_framing(line) && line.1.parse::<u64>().is_ok())
            }
            _ => false,
        }
    }

    /// The first that is final. What comes behind it is for no request.
    pub(super) fn response(&self) -> Option<Answered> {
        let message = self.messages.iter().find(|message| message.status >= 200 || message.status == 101)?;
        Some(Answered {
            status: message.status,
            fields: pairs(&message.fields),
            body: bytes(&message.body),
            trailers: pairs(&message.trailers),
            fault: (!message.whole).then_some("llhttp"),
        })
    }
}

/// All of them, by one process.
pub(super) fn parse(jobs: &[Job<'_>]) -> Vec<Parsed> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/llhttp/parse.mjs");
    let mut node = Command::new("node");
    let mut node = node.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Node.js");
    let mut input = node.stdin.take().unwrap();
    let output = BufReader::new(node.stdout.take().unwrap());
    let lines = jobs.iter().map(|Job { response, head, bytes }| {
        let bytes = base64::engine::general_purpose::STANDARD.encode(bytes);
        json!({"response": response, "head": head, "bytes": bytes}).to_string() + "\n"
    });
    let lines: String = lines.collect();
    let feed = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let parsed: Vec<Parsed> =
        output.lines().map(|line| serde_json::from_str(&line.unwrap()).expect("a result")).collect();
    feed.join().unwrap().expect("parse.mjs runs to its end: is `npm ci` done in tests/llhttp?");
    assert!(node.wait().unwrap().success());
    assert_eq!(parsed.len(), jobs.len());
    for (job, parsed) in jobs.iter().zip(&parsed) {
        assert!(parsed.splits.is_empty(), "b\"{}\": {parsed:?}", job.bytes.escape_ascii());
    }
    parsed
}

#[test]
#[ignore = "needs Node: cargo xtask ci llhttp"]
fn valid_messages_mean_the_same_to_llhttp() {
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(message(), 1..4);
    let wires: Vec<Vec<u8>> = (0..300)
        .map(|_| strategy.new_tree(&mut runner).unwrap().current())
        .map(|messages| messages.into_iter().flat_map(|(_, wire)| wire).collect())
        .collect();
    let jobs: Vec<Job<'_>> = wires.iter().map(|bytes| Job { response: false, head: false, bytes }).collect();
    let parsed = parse(&jobs);
    run(async {
        for (wire, parsed) in wires.iter().zip(parsed) {
            let ours = serve(vec![Bytes::from(wire.clone())]).await.seen;
            let theirs = parsed.requests();
            assert_eq!(compare(&ours, &theirs), Verdict::Same, "{ours:?} {theirs:?}");
        }
    });
}

#[test]
#[ignore = "needs Node: cargo xtask ci llhttp"]
fn requests_of_the_corpus() {
    let cases: Vec<_> = hostile::cases().into_iter().map(|case| (request_wire(&case), case)).collect();
    let jobs: Vec<Job<'_>> =
        cases.iter().map(|(bytes, _)| Job { response: false, head: false, bytes }).collect();
    let parsed = parse(&jobs);
    run(async {
        let mut found = Vec::new();
        for ((wire, case), parsed) in cases.into_iter().zip(parsed) {
            let ours = serve(vec![Bytes::from(wire)]).await.seen;
            let told = format!("{ours:?} {parsed:?}");
            found.push((case, compare(&ours, &parsed.requests()), told));
        }
        check_listed("llhttp", found);
    });
}

#[test]
#[ignore = "needs Node: cargo xtask ci llhttp"]
fn responses_of_the_corpus() {
    let cases = responses::cases();
    let jobs: Vec<Job<'_>> = cases
        .iter()
        .map(|case| Job {
            response: true,
            head: responses::method(case) == http::Method::HEAD,
            bytes: &case.payload,
        })
        .collect();
    let parsed = parse(&jobs);
    run(async {
        let mut found = Vec::new();
        for (case, parsed) in cases.into_iter().zip(parsed) {
            let answer =
                fetch(vec![Bytes::from(case.payload.clone())], responses::method(&case)).await.answer;
            let ours: Vec<_> = answer.into_iter().collect();
            let theirs: Vec<_> = parsed.response().into_iter().collect();
            let told = format!("{ours:?} {parsed:?}");
            found.push((case, compare(&ours, &theirs), told));
        }
        check_listed("llhttp", found);
    });
}
