//! The backends' side: one connection with many requests at once.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, Reason, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::body::{self, Incoming};
use super::fields;
use crate::fault::{Fault, FaultKind};
use crate::http::h1::{Answer, Progress, SendError};
use crate::http::{Body, BodySource, Frame, Informational, RequestHead, ResponseHead, Version};

/// Bytes that a backend may send on a stream ahead of our reading.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Bytes that a backend may send on all streams of a connection ahead of our reading.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of a response's or trailer section's fields.
const MAX_HEADER_LIST: u32 = 64 * 1024;
/// A connection with streams is asked this often whether it lives, and must answer within the other.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection to a backend. Dropped, it is closed when its last stream has ended.
pub struct Client {
    send: SendRequest<Bytes>,
    state: Rc<State>,
}

struct State {
    streams: Cell<usize>,
    closed: Cell<bool>,
    answered: Cell<bool>,
    idle_since: Cell<Instant>,
    secure: bool,
    /// Told when a stream has ended or the connection is gone.
    room: Rc<Notify>,
}

/// A request to send.
pub struct Outgoing<'a> {
    /// Its head.
    pub head: &'a RequestHead,
    /// What to name as the authority when the request has none (HTTP/1.0).
    pub endpoint: SocketAddr,
    /// Its body.
    pub body: Body,
    /// Told of 1xx responses other than 100 and 101.
    pub informational: Option<Informational>,
    /// Dropped when the exchange has ended.
    pub hold: Rc<dyn Any>,
}

impl Client {
    /// Begins HTTP/2 with prior knowledge on a fresh connection, `secure` if it is one over TLS, which a task
    /// of its own drives. `room` is told whenever a stream ends.
    ///
    /// # Errors
    /// When the connection breaks at once.
    pub async fn handshake<I>(io: I, secure: bool, room: Rc<Notify>) -> Result<Self, Fault>
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buffer_size(STREAM_WINDOW as usize)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(|error| Fault::new(FaultKind::Connect, error))?;
        let state = Rc::new(State {
            streams: Cell::new(0),
            closed: Cell::new(false),
            answered: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            secure,
            room,
        });
        tokio::task::spawn_local(drive(connection, state.clone()));
        Ok(Self { send, state })
    }

    /// Whether new requests can be sent on it: it is neither closed nor going away.
    pub fn is_usable(&self) -> bool {
        if self.state.closed.get() {
            return false;
        }
        // Ready at once on a handle without a request that waits; an error once GOAWAY has come.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        !matches!(self.send.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Whether the backend takes one more stream now.
    pub fn has_room(&self) -> bool {
        self.state.streams.get() < self.send.current_max_send_streams()
    }

    /// Whether the backend has answered a request on it.
    pub fn has_answered(&self) -> bool {
        self.state.answered.get()
    }

    /// Open streams.
    pub fn streams(&self) -> usize {
        self.state.streams.get()
    }

    /// Since when there are no streams; `None` while there are.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.state.streams.get() == 0).then(|| self.state.idle_since.get())
    }

    /// Sends a request and waits for the head of the final answer. Dropping the future, or the answer's
    /// body before its end, cancels the stream.
    ///
    /// # Errors
    /// When the stream or connection breaks, the backend breaks the protocol, or the request's body fails.
    pub async fn send(&self, outgoing: Outgoing<'_>) -> Result<Answer, SendError> {
        let unsent = |fault| SendError { fault, progress: Progress::Unsent };
        let Outgoing { head, endpoint, body, informational, hold } = outgoing;
        let request = request(head, endpoint, self.state.secure, &body).map_err(unsent)?;
        let mut send = self.send.clone();
        let broken = |error: h2::Error| SendError { progress: progress(&error), fault: broken(&error) };
        // Going away, or gone, since it was taken from the pool.
        let gone = |error| unsent(Fault::new(FaultKind::UpstreamClosed, error));
        poll_fn(|cx| send.poll_ready(cx)).await.map_err(gone)?;
        let counted = Counted::new(&self.state);
        let ended = body.is_empty();
        let (response, stream) = send.send_request(request, ended).map_err(gone)?;
        drop(send);
        let failed = Rc::new(RefCell::new(None));
        let mut pump = match ended {
            true => Pump::Done,
            // What comes from an HTTP/2 stream may go on whatever becomes of the answer, as gRPC's
            // streams do. A connection of HTTP/1.1 is read by the task that also writes to it.
            false if head.version == Version::Http2 => {
                let task = tokio::task::spawn_local(run(stream, body, failed.clone(), hold.clone()));
                Pump::Task(task.abort_handle())
            }
            false => Pump::Here(Box::pin(run(stream, body, failed.clone(), hold.clone()))),
        };
        let answer = poll_fn(|cx| {
            pump.poll(cx);
            if let Some(fault) = failed.borrow_mut().take() {
                return Poll::Ready(Err(SendError { fault, progress: Progress::Answered }));
            }
            Poll::Pending
        });
        let response = head_of(response, informational);
        let response = tokio::select! {
            biased;
            failed = answer => return failed,
            response = response => response,
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                if let Some(fault) = failed.borrow_mut().take() {
                    return Err(SendError { fault, progress: Progress::Answered });
                }
                return Err(broken(error));
            }
        };
        self.state.answered.set(true);
        let (parts, incoming) = response.into_parts();
        let mut headers = fields::received(&parts.headers);
        let bodiless = head.method == Method::HEAD
            || parts.status == StatusCode::NOT_MODIFIED
            || parts.status == StatusCode::NO_CONTENT;
        let length = headers.get("content-length").and_then(parse_length);
        if !(head.method == Method::HEAD || parts.status == StatusCode::NOT_MODIFIED) {
            headers.remove("content-length");
        }
        let head = ResponseHead { status: parts.status, headers };
        let body = if incoming.is_end_stream() {
            Body::Empty
        } else {
            let length = if bodiless { Some(0) } else { length };
            let incoming = Incoming::new(incoming, length, broken_body);
            Body::Stream(Box::new(Response { incoming, pump, failed, _counted: counted, _hold: hold }))
        };
        Ok(Answer { head, body, tunnel: None })
    }
}

