//! A peer that sends the frames that a test wants, in that order, and shows those that it gets.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use portway_proxy::Limits;
use portway_proxy::drain::Drain;
use portway_proxy::fault::FaultKind;
use portway_proxy::http::h1::{Answer, SendError};
use portway_proxy::http::h2::client::{Client, Outgoing};
use portway_proxy::http::h2::{Loans, server};
use portway_proxy::http::{Body, Handler, RequestHead, Version};
use portway_proxy::observe::Recorder;
use portway_testkit::engine::frames::{PREFACE, SETTINGS, frame};
use portway_testkit::engine::{connection, head};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

/// Kinds of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RESET: u8 = 3;
pub(crate) const SET: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW: u8 = 8;

/// Their flags.
pub(crate) const ACK: u8 = 1;
pub(crate) const END: u8 = 1;
pub(crate) const WHOLE: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// The window of a stream of ours.
const STREAM: i64 = 64 * 1024;
/// The same of a backend's, until it is read.
pub(crate) const BACKEND_STREAM: i64 = 16 * 1024;

/// Header blocks: `GET /` and `POST /` at `http://a`, and status 200.
pub(crate) const GET: &[u8] = b"\x82\x86\x84\x41\x01a";
pub(crate) const POST: &[u8] = b"\x83\x86\x84\x41\x01a";
pub(crate) const OK: &[u8] = b"\x88";

/// Runs a test whose clock goes on when all wait for it: what hangs fails at once.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let test = async { timeout(Duration::from_secs(3600), test).await.expect("in time") };
    runtime.expect("a runtime").block_on(LocalSet::new().run_until(test));
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Got {
    /// Its first four bytes.
    pub(crate) fn number(&self) -> u32 {
        self.payload.as_slice().get_u32()
    }
}

/// The peer. It keeps to the windows that it is given.
pub(crate) struct Peer {
    io: DuplexStream,
    buffer: BytesMut,
    stream_window: i64,
    /// Of the connection (0), and of the streams that it has sent on.
    windows: HashMap<u32, i64>,
}

impl Peer {
    /// A client of a server with such a handler.
    pub(crate) async fn client(handler: impl Handler + 'static) -> Self {
        let mut peer = Self::beginning(handler).await;
        peer.frame(SET, ACK, 0, b"").await;
        peer
    }

    /// The same, before it has seen the server's SETTINGS.
    pub(crate) async fn beginning(handler: impl Handler + 'static) -> Self {
        let mut peer = Self::after(handler, Bytes::new());
        peer.send(PREFACE).await;
        peer
    }

    /// A client that has said so much before its connection is served.
    pub(crate) fn after(handler: impl Handler + 'static, initial: Bytes) -> Self {
        let (ours, theirs) = tokio::io::duplex(4 << 20);
        spawn_local(async move {
            let limits = Rc::new(Limits::default());
            let recorder = Rc::new(Recorder::detached());
            let drain = Drain::default();
            let settings = server::Settings { limits: &limits, recorder, drain: drain.watch() };
            server::serve(theirs, initial, connection(), Rc::new(handler), settings).await;
        });
        Self::on(ours)
    }

    /// A backend, and the proxy's connection to it.
    pub(crate) async fn backend() -> (Self, Rc<Client>) {
        Self::backend_over(4 << 20).await
    }

    /// The same over a connection that holds so many bytes each way.
    pub(crate) async fn backend_over(bytes: usize) -> (Self, Rc<Client>) {
        Self::backend_with(bytes, Loans::new(1 << 30)).await
    }

    /// The same with so much room for windows that grow.
    pub(crate) async fn backend_with(bytes: usize, loans: Rc<Loans>) -> (Self, Rc<Client>) {
        let (ours, theirs) = tokio::io::duplex(bytes);
        let client = Client::begin(theirs, false, Rc::new(|| ()), loans);
        let mut peer = Self::on(ours);
        peer.stream_window = BACKEND_STREAM;
        let mut preface = [0; 24];
        peer.io.read_exact(&mut preface).await.expect("a preface");
        peer.send(SETTINGS).await;
        peer.frame(SET, ACK, 0, b"").await;
        peer.barrier().await;
        (peer, Rc::new(client))
    }

