//! One attack per file in `hostile/`, each followed by `GET /smuggled`, in every split of its bytes: one
//! request in, at most one request out.
//!
//! `portway_testkit::engine::corpus` has the form of a file. Verdicts:
//! - a status: the request is refused with it, no handler sees it, and the connection is closed;
//! - `body`: a handler sees the request, but its body fails, and the connection is closed;
//! - `200`: a handler sees what `sees` has; `then` the next request is served, or the connection `closed`.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use portway_proxy::drain::Drain;
use portway_proxy::http::h1::Settings;
use portway_proxy::http::{Body, Request, Response, reply};
use portway_testkit::engine::corpus::{self, Case};
use portway_testkit::engine::{Answering, serve_with};

use crate::harness::{collect, read_to_end, run, served, write};

pub(crate) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

pub(crate) fn cases() -> Vec<Case> {
    let cases = corpus::cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/h1/hostile")).unwrap();
    assert!(cases.len() > 140, "the corpus is not there");
    cases
}

type Seen = Rc<RefCell<Vec<String>>>;

async fn record(request: Request, seen: Seen) -> Response {
    let head = request.head;
    let mut text = format!("{} {} {}", head.method, head.authority.as_str(), head.target.as_str());
    for (name, value) in head.headers.iter() {
        text += &format!(" {}: {};", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
    }
    if let Some(protocol) = request.upgrade {
        text += &format!(" ->{}", String::from_utf8_lossy(&protocol));
    }
    match collect(request.body).await {
        Ok(body) if body.is_empty() => {}
        Ok(body) => text += &format!(" {}", String::from_utf8_lossy(&body)),
        Err(fault) => {
            seen.borrow_mut().push(format!("{text} !{}", fault.kind.reason()));
            return reply::fault(fault.kind);
        }
    }
    seen.borrow_mut().push(text);
    Response::new(StatusCode::OK, Body::Empty)
}

pub(crate) fn settings() -> Settings {
    Settings { linger_timeout: Duration::from_millis(500), ..Settings::default() }
}

/// Serves the pieces; what was answered, and what a handler saw.
async fn serve(pieces: Vec<Bytes>) -> (String, Vec<String>) {
    let seen = Seen::default();
    let recorder = seen.clone();
    let handler = Answering(move |request| record(request, recorder.clone()));
    let output = serve_with(&handler, pieces, &settings()).await;
    (String::from_utf8(output).unwrap(), seen.take())
}

fn statuses(output: &str) -> Vec<&str> {
    output.split("HTTP/1.1 ").skip(1).map(|response| &response[..3]).collect()
}

fn judge(case: &Case, how: &str, output: &str, seen: &[String]) {
    let told = format!("{} {how}: answered {output:?}, seen {seen:?}", case.name);
    let closes = output.contains("connection: close\r\n");
    match case.verdict() {
        "200" => {
            let (smuggled, expected): (bool, &[&str]) = match case.get("then") {
                Some("smuggled") => (true, &["200", "200"]),
                Some("closed") => (false, &["200"]),
                other => panic!("{}: then {other:?}", case.name),
            };
            assert_eq!(statuses(output), expected, "{told}");
            assert_eq!(Some(&*seen[0]), case.get("sees"), "{told}");
            assert_eq!(seen.get(1).is_some_and(|s| s == "GET a /smuggled"), smuggled, "{told}");
        }
        "body" => {
            assert_eq!(statuses(output), ["400"], "{told}");
            assert_eq!(seen.len(), 1, "{told}");
            assert!(seen[0].ends_with("!bad_request"), "{told}");
        }
        status => {
            assert_eq!(statuses(output), [status], "{told}");
            assert!(seen.is_empty() && closes, "{told}");
        }
    }
}

#[test]
fn every_attack_in_every_split() {
    run(async {
        for case in cases() {
            let all = Bytes::from([&case.payload, SMUGGLED.as_bytes()].concat());
            let (output, seen) = serve(vec![all.clone()]).await;
            judge(&case, "whole", &output, &seen);
            // Long payloads are about their length; where they are cut says nothing new.
            let step = 1 + all.len() / 400;
            for at in (1..all.len()).step_by(step) {
                let (output, seen) = serve(vec![all.slice(..at), all.slice(at..)]).await;
                judge(&case, &format!("cut at {at}"), &output, &seen);
            }
            let (output, seen) = serve(all.chunks(step).map(Bytes::copy_from_slice).collect()).await;
            judge(&case, "byte by byte", &output, &seen);
        }
    });
}

#[test]
fn every_attack_over_a_socket() {
    run(async {
        for case in cases() {
            let seen = Seen::default();
            let recorder = seen.clone();
            let handler = Answering(move |request| record(request, recorder.clone()));
            let (mut client, task) = served(handler, settings(), &Drain::default()).await;
            let closes = case.get("then") != Some("smuggled");
            write(&mut client, &[&case.payload[..], SMUGGLED.as_bytes()].concat()).await;
            if !closes {
                write(&mut client, "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            }
            let output = read_to_end(&mut client).await;
            drop(client);
            task.await.unwrap();
            let mut seen = seen.take();
            if !closes {
                assert_eq!(seen.pop().as_deref(), Some("GET a /last"), "{}", case.name);
            }
            let output = match closes {
                true => output.as_str(),
                false => output.rsplit_once("HTTP/1.1 ").unwrap().0,
            };
            judge(&case, "over a socket", output, &seen);
        }
    });
}
