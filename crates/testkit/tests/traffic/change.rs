//! Change while serving: no request fails and no connection is closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use portway_testkit::{Answer, Client, Gateway, Http2, Origin, origin};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::{GATEWAY, HOST, documents, named, route};

/// Clients that send requests one after another, each on one connection, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    /// A permit for each answer since the last wait.
    answered: Arc<Semaphore>,
    clients: JoinSet<anyhow::Result<usize>>,
}

impl Load {
    /// Two HTTP/1.1 keep-alive connections, one of HTTP/2 with four requests at a time, and one WebSocket if
    /// the gateway has a route for it.
    async fn on(address: SocketAddr, websocket: bool) -> anyhow::Result<Self> {
        let mut load =
            Self { stop: Arc::default(), answered: Arc::new(Semaphore::new(0)), clients: JoinSet::new() };
        for _ in 0..2 {
            let mut client = Client::connect(address).await?;
            let (stop, answered) = (Arc::clone(&load.stop), Arc::clone(&load.answered));
            load.clients.spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(HOST, "/").await?;
                    anyhow::ensure!(answer.status() == 200, "HTTP/1.1 request {count}: {answer:?}");
                    count += 1;
                    answered.add_permits(1);
                }
                Ok(count)
            });
        }
        let http2 = Http2::connect(address).await?;
        for _ in 0..4 {
            let (http2, stop, answered) = (http2.clone(), Arc::clone(&load.stop), Arc::clone(&load.answered));
            load.clients.spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let request = http::Request::get(format!("http://{HOST}/")).body(Bytes::new())?;
                    let answer = http2.send(request).await?;
                    anyhow::ensure!(answer.head.status() == 200, "HTTP/2 request {count}: {:?}", answer.head);
                    count += 1;
                    answered.add_permits(1);
                }
                Ok(count)
            });
        }
        if websocket {
            let mut client = Client::connect(address).await?;
            client
                .write(format!(
                    "GET /chat HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                ))
                .await?;
            let head = client.wire().head().await?;
            anyhow::ensure!(head.as_ref().is_some_and(|head| head.status() == 101), "{head:?}");
            let stop = Arc::clone(&load.stop);
            load.clients.spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.write("ping").await?;
                    anyhow::ensure!(client.wire().exactly(4).await? == b"ping");
                    count += 1;
                }
                Ok(count)
            });
        }
        Ok(load)
    }

    /// Waits until so many more requests have been answered; fails if a client has failed.
    async fn answered(&mut self, more: u32) -> anyhow::Result<()> {
        let answered = Arc::clone(&self.answered);
        answered.forget_permits(usize::MAX);
        tokio::select! {
            permits = portway_testkit::soon("requests under load", answered.acquire_many(more)) => {
                permits??.forget();
                Ok(())
            }
            Some(ended) = self.clients.join_next() => {
                anyhow::bail!("a client has ended after {} requests", ended??)
            }
        }
    }

    /// Stops; fails with the first client that failed. The least that any client was answered is returned.
    async fn end(mut self) -> anyhow::Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut least = usize::MAX;
        while let Some(client) = self.clients.join_next().await {
            least = least.min(client??);
        }
        Ok(least)
    }
}

