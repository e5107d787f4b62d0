//! Clients that mean harm (the attacks' numbers in the names of known vulnerabilities are in each test).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use portway_proxy::{Http2Limits, Limits, Options, Proxy};
use portway_testkit::engine::frames::frame;
use portway_testkit::{Answer, Client, Http2, Origin, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::plans::{issue, listener, plan, port, with_certificates};
use crate::{metric, options, serving, until};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;
/// `GET http://x/` in HPACK.
const GET: &[u8] = &[0x82, 0x84, 0x86, 0x41, 1, b'x'];

/// An HTTP/2 connection that sends any frames.
async fn raw(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    stream.write_all(&frame(SETTINGS, 0, 0, b"")).await?;
    Ok(stream)
}

/// Sends until it is all sent or nobody listens any more; then reads to the end. Gives the number of bytes
/// that went out, and the reason of the last GOAWAY.
async fn attack(
    stream: TcpStream,
    bytes: impl Iterator<Item = Vec<u8>>,
) -> anyhow::Result<(usize, Option<u32>)> {
    let (mut reader, mut writer) = stream.into_split();
    let reading = tokio::spawn(async move {
        let mut reason = None;
        let mut head = [0; 9];
        while reader.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if reader.read_exact(&mut payload).await.is_err() {
                break;
            }
            if head[3] == GOAWAY {
                reason = Some(u32::from_be_bytes(payload[4..8].try_into().expect("four bytes")));
            }
        }
        reason
    });
    let mut sent = 0;
    for piece in bytes {
        if soon("room for the attack", writer.write_all(&piece)).await?.is_err() {
            break;
        }
        sent += piece.len();
    }
    Ok((sent, soon("the end of the connection", reading).await??))
}

async fn plain() -> anyhow::Result<(Origin, Proxy, SocketAddr)> {
    plain_with(Limits::default()).await
}

async fn plain_with(limits: Limits) -> anyhow::Result<(Origin, Proxy, SocketAddr)> {
    let origin = Origin::named("a").await?;
    let planned = plan(&[port(80, &[listener("a", "", "a", &[])])], &[("a", origin.address())]);
    let (proxy, address) = serving(Options { limits, ..options(1) }, planned);
    Ok((origin, proxy, address))
}

