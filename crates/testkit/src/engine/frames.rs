//! The HTTP/2 engine without sockets: what must hold for any bytes from a client or a backend.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use portway_proxy::drain::Drain;
use portway_proxy::http::h2::{Loans, client, server};
use portway_proxy::http::{
    Authority, Body, Headers, Request, RequestHead, Response, Scheme, Target, Version,
};
use portway_proxy::observe::Recorder;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::properties::{Chance, splits};
use super::{Answering, Pieces, connection, drained, pairs};

/// What a client says first: the preface and SETTINGS.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// What a backend says first: SETTINGS.
pub const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// Bytes that a client sends behind its preface. However they are cut, nothing panics, and the connection ends
/// with them. (Which requests are served may depend on the cut: an error of the connection ends those that came
/// along with it before they are looked at.)
///
/// # Panics
/// When it does not hold.
pub fn requests(data: &[u8]) {
    let data = &[PREFACE, data].concat();
    let mut cuts = vec![vec![Bytes::copy_from_slice(data)]];
    cuts.extend(splits(data));
    cuts.into_iter().for_each(|pieces| run(serve(pieces)));
}

async fn serve(pieces: Vec<Bytes>) {
    let handler = Rc::new(Answering(|mut request: Request| async move {
        let (body, ..) = drained(&mut request.body).await;
        Response::new(StatusCode::OK, Body::from(Bytes::from(body)))
    }));
    let recorder = Rc::new(Recorder::detached());
    let limits = Rc::default();
    let drain = Drain::default().watch();
    let settings = server::Settings { limits: &limits, recorder: recorder.clone(), drain };
    let io = Pieces::new(pieces, Rc::default());
    let serving = server::serve(io, Bytes::new(), connection(), handler, settings);
    timeout(Duration::from_secs(60), serving).await.expect("the end of the connection");
    assert_eq!(recorder.counts.panics.get(), 0, "a panic while a request was served");
}

/// Bytes that a backend answers with behind its SETTINGS. However they are cut, nothing panics, and a request
/// has an answer or a fault.
///
/// # Panics
/// When it does not hold.
pub fn responses(data: &[u8]) {
    let data = &[SETTINGS, data].concat();
    let mut cuts = vec![vec![Bytes::copy_from_slice(data)]];
    cuts.extend(splits(data));
    for pieces in cuts {
        for method in [Method::GET, Method::HEAD, Method::POST] {
            run(fetch(pieces.clone(), method));
        }
    }
}

async fn fetch(pieces: Vec<Bytes>, method: Method) {
    let head = RequestHead {
        scheme: Scheme::Http,
        authority: Authority::parse(Bytes::from_static(b"a")).expect("an authority"),
        target: Target::new(Bytes::from_static(b"/")),
        version: Version::Http2,
        headers: Headers::from([("x", "y")]),
        method,
    };
    let client =
        client::Client::begin(Pieces::new(pieces, Rc::default()), false, Rc::new(|| ()), Loans::new(1 << 20));
    let body =
        if head.method == Method::POST { Body::from(Bytes::from(vec![b'x'; 100_000])) } else { Body::Empty };
    let held = Rc::new(Cell::new(0));
    let told = held.clone();
    let outgoing = client::Outgoing {
        head: &head,
        endpoint: ([127, 0, 0, 1], 80).into(),
        body,
        informational: Some(Rc::new(move |head| told.set(told.get() + pairs(&head.headers).len()))),
        hold: Rc::new(()),
    };
    let fetching = async {
        if let Ok(mut answer) = client.send(outgoing).await {
            drained(&mut answer.body).await;
        }
    };
    timeout(Duration::from_secs(60), fetching).await.expect("an answer or a fault");
    assert_eq!(client.streams(), 0, "a stream that has ended counts");
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(LocalSet::new().run_until(test))
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// Frames, mostly such as can follow each other, for either side: `head` is a block for HEADERS.
pub fn random(heads: &[&[u8]], chance: &mut Chance) -> Vec<u8> {
    let mut data = Vec::new();
    let mut last = 1;
    for _ in 0..=chance.below(12) {
        let stream = match chance.below(8) {
            0 => chance.below(12) as u32,
            1 | 2 => {
                last += 2;
                last
            }
            _ => last,
        };
        let flags = [0, 1, 4, 5, 5, 5, 4, 13, 37][chance.below(9)];
        let head = heads[chance.below(heads.len())];
        let text = vec![b'x'; [0, 1, 2, 7, 300][chance.below(5)]];
        let number = [0u32, 1, 8, 100, 65_535, 0x7fff_ffff][chance.below(6)].to_be_bytes();
        data.extend(match chance.below(16) {
            0..6 => frame(1, flags, stream, head),
            6..9 => frame(0, flags & 9, stream, &text),
            9 => frame(3, 0, stream, &number),
            10 => {
                let name = chance.below(8) as u8;
                frame(4, 0, 0, &[&[0, name][..], &number].concat())
            }
            11 => frame(6, flags & 1, 0, b"pw-alive"),
            12 => frame(7, 0, 0, &[number, [0; 4]].concat()),
            13 => frame(8, 0, if flags & 1 == 0 { 0 } else { stream }, &number),
            14 => {
                let cut = chance.below(head.len());
                let mut both = frame(1, flags & 1, stream, &head[..cut]);
                both.extend(frame(9, flags & 4, stream, &head[cut..]));
                both
            }
            _ => frame(chance.below(256) as u8, chance.below(256) as u8, stream, &text),
        });
    }
    data
}
