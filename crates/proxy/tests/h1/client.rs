//! One upstream connection: what it sends, what it takes, and when it comes back.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::Method;
use portway_proxy::fault::FaultKind;
use portway_proxy::http::h1::{Answer, Client, Progress, Recycle, SendError, SendOptions};
use portway_proxy::http::{Authority, Body, Frame, Headers, RequestHead, Scheme, Target, Version};
use tokio::net::TcpStream;

use crate::harness::{channel, collect, pair, read_to_end, read_until, run, write};

/// Keeps what comes back.
#[derive(Default)]
pub(crate) struct Pool(RefCell<Vec<Client<TcpStream>>>);

impl Pool {
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

impl Recycle<TcpStream> for Pool {
    fn recycle(&self, client: Client<TcpStream>) {
        self.0.borrow_mut().push(client);
    }
}

pub(crate) fn head(method: Method, target: &'static str, headers: Headers) -> RequestHead {
    RequestHead {
        method,
        scheme: Scheme::Http,
        authority: Authority::parse(Bytes::from_static(b"Shop:80")).unwrap(),
        target: Target::new(Bytes::from_static(target.as_bytes())),
        version: Version::Http11,
        headers,
    }
}

pub(crate) fn options(pool: &Rc<Pool>) -> SendOptions<TcpStream> {
    SendOptions {
        expects_continue: false,
        upgrade: None,
        informational: None,
        read_limit: usize::MAX,
        recycle: Some(pool.clone() as Rc<dyn Recycle<TcpStream>>),
    }
}

/// Sends `GET /`, and has the backend answer with these bytes and close, or not.
async fn ask(answer: &str, close: bool, pool: &Rc<Pool>) -> Result<(Answer, TcpStream), SendError> {
    let (near, mut far) = pair().await;
    let head = head(Method::GET, "/", Headers::default());
    let backend = async {
        read_until(&mut far, "\r\n\r\n").await;
        write(&mut far, answer).await;
        if close {
            tokio::io::AsyncWriteExt::shutdown(&mut far).await.unwrap();
        }
        far
    };
    let (answer, far) = tokio::join!(Client::new(near).send(&head, Body::Empty, options(pool)), backend);
    answer.map(|answer| (answer, far))
}

#[test]
fn sends_canonical_framing_and_uses_the_connection_again() {
    run(async {
        let pool = Rc::new(Pool::default());
        let (near, mut far) = pair().await;
        let mut client = Client::new(near);
        for _ in 0..2 {
            let headers = Headers::from([("X-B", "1"), ("content-length", "99"), ("Te", "trailers")]);
            let head = head(Method::POST, "/a?b", headers);
            let backend = async {
                let seen = read_until(&mut far, "body!").await;
                write(
                    &mut far,
                    "HTTP/1.1 200 Fine\r\nX-C: 2\r\nContent-Length: 2\r\nKeep-Alive: 9\r\n\r\nok",
                )
                .await;
                seen
            };
            let body = Body::Full(Bytes::from_static(b"body!"));
            let (answer, seen) = tokio::join!(client.send(&head, body, options(&pool)), backend);
            let answer = answer.ok().unwrap();
            assert_eq!(
                seen,
                "POST /a?b HTTP/1.1\r\nHost: Shop:80\r\nX-B: 1\r\nTe: trailers\r\ncontent-length: 5\r\n\
                 Connection: TE\r\n\r\nbody!"
            );
            assert_eq!(answer.head.headers, Headers::from([("X-C", "2")]));
            assert_eq!(collect(answer.body).await.unwrap(), b"ok");
            client = pool.0.borrow_mut().pop().expect("a clean exchange gives the connection back");
            assert!(client.is_alive());
        }
    });
}

#[test]
fn a_body_that_is_here_is_sent_without_asking() {
    run(async {
        let (near, mut far) = pair().await;
        let head = head(Method::POST, "/", Headers::default());
        let options = SendOptions { expects_continue: true, ..options(&Rc::default()) };
        let backend = async {
            let seen = read_until(&mut far, "body!").await;
            write(&mut far, "HTTP/1.1 204 No Content\r\n\r\n").await;
            seen
        };
        let body = Body::Full(Bytes::from_static(b"body!"));
        let (answer, seen) = tokio::join!(Client::new(near).send(&head, body, options), backend);
        assert!(answer.is_ok());
        assert_eq!(seen, "POST / HTTP/1.1\r\nHost: Shop:80\r\ncontent-length: 5\r\n\r\nbody!");
    });
}

#[test]
fn no_more_is_held_of_an_answer_than_is_read_at_once() {
    run(async {
        let (near, mut far) = pair().await;
        let pool = Rc::new(Pool::default());
        let head = head(Method::GET, "/", Headers::default());
        let options = SendOptions { read_limit: 1000, ..options(&pool) };
        let text = "x".repeat(20_000);
        let backend = async {
            read_until(&mut far, "\r\n\r\n").await;
            write(&mut far, &format!("HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n{text}")).await;
        };
        let (answer, ()) = tokio::join!(Client::new(near).send(&head, Body::Empty, options), backend);
        let mut body = answer.ok().unwrap().body;
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            let Frame::Data(data) = frame.unwrap() else { panic!("trailers") };
            assert!(data.len() <= 1000, "{}", data.len());
            received += data.len();
        }
        assert_eq!((received, pool.len()), (20_000, 1));
    });
}

