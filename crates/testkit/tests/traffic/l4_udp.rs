//! UDP listeners.

use std::time::Duration;

use portway_proxy::Options;
use portway_testkit::raw::{answer, ask, udp_client, udp_service};
use portway_testkit::{Gateway, UdpOrigin, soon};
use tokio::net::UdpSocket;

use crate::documents;
use crate::l4::{gateway, passes};

const UDP: &str = "name: udp, protocol: UDP, port: 53";

fn route(backends: &str) -> String {
    passes("UDPRoute", "r", "udp", "", backends)
}

/// Asks until the answer is what is wanted: a datagram may be lost while nothing is there to take it.
async fn until(socket: &UdpSocket, wanted: &str) -> anyhow::Result<()> {
    let asking = async {
        let mut buffer = [0; 100];
        loop {
            socket.send(b"x").await?;
            let back = tokio::time::timeout(Duration::from_millis(50), socket.recv(&mut buffer)).await;
            if back.is_ok_and(|count| count.is_ok_and(|count| &buffer[..count] == wanted.as_bytes())) {
                return anyhow::Ok(());
            }
        }
    };
    soon(wanted, asking).await?
}

#[tokio::test]
async fn a_client_keeps_its_backend_and_clients_share_by_weight() -> anyhow::Result<()> {
    let (a, b, c) =
        (UdpOrigin::named("a").await?, UdpOrigin::named("b").await?, UdpOrigin::named("c").await?);
    let shares =
        "[{name: a, port: 80, weight: 7}, {name: b, port: 80, weight: 3}, {name: c, port: 80, weight: 0}]";
    let gateway = Gateway::from_yaml(&documents([
        &gateway(UDP),
        &route(shares),
        &a.service("apps", "a"),
        &b.service("apps", "b"),
        &c.service("apps", "c"),
    ]))?;
    // All at once, lest a later client has the port of an earlier one and with it its session.
    let mut clients = Vec::new();
    for _ in 0..100 {
        let client = udp_client(gateway.addr("udp")?).await?;
        let first = ask(&client, "1").await?;
        let name = first.strip_suffix(":1").unwrap_or_default();
        for n in 2..5 {
            assert_eq!(ask(&client, &n.to_string()).await?, format!("{name}:{n}"), "the same backend");
        }
        clients.push(client);
    }
    assert_eq!([&a, &b, &c].map(UdpOrigin::datagrams), [280, 120, 0]);
    let metrics = gateway.proxy().metrics().expose();
    assert!(metrics.contains("portway_udp_sessions 100"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn datagrams_of_any_size_go_through_and_an_invalid_share_keeps_its_clients() -> anyhow::Result<()> {
    let a = UdpOrigin::named("a").await?;
    let gateway = Gateway::from_yaml(&documents([
        &gateway(UDP),
        &route("[{name: a, port: 80}, {name: missing, port: 80}]"),
        &a.service("apps", "a"),
    ]))?;
    let (mut served, mut clients) = (0, Vec::new());
    for _ in 0..20 {
        let client = udp_client(gateway.addr("udp")?).await?;
        for size in [0, 1, 1_500, 60_000] {
            client.send(&vec![b'x'; size]).await?;
        }
        let mut buffer = vec![0; 65_535];
        let answered = tokio::time::timeout(Duration::from_millis(200), client.recv(&mut buffer)).await;
        clients.push(client);
        let Some(client) = clients.last() else { continue };
        if answered.is_err() {
            continue;
        }
        served += 1;
        for size in [1, 1_500, 60_000] {
            assert_eq!(answer(client).await?.len(), size + 2);
        }
    }
    assert_eq!((served, a.datagrams()), (10, 40));
    Ok(())
}

#[tokio::test]
async fn a_change_keeps_sessions_that_it_permits() -> anyhow::Result<()> {
    let (a, b) = (UdpOrigin::named("a").await?, UdpOrigin::named("b").await?);
    let services = documents([&a.service("apps", "a"), &b.service("apps", "b")]);
    let with = |backends: &str| documents([&gateway(UDP), &route(backends), &services]);
    let mut gateway = Gateway::from_yaml(&with("[{name: a, port: 80}]"))?;
    let address = gateway.addr("udp")?;
    let client = udp_client(address).await?;
    assert_eq!(ask(&client, "x").await?, "a:x");
    gateway.apply(&with("[{name: a, port: 80, weight: 1}, {name: b, port: 80, weight: 1000}]"))?;
    for _ in 0..10 {
        assert_eq!(ask(&client, "x").await?, "a:x", "still permitted");
    }
    gateway.apply(&with("[{name: b, port: 80}]"))?;
    assert_eq!(ask(&client, "x").await?, "b:x", "its backend is gone from the rule");
    // The listener goes and comes back: its port is free at once.
    let bare = self::gateway("name: other, protocol: UDP, port: 54");
    gateway.apply(&bare)?;
    gateway.apply(&with("[{name: a, port: 80}]"))?;
    let client = udp_client(gateway.addr("udp")?).await?;
    assert_eq!(ask(&client, "x").await?, "a:x");
    Ok(())
}

#[tokio::test]
async fn a_session_moves_from_an_endpoint_that_is_gone() -> anyhow::Result<()> {
    let (a, b) = (UdpOrigin::named("a").await?, UdpOrigin::named("b").await?);
    let with = |endpoints: &[std::net::SocketAddr]| {
        let service = udp_service("apps", "s", endpoints);
        documents([&gateway(UDP), &route("[{name: s, port: 80}]"), &service])
    };
    let mut gateway = Gateway::from_yaml(&with(&[a.address()]))?;
    let client = udp_client(gateway.addr("udp")?).await?;
    assert_eq!(ask(&client, "x").await?, "a:x");
    gateway.apply(&with(&[b.address()]))?;
    assert_eq!(ask(&client, "x").await?, "b:x", "its endpoint has left");
    // Nobody is there any more, which ICMP tells.
    gateway.apply(&with(&[a.address(), b.address()]))?;
    assert_eq!(ask(&client, "x").await?, "b:x");
    drop(b);
    until(&client, "a:x").await
}

#[tokio::test]
async fn silent_sessions_end_and_there_are_not_too_many() -> anyhow::Result<()> {
    let a = UdpOrigin::named("a").await?;
    let yaml = documents([&gateway(UDP), &route("[{name: a, port: 80}]"), &a.service("apps", "a")]);
    let mut options = Options { workers: std::num::NonZeroUsize::new(1), ..Options::default() };
    options.limits.udp_sessions = 10;
    options.limits.udp_session_timeout = Duration::from_secs(1);
    let gateway = Gateway::with(&yaml, options)?;
    let open = || {
        let metrics = gateway.proxy().metrics().expose();
        let line = metrics.lines().find_map(|line| line.strip_prefix("portway_udp_sessions "));
        line.and_then(|count| count.parse::<usize>().ok())
    };
    let faithful = udp_client(gateway.addr("udp")?).await?;
    let mut clients = Vec::new();
    for n in 0..50 {
        assert_eq!(ask(&faithful, "x").await?, "a:x");
        let client = udp_client(gateway.addr("udp")?).await?;
        assert_eq!(ask(&client, &n.to_string()).await?, format!("a:{n}"));
        clients.push(client);
        assert!(open().is_some_and(|count| count <= 11), "{:?}", open());
    }
    let ended = async {
        while open() != Some(0) {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of all sessions", ended).await
}

#[tokio::test]
async fn a_drain_lets_sessions_end() -> anyhow::Result<()> {
    let a = UdpOrigin::named("a").await?;
    let yaml = documents([&gateway(UDP), &route("[{name: a, port: 80}]"), &a.service("apps", "a")]);
    let mut options = Options::default();
    options.limits.udp_session_timeout = Duration::from_secs(2);
    let gateway = Gateway::with(&yaml, options)?;
    let address = gateway.addr("udp")?;
    let client = udp_client(address).await?;
    assert_eq!(ask(&client, "x").await?, "a:x");
    let draining = tokio::task::spawn_blocking(move || gateway.proxy().drain());
    for _ in 0..10 {
        assert_eq!(ask(&client, "x").await?, "a:x", "a session goes on");
    }
    assert_eq!(soon("the drain", draining).await??.cut, 0);
    let late = udp_client(address).await?;
    late.send(b"x").await?;
    assert!(soon("ICMP", late.recv(&mut [0; 10])).await?.is_err(), "the port is closed");
    Ok(())
}
