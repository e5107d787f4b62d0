//! hyper as a second opinion.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portway_testkit::engine::{Answered, Meaning, Pairs, Pieces, fetch, serve};
use proptest::prelude::*;

use super::{check_listed, compare, request_wire};
use crate::harness::run;
use crate::property::message;
use crate::{hostile, responses};

/// Why hyper refuses what is taken here, besides what the corpus lists.
pub(super) const KNOWN: &str = "hyper takes no `<`, `>`, `\"`, `^` or `` ` `` in targets, which RFC 3986 does not \
    allow; browsers and tools send them in queries, and in paths they are percent-encoded here ([paths](paths.md)).";

/// Whether it is for that reason that hyper refuses these.
pub(super) fn is_known(ours: &[Meaning]) -> bool {
    ours.iter().any(|meaning| meaning.target.contains(['<', '>', '"', '^', '`']))
}

fn pairs(headers: &http::HeaderMap) -> Pairs {
    let latin1 = |value: &http::HeaderValue| value.as_bytes().iter().map(|b| char::from(*b)).collect();
    headers.iter().map(|(name, value)| (name.to_string(), latin1(value))).collect()
}

async fn drained(body: Incoming) -> (Vec<u8>, Pairs, Option<&'static str>) {
    match body.collect().await {
        Ok(body) => {
            let trailers = body.trailers().map(pairs).unwrap_or_default();
            (body.to_bytes().to_vec(), trailers, None)
        }
        Err(_) => (Vec::new(), Pairs::new(), Some("hyper")),
    }
}

/// What hyper's server makes of these bytes.
pub(super) async fn requests(wire: &[u8]) -> Vec<Meaning> {
    let seen: Rc<RefCell<Vec<Meaning>>> = Rc::default();
    let record = seen.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let record = record.clone();
        async move {
            let (head, body) = request.into_parts();
            let (body, trailers, fault) = drained(body).await;
            let status = if fault.is_none() { 200 } else { 400 };
            record.borrow_mut().push(Meaning {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                fields: pairs(&head.headers),
                body,
                trailers,
                fault,
                ..Meaning::default()
            });
            let response = http::Response::builder().status(status).body(Empty::<Bytes>::new());
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    let io = TokioIo::new(Pieces::new(vec![Bytes::copy_from_slice(wire)], Rc::default()));
    // That it fails is told by what has been seen.
    let _ = hyper::server::conn::http1::Builder::new().max_headers(256).serve_connection(io, service).await;
    seen.take()
}

/// What hyper's client makes of these bytes as an answer.
pub(super) async fn response(wire: &[u8], method: http::Method) -> Option<Answered> {
    let io = TokioIo::new(Pieces::new(vec![Bytes::copy_from_slice(wire)], Rc::default()));
    let mut builder = hyper::client::conn::http1::Builder::new();
    let (mut sender, connection) = builder.max_headers(256).handshake(io).await.unwrap();
    let connection = tokio::task::spawn_local(connection);
    let request = hyper::Request::builder().method(method).uri("/").header("host", "a");
    let answer = async {
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.ok()?;
        let (head, body) = response.into_parts();
        let (body, trailers, fault) = drained(body).await;
        Some(Answered { status: head.status.as_u16(), fields: pairs(&head.headers), body, trailers, fault })
    };
    let answer = answer.await;
    connection.abort();
    answer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn valid_messages_mean_the_same_to_hyper(messages in prop::collection::vec(message(), 1..4)) {
        run(async {
            let wire: Vec<u8> = messages.into_iter().flat_map(|(_, wire)| wire).collect();
            let ours = serve(vec![Bytes::from(wire.clone())]).await.seen;
            let theirs = requests(&wire).await;
            assert_eq!(compare(&ours, &theirs), super::Verdict::Same, "{ours:?} {theirs:?}");
        });
    }
}

#[test]
fn requests_of_the_corpus() {
    run(async {
        let mut found = Vec::new();
        for case in hostile::cases() {
            let wire = request_wire(&case);
            let theirs = requests(&wire).await;
            let ours = serve(vec![Bytes::from(wire)]).await.seen;
            found.push((case, compare(&ours, &theirs), format!("{ours:?} {theirs:?}")));
        }
        check_listed("hyper", found);
    });
}

#[test]
fn responses_of_the_corpus() {
    run(async {
        let mut found = Vec::new();
        for case in responses::cases() {
            let method = responses::method(&case);
            let theirs: Vec<_> = response(&case.payload, method.clone()).await.into_iter().collect();
            let ours = fetch(vec![Bytes::from(case.payload.clone())], method).await.answer;
            let ours: Vec<_> = ours.into_iter().collect();
            found.push((case, compare(&ours, &theirs), format!("{ours:?} {theirs:?}")));
        }
        check_listed("hyper", found);
    });
}
