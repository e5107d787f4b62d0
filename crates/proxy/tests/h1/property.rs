//! Random valid messages: what goes in comes out, however it is cut and whichever framing carries it.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::{Method, StatusCode};
use portway_proxy::drain::Drain;
use portway_proxy::http::h1::{self, Client, SendOptions, Settings};
use portway_proxy::http::{Authority, Body, Headers, RequestHead, Response, Scheme, Target, Version};
use portway_testkit::engine::{Answering, Meaning, connection, drained, pairs, serve_with};
use proptest::prelude::*;

use crate::harness::{channel, run};

/// How a body is carried.
#[derive(Clone, Debug)]
enum Carried {
    /// `Content-Length`; or, if empty, nothing.
    Length,
    /// The sizes of the chunks, and an extension.
    Chunked(Vec<usize>, String),
}

fn fields(most: usize) -> impl Strategy<Value = Vec<(String, String)>> {
    let value = "([!-~]([ -~]{0,30}[!-~])?)?";
    prop::collection::vec(("[Xx]-[A-Za-z0-9!#$%&'*+.^`|~-]{1,12}", value), 0..most)
}

pub(crate) fn meaning() -> impl Strategy<Value = Meaning> {
    let target = "/([a-zA-Z0-9_~-]{1,8}/){0,3}[a-zA-Z0-9_~-]{0,8}(\\?[a-z0-9=&%/?]{0,20})?";
    let body = prop::collection::vec(any::<u8>(), 0..200);
    ("GET|POST|PUT|DELETE|PATCH|PURGE", target, fields(8), body, fields(3)).prop_map(
        |(method, target, fields, body, trailers)| Meaning {
            method,
            authority: "a".to_owned(),
            target,
            fields,
            body,
            trailers,
            ..Meaning::default()
        },
    )
}

fn carried() -> impl Strategy<Value = Carried> {
    prop_oneof![
        Just(Carried::Length),
        (prop::collection::vec(1..40usize, 1..8), "(;[a-z]{1,4}(=(\"[a-z ]{0,5}\"|[a-z]{1,5}))?){0,2}")
            .prop_map(|(sizes, extension)| Carried::Chunked(sizes, extension)),
    ]
}

/// A message on the wire, and what of its meaning that framing can carry.
pub(crate) fn message() -> impl Strategy<Value = (Meaning, Vec<u8>)> {
    (meaning(), carried(), any::<bool>()).prop_map(|(mut meaning, carried, upper)| {
        let mut wire = format!("{} {} HTTP/1.1\r\nHost: a\r\n", meaning.method, meaning.target);
        meaning.fields.iter().for_each(|(name, value)| wire += &format!("{name}:{value} \t\r\n"));
        let wire = match carried {
            Carried::Length => {
                meaning.trailers.clear();
                if !meaning.body.is_empty() {
                    wire += &format!("Content-Length: {}\r\n", meaning.body.len());
                }
                [wire.as_bytes(), b"\r\n", &meaning.body].concat()
            }
            Carried::Chunked(sizes, extension) => {
                let mut wire = (wire + "Transfer-Encoding: chunked\r\n\r\n").into_bytes();
                let mut rest = &meaning.body[..];
                for size in sizes.iter().cycle() {
                    let (chunk, behind) = rest.split_at((*size).min(rest.len()));
                    if chunk.is_empty() {
                        break;
                    }
                    let size =
                        if upper { format!("{:X}", chunk.len()) } else { format!("0{:x}", chunk.len()) };
                    wire.extend_from_slice(format!("{size}{extension}\r\n").as_bytes());
                    wire.extend_from_slice(chunk);
                    wire.extend_from_slice(b"\r\n");
                    rest = behind;
                }
                wire.extend_from_slice(format!("0{extension}\r\n").as_bytes());
                for (name, value) in &meaning.trailers {
                    wire.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
                }
                [&wire, &b"\r\n"[..]].concat()
            }
        };
        (meaning, wire)
    })
}

