//! Backends that record what they get and answer what they are told to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::wire::{Io, Message, Reading, Wire};

/// What an [`Origin`] does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Sends these bytes and keeps the connection.
    Raw(Vec<u8>),
    /// Sends these bytes and closes the connection.
    RawThenClose(Vec<u8>),
    /// Closes the connection without a byte.
    Close,
    /// Answers nothing, and keeps the connection.
    Hang,
    /// Sends these bytes, then sends back each byte that comes, as after an upgrade.
    Upgrade(Vec<u8>),
}

impl Answer {
    /// 200 with a text.
    pub fn text(body: &str) -> Self {
        Self::status(200, body)
    }

    /// A status with a text.
    pub fn status(status: u16, body: &str) -> Self {
        Self::Raw(
            format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        )
    }
}

type Behaviour = dyn Fn(&Message) -> Answer + Send + Sync;

/// An HTTP/1.1 backend. Its tasks end when it is dropped.
pub struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    requests: Mutex<Vec<Message>>,
    /// One permit for each recorded request that nobody has awaited yet.
    arrived: Semaphore,
    connections: AtomicUsize,
    handshakes: Mutex<Vec<Handshake>>,
}

impl State {
    fn note(&self, handshake: Handshake) {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner).push(handshake);
    }
}

/// What a TLS handshake told an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The server name that was asked for.
    pub server_name: Option<String>,
    /// The DER of the certificate that the gateway showed.
    pub certificate: Option<Vec<u8>>,
    /// What was agreed on (ALPN).
    pub protocol: Option<Vec<u8>>,
    /// An earlier session was resumed.
    pub resumed: bool,
}

impl Handshake {
    fn of(connection: &ServerConnection) -> Self {
        Self {
            server_name: connection.server_name().map(str::to_owned),
            certificate: connection
                .peer_certificates()
                .and_then(|chain| chain.first())
                .map(|der| der.to_vec()),
            protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

impl Origin {
    /// Answers each request as `behaviour` says.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn new(behaviour: impl Fn(&Message) -> Answer + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::start(None, Arc::new(behaviour)).await
    }

    /// Speaks TLS, and answers each request as `behaviour` says.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn over_tls(
        config: &Arc<ServerConfig>,
        behaviour: impl Fn(&Message) -> Answer + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::start(Some(Arc::clone(config).into()), Arc::new(behaviour)).await
    }

    async fn start(tls: Option<TlsAcceptor>, behaviour: Arc<Behaviour>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            requests: Mutex::default(),
            arrived: Semaphore::new(0),
            connections: AtomicUsize::new(0),
            handshakes: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&state);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let (state, behaviour, tls) = (Arc::clone(&shared), Arc::clone(&behaviour), tls.clone());
                // How a connection ends is seen by the gateway at its other end, and by the test through it.
                connections.spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let Some(tls) = tls else { return converse(stream, &state, &*behaviour).await };
                    let stream = tls.accept(stream).await?;
                    state.note(Handshake::of(stream.get_ref().1));
                    converse(stream, &state, &*behaviour).await
                });
            }
        });
        Ok(Self { address, state, _tasks: tasks })
    }

    /// Answers each request with its own name, 200.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn named(name: &str) -> anyhow::Result<Self> {
        let name = name.to_owned();
        Self::new(move |_| Answer::text(&name)).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far, as they came.
    pub fn requests(&self) -> Vec<Message> {
        self.state.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until one more request has come than was waited for before; returns the last.
    ///
    /// # Errors
    /// When none comes.
    pub async fn next(&self) -> anyhow::Result<Message> {
        crate::soon("a request at the origin", self.state.arrived.acquire()).await??.forget();
        self.requests().pop().ok_or_else(|| anyhow::anyhow!("no request was recorded"))
    }

    /// All TLS handshakes that succeeded so far.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.state.handshakes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// YAML of a Service `name` with one port 80, and its EndpointSlice.
    pub fn service(&self, namespace: &str, name: &str) -> String {
        service(namespace, name, &[self.address])
    }
}

