//! Less common exchanges with a backend: interim responses, upgrades, requests that fail on the way.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, StatusCode};
use portway_proxy::fault::{Fault, FaultKind};
use portway_proxy::http::h1::{Answer, Client, Progress, SendError};
use portway_proxy::http::{Body, BodySource, Frame, Headers, Informational, ResponseHead};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Pool, head, options};
use crate::harness::{channel, collect, pair, read_to_end, read_until, run, run_paused, write};

const EXPECTS: &str = "PUT / HTTP/1.1\r\nHost: Shop:80\r\ncontent-length: 4\r\nExpect: 100-continue\r\n\r\n";

/// A body of known length that is not here before it is pulled.
struct Coming(Option<Bytes>);

impl BodySource for Coming {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::Data(data))))
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.0.as_ref().map_or(0, |data| data.len() as u64))
    }
}

async fn put(near: TcpStream, pool: &Rc<Pool>) -> Result<Answer, SendError> {
    let mut options = options(pool);
    options.expects_continue = true;
    let body = Body::Stream(Box::new(Coming(Some(Bytes::from_static(b"body")))));
    Client::new(near).send(&head(Method::PUT, "/", Headers::default()), body, options).await
}

#[test]
fn the_body_waits_for_continue() {
    run(async {
        let pool = Rc::new(Pool::default());
        let (near, mut far) = pair().await;
        let backend = async {
            assert_eq!(read_until(&mut far, "\r\n\r\n").await, EXPECTS);
            write(&mut far, "HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(read_until(&mut far, "body").await, "body");
            write(&mut far, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        };
        let (answer, ()) = tokio::join!(put(near, &pool), backend);
        assert_eq!(answer.ok().unwrap().head.status, StatusCode::OK);
        assert_eq!(pool.len(), 1);
    });
}

#[test]
fn the_body_does_not_wait_for_ever() {
    run_paused(async {
        let pool = Rc::new(Pool::default());
        let (near, mut far) = pair().await;
        let backend = async {
            assert_eq!(read_until(&mut far, "body").await, format!("{EXPECTS}body"));
            write(&mut far, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        };
        let (answer, ()) = tokio::join!(put(near, &pool), backend);
        assert!(answer.is_ok());
    });
}

#[test]
fn a_final_answer_instead_of_continue_keeps_the_body_here_and_the_connection_out_of_the_pool() {
    run(async {
        let pool = Rc::new(Pool::default());
        let (near, mut far) = pair().await;
        let backend = async {
            assert_eq!(read_until(&mut far, "\r\n\r\n").await, EXPECTS);
            write(&mut far, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await;
            read_to_end(&mut far).await
        };
        let (answer, rest) = tokio::join!(put(near, &pool), backend);
        assert_eq!(answer.ok().unwrap().head.status, StatusCode::UNAUTHORIZED);
        assert_eq!((rest.as_str(), pool.len()), ("", 0));
    });
}

#[test]
fn interim_responses_are_passed_on() {
    run(async {
        let pool = Rc::new(Pool::default());
        let seen: Rc<RefCell<Vec<ResponseHead>>> = Rc::default();
        let (near, mut far) = pair().await;
        let mut options = options(&pool);
        let keep = seen.clone();
        options.informational = Some(Rc::new(move |head| keep.borrow_mut().push(head)) as Informational);
        write(
            &mut far,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        let head = head(Method::GET, "/", Headers::default());
        assert!(Client::new(near).send(&head, Body::Empty, options).await.is_ok());
        let seen = seen.take();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].headers, Headers::from([("Link", "</a>")]));
    });
}

/// Asks for a WebSocket, and has the backend answer with these bytes.
async fn upgrade(answer: &str, pool: &Rc<Pool>) -> (Result<Answer, SendError>, TcpStream) {
    let (near, mut far) = pair().await;
    let mut options = options(pool);
    options.upgrade = Some(Bytes::from_static(b"websocket"));
    let head = head(Method::GET, "/", Headers::from([("Sec-WebSocket-Version", "13")]));
    let backend = async {
        let seen = read_until(&mut far, "\r\n\r\n").await;
        assert_eq!(
            seen,
            "GET / HTTP/1.1\r\nHost: Shop:80\r\nSec-WebSocket-Version: 13\r\nConnection: upgrade\r\n\
             Upgrade: websocket\r\n\r\n"
        );
        write(&mut far, answer).await;
    };
    let (answer, ()) = tokio::join!(Client::new(near).send(&head, Body::Empty, options), backend);
    (answer, far)
}

#[test]
fn only_a_101_for_what_was_asked_opens_a_tunnel() {
    run(async {
        let pool = Rc::new(Pool::default());
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n";
        let (answer, mut far) = upgrade(&format!("{switch}Upgrade: WebSocket\r\n\r\nahead"), &pool).await;
        let answer = answer.ok().unwrap();
        assert_eq!(answer.head.headers, Headers::from([("Upgrade", "WebSocket")]));
        let mut tunnel = answer.tunnel.unwrap();
        let mut ahead = [0; 5];
        tunnel.read_exact(&mut ahead).await.unwrap();
        tunnel.write_all(b"hi").await.unwrap();
        assert_eq!((&ahead, read_until(&mut far, "hi").await.as_str()), (b"ahead", "hi"));

        for answer in ["200 OK", "403 Forbidden", "426 Upgrade Required"] {
            let text = format!("HTTP/1.1 {answer}\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n");
            let (answer, _far) = upgrade(&text, &pool).await;
            let answer = answer.ok().unwrap();
            assert!(answer.tunnel.is_none() && answer.head.headers.is_empty());
        }
        let length = "Upgrade: websocket\r\nContent-Length: 0\r\n";
        for fields in ["", "Upgrade: h2c\r\n", "Upgrade: websocket\r\nUpgrade: h2c\r\n", length] {
            let (answer, _far) = upgrade(&format!("{switch}{fields}\r\n"), &pool).await;
            let kind = answer.err().map(|error| error.fault.kind);
            assert_eq!(kind, Some(FaultKind::UpstreamProtocol), "{fields:?}");
        }
        assert_eq!(pool.len(), 0);
    });
}

#[test]
fn a_request_whose_body_fails_is_not_ended_cleanly() {
    run(async {
        let pool = Rc::new(Pool::default());
        let (near, mut far) = pair().await;
        let (feed, body) = channel();
        let client = async {
            let head = head(Method::POST, "/", Headers::default());
            let Err(error) = Client::new(near).send(&head, body, options(&pool)).await else { panic!() };
            assert_eq!((error.fault.kind, error.progress), (FaultKind::ClientGone, Progress::Unanswered));
        };
        let upload = async {
            feed.send("part").await;
            feed.fail(FaultKind::ClientGone).await;
        };
        let (seen, (), ()) = tokio::join!(read_to_end(&mut far), client, upload);
        assert!(seen.contains("transfer-encoding: chunked\r\n") && seen.ends_with("4\r\npart\r\n"), "{seen}");
    });
}

#[test]
fn trailers_go_to_the_backend_without_what_does_not_belong_there() {
    run(async {
        let pool = Rc::new(Pool::default());
        let (near, mut far) = pair().await;
        let (feed, body) = channel();
        let head = head(Method::POST, "/", Headers::default());
        let upload = async {
            feed.send("part").await;
            feed.trailers(Headers::from([("Transfer-Encoding", "x"), ("X-Sum", "1")])).await;
            drop(feed);
        };
        let backend = async {
            let seen = read_until(&mut far, "X-Sum: 1\r\n\r\n").await;
            write(&mut far, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            seen
        };
        let send = Client::new(near).send(&head, body, options(&pool));
        let (answer, (), seen) = tokio::join!(send, upload, backend);
        assert!(seen.ends_with("\r\n\r\n4\r\npart\r\n0\r\nX-Sum: 1\r\n\r\n"), "{seen}");
        assert_eq!(collect(answer.ok().unwrap().body).await.unwrap(), b"ok");
        assert_eq!(pool.len(), 1);
    });
}
