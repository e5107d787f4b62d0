//! Plans that change while they are served.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Arc;

use portway_plan::{Plan, Port};
use portway_proxy::{BindMode, Options, Proxy};
use portway_testkit::{Client, Http2, Origin};

use crate::plans::{issue, key, listener, plan, port, trust, with_certificates};
use crate::{metric, options, serving, until};

#[tokio::test]
async fn a_change_is_served_at_once_and_closes_no_connection() -> anyhow::Result<()> {
    let (old, new) = (Origin::named("old").await?, Origin::named("new").await?);
    let backends = [("old", old.address()), ("new", new.address())];
    let with = |to| plan(&[port(80, &[listener("a", "", to, &[])])], &backends);
    let (proxy, address) = serving(options(2), with("old"));
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(address).await?;
        assert_eq!(client.get("a.example", "/").await?.text(), "old");
        clients.push(client);
    }
    let http2 = Http2::connect(address).await?;
    for round in 0..20 {
        let to = if round % 2 == 0 { "new" } else { "old" };
        let applied = proxy.apply(Arc::new(with(to)));
        assert!(applied.is_complete());
        assert_eq!(applied.ports[0].bound, Ok(address), "the socket stays");
        for client in &mut clients {
            assert_eq!(client.get("a.example", "/").await?.text(), to, "on every worker");
        }
        let request = http::Request::get("http://a.example/").body(bytes::Bytes::new())?;
        assert_eq!(http2.send(request).await?.body, to);
    }
    assert_eq!(proxy.snapshot().revision, 21);
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_named_and_tried_again() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    let free = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    let (taken_port, free_port) = (taken.local_addr()?.port(), free.local_addr()?.port());
    drop(free);
    let proxy = Proxy::start(Options { bind: BindMode::AsPlanned, ..options(2) })?;
    let ports = [
        port(taken_port, &[listener("taken", "", "a", &[])]),
        port(free_port, &[listener("free", "", "a", &[])]),
    ];
    let planned = Arc::new(plan(&ports, &[("a", origin.address())]));

    let applied = proxy.apply(planned.clone());
    assert!(!applied.is_complete());
    let error = applied.ports[0].bound.clone().expect_err("in use");
    assert!(error.contains("in use"), "{error}");
    assert_eq!(applied.ports[0].listeners[0].section.as_deref(), Some("taken"));
    assert!(applied.ports[1].bound.is_ok());
    let mut client = Client::connect(([127, 0, 0, 1], free_port).into()).await?;
    assert_eq!(client.get("x", "/").await?.text(), "a");

    drop(taken);
    assert!(proxy.apply(planned).is_complete());
    let mut late = Client::connect(([127, 0, 0, 1], taken_port).into()).await?;
    assert_eq!(late.get("x", "/").await?.text(), "a");
    assert_eq!(client.get("x", "/").await?.text(), "a", "the other port's connection lives on");
    Ok(())
}

