//! Clients that send what they are told to.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::Certificate;
use crate::soon;
use crate::wire::{Message, Reading, Wire};

/// An HTTP/1.1 connection whose requests are written byte by byte as the test has them.
pub struct Client {
    wire: Wire,
    /// The DER of the server's certificate, on TLS.
    pub certificate: Option<Vec<u8>>,
}

impl Client {
    /// Connects in plain text.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { wire: Wire::new(tcp(address).await?), certificate: None })
    }

    /// Connects with TLS and ALPN `http/1.1`.
    ///
    /// # Errors
    /// When the handshake fails, such as for a certificate that is not trusted or not for `name`.
    pub async fn connect_tls(
        address: SocketAddr,
        name: &str,
        roots: &Arc<RootCertStore>,
    ) -> anyhow::Result<Self> {
        Self::connect_as(address, name, roots, None).await
    }

    /// As [`Client::connect_tls`], and shows a certificate if it is given one and asked for it.
    ///
    /// # Errors
    /// As [`Client::connect_tls`]. What the server thinks of the certificate shows when something is read.
    pub async fn connect_as(
        address: SocketAddr,
        name: &str,
        roots: &Arc<RootCertStore>,
        own: Option<&Certificate>,
    ) -> anyhow::Result<Self> {
        let stream = tls_as(address, name, roots, own, b"http/1.1").await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
        Ok(Self { wire: Wire::new(stream), certificate })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        self.wire.write(bytes.as_ref()).await
    }

    /// The next response, the interim ones (1xx but 101) passed over.
    ///
    /// # Errors
    /// When the connection closes or breaks instead.
    pub async fn response(&mut self) -> anyhow::Result<Message> {
        self.read(false).await
    }

    async fn read(&mut self, to_head: bool) -> anyhow::Result<Message> {
        loop {
            let message = self.wire.message(Reading::Response { to_head }).await?;
            let message = message.context("the connection was closed instead of a response")?;
            if !matches!(message.status(), 100 | 102..=199) {
                return Ok(message);
            }
        }
    }

    /// Sends a request without a body and reads the answer.
    ///
    /// # Errors
    /// When the connection closes or breaks instead.
    pub async fn get(&mut self, host: &str, target: &str) -> anyhow::Result<Message> {
        self.request("GET", host, target, &[], b"").await
    }

    /// Sends a request with headers and, if it is not empty, a body with its Content-Length; reads the answer.
    ///
    /// # Errors
    /// When the connection closes or breaks instead.
    pub async fn request(
        &mut self,
        method: &str,
        host: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Message> {
        let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        if !body.is_empty() {
            bytes.extend(format!("Content-Length: {}\r\n", body.len()).into_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        self.write(bytes).await?;
        self.read(method == "HEAD").await
    }

    /// The connection itself, after an upgrade or for what the client does not do.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

/// An answer over HTTP/2.
#[derive(Debug)]
pub struct Answered {
    /// Its head.
    pub head: Response<()>,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: HeaderMap,
}

/// An HTTP/2 connection; clones share it.
#[derive(Clone)]
pub struct Http2 {
    sender: SendRequest<Bytes>,
}

impl Http2 {
    /// Connects in plain text with prior knowledge.
    ///
    /// # Errors
    /// When nobody listens, or what listens speaks no HTTP/2.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Self::over(tcp(address).await?).await
    }

    /// Connects with TLS and ALPN `h2`.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect_tls(
        address: SocketAddr,
        name: &str,
        roots: &Arc<RootCertStore>,
    ) -> anyhow::Result<Self> {
        Self::over(tls(address, name, roots, b"h2").await?).await
    }

    async fn over(io: impl crate::wire::Io + 'static) -> anyhow::Result<Self> {
        let (sender, connection) = soon("the HTTP/2 handshake", h2::client::handshake(io)).await??;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends a request with its body and reads the answer to its end.
    ///
    /// # Errors
    /// When the stream or the connection is reset.
    pub async fn send(&self, request: Request<Bytes>) -> anyhow::Result<Answered> {
        soon("an answer over HTTP/2", self.exchange(request)).await?
    }

    async fn exchange(&self, request: Request<Bytes>) -> anyhow::Result<Answered> {
        let (head, body) = request.into_parts();
        let (response, mut stream) = self.open(Request::from_parts(head, ()), body.is_empty()).await?;
        if !body.is_empty() {
            stream.send_data(body, true)?;
        }
        let (head, mut incoming) = response.await?.into_parts();
        let mut body = BytesMut::new();
        while let Some(data) = incoming.data().await {
            let data = data?;
            incoming.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        let trailers = incoming.trailers().await?.unwrap_or_default();
        Ok(Answered { head: Response::from_parts(head, ()), body: body.freeze(), trailers })
    }

    /// Opens a stream whose body the test sends and reads by itself.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn open(
        &self,
        request: Request<()>,
        end: bool,
    ) -> anyhow::Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>)> {
        let mut sender = self.sender.clone().ready().await?;
        Ok(sender.send_request(request, end)?)
    }
}

async fn tcp(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = soon("a connection", TcpStream::connect(address)).await?;
    let stream = stream.with_context(|| format!("nobody listens at {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects with TLS, for bytes of any kind; with an ALPN protocol unless it is empty.
///
/// # Errors
/// When nobody listens or the handshake fails.
pub async fn tls(
    address: SocketAddr,
    name: &str,
    roots: &Arc<RootCertStore>,
    alpn: &[u8],
) -> anyhow::Result<TlsStream<TcpStream>> {
    tls_as(address, name, roots, None, alpn).await
}

async fn tls_as(
    address: SocketAddr,
    name: &str,
    roots: &Arc<RootCertStore>,
    own: Option<&Certificate>,
    alpn: &[u8],
) -> anyhow::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(roots));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        // Shown whatever authorities the server names.
        Some(own) => {
            let (chain, key) = own.pair()?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    let name = ServerName::try_from(name.to_owned())?;
    let connector = TlsConnector::from(Arc::new(config));
    Ok(soon("the TLS handshake", connector.connect(name, tcp(address).await?)).await??)
}
