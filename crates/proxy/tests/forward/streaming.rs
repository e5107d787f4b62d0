//! Bodies, interim responses, tunnels, mirrors.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use portway_plan::{Filter, Mirror, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use crate::gateway::{Harness, Setup, active, key, run};
use crate::origins::{Act, answer, named, origin, request};

fn mirror_to(name: &str) -> Filter {
    Filter::Mirror(Mirror { target: Target::Backend(key(name)), numerator: 1, denominator: 1 })
}

#[test]
fn an_answer_before_the_body_ends_the_connection_to_the_backend() {
    run(async {
        let a = early_origin().await;
        let gateway = Harness::start(&Setup::to(&[a.0])).await;
        let mut client = gateway.connect().await;
        client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n").await;
        let (head, _) = client.message().await.expect("the early answer");
        assert!(head.starts_with("HTTP/1.1 413"), "{head}");
        // What follows is a body, whatever it looks like.
        let _ = client.stream.write_all(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n....").await;
        assert_eq!(gateway.pools.held(), (0, 0));
        let (status, text) = gateway.get("/next").await;
        assert_eq!((status, text.as_str()), (413, "early"));
        assert_eq!(a.1.get(), 2, "connections");
    });
}

/// A client that looks for an answer only when it has sent everything: closed before that, the connection
/// would be reset, and the answer gone.
#[test]
fn an_answer_before_the_body_reaches_a_client_that_sends_all_of_it_first() {
    run(async {
        let a = early_origin().await;
        let gateway = Harness::start(&Setup::to(&[a.0])).await;
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..4 {
            let mut client = gateway.connect().await;
            client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 16777216\r\n\r\n").await;
            for nth in 0..16 {
                client.stream.write_all(&piece).await.unwrap_or_else(|error| panic!("piece {nth}: {error}"));
            }
            let (head, body) = client.message().await.expect("the early answer");
            assert!(head.starts_with("HTTP/1.1 413"), "{head}");
            assert_eq!(body, b"early");
        }
    });
}

/// Answers 413 to each head at once, and reads nothing more.
async fn early_origin() -> (std::net::SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let accepted = Rc::new(Cell::new(0));
    let counted = accepted.clone();
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            counted.set(counted.get() + 1);
            spawn_local(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                assert!(!head.starts_with(b"GET /smuggled"), "smuggled");
                stream.write_all(&answer(413, "early")).await.expect("write");
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                assert!(!rest.starts_with(b"GET /smuggled"), "smuggled");
            });
        }
    });
    (address, accepted)
}

#[test]
fn a_large_body_passes_with_back_pressure() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 1600;
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let written = Rc::new(Cell::new(0usize));
        let counted = written.clone();
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            request(&mut stream, &mut Vec::new()).await.expect("a request");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PIECE * PIECES);
            stream.write_all(head.as_bytes()).await.expect("write");
            let piece = vec![b'x'; PIECE];
            for _ in 0..PIECES {
                stream.write_all(&piece).await.expect("write");
                counted.set(counted.get() + PIECE);
            }
        });
        let gateway = Harness::start(&Setup::to(&[address])).await;
        let mut client = gateway.connect().await;
        client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut read = 0;
        let mut buffer = vec![0; 16 * 1024];
        // The client stops reading: the backend must come to a stop too, within the sockets' buffers.
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if written.get() == before && before > 0 {
                break;
            }
            before = written.get();
        }
        assert!(written.get() < PIECE * PIECES / 2, "{} bytes were taken from the backend", written.get());
        while read < PIECE * PIECES {
            let got = client.stream.read(&mut buffer).await.expect("read");
            assert!(got > 0, "cut after {read} bytes");
            read += got;
        }
        assert_eq!(written.get(), PIECE * PIECES);
    });
}

