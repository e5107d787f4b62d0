//! Clients that mean harm, or speak something else.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Controller, Proxy, plan, soon};

async fn tls(controller: &Controller) -> TlsStream<TcpStream> {
    let pem = std::fs::read(controller.ca_file()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(controller.address).await.unwrap();
    let name = ServerName::try_from("push.example").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// A request for the stream, and a message whose length is a lie.
async fn call(controller: &Controller, token: &str, message: &[u8]) -> String {
    let stream = tls(controller).await;
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://push.example/portway.push.v1.Push/Stream")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"))
        .body(())
        .unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    // It may have been answered already.
    let _ = body.send_data(message.to_vec().into(), true);
    let response = soon(response).await.unwrap();
    let status = |headers: &http::HeaderMap| {
        headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned())
    };
    if let Some(status) = status(response.headers()) {
        return status;
    }
    let mut body = response.into_body();
    while let Some(data) = soon(body.data()).await {
        data.unwrap();
    }
    status(&soon(body.trailers()).await.unwrap().unwrap()).unwrap()
}

/// Proxies are served as if nothing had happened.
async fn serves(controller: &Controller) {
    controller.publish(&plan(2, 1));
    assert_eq!(*Proxy::start(controller.options("token")).take().await, plan(2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_the_connection_and_nothing_else() {
    let controller = Controller::start().await;
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff"]
    {
        let mut stream = tls(&controller).await;
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // Reset or closed: both will do.
        let _ = soon(stream.read_to_end(&mut answer)).await;
    }
    let mut plain = TcpStream::connect(controller.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = soon(plain.read_to_end(&mut Vec::new())).await;
    serves(&controller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_make_no_sense_get_a_status() {
    let controller = Controller::start().await;
    let too_long = [&[0, 0x7f, 0xff, 0xff, 0xff][..], &[0; 1000]].concat();
    let no_message = [&[0, 0, 0, 0, 4][..], &[0xff; 4]].concat();
    // FromProxy { have: Have { hashes: "x" } }
    let half_a_hash = [0, 0, 0, 0, 5, 0x12, 3, 0x0a, 1, b'x'];
    // FromProxy { hello: Hello { have: 2^32 - 1 } }
    let too_many = [0, 0, 0, 0, 8, 0x0a, 6, 0x30, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let (unauthenticated, out_of_range, internal, invalid, exhausted) = ("16", "11", "13", "3", "8");
    assert_eq!(call(&controller, "wrong", &too_long).await, unauthenticated);
    assert_eq!(call(&controller, "token", &too_long).await, out_of_range);
    assert_eq!(call(&controller, "token", &no_message).await, internal);
    assert_eq!(call(&controller, "token", &half_a_hash).await, invalid);
    assert_eq!(call(&controller, "token", &too_many).await, exhausted);
    assert_eq!(call(&controller, "token", b"").await, invalid);
    serves(&controller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nobody_says_who_it_is_ends() {
    let controller = Controller::start().await;
    let (mut client, connection) = h2::client::handshake(tls(&controller).await).await.unwrap();
    let ended = tokio::spawn(connection);
    let request = http::Request::post("http://push.example/portway.push.v1.Push/Stream")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, _body) = client.send_request(request, false).unwrap();
    assert_eq!(soon(response).await.unwrap().headers()["grpc-status"], "16");
    // The pings of the server are answered all the time.
    let _ = soon(ended).await.unwrap();
    serves(&controller).await;
}
