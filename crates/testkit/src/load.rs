//! Clients that ask again and again while a test changes what serves them: none of their requests may fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{bail, ensure};
use bytes::Bytes;
use rustls::RootCertStore;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::{Client, Http2};

/// Where requests go, and for which host.
#[derive(Clone, Debug)]
pub struct Target {
    /// The listener's address.
    pub address: SocketAddr,
    /// The Host, and the server name on TLS.
    pub host: String,
    /// What the clients trust; plain text without.
    pub roots: Option<Arc<RootCertStore>>,
}

impl Target {
    /// In plain text.
    pub fn plain(address: SocketAddr, host: &str) -> Self {
        Self { address, host: host.to_owned(), roots: None }
    }

    /// With TLS.
    pub fn tls(address: SocketAddr, host: &str, roots: &Arc<RootCertStore>) -> Self {
        Self { address, host: host.to_owned(), roots: Some(Arc::clone(roots)) }
    }

    /// A new HTTP/1.1 connection.
    ///
    /// # Errors
    /// As [`Client::connect_tls`].
    pub async fn http1(&self) -> anyhow::Result<Client> {
        match &self.roots {
            Some(roots) => Client::connect_tls(self.address, &self.host, roots).await,
            None => Client::connect(self.address).await,
        }
    }

    /// A new HTTP/2 connection.
    ///
    /// # Errors
    /// As [`Http2::connect_tls`].
    pub async fn http2(&self) -> anyhow::Result<Http2> {
        match &self.roots {
            Some(roots) => Http2::connect_tls(self.address, &self.host, roots).await,
            None => Http2::connect(self.address).await,
        }
    }

    /// A GET of `path` for HTTP/2.
    ///
    /// # Errors
    /// When it is no path.
    pub fn get(&self, path: &str) -> http::Result<http::Request<Bytes>> {
        let scheme = if self.roots.is_some() { "https" } else { "http" };
        http::Request::get(format!("{scheme}://{}{path}", self.host)).body(Bytes::new())
    }
}

/// Clients that send requests one after another until they are told to stop; at most as many requests are open
/// as there are clients.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// A permit for each answer since the last wait.
    answered: Arc<Semaphore>,
    clients: JoinSet<anyhow::Result<usize>>,
}

impl Load {
    /// Two HTTP/1.1 keep-alive connections, and one of HTTP/2 with four requests at a time.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn on(target: &Target) -> anyhow::Result<Self> {
        let mut load =
            Self { stop: Arc::default(), answered: Arc::new(Semaphore::new(0)), clients: JoinSet::new() };
        for _ in 0..2 {
            let client = (target.http1().await?, target.host.clone());
            load.spawn(client, async |(mut client, host), nth| {
                let answer = client.get(&host, "/").await?;
                ensure!(answer.status() == 200, "HTTP/1.1 request {nth}: {answer:?}");
                Ok((client, host))
            });
        }
        let http2 = target.http2().await?;
        for _ in 0..4 {
            let client = (http2.clone(), target.clone());
            load.spawn(client, async |(http2, target), nth| {
                let answer = http2.send(target.get("/")?).await?;
                ensure!(answer.head.status() == 200, "HTTP/2 request {nth}: {:?}", answer.head);
                Ok((http2, target))
            });
        }
        Ok(load)
    }

    /// Adds two clients that open a new connection for each request: one HTTP/1.1, one HTTP/2.
    #[must_use]
    pub fn with_new_connections(mut self, target: &Target) -> Self {
        self.spawn(target.clone(), async |target, nth| {
            let answer = target.http1().await?.get(&target.host, "/").await?;
            ensure!(answer.status() == 200, "HTTP/1.1 connection {nth}: {answer:?}");
            Ok(target)
        });
        self.spawn(target.clone(), async |target, nth| {
            let answer = target.http2().await?.send(target.get("/")?).await?;
            ensure!(answer.head.status() == 200, "HTTP/2 connection {nth}: {:?}", answer.head);
            Ok(target)
        });
        self
    }

    /// Adds a WebSocket at `path`, whose backend sends back what it gets.
    ///
    /// # Errors
    /// When the upgrade is refused.
    pub async fn with_websocket(mut self, target: &Target, path: &str) -> anyhow::Result<Self> {
        let mut client = target.http1().await?;
        let ask = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            target.host
        );
        client.write(ask).await?;
        let head = client.wire().head().await?;
        ensure!(head.as_ref().is_some_and(|head| head.status() == 101), "{head:?}");
        self.spawn(client, async |mut client, _| {
            client.write("ping").await?;
            ensure!(client.wire().exactly(4).await? == b"ping", "the WebSocket says something else");
            Ok(client)
        });
        Ok(self)
    }

    fn spawn<C, F>(&mut self, client: C, request: impl Fn(C, usize) -> F + Send + 'static)
    where
        C: Send + 'static,
        F: Future<Output = anyhow::Result<C>> + Send + 'static,
    {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::clone(&self.answered));
        self.clients.spawn(async move {
            let (mut client, mut count) = (client, 0);
            while !stop.load(Ordering::Relaxed) {
                client = request(client, count).await?;
                count += 1;
                answered.add_permits(1);
            }
            Ok(count)
        });
    }

    /// Waits until so many more requests have been answered.
    ///
    /// # Errors
    /// With the first client that has failed.
    pub async fn answered(&mut self, more: u32) -> anyhow::Result<()> {
        let answered = Arc::clone(&self.answered);
        answered.forget_permits(usize::MAX);
        tokio::select! {
            permits = crate::soon("requests under load", answered.acquire_many(more)) => {
                permits??.forget();
                Ok(())
            }
            Some(ended) = self.clients.join_next() => bail!("a client has ended after {} requests", ended??),
        }
    }

    /// Stops. The least that any client was answered is returned.
    ///
    /// # Errors
    /// With the first client that has failed.
    pub async fn end(mut self) -> anyhow::Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut least = usize::MAX;
        while let Some(client) = self.clients.join_next().await {
            least = least.min(client??);
        }
        Ok(least)
    }
}