/// An origin that switches protocols when it is asked to, and answers 200 else.
async fn chatty() -> anyhow::Result<Origin> {
    Origin::new(|request| match request.header("upgrade") {
        Some(_) => Answer::Upgrade(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        ),
        None => Answer::text("chat"),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_route_edits_fail_no_request() -> anyhow::Result<()> {
    let ([_a, _b], services) = named(["a", "b"]).await?;
    let chat = chatty().await?;
    let edit = |nth: usize| {
        let backend = if nth.is_multiple_of(2) { "a" } else { "b" };
        let rules = format!(
            "- matches: [{{path: {{type: PathPrefix, value: /chat}}}}]\n  backendRefs: [{{name: chat, port: 80}}]\n\
             - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-edit, value: '{nth}'}}]}}}}]\n  \
             backendRefs: [{{name: {backend}, port: 80}}]"
        );
        let other = route(&format!("other-{}", nth % 3), "- matches: [{path: {type: Exact, value: /other}}]");
        documents([GATEWAY, &route("r", &rules), &other, &services, &chat.service("apps", "chat")])
    };
    let mut gateway = Gateway::from_yaml(&edit(0))?;
    let address = gateway.addr("http")?;
    let mut load = Load::on(address, true).await?;
    for nth in 1..=300 {
        gateway.apply(&edit(nth))?;
        let seen = Client::connect(address).await?.get(HOST, "/").await?;
        assert_eq!(seen.header("x-edit"), Some(nth.to_string().as_str()), "an edit holds once it is applied");
    }
    load.answered(20).await?;
    assert!(load.end().await? > 0, "every client was answered");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_of_all_endpoints_fails_no_request() -> anyhow::Result<()> {
    let mut origins = vec![Origin::named("pod").await?, Origin::named("pod").await?];
    let of = |origins: &[Origin]| {
        let endpoints: Vec<SocketAddr> = origins.iter().map(Origin::address).collect();
        let service = origin::service("apps", "rolled", &endpoints);
        documents([GATEWAY, &route("r", "- backendRefs: [{name: rolled, port: 80}]"), &service])
    };
    let mut gateway = Gateway::from_yaml(&of(&origins))?;
    let mut load = Load::on(gateway.addr("http")?, false).await?;
    let mut retired = Vec::new();
    for _ in 0..20 {
        origins.push(Origin::named("pod").await?);
        gateway.apply(&of(&origins))?;
        // As a pod: it is taken from the endpoints first, and ends when nothing is on its way to it any more.
        retired.push(origins.remove(0));
        gateway.apply(&of(&origins))?;
        load.answered(10).await?;
    }
    assert!(load.end().await? > 0);
    let newest = origins.iter().map(|origin| origin.requests().len()).sum::<usize>();
    assert!(newest > 0, "the newest endpoints serve");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_listeners_come_and_go_without_a_trace() -> anyhow::Result<()> {
    let (_a, service) = named(["a"]).await?;
    let more = "    - {name: more, protocol: HTTP, port: 81, allowedRoutes: {namespaces: {from: All}}}\n";
    let with = |listener: &str| {
        let gateway = format!("{GATEWAY}{listener}");
        documents([&gateway, &route("r", "- backendRefs: [{name: a, port: 80}]"), &service])
    };
    let mut gateway = Gateway::from_yaml(&with(""))?;
    let mut load = Load::on(gateway.addr("http")?, false).await?;
    for _ in 0..10 {
        gateway.apply(&with(more))?;
        let extra = gateway.addr("more")?;
        assert_eq!(Client::connect(extra).await?.get(HOST, "/").await?.text(), "a");
        gateway.apply(&with(""))?;
        assert!(Client::connect(extra).await.is_err(), "the listener is gone");
        load.answered(10).await?;
    }
    assert!(load.end().await? > 0);
    Ok(())
}

#[tokio::test]
async fn a_request_under_way_ends_on_the_plan_that_it_began_with() -> anyhow::Result<()> {
    let ([_a, _b], services) = named(["a", "b"]).await?;
    let to = |name: &str| {
        let rules = format!("- backendRefs: [{{name: {name}, port: 80}}]");
        documents([GATEWAY, &route("r", &rules), &services])
    };
    let mut gateway = Gateway::from_yaml(&to("a"))?;
    let address = gateway.addr("http")?;
    let mut slow = Client::connect(address).await?;
    slow.write(
        "POST / HTTP/1.1\r\nHost: shop.example.com\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    )
    .await?;
    // The interim answer shows that the gateway has begun with the request.
    assert_eq!(slow.wire().head().await?.map(|head| head.status()), Some(100));
    gateway.apply(&to("b"))?;
    assert_eq!(Client::connect(address).await?.get(HOST, "/").await?.text(), "b");
    slow.write("late").await?;
    assert_eq!(slow.response().await?.text(), "a");
    Ok(())
}