/// One Gateway for 127.0.0.2 and another for all addresses: the narrower one has its own, whichever comes
/// first.
#[tokio::test]
async fn a_port_at_an_address_stands_beside_the_same_port_at_all_others() -> anyhow::Result<()> {
    let origins = [Origin::named("narrow").await?, Origin::named("wide").await?];
    let number = {
        let free = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        free.local_addr()?.port()
    };
    let wide = port(number, &[listener("wide", "", "wide", &[])]);
    let at = Some(Ipv4Addr::new(127, 0, 0, 2).into());
    let narrow = Arc::new(Port {
        address: at,
        ..Port::clone(&port(number, &[listener("narrow", "", "narrow", &[])]))
    });
    let backends = [("narrow", origins[0].address()), ("wide", origins[1].address())];
    let proxy = Proxy::start(Options { bind: BindMode::AsPlanned, ..options(2) })?;
    let answers = async |last: u8| {
        let mut client = Client::connect(([127, 0, 0, last], number).into()).await?;
        anyhow::Ok(client.get("x", "/").await?.text())
    };
    for (ports, expected) in [
        (vec![wide.clone()], ["wide", "wide"]),
        (vec![wide.clone(), narrow.clone()], ["wide", "narrow"]),
        (vec![narrow.clone(), wide.clone()], ["wide", "narrow"]),
        (vec![wide.clone()], ["wide", "wide"]),
        (vec![], ["", ""]),
        (vec![narrow.clone(), wide], ["wide", "narrow"]),
        (vec![narrow], ["", "narrow"]),
    ] {
        let applied = proxy.apply(Arc::new(plan(&ports, &backends)));
        assert!(applied.is_complete(), "{applied:?}");
        for (last, expected) in [1, 2].into_iter().zip(expected) {
            assert_eq!(answers(last).await.unwrap_or_default(), expected, "127.0.0.{last}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_port_that_goes_lets_its_exchanges_end() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let backends = [("a", origin.address())];
    let (first, second) =
        (port(80, &[listener("a", "", "a", &[])]), port(81, &[listener("b", "", "a", &[])]));
    let (proxy, kept) = serving(options(2), plan(&[first.clone(), second], &backends));
    let gone = proxy.addresses()[1].1;

    let mut idle = Client::connect(gone).await?;
    assert_eq!(idle.get("x", "/").await?.status(), 200);
    let mut busy = Client::connect(gone).await?;
    busy.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab").await?;
    until(&proxy, "portway_requests_in_flight", 1.0).await?;
    let mut other = Client::connect(kept).await?;
    assert_eq!(other.get("x", "/").await?.status(), 200);

    proxy.apply(Arc::new(plan(&[first], &backends)));
    assert_eq!(proxy.addresses(), [(key(80), kept)]);
    assert!(Client::connect(gone).await.is_err(), "nobody listens any more");
    assert!(idle.response().await.is_err(), "closed while it waited");
    busy.write("cde").await?;
    let answer = busy.response().await?;
    assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")));
    assert_eq!(other.get("x", "/").await?.header("connection"), None);
    Ok(())
}

#[tokio::test]
async fn new_certificates_are_for_new_handshakes() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let (old, new) = (issue("tls", &["a.example"], false), issue("tls", &["a.example"], false));
    let with = |certificate| {
        let ports = [port(443, &[listener("a", "", "a", &["tls"])])];
        with_certificates(plan(&ports, &[("a", origin.address())]), &[certificate])
    };
    let (proxy, address) = serving(options(1), with(&old));
    let roots = trust(&[&old, &new]);
    let mut before = Client::connect_tls(address, "a.example", &roots).await?;
    assert_eq!(before.certificate.as_deref(), Some(&old.root[..]));
    proxy.apply(Arc::new(with(&new)));
    let after = Client::connect_tls(address, "a.example", &roots).await?;
    assert_eq!(after.certificate.as_deref(), Some(&new.root[..]));
    assert_eq!(before.get("a.example", "/").await?.status(), 200);
    Ok(())
}

/// Connections on each worker.
fn spread(proxy: &Proxy, workers: usize) -> Vec<f64> {
    (0..workers)
        .map(|worker| metric(proxy, &format!("portway_connections{{worker=\"{worker}\"}}")).expect("a gauge"))
        .collect()
}

#[tokio::test]
async fn many_long_connections_are_spread_over_the_workers() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    // Left to the kernel's hash, they would be even enough now and then, but not time and again.
    for _ in 0..4 {
        let planned = plan(&[port(80, &[listener("a", "", "a", &[])])], &[("a", origin.address())]);
        let (proxy, address) = serving(options(2), planned);
        let mut clients = Vec::new();
        for count in 1..=64 {
            let mut client = Client::connect(address).await?;
            assert_eq!(client.get("x", "/").await?.status(), 200);
            clients.push(client);
            let spread = spread(&proxy, 2);
            let (least, most) = (spread[0].min(spread[1]), spread[0].max(spread[1]));
            assert_eq!(least + most, f64::from(count));
            assert!(most <= least + 2.0 + least / 8.0, "{spread:?}");
        }
        let most = spread(&proxy, 2).into_iter().fold(0.0, f64::max);
        assert!(most <= 0.6 * 64.0, "one of two workers has {most} of 64");
    }
    Ok(())
}

#[tokio::test]
async fn connections_that_come_at_once_are_spread_over_the_workers() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    for _ in 0..4 {
        let planned = plan(&[port(80, &[listener("a", "", "a", &[])])], &[("a", origin.address())]);
        let (proxy, address) = serving(options(2), planned);
        let begun = (0..64).map(|_| async move {
            let mut client = Client::connect(address).await?;
            client.get("x", "/").await?;
            anyhow::Ok(client)
        });
        let clients = futures_util::future::try_join_all(begun).await?;
        let spread = spread(&proxy, 2);
        assert_eq!(spread.iter().sum::<f64>(), 64.0);
        assert!(spread.iter().all(|count| *count <= 0.6 * 64.0), "{spread:?}");
        drop(clients);
    }
    Ok(())
}

#[tokio::test]
async fn plans_from_many_threads_take_turns() {
    let proxy = Proxy::start(options(2)).expect("a proxy");
    let revisions: Vec<u64> = std::thread::scope(|scope| {
        let apply = || scope.spawn(|| proxy.apply(Arc::new(Plan::default())).revision);
        let threads: Vec<_> = (0..8).map(|_| apply()).collect();
        threads.into_iter().map(|t| t.join().expect("applied")).collect()
    });
    let mut sorted = revisions.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=8).collect::<Vec<_>>(), "{revisions:?}");
}