/// What handlers make of these pieces.
pub(crate) async fn served(pieces: Vec<Bytes>) -> Vec<Meaning> {
    let seen: Rc<RefCell<Vec<Meaning>>> = Rc::default();
    let record = seen.clone();
    let handler = Answering(move |request| {
        let record = record.clone();
        async move {
            let meaning = Meaning::of(request).await;
            record.borrow_mut().push(meaning);
            Response::new(StatusCode::OK, Body::Empty)
        }
    });
    serve_with(&handler, pieces, &Settings::default()).await;
    seen.take()
}

/// A body in these pieces, of known length if there are no trailers.
fn body(of: &Meaning, known: bool) -> Body {
    if known {
        return Body::Full(Bytes::from(of.body.clone()));
    }
    let (feed, body) = channel();
    let of = of.clone();
    tokio::task::spawn_local(async move {
        for piece in of.body.chunks(37) {
            feed.bytes(Bytes::copy_from_slice(piece)).await;
        }
        let own = |(name, value): &(String, String)| (name.clone(), value.clone());
        let mut trailers = Headers::default();
        for (name, value) in of.trailers.iter().map(own) {
            trailers.append(name, value);
        }
        if !trailers.is_empty() {
            feed.trailers(trailers).await;
        }
    });
    body
}

fn headers(of: &Meaning) -> Headers {
    let mut headers = Headers::default();
    of.fields.iter().for_each(|(name, value)| headers.append(name.clone(), value.clone()));
    headers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn requests_mean_the_same_however_they_are_cut(
        messages in prop::collection::vec(message(), 1..4),
        sizes in prop::collection::vec(1..200usize, 1..8),
    ) {
        let wire = Bytes::from(messages.iter().flat_map(|(_, wire)| wire.clone()).collect::<Vec<u8>>());
        let (mut pieces, mut rest) = (Vec::new(), wire);
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            pieces.push(rest.split_to((*size).min(rest.len())));
        }
        let expected: Vec<Meaning> = messages.into_iter().map(|(meaning, _)| meaning).collect();
        prop_assert_eq!(run(served(pieces)), expected);
    }

    #[test]
    fn what_the_client_sends_the_server_reads_and_back(
        request in meaning(),
        response in meaning(),
        known in any::<(bool, bool)>(),
        status in 200..599u16,
    ) {
        prop_assume!(status != 204 && status != 304);
        run(async {
            let (near, far) = tokio::io::duplex(300);
            let seen: Rc<RefCell<Option<Meaning>>> = Rc::default();
            let (record, reply) = (seen.clone(), response.clone());
            let handler = Answering(move |request| {
                let (record, reply) = (record.clone(), reply.clone());
                async move {
                    *record.borrow_mut() = Some(Meaning::of(request).await);
                    let status = StatusCode::from_u16(status).unwrap();
                    let mut response = Response::new(status, body(&reply, known.1));
                    response.head.headers = headers(&reply);
                    response
                }
            });
            tokio::task::spawn_local(async move {
                let watch = Drain::default().watch();
                h1::serve(far, Bytes::new(), connection(), &handler, &Settings::default(), watch).await
            });
            let head = RequestHead {
                method: Method::from_bytes(request.method.as_bytes()).unwrap(),
                scheme: Scheme::Http,
                authority: Authority::parse(Bytes::from_static(b"a")).unwrap(),
                target: Target::new(Bytes::from(request.target.clone())),
                version: Version::Http11,
                headers: headers(&request),
            };
            let options =
                SendOptions { expects_continue: false, upgrade: None, informational: None, read_limit: usize::MAX, recycle: None };
            let sent = Client::new(near).send(&head, body(&request, known.0), options).await;
            let mut answer = sent.ok().unwrap();
            assert_eq!(answer.head.status.as_u16(), status);
            let mut fields = pairs(&answer.head.headers);
            fields.retain(|(name, _)| name != "date");
            let (body, trailers, fault) = drained(&mut answer.body).await;
            let without_trailers = |known: bool, meaning: &Meaning| {
                if known { Vec::new() } else { meaning.trailers.clone() }
            };
            assert_eq!((fields, &body, fault), (response.fields.clone(), &response.body, None));
            assert_eq!(trailers, without_trailers(known.1, &response));
            let expected = Meaning { trailers: without_trailers(known.0, &request), ..request.clone() };
            assert_eq!(seen.take(), Some(expected));
        });
    }
}
