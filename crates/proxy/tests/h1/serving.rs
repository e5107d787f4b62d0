//! Requests in, responses out.

use bytes::Bytes;
use http::StatusCode;
use portway_proxy::drain::Drain;
use portway_proxy::http::h1::{End, Settings};
use portway_proxy::http::{Body, Request, Response};

use crate::harness::{Answering, collect, read_to_end, read_until, run, served, write};

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
