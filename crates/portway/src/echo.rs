//! `portway echo`: the demo backend. It tells what arrived, so that one sees what a gateway made of it.
//!
//! ```text
//! HTTP/1.1, h2c ─► request ─┬─ Upgrade: websocket      each frame comes back
//!                           ├─ application/grpc*       each message comes back, then grpc-status: 0
//!                           └─ anything else           JSON: who answers, and what arrived; knobs in the query
//! UDP ─► datagram                                        JSON: who answers, and what arrived
//! ```

mod websocket;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde::Serialize;
use tokio::net::{TcpListener, UdpSocket};

/// Who answered: sent with every response.
pub(crate) const POD_HEADER: HeaderName = HeaderName::from_static("x-echo-pod");

/// The longest that `?delay=` waits, and the most bytes that `?size=` sends: a demo is no weapon.
const MAX_DELAY: Duration = Duration::from_secs(60);
const MAX_SIZE: u64 = 1 << 30;

/// The arguments of `portway echo`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The port to listen on; 0 for any that is free
    #[arg(long, default_value_t = 9001)]
    port: u16,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// The Service that it stands for
    #[arg(long, default_value = "echo")]
    service: String,
    /// Its own name (default: the environment's POD_NAME, else the Service's)
    #[arg(long, env = "POD_NAME")]
    pod: Option<String>,
    /// Its namespace
    #[arg(long, env = "NAMESPACE", default_value = "default")]
    namespace: String,
}

/// Who an echo instance says it is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Identity {
    /// The Service's name.
    pub(crate) service: String,
    /// Its own name.
    pub(crate) pod: String,
    /// Its namespace.
    pub(crate) namespace: String,
}

/// What the JSON answer says.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(flatten)]
    identity: &'a Identity,
    method: &'a str,
    path: String,
    host: &'a str,
    protocol: &'static str,
    headers: BTreeMap<&'a str, Vec<String>>,
    body_bytes: u64,
}

/// Serves until the process is told to end.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let address = SocketAddr::new(args.address, args.port);
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        crate::print::news(format_args!("portway echo: http://{address} (HTTP/1.1, h2c, gRPC, WebSocket)\n"));
        let pod = args.pod.unwrap_or_else(|| args.service.clone());
        let identity = Identity { service: args.service, pod, namespace: args.namespace };
        tokio::select! {
            () = serve(listener, identity) => {}
            ended = crate::signals::ended() => ended?,
        }
        Ok(())
    })
}

/// Answers each datagram with one of JSON that says who answers and what came, for ever.
pub(crate) async fn serve_datagrams(socket: std::net::UdpSocket, identity: &Identity) {
    let socket = match socket.set_nonblocking(true).and_then(|()| UdpSocket::from_std(socket)) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "echo cannot receive datagrams"),
    };
    let mut buffer = vec![0; 65_535];
    loop {
        // What ICMP says about an answer that nobody took is of no interest.
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else { continue };
        let received = String::from_utf8_lossy(&buffer[..count]);
        let answer = DatagramAnswer { identity, received: received.trim_end() };
        let mut text = serde_json::to_string(&answer).unwrap_or_default();
        text.push('\n');
        let _ = socket.send_to(text.as_bytes(), from).await;
    }
}

/// What the answer to a datagram says.
#[derive(Serialize)]
struct DatagramAnswer<'a> {
    #[serde(flatten)]
    identity: &'a Identity,
    received: &'a str,
}

/// Serves all connections of `listener`, for ever.
pub(crate) async fn serve(listener: TcpListener, identity: Identity) {
    let identity = Arc::new(identity);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: it passes when connections end.
                tracing::warn!(%error, "echo cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let identity = Arc::clone(&identity);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(request, Arc::clone(&identity)));
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http1().timer(TokioTimer::new());
            server.http2().timer(TokioTimer::new());
            let served = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                tracing::debug!(error, "echo connection ended");
            }
        });
    }
}

async fn answer(request: Request<Incoming>, identity: Arc<Identity>) -> Result<Response<Reply>, Infallible> {
    let pod = HeaderValue::from_str(&identity.pod).unwrap_or(HeaderValue::from_static("echo"));
    let mut response = if websocket::is_upgrade(&request) {
        websocket::accept(request)
    } else if is_grpc(request.headers()) {
        grpc(request)
    } else {
        http(request, &identity).await
    };
    response.headers_mut().insert(POD_HEADER, pod);
    Ok(response)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn grpc(request: Request<Incoming>) -> Response<Reply> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Reply::Grpc(Some(body)));
    // The messages go back as they came, so what was said of them holds for the answer too.
    for name in [CONTENT_TYPE, HeaderName::from_static("grpc-encoding")] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

