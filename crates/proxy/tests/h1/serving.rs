//! Requests in, responses out.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use portway_proxy::drain::Drain;
use portway_proxy::fault::{Fault, FaultKind};
use portway_proxy::http::h1::{End, Observer, Settings};
use portway_proxy::http::{
    Body, BodySource, Connection, Frame, Headers, Informational, Request, Response, ResponseHead,
};
use portway_testkit::engine::Answering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{channel, collect, read_to_end, read_until, run, served, write};

/// Says what it was asked, and sends the body back.
async fn echo(request: Request) -> Response {
    let head = request.head;
    let mut text = format!("{} {} {}\n", head.method, head.authority.as_str(), head.target.as_str());
    for (name, value) in head.headers.iter() {
        text += &format!("{}: {}\n", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
    }
    let body = collect(request.body).await.unwrap_or_else(|fault| fault.to_string().into_bytes());
    text += &String::from_utf8_lossy(&body);
    Response::new(StatusCode::OK, Body::Full(Bytes::from(text)))
}

/// The body of a response with `Content-Length` that ends the text.
fn body(response: &str) -> &str {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{response}");
    body
}

#[test]
fn keeps_order_and_spelling_of_fields_and_the_connection() {
    run(async {
        let (mut client, task) = served(Answering(echo), Settings::default(), &Drain::default()).await;
        for _ in 0..2 {
            write(
                &mut client,
                "GET /a?b HTTP/1.1\r\nX-Two: 2\r\nHOST: Shop\r\nx-one:1\r\nX-TWO:  3 \r\n\r\n",
            )
            .await;
            let response = read_until(&mut client, "X-TWO: 3\n").await;
            assert!(response.starts_with("HTTP/1.1 200 OK\r\ndate: "), "{response}");
            assert_eq!(body(&response), "GET Shop /a?b\nX-Two: 2\nx-one: 1\nX-TWO: 3\n");
            assert!(!response.contains("connection:"));
        }
        drop(client);
        assert_eq!(task.await.unwrap(), End::Closed);
    });
}

#[test]
fn bodies_of_every_framing_are_read_and_pipelined_requests_answered_in_order() {
    run(async {
        let (mut client, task) = served(Answering(echo), Settings::default(), &Drain::default()).await;
        write(
            &mut client,
            "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
             POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
             3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 7\r\nHost: evil\r\n\r\n\
             GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await;
        let all = read_to_end(&mut client).await;
        let bodies: Vec<&str> = all.split("HTTP/1.1 200 OK\r\n").skip(1).map(body).collect();
        assert_eq!(bodies, ["POST a /1\nhello", "POST a /2\nabc0123456789X-Sum=7;", "GET a /3\n"]);
        assert!(all.contains("connection: close\r\n"));
        assert_eq!(task.await.unwrap(), End::Finished);
    });
}

/// Answers each request with what the closure makes of it.
fn answer(
    make: impl Fn(Request) -> Response + 'static,
) -> Answering<impl Fn(Request) -> std::future::Ready<Response>> {
    Answering(move |request| std::future::ready(make(request)))
}

/// Everything that one connection answers to these bytes, the last request of which closes it.
fn answers(make: impl Fn(Request) -> Response + 'static, requests: &str) -> String {
    run(async {
        let (mut client, _) = served(answer(make), Settings::default(), &Drain::default()).await;
        write(&mut client, requests).await;
        read_to_end(&mut client).await
    })
}

/// Without the date, which nobody can foresee.
fn undated(response: &str) -> String {
    response.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

#[test]
fn responses_without_a_body_have_none() {
    let make = |request: Request| {
        let status: u16 = request.head.target.as_str()[1..].parse().unwrap();
        let mut response = Response::new(StatusCode::from_u16(status).unwrap(), Body::from("text"));
        if request.head.headers.contains("x-length") {
            response.head.headers.append("Content-Length", "77");
        }
        response
    };
    let all = answers(
        make,
        "HEAD /200 HTTP/1.1\r\nHost: a\r\n\r\n\
         HEAD /200 HTTP/1.1\r\nHost: a\r\nX-Length: 1\r\n\r\n\
         GET /204 HTTP/1.1\r\nHost: a\r\nX-Length: 1\r\n\r\n\
         GET /304 HTTP/1.1\r\nHost: a\r\nX-Length: 1\r\n\r\n\
         GET /200 HTTP/1.1\r\nHost: a\r\nX-Length: 1\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(
        undated(&all),
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n\
         HTTP/1.1 204 No Content\r\n\r\n\
         HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ntext"
    );
}

#[test]
fn bodies_of_unknown_length_are_chunked_or_end_the_connection() {
    let make = |_: Request| {
        let (feed, body) = channel();
        tokio::task::spawn_local(async move {
            feed.send("hello, ").await;
            feed.send("world").await;
            feed.trailers(Headers::from([("x-sum", "1"), ("Content-Length", "9")])).await;
        });
        Response::new(StatusCode::OK, body)
    };
    let all = answers(make, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(all.contains("transfer-encoding: chunked\r\n"), "{all}");
    assert!(all.ends_with("\r\n\r\n7\r\nhello, \r\n5\r\nworld\r\n0\r\nx-sum: 1\r\n\r\n"), "{all}");
    let all = answers(make, "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    assert!(all.contains("connection: close\r\n") && !all.contains("transfer-encoding"), "{all}");
    assert!(all.ends_with("\r\n\r\nhello, world"), "{all}");
}

#[test]
fn a_response_that_fails_is_cut_and_a_panic_is_contained() {
    #[derive(Default)]
    struct Counter(Cell<u32>);
    impl Observer for Counter {
        fn rejected(&self, _: &Connection, _: FaultKind, _: &'static str) {}
        fn panicked(&self, _: &Connection) {
            self.0.set(self.0.get() + 1);
        }
    }
    struct Bomb;
    impl BodySource for Bomb {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
            panic!("a body's panic, on purpose")
        }
        fn remaining(&self) -> Option<u64> {
            None
        }
    }
    let panics = Rc::new(Counter::default());
    let settings = || Settings { observer: Some(panics.clone()), ..Settings::default() };
    let ask = |target: &'static str| {
        run(async {
            let make = |request: Request| match request.head.target.as_str() {
                "/panic" => panic!("a handler's panic, on purpose"),
                "/bomb" => Response::new(StatusCode::OK, Body::Stream(Box::new(Bomb))),
                _ => {
                    let (feed, body) = channel();
                    tokio::task::spawn_local(async move {
                        feed.send("part").await;
                        feed.fail(FaultKind::UpstreamClosed).await;
                    });
                    Response::new(StatusCode::OK, body)
                }
            };
            let (mut client, task) = served(answer(make), settings(), &Drain::default()).await;
            write(&mut client, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let all = read_to_end(&mut client).await;
            drop(client);
            (all, task.await.unwrap())
        })
    };
    let (all, end) = ask("/fails");
    assert!(all.ends_with("\r\n4\r\npart\r\n"), "no last chunk: {all}");
    assert_eq!(end, End::Cut);
    let (all, end) = ask("/panic");
    assert!(all.starts_with("HTTP/1.1 500 ") && all.contains("connection: close"), "{all}");
    assert_eq!((end, panics.0.get()), (End::Rejected(FaultKind::Internal), 1));
    let (all, end) = ask("/bomb");
    assert!(!all.contains("\r\n0\r\n\r\n"), "{all}");
    assert_eq!((end, panics.0.get()), (End::Cut, 2));
}

#[test]
fn the_client_is_told_to_continue_when_the_body_is_pulled_and_only_then() {
    const EXPECTS: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-Continue\r\n\r\n";
    run(async {
        let (mut client, _) = served(Answering(echo), Settings::default(), &Drain::default()).await;
        for _ in 0..2 {
            write(&mut client, EXPECTS).await;
            assert_eq!(read_until(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
            write(&mut client, "body").await;
            assert!(read_until(&mut client, "body").await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
    });
    let refuse = |_: Request| Response::new(StatusCode::FORBIDDEN, Body::Empty);
    let all = answers(refuse, EXPECTS);
    assert!(all.starts_with("HTTP/1.1 403 ") && all.contains("connection: close\r\n"), "{all}");
}

#[test]
fn interim_responses_go_ahead_of_the_final_one() {
    run(async {
        let kept: Rc<RefCell<Vec<Informational>>> = Rc::default();
        let keep = kept.clone();
        let make = move |request: Request| {
            let send = request.informational.unwrap();
            let hints = |n: &'static str| ResponseHead {
                status: StatusCode::EARLY_HINTS,
                headers: Headers::from([("link", n)]),
            };
            // What was kept of the request before says nothing any more.
            keep.borrow().iter().for_each(|old| old(hints("stale")));
            send(hints("fresh"));
            keep.borrow_mut().push(send);
            Response::new(StatusCode::OK, Body::Empty)
        };
        let (mut client, _) = served(answer(make), Settings::default(), &Drain::default()).await;
        for _ in 0..3 {
            write(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let hints = read_until(&mut client, "\r\n\r\n").await;
            assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: fresh\r\n\r\n");
            assert!(read_until(&mut client, "\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
    });
}

#[test]
fn both_directions_flow_at_once() {
    run(async {
        // The response is the request's body, and begins before that has ended.
        let make = |request: Request| Response::new(StatusCode::OK, request.body);
        let (mut client, _) = served(answer(make), Settings::default(), &Drain::default()).await;
        write(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for round in 0..3 {
            write(&mut client, format!("2\r\n{round}!\r\n")).await;
            read_until(&mut client, &format!("2\r\n{round}!\r\n")).await;
        }
        write(&mut client, "0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(read_to_end(&mut client).await.starts_with("0\r\n\r\nHTTP/1.1 200 OK\r\n"));
    });
}

#[test]
fn large_bodies_pass_whole_whoever_pulls_them() {
    const SIZE: usize = 3_000_000;
    run(async {
        // Pulled by another task, as for an HTTP/2 backend.
        let make = |mut request: Request| {
            let (feed, body) = channel();
            tokio::task::spawn_local(async move {
                while let Some(Ok(Frame::Data(data))) = request.body.frame().await {
                    feed.bytes(data).await;
                }
            });
            Response::new(StatusCode::OK, body)
        };
        let (client, _) = served(answer(make), Settings::default(), &Drain::default()).await;
        let (mut reading, mut writing) = client.into_split();
        let payload: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
        let expected = payload.clone();
        tokio::task::spawn_local(async move {
            let head = format!("PUT / HTTP/1.0\r\nContent-Length: {SIZE}\r\n\r\n");
            writing.write_all(head.as_bytes()).await.unwrap();
            writing.write_all(&payload).await.unwrap();
            // Held, for closing it would say that the client has gone.
            std::future::pending::<()>().await;
        });
        let mut all = Vec::new();
        reading.read_to_end(&mut all).await.unwrap();
        let at = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert!(all[at..] == expected, "{} bytes came", all.len() - at);
    });
}

#[test]
fn a_client_that_goes_away_ends_its_request() {
    struct Dropped(Rc<Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let (began, mut begun) = tokio::sync::mpsc::channel(1);
        let flag = dropped.clone();
        let handler = Answering(move |request: Request| {
            let (guard, began) = (Dropped(flag.clone()), began.clone());
            async move {
                began.send(()).await.unwrap();
                std::future::pending::<()>().await;
                drop((guard, request));
                Response::new(StatusCode::OK, Body::Empty)
            }
        });
        let (mut client, task) = served(handler, Settings::default(), &Drain::default()).await;
        write(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\n").await;
        begun.recv().await.unwrap();
        assert!(!dropped.get());
        drop(client);
        assert_eq!(task.await.unwrap(), End::ClientGone);
        assert!(dropped.get());
    });
}

#[test]
fn what_is_left_of_a_body_is_read_only_if_it_is_short() {
    let ignore = |_: Request| Response::new(StatusCode::OK, Body::Empty);
    let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let post = |length: usize| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let all = answers(ignore, &(post(60_000) + &"x".repeat(60_000) + last));
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 2, "{all}");
    let all = answers(ignore, &(post(200_000) + &"x".repeat(200_000) + last));
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 1, "{all}");
}
