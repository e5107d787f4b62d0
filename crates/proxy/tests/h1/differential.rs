//! The same bytes to this engine and to hyper's server.
//!
//! Valid messages must mean the same to both, and what hyper refuses must be refused here. Where this engine
//! refuses what hyper takes, that is meant, and `hostile/` has the reason for each.
//!
//! Differences in meaning, all of them on purpose:
//! - fields between neighbours (`Connection`, what it names, `Keep-Alive`, `TE`, `Transfer-Encoding`,
//!   `Upgrade`) and `Host`, `Content-Length` and `Expect` are among hyper's headers, and not among ours;
//! - hyper's trailers are whatever came, ours are without fields that do not belong there;
//! - hyper's target is as it came, ours is normalised;
//! - hyper keeps fields with underscores, of which we drop those that pose as others.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;

use crate::harness::run;
use crate::hostile::{self, Pieces};
use crate::property::{Meaning, message, served};

/// What hyper's service sees of a request; `None`: its body fails.
async fn meant(request: hyper::Request<Incoming>) -> Option<Meaning> {
    let (head, body) = request.into_parts();
    let pairs = |headers: &http::HeaderMap| {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect::<Vec<_>>()
    };
    let body = body.collect().await.ok()?;
    let trailers = body.trailers().map(pairs).unwrap_or_default();
    Some(Meaning {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        fields: pairs(&head.headers),
        body: body.to_bytes().to_vec(),
        trailers,
    })
}

/// What hyper makes of these bytes, and what it answers.
async fn hyper(wire: &[u8]) -> (Vec<Option<Meaning>>, String) {
    let seen: Rc<RefCell<Vec<Option<Meaning>>>> = Rc::default();
    let record = seen.clone();
    let service = service_fn(move |request| {
        let record = record.clone();
        async move {
            let meaning = meant(request).await;
            let status = if meaning.is_some() { 200 } else { 400 };
            record.borrow_mut().push(meaning);
            let response = http::Response::builder().status(status).body(Empty::<Bytes>::new());
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    let output = Rc::default();
    let io = TokioIo::new(Pieces::new(vec![Bytes::copy_from_slice(wire)], Rc::clone(&output)));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    (seen.take(), String::from_utf8_lossy(&output.take()).into_owned())
}

/// Names without their spelling, which hyper does not keep, in hyper's order, which is by name.
fn comparable(mut meaning: Meaning) -> Meaning {
    for fields in [&mut meaning.fields, &mut meaning.trailers] {
        fields.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        fields.retain(|(name, _)| !matches!(name.as_str(), "host" | "content-length" | "transfer-encoding"));
        fields.sort_by(|a, b| a.0.cmp(&b.0));
    }
    meaning
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn valid_messages_mean_the_same_to_hyper(messages in prop::collection::vec(message(), 1..4)) {
        run(async {
            let wire: Vec<u8> = messages.into_iter().flat_map(|(_, wire)| wire).collect();
            let ours = served(vec![Bytes::from(wire.clone())]).await;
            let theirs = hyper(&wire).await.0.into_iter().map(|meaning| meaning.expect("a whole body"));
            let ours: Vec<_> = ours.into_iter().map(comparable).collect();
            assert_eq!(ours, theirs.map(comparable).collect::<Vec<_>>());
        });
    }
}

#[test]
fn what_hyper_refuses_is_refused_here() {
    run(async {
        let mut stricter = 0;
        for case in hostile::cases() {
            let (seen, output) = hyper(&[&case.payload, hostile::SMUGGLED.as_bytes()].concat()).await;
            let taken = output.get(9..12) == Some("200") && seen.first().is_some_and(Option::is_some);
            if case.verdict == "200" {
                assert!(taken, "{}: hyper refuses what is taken here: {output:?}", case.name);
            } else if taken {
                stricter += 1;
            }
        }
        assert!(stricter > 40, "hyper refuses all but {stricter} of the corpus");
    });
}
