//! Bodies, trailers, interim responses and forwarding headers, end to end.

use portway_testkit::{Answer, Client, Gateway, Http2, Origin};

use crate::{GATEWAY, HOST, documents, route};

const TO_A: &str = "- backendRefs: [{name: a, port: 80}]";

async fn before(origin: &Origin) -> anyhow::Result<Gateway> {
    Gateway::from_yaml(&documents([GATEWAY, &route("r", TO_A), &origin.service("apps", "a")]))
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways() -> anyhow::Result<()> {
    let origin = Origin::new(|_| {
        Answer::Raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n"
                .to_vec(),
        )
    })
    .await?;
    let gateway = before(&origin).await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    client
        .write(
            "POST / HTTP/1.1\r\nHost: shop.example.com\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n",
        )
        .await?;
    let answer = client.response().await?;
    assert_eq!(answer.body, b"abcde");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "5".to_owned())]);
    assert_eq!(origin.next().await?.body, b"hello");
    Ok(())
}

#[tokio::test]
async fn large_bodies_arrive_whole() -> anyhow::Result<()> {
    let origin = Origin::new(|request| {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()).into_bytes();
        answer.extend(&request.body);
        Answer::Raw(answer)
    })
    .await?;
    let gateway = before(&origin).await?;
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let answer = client.request("POST", HOST, "/", &[], &body).await?;
    assert!(answer.body == body, "{} bytes came back", answer.body.len());
    let http2 = Http2::connect(gateway.addr("http")?).await?;
    let request =
        http::Request::post("http://shop.example.com/").body(bytes::Bytes::from_static(b"small"))?;
    assert_eq!(http2.send(request).await?.body, "small");
    Ok(())
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let gateway = before(&origin).await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    client
        .write(
            "POST / HTTP/1.1\r\nHost: shop.example.com\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        )
        .await?;
    let interim = client.wire().head().await?.map(|message| message.status());
    assert_eq!(interim, Some(100));
    client.write("hello").await?;
    assert_eq!(client.response().await?.text(), "a");
    assert_eq!(origin.next().await?.body, b"hello");
    Ok(())
}

#[tokio::test]
async fn the_backend_learns_who_asked_and_hop_by_hop_headers_end_here() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let gateway = before(&origin).await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let sent = [("Connection", "x-hop"), ("X-Hop", "1"), ("X-Forwarded-For", "6.6.6.6"), ("X-End", "2")];
    client.request("GET", HOST, "/", &sent, b"").await?;
    let got = origin.next().await?;
    assert_eq!(got.header("x-forwarded-for"), Some("127.0.0.1"), "a client's own claim is not believed");
    assert_eq!(got.header("x-forwarded-proto"), Some("http"));
    assert_eq!(got.header("x-forwarded-host"), Some(HOST));
    assert!(got.header("x-request-id").is_some_and(|id| id.len() >= 16));
    assert_eq!((got.header("x-hop"), got.header("x-end")), (None, Some("2")));
    Ok(())
}

#[tokio::test]
async fn an_ambiguous_request_is_refused_and_never_passed_on() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let gateway = before(&origin).await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    client
        .write(
            "POST / HTTP/1.1\r\nHost: shop.example.com\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: shop.example.com\r\n\r\n",
        )
        .await?;
    assert_eq!(client.response().await?.status(), 400);
    assert!(client.wire().rest().await?.is_empty(), "the connection is closed after it");
    assert!(origin.requests().is_empty());
    Ok(())
}
