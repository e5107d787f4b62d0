//! The backends' side: one connection with many requests at once.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Reason;
use super::body::{self, Incoming};
use super::fields::{self, Bounds, Length};
use super::loans::Loans;
use super::mux::{Config, Mux, Ping, Role, Shared};
use super::stream::{Answered, Broken, Line, Receiver, Sender};
use super::wire::{self, Step};
use crate::fault::{Fault, FaultKind};
use crate::http::h1::{Answer, Progress, SendError};
use crate::http::{Body, BodySource, Frame, Informational, RequestHead, Version};

/// What a backend may send ahead of our reading, and what is kept of its answers.
const CONFIG: Config = Config {
    role: Role::Client,
    // At first: see `Loans`.
    stream_window: 16 * 1024,
    // Each stream has a window of its own; none may use up that of the others, who belong to other clients.
    connection_window: 1 << 30,
    frame_bytes: 16 * 1024,
    streams: 0,
    bounds: Bounds { bytes: 64 * 1024, lines: 256 },
    // Each is a request of ours; malformed answers to some must not end the connection for the others.
    own_resets: usize::MAX,
    send_buffer: 128 * 1024,
};
/// A connection with streams is asked this often whether it lives, and must answer within that time.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// A connection to a backend. Dropped, it is closed when its last stream has ended.
pub struct Client {
    mux: Shared,
    state: Rc<State>,
}

struct State {
    streams: Cell<usize>,
    answered: Cell<bool>,
    idle_since: Cell<Instant>,
    secure: bool,
    /// Called when a stream has ended or the connection is gone.
    room: Rc<dyn Fn()>,
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
    /// of its own drives. `room` is called whenever a stream ends. The windows of streams that are read grow out of
    /// `loans`.
    pub fn begin<I>(io: I, secure: bool, room: Rc<dyn Fn()>, loans: Rc<Loans>) -> Self
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let mut mux = Mux::new(CONFIG);
        mux.loans = Some(loans);
        let mux = Rc::new(RefCell::new(mux));
        let state = Rc::new(State {
            streams: Cell::new(0),
            answered: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            secure,
            room,
        });
        tokio::task::spawn_local(drive(io, mux.clone(), state.room.clone()));
        Self { mux, state }
    }

    /// Whether new requests can be sent on it: it is neither closed nor going away.
    pub fn is_usable(&self) -> bool {
        let mux = self.mux.borrow();
        mux.dead.is_none() && !mux.left && mux.can_open()
    }

    /// Whether the backend takes one more stream now.
    pub fn has_room(&self) -> bool {
        self.state.streams.get() < self.mux.borrow().peer_streams as usize
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
        fields::check(&head.headers).map_err(unsent)?;
        let counted = Counted::new(&self.state);
        // Going away, or gone, since it was taken from the pool.
        let gone = |broken| SendError {
            fault: Fault::new(FaultKind::UpstreamClosed, broken),
            progress: match broken {
                // One that takes nothing at all must not be asked as often as one that takes a few.
                Broken::LeftBehind { .. } if !self.mux.borrow().has_opened() => Progress::Refused,
                Broken::LeftBehind { .. } | Broken::TurnedAway(_) => progress(broken),
                _ => Progress::Unsent,
            },
        };
        let key = poll_fn(|cx| self.mux.borrow_mut().poll_open(cx)).await.map_err(gone)?;
        let id = self.mux.borrow().streams[key].id;
        let line = Line { mux: self.mux.clone(), key, id };
        let (receiver, sender) = (Receiver(line.clone()), Sender(line.clone()));
        send_head(&line, head, endpoint, self.state.secure, &body).map_err(gone)?;
        let mut sending = Sending { pump: Pump::Done, failed: None };
        if body.is_empty() {
            drop(sender);
        } else {
            sending.begin(sender, body, head.version, &hold).await;
        }
        let answered = poll_fn(|cx| {
            sending.poll(cx);
            if let Some(fault) = sending.fault() {
                return Poll::Ready(Err(SendError { fault, progress: Progress::Answered }));
            }
            self.mux
                .borrow_mut()
                .poll_head(&line, informational.as_ref(), cx)
                .map_err(|broken| SendError { fault: fault(broken), progress: progress(broken) })
        })
        .await?;
        sending.pause(&line);
        self.state.answered.set(true);
        let Answered { head: mut answered, length } = *answered;
        let to_head = head.method == Method::HEAD;
        let describes = to_head || answered.status == StatusCode::NOT_MODIFIED;
        if !describes && length != Length::Unknown {
            answered.headers.remove("content-length");
        }
        let ended = self.mux.borrow_mut().has_ended(&line);
        let body = if ended {
            Body::Empty
        } else {
            let length = match length {
                _ if to_head || answered.is_bodiless() => Some(0),
                Length::Known(length) => Some(length),
                _ => None,
            };
            let incoming = Incoming::new(receiver, length, fault);
            Body::Stream(Box::new(Response { incoming, sending, _counted: counted, _hold: hold }))
        };
        Ok(Answer { head: answered, body, tunnel: None })
    }
}