async fn drive<I>(mut connection: h2::client::Connection<I, Bytes>, state: Rc<State>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = connection.ping_pong();
    loop {
        tokio::select! {
            _ = &mut connection => break,
            () = tokio::time::sleep(PING_INTERVAL) => {}
        }
        let Some(pings) = pings.as_mut().filter(|_| state.streams.get() > 0) else { continue };
        let pong = tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque()));
        tokio::select! {
            _ = &mut connection => break,
            answered = pong => if !matches!(answered, Ok(Ok(_))) { break },
        }
    }
    state.closed.set(true);
    state.room.notify_waiters();
}

/// Counts a stream until it is dropped.
struct Counted(Rc<State>);

impl Counted {
    fn new(state: &Rc<State>) -> Self {
        state.streams.set(state.streams.get() + 1);
        Self(state.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let left = self.0.streams.get() - 1;
        self.0.streams.set(left);
        if left == 0 {
            self.0.idle_since.set(Instant::now());
        }
        self.0.room.notify_one();
    }
}

fn request(
    head: &RequestHead,
    endpoint: SocketAddr,
    secure: bool,
    body: &Body,
) -> Result<http::Request<()>, Fault> {
    let invalid = |_| Fault::new(FaultKind::Internal, "a target that HTTP/2 cannot carry");
    let authority = match head.authority.text() {
        text if text.is_empty() => Authority::try_from(endpoint.to_string()).map_err(invalid)?,
        text => Authority::from_maybe_shared(text.clone()).map_err(invalid)?,
    };
    let mut parts = http::uri::Parts::default();
    // Of the connection to the backend, not of the client's: some servers refuse `https` in plain text.
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    let target = PathAndQuery::from_maybe_shared(head.target.text().clone()).map_err(invalid)?;
    parts.path_and_query = Some(target);
    let uri = Uri::from_parts(parts)
        .map_err(|_| Fault::new(FaultKind::Internal, "a target that HTTP/2 cannot carry"))?;
    let mut request = http::Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = fields::to_send(&head.headers)?;
    if let Some(length) = body.remaining().filter(|_| !body.is_empty()) {
        request.headers_mut().insert("content-length", length.into());
    }
    Ok(request)
}

/// How long a backend may take nothing of a request's body, whatever else limits the exchange.
const PATIENCE: Duration = Duration::from_secs(300);

/// Sends the body, and keeps the fault if it is the body's. What the backend says against it shows in the
/// response.
async fn run(
    mut stream: SendStream<Bytes>,
    mut body: Body,
    failed: Rc<RefCell<Option<Fault>>>,
    _hold: Rc<dyn Any>,
) {
    match body::send(&mut stream, &mut body, PATIENCE, None, |_| {}).await {
        Err(body::SendError::Body(fault)) => {
            failed.replace(Some(fault));
            stream.send_reset(Reason::CANCEL);
        }
        Err(body::SendError::Stalled) => {
            failed.replace(Some(FaultKind::UpstreamTimeout.into()));
            stream.send_reset(Reason::CANCEL);
        }
        Ok(()) | Err(body::SendError::Reset(_) | body::SendError::Connection(_)) => {}
    }
}

/// The head of the final response; those before it are told.
async fn head_of(
    mut response: ResponseFuture,
    informational: Option<Informational>,
) -> Result<http::Response<h2::RecvStream>, h2::Error> {
    if let Some(tell) = informational {
        while let Some(interim) = poll_fn(|cx| response.poll_informational(cx)).await {
            let (parts, ()) = interim?.into_parts();
            if parts.status != StatusCode::CONTINUE {
                tell(ResponseHead { status: parts.status, headers: fields::received(&parts.headers) });
            }
        }
    }
    response.await
}

fn parse_length(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// How far a request had got when its stream broke.
fn progress(error: &h2::Error) -> Progress {
    // RFC 9113 sections 6.8 and 8.7: not processed, safe to send again.
    let refused = error.reason() == Some(Reason::REFUSED_STREAM);
    let left_behind = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
    if error.is_remote() && (refused || left_behind) { Progress::Unsent } else { Progress::Unanswered }
}

fn broken(error: &h2::Error) -> Fault {
    if error.is_io() || error.is_remote() {
        Fault::new(FaultKind::UpstreamClosed, error)
    } else {
        Fault::new(FaultKind::UpstreamProtocol, error)
    }
}

/// What a break within the response's body stands for; none if the backend only wants no more of the
/// request (RFC 9113 section 8.1).
fn broken_body(error: &h2::Error) -> Option<Fault> {
    let content = error.is_reset() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
    (!content).then(|| broken(error))
}

/// What sends the request's body.
enum Pump {
    /// Whoever polls the response.
    Here(Pin<Box<dyn Future<Output = ()>>>),
    /// A task of its own.
    Task(AbortHandle),
    /// It has been sent.
    Done,
}

impl Pump {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Self::Here(run) = self
            && run.as_mut().poll(cx).is_ready()
        {
            *self = Self::Done;
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if let Self::Task(task) = self {
            task.abort();
        }
    }
}

/// A response's body, and what is left of the request's.
struct Response {
    incoming: Incoming,
    pump: Pump,
    failed: Rc<RefCell<Option<Fault>>>,
    _counted: Counted,
    _hold: Rc<dyn Any>,
}

impl BodySource for Response {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        self.pump.poll(cx);
        let frame = self.incoming.poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &frame
            && let Some(fault) = self.failed.borrow_mut().take()
        {
            return Poll::Ready(Some(Err(fault)));
        }
        frame
    }

    fn remaining(&self) -> Option<u64> {
        self.incoming.remaining()
    }
}
