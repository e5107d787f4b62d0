//! What recording a request costs: its counters alone, and with a line of the access log.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Method, StatusCode};
use portway_plan::{BackendKey, ObjectRef, Source};
use portway_proxy::AccessLogFormat;
use portway_proxy::http::{
    Authority, Body, Connection, Headers, Request, RequestHead, Scheme, Version, path,
};
use portway_proxy::observe::{Exchange, Metrics, Recorder};

fn object(kind: &str) -> ObjectRef {
    ObjectRef { kind: kind.into(), namespace: "store".into(), name: "cart".into() }
}

fn request() -> Request {
    let peer = "192.0.2.1:50000".parse().expect("an address");
    Request {
        head: Box::new(RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: Authority::parse(Bytes::from_static(b"www.example.com")).expect("a host"),
            target: path::normalise(&Bytes::from_static(b"/api/v1/users/1?page=2")).expect("a target"),
            version: Version::Http11,
            headers: Headers::from([
                ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"),
                ("Accept", "*/*"),
                ("Referer", "http://www.example.com/"),
                ("X-Request-Id", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"),
            ]),
        }),
        body: Body::Empty,
        upgrade: None,
        expects_continue: false,
        informational: None,
        connection: Rc::new(Connection::new(peer, peer, 80)),
    }
}

fn exchanges(criterion: &mut Criterion) {
    let source =
        |kind, path: &str| Source { object: Arc::new(object(kind)), path: path.into(), section: None };
    let metrics = Metrics::new(1);
    let listener = metrics.listener(&source("Gateway", "spec.listeners[0]"));
    let rule = source("HTTPRoute", "spec.rules[2]");
    let counters = metrics.rule(&rule);
    let backend = metrics.backend(&BackendKey::tcp(object("Service"), 80));
    let endpoint = "10.0.0.4:8080".parse().expect("an address");
    let request = request();
    for (name, recorder) in [
        ("counters", Recorder::detached()),
        ("a JSON line", Recorder::unread(AccessLogFormat::Json)),
        ("a combined line", Recorder::unread(AccessLogFormat::Common)),
    ] {
        let recorder = Rc::new(recorder);
        let mut headers = Headers::default();
        criterion.bench_function(&format!("record, {name}"), |bencher| {
            bencher.iter(|| {
                let mut exchange = Exchange::begin(&recorder, black_box(&request));
                exchange.set_request_id(|| request.head.headers.get("x-request-id").unwrap_or_default());
                exchange.set_listener(&listener);
                exchange.set_rule(counters.of(&rule));
                exchange.set_backend(&backend);
                exchange.begin_try(endpoint, &mut headers);
                exchange.end_try(Instant::now(), Duration::from_micros(321), Ok(StatusCode::OK));
                exchange.status = Some(StatusCode::OK);
                exchange.count_sent(20);
                exchange.complete = true;
                exchange.end()
            });
        });
    }
}

criterion_group!(benches, exchanges);
criterion_main!(benches);
