//! WebSocket and other upgrades.

use portway_testkit::{Answer, Client, Gateway, Origin};

use crate::{GATEWAY, documents, route};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: shop.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn bytes_pass_both_ways_after_101() -> anyhow::Result<()> {
    let origin = Origin::new(|_| Answer::Upgrade(SWITCH.into())).await?;
    let rules = "- backendRefs: [{name: a, port: 80}]";
    let gateway =
        Gateway::from_yaml(&documents([GATEWAY, &route("r", rules), &origin.service("apps", "a")]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    client.write(ASK).await?;
    let head = client.wire().head().await?.expect("an answer");
    assert_eq!((head.status(), head.header("upgrade")), (101, Some("websocket")));
    for word in ["one", "two"] {
        client.write(word).await?;
        assert_eq!(client.wire().exactly(3).await?, word.as_bytes());
    }
    let asked = origin.next().await?;
    assert_eq!(asked.header("upgrade"), Some("websocket"));
    client.wire().finish().await?;
    assert!(client.wire().rest().await?.is_empty(), "the backend's close comes through");
    Ok(())
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() -> anyhow::Result<()> {
    let origin = Origin::new(|_| Answer::status(403, "no")).await?;
    let rules = "- backendRefs: [{name: a, port: 80}]";
    let gateway =
        Gateway::from_yaml(&documents([GATEWAY, &route("r", rules), &origin.service("apps", "a")]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    client.write(ASK).await?;
    let answer = client.response().await?;
    assert_eq!((answer.status(), answer.text().as_str()), (403, "no"));
    Ok(())
}