async fn http(request: Request<Incoming>, identity: &Identity) -> Response<Reply> {
    let knobs = match Knobs::parse(request.uri().query().unwrap_or_default()) {
        Ok(knobs) => knobs,
        Err(message) => return refusal(message),
    };
    if let Some(delay) = knobs.delay {
        tokio::time::sleep(delay).await;
    }
    let mut response = if knobs.body {
        let content_type = request.headers().get(CONTENT_TYPE).cloned();
        let mut response = Response::new(Reply::Body(request.into_body()));
        if let Some(value) = content_type {
            response.headers_mut().insert(CONTENT_TYPE, value);
        }
        response
    } else if let Some(size) = knobs.size {
        Response::new(Reply::Fill(size))
    } else {
        tell(request, identity).await
    };
    *response.status_mut() = knobs.status;
    response
}

async fn tell(request: Request<Incoming>, identity: &Identity) -> Response<Reply> {
    let (head, mut body) = request.into_parts();
    let mut body_bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        body_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &head.headers {
        headers
            .entry(name.as_str())
            .or_default()
            .push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let host = head.headers.get(http::header::HOST).and_then(|value| value.to_str().ok());
    let answer = Answer {
        identity,
        method: head.method.as_str(),
        path: head.uri.path_and_query().map_or_else(|| "*".to_owned(), ToString::to_string),
        host: head.uri.authority().map(http::uri::Authority::as_str).or(host).unwrap_or_default(),
        protocol: if head.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
        headers,
        body_bytes,
    };
    let mut text = serde_json::to_string_pretty(&answer).unwrap_or_default();
    text.push('\n');
    let mut response = Response::new(Reply::Whole(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refusal(message: String) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Bytes::from(message + "\n")));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

/// What the query asks of the answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Knobs {
    /// `status=503`.
    status: StatusCode,
    /// `delay=200ms` before the answer's head.
    delay: Option<Duration>,
    /// `size=1024`: that many bytes instead of JSON.
    size: Option<u64>,
    /// `body`: the request's body comes back, as it arrives.
    body: bool,
}

impl Knobs {
    fn parse(query: &str) -> Result<Self, String> {
        let mut knobs = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let wrong = |expected: &str| format!("?{name}={value}: {expected}");
            match name {
                "status" => {
                    let status =
                        StatusCode::from_bytes(value.as_bytes()).ok().filter(|s| !s.is_informational());
                    knobs.status = status.ok_or_else(|| wrong("a status from 200 to 999"))?;
                }
                "delay" => {
                    let delay = parse_delay(value).filter(|delay| *delay <= MAX_DELAY);
                    knobs.delay = Some(delay.ok_or_else(|| wrong("such as 200ms or 2s, at most 60s"))?);
                }
                "size" => {
                    let size = value.parse().ok().filter(|size| *size <= MAX_SIZE);
                    knobs.size = Some(size.ok_or_else(|| wrong("a number of bytes, at most 1 GiB"))?);
                }
                "body" => knobs.body = true,
                _ => {}
            }
        }
        Ok(knobs)
    }
}

fn parse_delay(text: &str) -> Option<Duration> {
    if let Some(number) = text.strip_suffix("ms") {
        number.parse().ok().map(Duration::from_millis)
    } else {
        text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
    }
}

/// The body of an answer.
enum Reply {
    /// All at once.
    Whole(Bytes),
    /// That many bytes.
    Fill(u64),
    /// What the client sends.
    Body(Incoming),
    /// What the client sends, then `grpc-status: 0` in the trailers; `None` after those.
    Grpc(Option<Incoming>),
}

impl Reply {
    const EMPTY: Self = Self::Whole(Bytes::new());
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        static FILL: [u8; 16 * 1024] = [b'x'; 16 * 1024];
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Fill(0) => Poll::Ready(None),
            Self::Fill(left) => {
                let size = (*left).min(FILL.len() as u64);
                *left -= size;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&FILL[..size as usize])))))
            }
            Self::Body(body) => Pin::new(body).poll_frame(cx),
            Self::Grpc(body) => {
                let Some(incoming) = body else { return Poll::Ready(None) };
                match ready!(Pin::new(incoming).poll_frame(cx)) {
                    Some(Ok(frame)) if frame.is_data() => Poll::Ready(Some(Ok(frame))),
                    Some(Err(error)) => Poll::Ready(Some(Err(error))),
                    // A gRPC client sends no trailers; if one does, they are not the answer's.
                    Some(Ok(_)) | None => {
                        *body = None;
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
            || matches!(self, Self::Fill(0) | Self::Grpc(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Fill(left) => SizeHint::with_exact(*left),
            Self::Body(body) => body.size_hint(),
            Self::Grpc(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests;
