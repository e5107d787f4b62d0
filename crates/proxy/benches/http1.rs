//! The HTTP/1.1 engine without sockets: from the bytes of requests to the bytes of their answers.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{Method, StatusCode};
use portway_proxy::http::h1::Settings;
use portway_proxy::http::{Body, Request, Response};
use portway_testkit::engine::{Answering, fetch, serve_with};

/// Requests on one connection, so that the connection itself hardly counts.
const REQUESTS: usize = 100;

const SHORT: &str = "GET /api/v1/items?page=2 HTTP/1.1\r\nHost: shop.example.com\r\n\r\n";

const BROWSER: &str = "GET /api/v1/items?page=2 HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://shop.example.com/\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Priority: u=0, i\r\n\r\n";

const CHUNKED: &str = "POST /api/v1/items HTTP/1.1\r\nHost: shop.example.com\r\n\
    Transfer-Encoding: chunked\r\n\r\n\
    10\r\n0123456789abcdef\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";

async fn answer(mut request: Request, seen: Rc<Cell<usize>>) -> Response {
    while let Some(frame) = request.body.frame().await {
        black_box(frame.expect("a body"));
    }
    seen.set(seen.get() + 1);
    Response::new(StatusCode::OK, Body::Full(Bytes::from_static(b"twenty bytes of text")))
}

fn requests(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut group = criterion.benchmark_group("100 requests");
    group.throughput(Throughput::Elements(REQUESTS as u64));
    for (name, text) in [("short", SHORT), ("of a browser", BROWSER), ("chunked", CHUNKED)] {
        let wire = vec![Bytes::from(text.repeat(REQUESTS))];
        let seen: Rc<Cell<usize>> = Rc::default();
        let handler = Answering(|request| answer(request, seen.clone()));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                seen.set(0);
                let settings = Settings::default();
                runtime.block_on(serve_with(&handler, black_box(wire.clone()), &settings));
                assert_eq!(seen.get(), REQUESTS);
            });
        });
    }
}

fn answers(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let wire = "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Thu, 26 Nov 2026 00:00:00 GMT\r\n\
        Content-Type: application/json\r\nContent-Length: 20\r\nCache-Control: no-store\r\n\r\n\
        twenty bytes of text";
    let wire = vec![Bytes::from_static(wire.as_bytes())];
    criterion.bench_function("a request sent and its answer read", |bencher| {
        bencher.iter(|| {
            let fetched = runtime.block_on(fetch(black_box(wire.clone()), Method::GET));
            assert!(fetched.reusable);
        });
    });
}

criterion_group!(benches, requests, answers);
criterion_main!(benches);
