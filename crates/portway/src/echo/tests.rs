use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

async fn started() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let identity = Identity { service: "cart".into(), pod: "cart-1".into(), namespace: "store".into() };
    tokio::spawn(serve(listener, identity));
    address
}

async fn exchange(request: &str) -> String {
    let mut stream = TcpStream::connect(started().await).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn it_tells_what_arrived() {
    let answer = exchange(
        "POST /a?b=c HTTP/1.1\r\nHost: shop\r\nX-One: 1\r\nX-One: 2\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
    )
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("x-echo-pod: cart-1"), "{head}");
    let told: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(told["service"], "cart");
    assert_eq!(told["method"], "POST");
    assert_eq!(told["path"], "/a?b=c");
    assert_eq!(told["host"], "shop");
    assert_eq!(told["protocol"], "HTTP/1.1");
    assert_eq!(told["headers"]["x-one"], serde_json::json!(["1", "2"]));
    assert_eq!(told["bodyBytes"], 3);
}

#[tokio::test]
async fn the_query_turns_knobs() {
    let answer =
        exchange("GET /?status=503&size=7&delay=1ms HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nxxxxxxx"), "{answer}");
    let refused = exchange("GET /?delay=5h HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
}

#[tokio::test]
async fn grpc_messages_come_back_with_a_status() {
    let stream = TcpStream::connect(started().await).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let message = Bytes::from_static(b"\0\0\0\0\x05hello");
    let request = Request::post("http://shop/store.Cart/Get")
        .header(CONTENT_TYPE, "application/grpc")
        .body(Full::new(message.clone()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), message);
}

#[tokio::test]
async fn websocket_frames_come_back() {
    let mut stream = TcpStream::connect(started().await).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // A masked "Hello" and a ping (RFC 6455 section 5.7), then a close.
    let frames = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58, 0x89, 0x80, 0, 0, 0, 0, 0x88, 0x80,
        0, 0, 0, 0,
    ];
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(&frames).await.unwrap();
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, [&[0x81, 5][..], b"Hello", &[0x8a, 0], &[0x88, 0]].concat());
}
