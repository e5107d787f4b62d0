//! One attack per file in `hostile/`, each followed by `GET /smuggled`, in every split of its bytes: one
//! request in, at most one request out.
//!
//! A file has a line that says why, the verdict, and after `---` the payload: `\r`, `\n`, `\t`, `\xNN` and
//! `\\` are escapes, `{text*N}` repeats, and the file's own line ends mean nothing. Verdicts:
//! - a status: the request is refused with it, no handler sees it, and the connection is closed;
//! - `body`: a handler sees the request, but its body fails, and the connection is closed;
//! - `200`: a handler sees what `sees` has; `then` the next request is served, or the connection `closed`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use portway_proxy::drain::Drain;
use portway_proxy::http::h1::{self, Settings};
use portway_proxy::http::{Body, Request, Response, reply};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::harness::{Answering, collect, connection, read_to_end, run, served, write};

pub(crate) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) verdict: String,
    sees: Option<String>,
    pub(crate) then: Option<String>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/h1/hostile");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 140, "the corpus is not there");
    files.iter().map(|path| case(path)).collect()
}

fn case(path: &Path) -> Case {
    let text = std::fs::read_to_string(path).unwrap();
    let (head, payload) = text.split_once("---\n").unwrap();
    let line = |key: &str| head.lines().find_map(|line| line.strip_prefix(key)).map(|v| v.trim().to_owned());
    Case {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        verdict: line("verdict:").unwrap(),
        sees: line("sees:"),
        then: line("then:"),
        payload: unescape(&payload.replace('\n', "")),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '{']) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        if rest.as_bytes()[at] == b'{' {
            let (repeat, behind) = rest[at + 1..].split_once('}').unwrap();
            let (what, times) = repeat.rsplit_once('*').unwrap();
            out.extend(unescape(what).repeat(times.parse().unwrap()));
            rest = behind;
            continue;
        }
        let (byte, len) = match rest.as_bytes()[at + 1] {
            b'r' => (b'\r', 2),
            b'n' => (b'\n', 2),
            b't' => (b'\t', 2),
            b'\\' => (b'\\', 2),
            b'x' => (u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap(), 4),
            other => panic!("\\{}", char::from(other)),
        };
        out.push(byte);
        rest = &rest[at + len..];
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// A connection whose reads return these pieces, one each, with a wait before each; then it ends.
pub(crate) struct Pieces {
    input: VecDeque<Bytes>,
    waited: bool,
    /// At the end of the input nothing comes any more, until the other side has closed.
    open: bool,
    output: Rc<RefCell<Vec<u8>>>,
}

impl Pieces {
    pub(crate) fn new(input: Vec<Bytes>, output: Rc<RefCell<Vec<u8>>>) -> Self {
        Self { input: input.into(), waited: false, open: false, output }
    }

    /// Does not end before the other side does, as a client that waits for its answers.
    pub(crate) fn open(mut self) -> Self {
        self.open = true;
        self
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.waited = !self.waited;
        if self.waited {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.input.is_empty() && self.open {
            return Poll::Pending;
        }
        if let Some(mut piece) = self.input.pop_front() {
            out.put_slice(&piece.split_to(piece.len().min(out.remaining())));
            if !piece.is_empty() {
                self.input.push_front(piece);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open = false;
        Poll::Ready(Ok(()))
    }
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
    let (output, seen) = (Rc::default(), Seen::default());
    let io = Pieces::new(pieces, Rc::clone(&output));
    let recorder = seen.clone();
    let handler = Answering(move |request| record(request, recorder.clone()));
    h1::serve(io, Bytes::new(), connection(), &handler, &settings(), Drain::default().watch()).await;
    let output = String::from_utf8(output.take()).unwrap();
    (output, seen.take())
}

fn statuses(output: &str) -> Vec<&str> {
    output.split("HTTP/1.1 ").skip(1).map(|response| &response[..3]).collect()
}

fn judge(case: &Case, how: &str, output: &str, seen: &[String]) {
    let told = format!("{} {how}: answered {output:?}, seen {seen:?}", case.name);
    let closes = output.contains("connection: close\r\n");
    match case.verdict.as_str() {
        "200" => {
            let (smuggled, expected): (bool, &[&str]) = match case.then.as_deref() {
                Some("smuggled") => (true, &["200", "200"]),
                Some("closed") => (false, &["200"]),
                other => panic!("{}: then {other:?}", case.name),
            };
            assert_eq!(statuses(output), expected, "{told}");
            assert_eq!(Some(&seen[0]), case.sees.as_ref(), "{told}");
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
            let closes = case.then.as_deref() != Some("smuggled");
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
