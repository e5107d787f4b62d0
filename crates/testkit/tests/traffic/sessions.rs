//! Session persistence: a client's requests go to one endpoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portway_testkit::certificates::{Certificate, trust};
use portway_testkit::origin::service;
use portway_testkit::{Answer, Client, Gateway, Message, Origin};

use crate::{GATEWAY, HOST, documents, route};

/// Origins that answer with their own names.
async fn origins(names: &[&str]) -> anyhow::Result<Vec<Origin>> {
    let mut origins = Vec::new();
    for name in names {
        origins.push(Origin::named(name).await?);
    }
    Ok(origins)
}

fn addresses(origins: &[&Origin]) -> Vec<SocketAddr> {
    origins.iter().map(|origin| origin.address()).collect()
}

/// A route to the Service `app` at these origins, with these sessions.
fn sticky(session: &str, origins: &[&Origin]) -> String {
    let rules = format!("- sessionPersistence: {session}\n  backendRefs: [{{name: app, port: 80}}]");
    documents([GATEWAY, &route("r", &rules), &service("apps", "app", &addresses(origins))])
}

/// `name=value` of the cookie that an answer sets, and its attributes.
fn cookie(answer: &Message) -> Option<(String, Vec<String>)> {
    let mut parts = answer.header("set-cookie")?.split("; ").map(str::to_owned);
    Some((parts.next()?, parts.collect()))
}

/// How often each origin answers, of some requests with this header.
async fn spread(client: &mut Client, header: (&str, &str)) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for _ in 0..40 {
        let answer = client.request("GET", HOST, "/", &[header], b"").await?;
        assert_eq!(answer.status(), 200);
        *counts.entry(answer.text()).or_default() += 1;
    }
    Ok(counts)
}

const COOKIE: &str = "{type: Cookie, cookie: {name: sid}}";

#[tokio::test]
async fn a_cookie_keeps_a_client_at_its_endpoint() -> anyhow::Result<()> {
    let all = origins(&["a", "b", "c"]).await?;
    let gateway = Gateway::from_yaml(&sticky(COOKIE, &all.iter().collect::<Vec<_>>()))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    assert_eq!(spread(&mut client, ("x", "y")).await?.len(), 3, "without sessions, all take part");
    let first = client.get(HOST, "/").await?;
    let (pair, attributes) = cookie(&first).expect("a cookie");
    assert_eq!(attributes, ["Path=/", "HttpOnly", "SameSite=Strict"]);
    let token = pair.strip_prefix("sid=").expect("the cookie's name");
    for origin in &all {
        assert!(!token.contains(&origin.address().port().to_string()));
    }
    // Among others, and after one of the same name that is none.
    let cookies = format!("theme=dark; sid=x; {pair}; sid2=1");
    assert_eq!(spread(&mut client, ("cookie", &cookies)).await?, BTreeMap::from([(first.text(), 40)]));
    let again = client.request("GET", HOST, "/", &[("cookie", &pair)], b"").await?;
    assert_eq!(cookie(&again), None, "the client has it already");
    // A connection elsewhere makes no difference: another worker, another replica.
    let other = Gateway::from_yaml(&sticky(COOKIE, &all.iter().collect::<Vec<_>>()))?;
    let mut client = Client::connect(other.addr("http")?).await?;
    assert_eq!(spread(&mut client, ("cookie", &pair)).await?, BTreeMap::from([(first.text(), 40)]));
    Ok(())
}