#[test]
fn only_a_clean_end_gives_the_connection_back() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true, "the plain case"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true, "chunked"),
        ("HTTP/1.1 204 No Content\r\n\r\n", true, "no body"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", true, "1.0 keeps"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false, "1.0 does not keep"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", false, "close"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", false, "more than asked for"),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", false, "a body that cannot be"),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", true, "a length of nothing"),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", false, "a body that may still come"),
        (
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
            "chunks that may still come",
        ),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", true, "the length that a 200 would have"),
        ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", false, "chunks behind a 304"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n.", false, "more behind chunks"),
    ];
    for (answer, comes_back, what) in cases {
        run(async {
            let pool = Rc::new(Pool::default());
            let (answer, _far) = ask(answer, false, &pool).await.ok().unwrap();
            collect(answer.body).await.unwrap();
            assert_eq!(pool.0.borrow().len(), usize::from(comes_back), "{what}");
        });
    }
}

#[test]
fn what_breaks_the_protocol_is_refused() {
    let head = "HTTP/1.1 200 OK\r\n";
    let cases = [
        format!("{head}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n"),
        format!("{head}Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
        format!("{head}Content-Length: 2, 2\r\n\r\nok"),
        format!("{head}Content-Length: +2\r\n\r\nok"),
        format!("{head}Content-Length: 02\r\n\r\nok"),
        format!("{head}Content-Length: 9223372036854775808\r\n\r\nok"),
        format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Content-Length : 2\r\n\r\nok"),
        format!("{head}X: a\n b\r\nContent-Length: 0\r\n\r\n"),
        format!("{head}X: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        format!("{head}Connection: host\r\nContent-Length: 0\r\n\r\n"),
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n".into(),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n".into(),
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        "SSH-2.0-OpenSSH\r\n".into(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".into(),
        "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(40),
        format!("{head}X: {}\r\n\r\n", "x".repeat(70_000)),
    ];
    for answer in cases {
        run(async {
            let pool = Rc::new(Pool::default());
            let Err(error) = ask(&answer, false, &pool).await else { panic!("{answer:?} was taken") };
            assert_eq!(error.fault.kind, FaultKind::UpstreamProtocol, "{answer:?}");
            assert_eq!(error.progress, Progress::Answered);
        });
    }
}

#[test]
fn truncated_bodies_fail_and_close_delimited_ones_end() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", Err(FaultKind::UpstreamClosed)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Err(FaultKind::UpstreamClosed)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\r\n", Err(FaultKind::UpstreamProtocol)),
        ("HTTP/1.1 200 OK\r\n\r\nok", Ok(b"ok".to_vec())),
    ];
    for (answer, expected) in cases {
        run(async {
            let pool = Rc::new(Pool::default());
            let (answer, _far) = ask(answer, true, &pool).await.ok().unwrap();
            assert_eq!(collect(answer.body).await.map_err(|fault| fault.kind), expected);
            assert!(pool.0.borrow().is_empty());
        });
    }
}

#[test]
fn an_answer_ahead_of_the_request_s_end_is_delivered_but_the_connection_is_not_kept() {
    run(async {
        let pool = Rc::new(Pool::default());
        let (near, mut far) = pair().await;
        let (sender, body) = channel();
        sender.send("part").await;
        let head = head(Method::POST, "/", Headers::default());
        let backend = async {
            read_until(&mut far, "4\r\npart\r\n").await;
            write(&mut far, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        };
        let (answer, ()) = tokio::join!(Client::new(near).send(&head, body, options(&pool)), backend);
        let answer = answer.ok().unwrap();
        assert_eq!(collect(answer.body).await.unwrap(), b"no");
        assert!(pool.0.borrow().is_empty());
        assert_eq!(read_to_end(&mut far).await, "");
    });
}

#[test]
fn how_far_a_failed_request_had_got() {
    run(async {
        let pool = Rc::new(Pool::default());
        let Err(error) = ask("", true, &pool).await else { panic!() };
        assert_eq!((error.fault.kind, error.progress), (FaultKind::UpstreamClosed, Progress::Unanswered));
        let Err(error) = ask("HTTP/1.1 20", true, &pool).await else { panic!() };
        assert_eq!((error.fault.kind, error.progress), (FaultKind::UpstreamClosed, Progress::Answered));
    });
}

#[test]
fn a_dead_idle_connection_is_known() {
    run(async {
        for sent in ["", "HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            let (near, mut far) = pair().await;
            let mut client = Client::new(near);
            assert!(client.is_alive());
            write(&mut far, sent).await;
            drop(far);
            std::future::poll_fn(|cx| client.poll_dead(cx)).await;
            assert!(!client.is_alive());
        }
    });
}