    fn on(io: DuplexStream) -> Self {
        Self { io, buffer: BytesMut::new(), stream_window: STREAM, windows: HashMap::from([(0, 65_535)]) }
    }

    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("an open connection");
    }

    /// Sends a frame.
    pub(crate) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send(&frame(kind, flags, stream, payload)).await;
    }

    /// Sends DATA of so many bytes as soon as the windows allow it, with so much padding if there is some.
    pub(crate) async fn data(&mut self, stream: u32, bytes: usize, padding: u8) {
        let mut payload = vec![b'x'; bytes];
        if padding > 0 {
            payload.insert(0, padding);
            payload.resize(1 + bytes + usize::from(padding), 0);
        }
        self.windows.entry(stream).or_insert(self.stream_window);
        let wants = payload.len() as i64;
        while self.windows[&0] < wants || self.windows[&stream] < wants {
            self.next().await.expect("a window");
        }
        for window in [0, stream] {
            *self.windows.entry(window).or_default() -= wants;
        }
        self.frame(DATA, if padding > 0 { PADDED } else { 0 }, stream, &payload).await;
    }

    /// The next frame; `None` when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Got> {
        let got = self.read().await?;
        if got.kind == WINDOW {
            *self.windows.entry(got.stream).or_insert(self.stream_window) += i64::from(got.number());
        }
        Some(got)
    }

    /// How many bytes it may send on a stream that it has sent on.
    pub(crate) fn window(&self, stream: u32) -> i64 {
        self.windows[&stream]
    }

    async fn read(&mut self) -> Option<Got> {
        loop {
            if let Some(&[a, b, c, kind, flags, d, e, f, g, ..]) = self.buffer.get(..9) {
                let len = u32::from_be_bytes([0, a, b, c]) as usize;
                if self.buffer.len() >= 9 + len {
                    let payload = self.buffer.split_to(9 + len).split_off(9).to_vec();
                    return Some(Got { kind, flags, stream: u32::from_be_bytes([d, e, f, g]), payload });
                }
            }
            let read = timeout(Duration::from_secs(1200), self.io.read_buf(&mut self.buffer)).await;
            if read.expect("a frame, or the end").expect("no error") == 0 {
                return None;
            }
        }
    }

    /// The next frame of a kind on a stream; others are passed over.
    pub(crate) async fn until(&mut self, kind: u8, stream: u32) -> Got {
        loop {
            let got = self.next().await.expect("a frame");
            if got.kind == kind && got.stream == stream {
                return got;
            }
        }
    }

    /// What comes before the answer to a PING: what the other side does by itself.
    pub(crate) async fn barrier(&mut self) -> Vec<Got> {
        self.frame(PING, 0, 0, b"barrier!").await;
        let mut before = Vec::new();
        loop {
            let got = self.next().await.expect("an answer to a PING");
            if got.kind == PING && got.payload == b"barrier!" {
                return before;
            }
            before.push(got);
        }
    }
}

/// Sends a request for `/`.
pub(crate) async fn ask(
    client: &Client,
    version: Version,
    method: Method,
    body: Body,
) -> Result<Answer, SendError> {
    ask_with(client, RequestHead { version, ..head(method) }, body).await
}

/// Sends a request with such a head.
pub(crate) async fn ask_with(client: &Client, head: RequestHead, body: Body) -> Result<Answer, SendError> {
    let endpoint = ([127, 0, 0, 1], 80).into();
    let outgoing = Outgoing { head: &head, endpoint, body, informational: None, hold: Rc::new(()) };
    client.send(outgoing).await
}

/// `GET /`.
pub(crate) async fn get(client: &Client) -> Result<Answer, FaultKind> {
    ask(client, Version::Http2, Method::GET, Body::Empty).await.map_err(|error| error.fault.kind)
}