#[tokio::test]
async fn a_session_outlives_changes_but_not_its_endpoint() -> anyhow::Result<()> {
    let all = origins(&["a", "b", "c"]).await?;
    let [a, b, c] = [&all[0], &all[1], &all[2]];
    let mut gateway = Gateway::from_yaml(&sticky(COOKIE, &[a]))?;
    let address = gateway.addr("http")?;
    let mut client = Client::connect(address).await?;
    let (pair, _) = cookie(&client.get(HOST, "/").await?).expect("a cookie");
    gateway.apply(&sticky(COOKIE, &[a, b, c]))?;
    assert_eq!(spread(&mut client, ("cookie", &pair)).await?, BTreeMap::from([("a".into(), 40)]));
    // On its way out, but serving: its sessions stay.
    let yaml = sticky(COOKIE, &[a, b, c]);
    let leaving =
        yaml.replacen("ready: true", "ready: false\n      serving: true\n      terminating: true", 1);
    assert_ne!(yaml, leaving);
    gateway.apply(&leaving)?;
    assert_eq!(spread(&mut client, ("cookie", &pair)).await?, BTreeMap::from([("a".into(), 40)]));
    assert!(!spread(&mut client, ("x", "y")).await?.contains_key("a"), "no new ones come");
    // Gone: a new endpoint, and a new cookie.
    gateway.apply(&sticky(COOKIE, &[b, c]))?;
    let moved = client.request("GET", HOST, "/", &[("cookie", &pair)], b"").await?;
    let (pair, _) = cookie(&moved).expect("a new cookie");
    assert_eq!(spread(&mut client, ("cookie", &pair)).await?, BTreeMap::from([(moved.text(), 40)]));
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_loses_its_sessions() -> anyhow::Result<()> {
    let mut all = origins(&["a", "b"]).await?;
    let gateway = Gateway::from_yaml(&sticky(COOKIE, &[&all[0], &all[1]]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let first = client.get(HOST, "/").await?;
    let (pair, _) = cookie(&first).expect("a cookie");
    all.retain(|origin| origin.requests().is_empty());
    let moved = client.request("GET", HOST, "/", &[("cookie", &pair)], b"").await?;
    assert_eq!(moved.status(), 200);
    assert_ne!(moved.text(), first.text());
    assert!(cookie(&moved).is_some());
    Ok(())
}

#[tokio::test]
async fn a_permanent_cookie_ends_with_the_session() -> anyhow::Result<()> {
    let all = origins(&["a", "b"]).await?;
    let session = "{absoluteTimeout: 2h, type: Cookie, cookie: {path: /shop, lifetimeType: Permanent}}";
    let gateway = Gateway::from_yaml(&sticky(session, &[&all[0], &all[1]]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let (pair, attributes) = cookie(&client.get(HOST, "/").await?).expect("a cookie");
    assert!(pair.starts_with("portway-session-"), "{pair}");
    assert_eq!(attributes, ["Path=/shop", "Max-Age=7200", "HttpOnly", "SameSite=Strict"]);
    Ok(())
}

#[tokio::test]
async fn a_session_that_is_over_begins_anew() -> anyhow::Result<()> {
    let all = origins(&["a", "b"]).await?;
    let session = "{absoluteTimeout: 1s, type: Cookie, cookie: {name: sid}}";
    let gateway = Gateway::from_yaml(&sticky(session, &[&all[0], &all[1]]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let (pair, attributes) = cookie(&client.get(HOST, "/").await?).expect("a cookie");
    assert!(!attributes.iter().any(|attribute| attribute.starts_with("Max-Age")));
    portway_testkit::soon("the session's end", async {
        loop {
            let answer = client.request("GET", HOST, "/", &[("cookie", &pair)], b"").await?;
            if cookie(&answer).is_some() {
                return anyhow::Ok(());
            }
        }
    })
    .await?
}

#[tokio::test]
async fn a_header_carries_sessions_too() -> anyhow::Result<()> {
    let all = origins(&["a", "b", "c"]).await?;
    let session = "{type: Header, header: {name: X-Session}}";
    let gateway = Gateway::from_yaml(&sticky(session, &all.iter().collect::<Vec<_>>()))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let first = client.get(HOST, "/").await?;
    let token = first.header("x-session").expect("a token").to_owned();
    assert_eq!(spread(&mut client, ("x-session", &token)).await?, BTreeMap::from([(first.text(), 40)]));
    for made_up in ["", "a", &token[1..], &"A".repeat(5000)] {
        let answer = client.request("GET", HOST, "/", &[("x-session", made_up)], b"").await?;
        assert!(answer.status() == 200 && answer.header("x-session").is_some(), "{made_up:?}");
    }
    Ok(())
}

#[tokio::test]
async fn weights_choose_the_backend_and_sessions_the_endpoint_within_it() -> anyhow::Result<()> {
    let all = origins(&["a1", "a2", "b1", "b2"]).await?;
    let (a, b) = (
        service("apps", "a", &addresses(&[&all[0], &all[1]])),
        service("apps", "b", &addresses(&[&all[2], &all[3]])),
    );
    let rules = format!(
        "- sessionPersistence: {COOKIE}\n  backendRefs: [{{name: a, port: 80, weight: 3}}, {{name: b, port: 80, weight: 1}}]"
    );
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", &rules), &a, &b]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    // As a browser does: the last cookie it was given.
    let mut pair = "none=".to_owned();
    for _ in 0..8 {
        let answer = client.request("GET", HOST, "/", &[("cookie", &pair)], b"").await?;
        pair = cookie(&answer).map_or(pair, |(pair, _)| pair);
    }
    let counts = spread(&mut client, ("cookie", &pair)).await?;
    let of = |backend: &str| {
        counts.iter().filter(|(name, _)| name.starts_with(backend)).map(|(_, n)| *n).collect::<Vec<_>>()
    };
    assert_eq!((of("a"), of("b")), (vec![30], vec![10]));
    Ok(())
}

#[tokio::test]
async fn a_cookie_is_secure_where_the_connection_is() -> anyhow::Result<()> {
    let origin = Origin::new(|_| Answer::text("a")).await?;
    let certificate = Certificate::new([HOST])?;
    let secret = certificate.secret("infra", "cert");
    let gateway = GATEWAY.replace(
        "protocol: HTTP, port: 80",
        "protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: cert}]}",
    );
    let yaml = documents([&sticky(COOKIE, &[&origin]).replace(GATEWAY, &gateway), &secret]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let mut client = Client::connect_tls(gateway.addr("http")?, HOST, &trust([&certificate])?).await?;
    let (_, attributes) = cookie(&client.get(HOST, "/").await?).expect("a cookie");
    assert!(attributes.contains(&"Secure".to_owned()), "{attributes:?}");
    Ok(())
}
