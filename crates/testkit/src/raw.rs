//! Backends that speak no HTTP: bytes over TCP, with or without TLS, and datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificate;

/// A backend that says its name first (with TLS also the server name it was asked for), then sends back what
/// comes; when the client has closed its side it says `bye` and closes. Its tasks end when it is dropped.
pub struct RawOrigin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl RawOrigin {
    /// In plain text.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn named(name: &str) -> anyhow::Result<Self> {
        Self::start(name, None).await
    }

    /// With TLS.
    ///
    /// # Errors
    /// When no port is free or the certificate is none.
    pub async fn with_tls(name: &str, certificate: &Certificate) -> anyhow::Result<Self> {
        let key = PrivateKeyDer::try_from(certificate.key_der()?).map_err(anyhow::Error::msg)?;
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Self::start(name, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start(name: &str, tls: Option<TlsAcceptor>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (name, connections) = (name.to_owned(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (name, tls) = (name.clone(), tls.clone());
                // How a connection ends is seen by the test through the gateway.
                connections.spawn(async move {
                    let _ = match tls {
                        None => converse(stream, &name).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => {
                                let asked = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
                                converse(stream, &format!("{name} for {asked}")).await
                            }
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Ok(Self { address, connections, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// YAML of a Service `name` with one port 80, and its EndpointSlice.
    pub fn service(&self, namespace: &str, name: &str) -> String {
        crate::origin::service(namespace, name, &[self.address])
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, name: &str) -> std::io::Result<()> {
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    stream.flush().await?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            stream.write_all(b"bye\n").await?;
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..count]).await?;
        stream.flush().await?;
    }
}

/// A backend that answers each datagram with its name, a colon and the datagram.
pub struct UdpOrigin {
    address: SocketAddr,
    datagrams: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl UdpOrigin {
    /// Starts it.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn named(name: &str) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let (name, datagrams) = (name.to_owned(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&datagrams);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut buffer = vec![0; 65_535];
            while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                counted.fetch_add(1, Ordering::Relaxed);
                let answer = [name.as_bytes(), b":", &buffer[..count]].concat();
                // A client that has gone is no concern of a datagram server.
                let _ = socket.send_to(&answer, from).await;
            }
        });
        Ok(Self { address, datagrams, _tasks: tasks })
    }

    /// Where it receives.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many datagrams it has received.
    pub fn datagrams(&self) -> usize {
        self.datagrams.load(Ordering::Relaxed)
    }

    /// YAML of a Service `name` with one UDP port 80, and its EndpointSlice.
    pub fn service(&self, namespace: &str, name: &str) -> String {
        udp_service(namespace, name, &[self.address])
    }
}

/// YAML of a Service `name` with one UDP port 80, and its EndpointSlices.
pub fn udp_service(namespace: &str, name: &str, endpoints: &[SocketAddr]) -> String {
    crate::origin::service(namespace, name, endpoints)
        .replace("- name: http\n", "- name: http\n    protocol: UDP\n")
        .replace("    protocol: UDP\n      port: 80", "      protocol: UDP\n      port: 80")
}

/// Sends a datagram and waits for one back.
///
/// # Errors
/// When none comes.
pub async fn ask(socket: &UdpSocket, question: &str) -> anyhow::Result<String> {
    socket.send(question.as_bytes()).await?;
    answer(socket).await
}

/// Waits for a datagram.
///
/// # Errors
/// When none comes.
pub async fn answer(socket: &UdpSocket) -> anyhow::Result<String> {
    let mut buffer = vec![0; 65_535];
    let count = crate::soon("a datagram", socket.recv(&mut buffer)).await??;
    buffer.truncate(count);
    String::from_utf8(buffer).context("an answer in text")
}

/// A UDP client of an address.
///
/// # Errors
/// When no port is free.
pub async fn udp_client(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(address).await?;
    Ok(socket)
}