/// Others are served all the while.
async fn still_serves(address: SocketAddr) -> anyhow::Result<()> {
    assert_eq!(Client::connect(address).await?.get("x", "/").await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn rapid_reset() -> anyhow::Result<()> {
    // CVE-2023-44487.
    let (origin, _proxy, address) = plain().await?;
    let pairs = (0..100_000u32).map(|n| {
        let stream = 2 * n + 1;
        let mut pair = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
        pair.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        pair
    });
    let (_, reason) = attack(raw(address).await?, pairs).await?;
    assert!(matches!(reason, None | Some(ENHANCE_YOUR_CALM)), "{reason:?}");
    assert!(origin.requests().len() < 2_000, "{}", origin.requests().len());
    still_serves(address).await
}

#[tokio::test]
async fn made_you_reset() -> anyhow::Result<()> {
    // CVE-2025-8671: a window that overflows is a stream error, for which the server has to reset the stream.
    let (origin, _proxy, address) = plain().await?;
    let pairs = (0..20_000u32).map(|n| {
        let stream = 2 * n + 1;
        let mut pair = frame(HEADERS, END_HEADERS, stream, GET);
        pair.extend(frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes()));
        pair
    });
    let (_, reason) = attack(raw(address).await?, pairs).await?;
    assert!(matches!(reason, None | Some(ENHANCE_YOUR_CALM)), "{reason:?}");
    assert!(origin.requests().len() < 2_000, "{}", origin.requests().len());
    still_serves(address).await
}

#[tokio::test]
async fn endless_continuation() -> anyhow::Result<()> {
    // CVE-2024-27919, RUSTSEC-2024-0332.
    let (origin, _proxy, address) = plain().await?;
    let begin = std::iter::once(frame(HEADERS, END_STREAM, 1, GET));
    // A literal without indexing, `a: bbb…`.
    let mut field = vec![0, 1, b'a', 0x7f, 0x81, 0x07];
    field.extend([b'b'; 1024]);
    let more = std::iter::repeat_n(frame(CONTINUATION, 0, 1, &field.repeat(8)), 100_000);
    let (sent, _) = attack(raw(address).await?, begin.chain(more)).await?;
    assert!(sent < 32 << 20, "{sent} bytes were taken");
    assert!(origin.requests().is_empty());
    still_serves(address).await
}

#[tokio::test]
async fn goodbyes_without_end() -> anyhow::Result<()> {
    let (_origin, _proxy, address) = plain().await?;
    let goodbyes = std::iter::repeat_n(frame(GOAWAY, 0, 0, &[0; 8]).repeat(100), 10_000);
    let (sent, _) = attack(raw(address).await?, goodbyes).await?;
    assert!(sent < 16 << 20, "{sent} bytes were taken");
    still_serves(address).await
}

#[tokio::test]
async fn header_bomb() -> anyhow::Result<()> {
    let (origin, _proxy, address) = plain().await?;
    // Puts a field of 2 KiB into the table, then names it 4,000 times: 8 MiB of headers in 6 KiB.
    let mut block = GET.to_vec();
    block.extend([0x40, 1, b'a', 0x7f, 0x81, 0x0f]);
    block.extend([b'b'; 2048]);
    block.extend([0xbe; 4000]);
    let mut stream = raw(address).await?;
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await?;
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 3, GET)).await?;
    // The second request is served, or the connection is over; either way the first is not forwarded.
    let served = async {
        while origin.requests().is_empty() {
            if stream.try_read(&mut [0; 4096]).is_ok_and(|n| n == 0) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    soon("an outcome", served).await?;
    assert!(origin.requests().iter().all(|r| r.header("a").is_none()));
    still_serves(address).await
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says() -> anyhow::Result<()> {
    let (origin, proxy, address) = plain().await?;
    let http2 = Http2::connect(address).await?;
    for (length, body) in [("3", "abcd"), ("5", "abcd")] {
        let request = Request::post("http://x/").header("content-length", length);
        assert!(http2.send(request.body(Bytes::from_static(body.as_bytes()))?).await.is_err(), "{length}");
    }
    until(&proxy, "portway_requests_in_flight", 0.0).await?;
    assert!(origin.requests().is_empty(), "no whole request arrived");
    Ok(())
}

#[tokio::test]
async fn two_hosts_in_one_request() -> anyhow::Result<()> {
    let (origin, proxy, address) = plain().await?;
    let http2 = Http2::connect(address).await?;
    let request = Request::get("http://x/").header("host", "y").body(Bytes::new())?;
    assert_eq!(http2.send(request).await?.head.status(), 400);
    assert!(origin.requests().is_empty());
    let fault = "portway_request_faults_total{reason=\"bad_request\",side=\"client\"}";
    assert_eq!(metric(&proxy, fault), Some(1.0));
    Ok(())
}

#[tokio::test]
async fn those_who_say_nothing_are_let_go() -> anyhow::Result<()> {
    let patience = Duration::from_millis(100);
    let limits = Limits { head_timeout: patience, handshake_timeout: patience, ..Limits::default() };
    let origin = Origin::named("a").await?;
    let certificate = issue("tls", &["a.example"], false);
    let ports = [port(80, &[listener("a", "", "a", &[])]), port(443, &[listener("b", "", "a", &["tls"])])];
    let planned = with_certificates(plan(&ports, &[("a", origin.address())]), &[&certificate]);
    let (proxy, address) = serving(Options { limits, ..options(1) }, planned);
    let secure = proxy.addresses()[1].1;
    let begins: [(SocketAddr, &[u8]); 5] = [
        (address, b""),
        (address, b"PRI * HT"),
        (address, b"GET / HT"),
        (secure, b""),
        (secure, &[22, 3, 1]),
    ];
    for (address, begin) in begins {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(begin).await?;
        let closed = soon("the end", stream.read_to_end(&mut Vec::new())).await?;
        assert!(closed.is_ok_and(|_| true) || begin.is_empty(), "{begin:?}");
    }
    until(&proxy, "portway_tls_handshakes_total{outcome=\"timeout\"}", 2.0).await?;
    let mut stream = TcpStream::connect(secure).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    until(&proxy, "portway_tls_handshakes_total{outcome=\"malformed\"}", 1.0).await?;
    until(&proxy, "portway_connections{worker=\"0\"}", 0.0).await
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() -> anyhow::Result<()> {
    let origin = Origin::new(|_| Answer::text(&"x".repeat(1 << 20))).await?;
    let planned = plan(&[port(80, &[listener("a", "", "a", &[])])], &[("a", origin.address())]);
    let limits = Limits { send_timeout: Duration::from_millis(100), ..Limits::default() };
    let (_proxy, address) = serving(Options { limits, ..options(1) }, planned);
    let http2 = Http2::connect(address).await?;
    let (response, _) = http2.open(Request::get("http://x/").body(())?, true).await?;
    let mut body = soon("the head", response).await??.into_body();
    // The window is never given back.
    let end = async {
        loop {
            if let Err(error) = body.data().await.transpose() {
                return error;
            }
        }
    };
    let error = soon("the reset", end).await?;
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    Ok(())
}

#[tokio::test]
async fn a_connection_that_does_not_answer_a_ping_is_dropped() -> anyhow::Result<()> {
    let http2 = Http2Limits {
        ping_interval: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(50),
        ..Http2Limits::default()
    };
    let (_origin, _proxy, address) = plain_with(Limits { http2, ..Limits::default() }).await?;
    let mut stream = raw(address).await?;
    // A stream that stays open, from a client that answers nothing.
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, GET)).await?;
    stream.write_all(&frame(DATA, 0, 1, b"x")).await?;
    let end = soon("the end", stream.read_to_end(&mut Vec::new())).await?;
    assert!(end.is_ok() || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    Ok(())
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_gracefully() -> anyhow::Result<()> {
    let http2 = Http2Limits {
        idle_timeout: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(50),
        ..Http2Limits::default()
    };
    let (_origin, _proxy, address) = plain_with(Limits { http2, ..Limits::default() }).await?;
    let (_, reason) = attack(raw(address).await?, std::iter::empty()).await?;
    assert_eq!(reason, Some(0), "NO_ERROR");
    Ok(())
}