/// YAML of a Service `name` with one port 80, and one EndpointSlice for each of its endpoints.
pub fn service(namespace: &str, name: &str, endpoints: &[SocketAddr]) -> String {
    service_speaking(namespace, name, endpoints, None)
}

/// As [`service`], with an `appProtocol`.
pub fn service_speaking(namespace: &str, name: &str, endpoints: &[SocketAddr], app: Option<&str>) -> String {
    let app = app.map(|app| format!("\n      appProtocol: {app}")).unwrap_or_default();
    let mut yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n  ports:\n    \
         - name: http\n      port: 80{app}\n"
    );
    for (nth, endpoint) in endpoints.iter().enumerate() {
        yaml += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{nth}\n  \
             namespace: {namespace}\n  labels:\n    kubernetes.io/service-name: {name}\naddressType: IPv4\nports:\n  \
             - name: http\n    port: {}\nendpoints:\n  - addresses: [\"{}\"]\n    conditions:\n      ready: true\n",
            endpoint.port(),
            endpoint.ip()
        );
    }
    yaml
}

async fn converse(stream: impl Io + 'static, state: &State, behaviour: &Behaviour) -> anyhow::Result<()> {
    let mut wire = Wire::new(stream);
    loop {
        let Some(message) = wire.idle_message(Reading::Request).await? else { return Ok(()) };
        let answer = behaviour(&message);
        state.requests.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        state.arrived.add_permits(1);
        match answer {
            Answer::Raw(bytes) => wire.write(&bytes).await?,
            Answer::RawThenClose(bytes) => return wire.write(&bytes).await,
            Answer::Close => return Ok(()),
            Answer::Hang => {
                wire.rest().await?;
                return Ok(());
            }
            Answer::Upgrade(bytes) => {
                wire.write(&bytes).await?;
                return wire.mirror().await;
            }
        }
    }
}

/// An HTTP/2 backend (prior knowledge) that sends each request's body back as it comes, then the trailers
/// `grpc-status: 0`, as a gRPC server would. Its tasks end when it is dropped.
pub struct H2Origin {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<Request<()>>>>,
    _tasks: JoinSet<()>,
}

impl H2Origin {
    /// Starts it.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn new() -> anyhow::Result<Self> {
        Self::start(None).await
    }

    /// Starts it with TLS.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn over_tls(config: &Arc<ServerConfig>) -> anyhow::Result<Self> {
        Self::start(Some(Arc::clone(config).into())).await
    }

    async fn start(tls: Option<TlsAcceptor>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let heads: Arc<Mutex<Vec<_>>> = Arc::default();
        let recorded = Arc::clone(&heads);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (recorded, tls) = (Arc::clone(&recorded), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve_http2(stream, recorded).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve_http2(stream, recorded).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(Self { address, heads, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of all requests so far.
    pub fn requests(&self) -> Vec<Request<()>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// YAML of a Service `name` with one port 80 that speaks h2c, and its EndpointSlice.
    pub fn service(&self, namespace: &str, name: &str) -> String {
        service_speaking(namespace, name, &[self.address], Some("kubernetes.io/h2c"))
    }
}

async fn serve_http2(stream: impl Io + 'static, recorded: Arc<Mutex<Vec<Request<()>>>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (head, body) = request.into_parts();
        let head = Request::from_parts(head, ());
        recorded.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        streams.spawn(async move {
            let _ = send_back(&head, body, respond).await;
        });
    }
}

async fn send_back(
    head: &Request<()>,
    mut body: h2::RecvStream,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    if let Some(value) = head.headers().get("content-type") {
        response.headers_mut().insert("content-type", value.clone());
    }
    let mut stream = respond.send_response(response, false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        stream.send_data(data, false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}