#[test]
fn a_client_that_goes_takes_its_request_with_it() {
    run(async {
        let a = origin(|_| Act::Hang).await;
        let gateway = Harness::start(&Setup::to(&[a.address])).await;
        let mut client = gateway.connect().await;
        client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        while a.seen.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        drop(client);
        while a.open.get() > 0 || gateway.in_flight("a") > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn early_hints_pass_and_expectations_too() {
    run(async {
        let a = origin(|_| {
            Act::Raw(
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
                    .to_vec(),
            )
        })
        .await;
        let gateway = Harness::start(&Setup::to(&[a.address])).await;
        let mut client = gateway.connect().await;
        client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (head, _) = client.message().await.expect("hints");
        assert!(head.starts_with("HTTP/1.1 103") && head.contains("</a>"), "{head}");
        assert_eq!(client.response().await, (200, "x".into()));
        client.write("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
        let (head, _) = client.message().await.expect("continue");
        assert!(head.starts_with("HTTP/1.1 100"), "{head}");
    });
}

#[test]
fn a_tunnel_copies_both_ways_and_counts_in_flight() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address");
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let (head, _) = request(&mut stream, &mut Vec::new()).await.expect("a request");
            assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
            let switch = "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello";
            stream.write_all(switch.as_bytes()).await.expect("write");
            let mut buffer = [0; 5];
            stream.read_exact(&mut buffer).await.expect("read");
            buffer.reverse();
            stream.write_all(&buffer).await.expect("write");
        });
        let gateway = Harness::start(&Setup::to(&[address])).await;
        let mut client = gateway.connect().await;
        client
            .write("GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        let (head, _) = client.message().await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        client.write("abcde").await;
        let mut text = std::mem::take(&mut client.buffer);
        while text.len() < 10 {
            assert!(client.stream.read_buf(&mut text).await.expect("read") > 0, "{text:?}");
        }
        assert_eq!(text, b"helloedcba");
        assert_eq!(gateway.in_flight("a"), 1);
        drop(client);
        while gateway.in_flight("a") > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_refused_upgrade_is_a_plain_answer() {
    run(async {
        let a = named("no tunnel").await;
        let gateway = Harness::start(&Setup::to(&[a.address])).await;
        let mut client = gateway.connect().await;
        let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(client.send(upgrade).await, (200, "no tunnel".into()));
        assert_eq!(gateway.pools.held(), (0, 0));
    });
}

#[test]
fn a_mirror_gets_the_same_request_and_its_answer_is_ignored() {
    run(async {
        let (a, shadow) = (named("a").await, origin(|_| Act::Answer(500, "shadow".into())).await);
        let mut setup = Setup::to(&[a.address]);
        setup.backends.push(("shadow", setup.backends[0].1, active(&[shadow.address])));
        setup.filters = vec![mirror_to("shadow")];
        let gateway = Harness::start(&setup).await;
        let mut client = gateway.connect().await;
        let post =
            "POST /p?q=1 HTTP/1.1\r\nHost: shop.example.com\r\nX-A: b\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(client.send(post).await, (200, "a".into()));
        let chunked = "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n";
        assert_eq!(client.send(chunked).await, (200, "a".into()));
        while shadow.seen.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }
        let (main, copies) = (a.seen.borrow().clone(), shadow.seen.borrow().clone());
        for copy in &copies {
            let original = main.iter().find(|m| m.head.lines().next() == copy.head.lines().next());
            let original = original.expect("the original");
            assert_eq!(copy.body, original.body);
            for name in ["host", "x-a", "x-request-id", "x-forwarded-for", "content-length"] {
                assert_eq!(copy.header(name), original.header(name), "{name}");
            }
        }
    });
}

#[test]
fn a_mirror_that_hangs_or_is_away_holds_nothing_up() {
    run(async {
        let (a, shadow) = (named("a").await, origin(|_| Act::Hang).await);
        let mut setup = Setup::to(&[a.address]);
        let protocol = setup.backends[0].1;
        setup.backends.push(("hangs", protocol, active(&[shadow.address])));
        setup.backends.push(("away", protocol, vec![]));
        setup.filters = vec![mirror_to("hangs"), mirror_to("away")];
        setup.limits.mirrors = 3;
        let gateway = Harness::start(&setup).await;
        for _ in 0..20 {
            let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
            assert_eq!(gateway.connect().await.send(post).await, (200, "a".into()));
        }
        assert_eq!(a.seen.borrow().len(), 20);
        assert!(shadow.seen.borrow().len() <= 3);
    });
}