/// Drives a connection to its end: until the peer ends it, or nobody wants it any more.
async fn drive<I>(mut io: I, mux: Shared, room: Rc<dyn Fn()>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut tick = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    // Not two at once after a pause: a PING has to have its time.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut taken) = (0, 0);
    let mut offer = (0, false);
    poll_fn(|cx| {
        loop {
            while tick.poll_tick(cx).is_ready() {
                let mut mux = mux.borrow_mut();
                mux.idle_frames = 0;
                // A PING waits behind what a slow backend takes.
                let slow = mux.advances(&mut taken);
                let silent = std::mem::replace(&mut heard, mux.received) == mux.received && !slow;
                if silent && mux.pings[Ping::Alive as usize] {
                    mux.fail(Broken::Closed, None);
                } else if silent && mux.open > 0 {
                    mux.ping(Ping::Alive);
                }
            }
            match wire::poll_step(&mut io, &mux, cx) {
                Poll::Ready(Step::Received) => {
                    let now = (mux.borrow().peer_streams, mux.borrow().left);
                    if std::mem::replace(&mut offer, now) != now {
                        // Those who wait may find room here, or open another connection.
                        room();
                    }
                }
                Poll::Ready(Step::Ended) => return Poll::Ready(()),
                // Whoever else holds it has requests on it, or may send some.
                Poll::Pending if Rc::strong_count(&mux) == 1 => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    mux.borrow_mut().fail(Broken::Closed, None);
    room();
    let _ = tokio::time::timeout(Duration::from_secs(1), tokio::io::AsyncWriteExt::shutdown(&mut io)).await;
}

impl Drop for Client {
    fn drop(&mut self) {
        // No stream is opened any more: the connection's task ends it with the last one.
        let mut mux = self.mux.borrow_mut();
        mux.leaving = Some(0);
        mux.stir();
    }
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
        (self.0.room)();
    }
}

/// Sends a request's head.
fn send_head(
    line: &Line,
    head: &RequestHead,
    endpoint: SocketAddr,
    secure: bool,
    body: &Body,
) -> Result<(), Broken> {
    let mut mux = line.mux.borrow_mut();
    if let Some(stream) = mux.stream(line) {
        stream.head_sent = true;
        stream.bodiless = head.method == Method::HEAD;
    }
    mux.send_block(line, body.is_empty(), |encoder, out| {
        encoder.method(head.method.as_str().as_bytes(), out);
        // Of the connection to the backend, not of the client's: some servers refuse `https` in plain text.
        encoder.scheme(if secure { b"https" } else { b"http" }, out);
        if head.authority.text().is_empty() {
            encoder.authority(endpoint.to_string().as_bytes(), out);
        } else {
            encoder.authority(head.authority.text(), out);
        }
        encoder.path(head.target.text(), out);
        fields::encode(&head.headers, encoder, out);
        if let Some(length) = body.remaining().filter(|_| !body.is_empty()) {
            encoder.field(b"content-length", itoa::Buffer::new().format(length).as_bytes(), out);
        }
    })
}

/// How long a backend may take nothing of a request's body, whatever else limits the exchange.
const PATIENCE: Duration = Duration::from_secs(300);

/// The fault of a request's body, once it has failed.
type Failed = Rc<RefCell<Option<Fault>>>;

/// Sends the body, and keeps the fault if it is the body's. What the backend says against it shows in the
/// response.
async fn run(sender: Sender, mut body: Body, failed: Failed, _hold: Rc<dyn Any>) {
    let line = &sender.0;
    let fault = match body::send(line, &mut body, PATIENCE, false, |_| {}).await {
        Err(body::SendError::Body(fault)) => fault,
        Err(body::SendError::Stalled) => FaultKind::UpstreamTimeout.into(),
        Ok(()) | Err(body::SendError::Broken) => return,
    };
    failed.replace(Some(fault));
    line.mux.borrow_mut().reset(line, Reason::CANCEL);
}

/// How far a request had got when its stream broke.
fn progress(broken: Broken) -> Progress {
    match broken {
        // RFC 9113 sections 6.8 and 8.7: not processed, safe to send again.
        Broken::Reset(Reason::REFUSED_STREAM) | Broken::TurnedAway(_) => Progress::Refused,
        Broken::LeftBehind { others } => Progress::LeftBehind { others },
        _ => Progress::Unanswered,
    }
}

fn fault(broken: Broken) -> Fault {
    match broken {
        Broken::Violation(_) => Fault::new(FaultKind::UpstreamProtocol, broken),
        _ => Fault::new(FaultKind::UpstreamClosed, broken),
    }
}

/// What is left of sending a request's body.
struct Sending {
    pump: Pump,
    failed: Option<Failed>,
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

impl Sending {
    /// Sends what there is; what is still to come goes on the client's own pace.
    async fn begin(&mut self, sender: Sender, body: Body, version: Version, hold: &Rc<dyn Any>) {
        let failed = Failed::default();
        let mut run: Pin<Box<dyn Future<Output = ()>>> =
            Box::pin(run(sender, body, failed.clone(), hold.clone()));
        self.failed = Some(failed);
        if poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx))).await.is_ready() {
            return;
        }
        // What comes from an HTTP/2 stream may go on whatever becomes of the answer, as gRPC's streams do. A
        // connection of HTTP/1.1 is read by the task that also writes to it.
        self.pump = match version {
            Version::Http2 => Pump::Task(tokio::task::spawn_local(run).abort_handle()),
            Version::Http10 | Version::Http11 => Pump::Here(run),
        };
    }

    /// Goes on.
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Pump::Here(run) = &mut self.pump
            && run.as_mut().poll(cx).is_ready()
        {
            self.pump = Pump::Done;
        }
    }

    /// The fault of the body, if it has failed: once.
    fn fault(&self) -> Option<Fault> {
        self.failed.as_ref()?.borrow_mut().take()
    }

    /// Whoever polls may do so no more for long: what waits for a window lets it to others meanwhile.
    fn pause(&self, line: &Line) {
        if let Pump::Here(_) = self.pump {
            let mut mux = line.mux.borrow_mut();
            if mux.stream(line).is_some() {
                mux.revoke(line.key);
            }
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
    sending: Sending,
    _counted: Counted,
    _hold: Rc<dyn Any>,
}

impl BodySource for Response {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        self.sending.poll(cx);
        let frame = ready!(self.incoming.poll_frame(cx));
        self.sending.pause(self.incoming.line());
        // What came before the body failed comes first; then the stream is found to be reset, which is why.
        let failed = |fault| self.sending.fault().unwrap_or(fault);
        Poll::Ready(frame.map(|frame| frame.map_err(failed)))
    }

    fn remaining(&self) -> Option<u64> {
        self.incoming.remaining()
    }
}
