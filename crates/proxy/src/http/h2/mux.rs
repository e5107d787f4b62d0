//! The streams of one connection, of either side: what each has received and may send, and the windows that
//! they share. Frames come in through `receive`, and go out through [`Output`]; the connection's task does
//! the reading and writing (see `wire`). Streams are handled by other tasks of the same thread, so there are
//! no locks.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::fields::{Bounds, Fields};
use super::frame::{self, DEFAULT_FRAME, DEFAULT_WINDOW, FrameHead, MAX_STREAM, Reason, setting};
use super::hpack::{Decoder, Encoder};
use super::output::Output;
use crate::http::{Headers, Informational, ResponseHead, Taken};
use http::StatusCode;

/// Bytes of SETTINGS_HEADER_TABLE_SIZE: the default, which we do not change.
const TABLE: usize = 4096;
/// Streams that have ended and of which it is still known how: the peer may not have heard of it.
const RECENT: usize = 256;
/// Answers to frames of the peer's may wait beyond the bodies; then nothing more is read until it reads.
const REPLIES: usize = 64 * 1024;

/// A connection, shared by its own task and those of its streams.
pub(super) type Shared = Rc<RefCell<Mux>>;

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// What the peer may do, and how much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) role: Role,
    /// Bytes that the peer may send on a stream ahead of our reading.
    pub(super) stream_window: u32,
    /// The same for all streams of the connection.
    pub(super) connection_window: u32,
    /// Bytes of the longest frame that is taken.
    pub(super) frame_bytes: u32,
    /// Streams that the peer may have open.
    pub(super) streams: u32,
    /// Of heads and trailers.
    pub(super) bounds: Bounds,
    /// Streams that we may have to reset because of the peer's errors.
    pub(super) own_resets: usize,
    /// Bytes of bodies that wait to be written.
    pub(super) send_buffer: usize,
}

/// Why a stream can go no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The peer has reset it.
    Reset(Reason),
    /// The peer goes away and has not looked at it (RFC 9113 section 6.8).
    LeftBehind,
    /// The peer has broken the protocol, on this stream or the connection.
    Violation(&'static str),
    /// The peer has ended the connection for this reason.
    GoneAway(Reason),
    /// The connection has ended.
    Closed,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reset(reason) => write!(f, "the stream was reset: {reason}"),
            Self::LeftBehind => f.write_str("the peer goes away and has not looked at the stream"),
            Self::Violation(what) => write!(f, "the peer breaks the protocol: {what}"),
            Self::GoneAway(reason) => write!(f, "the peer has ended the connection: {reason}"),
            Self::Closed => f.write_str("the connection has ended"),
        }
    }
}

/// What breaks the protocol so that the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation(pub(super) Reason, pub(super) &'static str);

/// What has come on a stream.
pub(super) enum Piece {
    Data(Bytes),
    Trailers(Box<Headers>),
}

/// A header block that has not come whole.
pub(super) struct Block {
    pub(super) head: FrameHead,
    pub(super) bytes: BytesMut,
    pub(super) frames: usize,
}

/// One stream.
pub(super) struct Stream {
    pub(super) id: u32,
    /// It has ended both ways, or is broken: it does not count any more.
    pub(super) closed: bool,
    pub(super) broken: Option<Broken>,
    /// We have reset it: what the peer still sends, it sends without knowing.
    pub(super) cut: bool,
    /// The head has come.
    pub(super) begun: bool,
    /// The head of the response, until it is taken; and those of 1xx responses before it.
    pub(super) head: Option<Box<Fields>>,
    pub(super) interim: VecDeque<Fields>,
    /// What has come of the body, in order: then `small`.
    pub(super) queue: VecDeque<Bytes>,
    pub(super) small: BytesMut,
    pub(super) trailers: Option<Box<Headers>>,
    pub(super) received_all: bool,
    /// Bytes that are to come, if `content-length` has told.
    pub(super) expected: Option<u64>,
    /// The response has no body, whatever its length says (RFC 9110 section 6.4.1).
    pub(super) bodiless: bool,
    pub(super) receive_window: i64,
    /// Bytes that were taken, and for which no window has been given back.
    pub(super) credit: u32,
    pub(super) reader: Option<Waker>,
    pub(super) reader_gone: bool,
    pub(super) head_sent: bool,
    pub(super) sent_all: bool,
    pub(super) send_window: i64,
    /// Bytes that wait for a window, and of those the ones that may go.
    pub(super) wants: usize,
    pub(super) granted: usize,
    pub(super) queued: bool,
    pub(super) writer: Option<Waker>,
    pub(super) writer_gone: bool,
}

impl Stream {
    fn new(id: u32, receive_window: i64, send_window: i64) -> Self {
        Self {
            id,
            closed: false,
            broken: None,
            cut: false,
            begun: false,
            head: None,
            interim: VecDeque::new(),
            queue: VecDeque::new(),
            small: BytesMut::new(),
            trailers: None,
            received_all: false,
            expected: None,
            bodiless: false,
            receive_window,
            credit: 0,
            reader: None,
            reader_gone: false,
            head_sent: false,
            sent_all: false,
            send_window,
            wants: 0,
            granted: 0,
            queued: false,
            writer: None,
            writer_gone: false,
        }
    }

    pub(super) fn wake_reader(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn wake(&mut self) {
        self.wake_reader();
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    /// Bytes that have come and were not taken.
    fn unread(&self) -> usize {
        self.queue.iter().map(Bytes::len).sum::<usize>() + self.small.len()
    }
}

/// Stream numbers are spread well enough as they are.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A connection's state.
pub(super) struct Mux {
    pub(super) config: Config,
    pub(super) streams: Slab<Stream>,
    pub(super) ids: HashMap<u32, usize, BuildHasherDefault<IdHasher>>,
    /// Streams that count: open, or half closed.
    pub(super) open: usize,
    /// Streams that have ended lately, and whether we have reset them.
    pub(super) recent: VecDeque<(u32, bool)>,
    /// The highest stream that the peer has opened.
    pub(super) last_peer: u32,
    /// The next stream that we open.
    next_own: u32,
    pub(super) out: Output,
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    pub(super) block: Option<Block>,
    /// The part of a frame, or of the preface, that has come.
    pub(super) partial: BytesMut,
    /// Bytes of the client's preface that are still to come.
    pub(super) preface_left: usize,
    /// The peer's first SETTINGS have come; they come first.
    pub(super) greeted: bool,
    /// The peer has seen our SETTINGS.
    pub(super) settled: bool,
    pub(super) receive_window: i64,
    pub(super) credit: u32,
    pub(super) send_window: i64,
    pub(super) peer_window: i64,
    pub(super) peer_streams: u32,
    /// Requests that have come and that nobody serves yet.
    pub(super) accepted: VecDeque<(usize, Fields)>,
    /// Streams that wait for the connection's window, or room in the output: key and number.
    waiting: VecDeque<(usize, u32)>,
    /// Bytes that were granted to streams and that they have not sent yet.
    pub(super) reserved: usize,
    /// Bytes that have come.
    pub(super) received: u64,
    /// Bytes that have been written.
    pub(super) written: u64,
    /// Counts what the peer has taken below TLS, if there is TLS.
    pub(super) below: Option<Taken>,
    /// There is more to write, for which the peer has no room.
    pub(super) blocked: bool,
    pub(super) own_resets: usize,
    /// Frames that moved nothing since something was moved last.
    pub(super) idle_frames: usize,
    /// The PINGs that were sent and not answered.
    pub(super) pings: [bool; 2],
    /// The peer has sent GOAWAY; and for which reason, if it is an error.
    pub(super) left: bool,
    pub(super) gone_away: Option<Reason>,
    /// The last stream of our own GOAWAY.
    pub(super) leaving: Option<u32>,
    /// The connection is over; what is in the output still goes out.
    pub(super) dead: Option<Broken>,
    /// The connection's task, and whether it has been woken, or runs.
    pub(super) task: Option<Waker>,
    pub(super) woken: bool,
    /// Those who wait until a stream can be opened.
    openers: Vec<Waker>,
}

/// Whose PING it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ping {
    /// Asks whether the peer lives.
    Alive,
    /// Follows the first GOAWAY: the peer that answers has seen it.
    Leaving,
}

impl Ping {
    pub(super) const fn payload(self) -> &'static [u8; 8] {
        match self {
            Self::Alive => b"pw-alive",
            Self::Leaving => b"pw-leave",
        }
    }
}

impl Mux {
    /// A connection that begins: its preface is in the output.
    pub(super) fn new(config: Config) -> Self {
        let mut out = Output::default();
        let mut settings = vec![(setting::INITIAL_WINDOW_SIZE, config.stream_window)];
        match config.role {
            Role::Server => settings.push((setting::MAX_CONCURRENT_STREAMS, config.streams)),
            Role::Client => {
                out.tail().extend_from_slice(frame::PREFACE);
                settings.push((setting::ENABLE_PUSH, 0));
            }
        }
        if config.frame_bytes as usize != DEFAULT_FRAME {
            settings.push((setting::MAX_FRAME_SIZE, config.frame_bytes));
        }
        let list = u32::try_from(config.bounds.bytes).unwrap_or(u32::MAX);
        settings.push((setting::MAX_HEADER_LIST_SIZE, list));
        frame::put_settings(out.tail(), &settings);
        let more = config.connection_window.saturating_sub(DEFAULT_WINDOW);
        if more > 0 {
            frame::put_window(out.tail(), 0, more);
        }
        Self {
            config,
            streams: Slab::new(),
            ids: HashMap::default(),
            open: 0,
            recent: VecDeque::new(),
            last_peer: 0,
            next_own: 1,
            out,
            encoder: Encoder::new(),
            decoder: Decoder::new(TABLE),
            block: None,
            partial: BytesMut::new(),
            preface_left: if config.role == Role::Server { frame::PREFACE.len() } else { 0 },
            greeted: false,
            settled: false,
            receive_window: i64::from(config.connection_window.max(DEFAULT_WINDOW)),
            credit: 0,
            send_window: i64::from(DEFAULT_WINDOW),
            peer_window: i64::from(DEFAULT_WINDOW),
            // RFC 9113 section 6.5.2: no limit until one is told; servers are asked for no more than is
            // usual before they have told theirs.
            peer_streams: 100,
            accepted: VecDeque::new(),
            waiting: VecDeque::new(),
            reserved: 0,
            received: 0,
            written: 0,
            below: None,
            blocked: false,
            own_resets: 0,
            idle_frames: 0,
            pings: [false; 2],
            left: false,
            gone_away: None,
            leaving: None,
            dead: None,
            task: None,
            woken: false,
            openers: Vec::new(),
        }
    }

    /// The task that polls is the connection's own, and looks at the output now.
    pub(super) fn attend(&mut self, cx: &Context<'_>) {
        self.woken = true;
        register(&mut self.task, cx);
    }

    /// Bytes that the peer has taken.
    pub(super) fn taken(&self) -> u64 {
        self.below.as_ref().map_or(self.written, Taken::get)
    }

    /// Whether the peer is slow rather than silent: it has taken something since `before`, and more waits
    /// for it. `before` is brought up to date.
    pub(super) fn advances(&self, before: &mut u64) -> bool {
        let taken = self.taken();
        std::mem::replace(before, taken) != taken && self.blocked
    }

    /// Has the connection's task look at the output.
    #[inline]
    pub(super) fn stir(&mut self) {
        if !self.woken {
            self.woken = true;
            self.task.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Whether more is to be read: not while the peer lets the answers to its own frames pile up.
    pub(super) fn reads(&self) -> bool {
        self.dead.is_none() && self.out.len() < self.config.send_buffer + REPLIES
    }

    /// Whether nothing is left to do after a GOAWAY, or because the connection is over.
    pub(super) fn is_over(&self) -> bool {
        self.dead.is_some() || (self.open == 0 && self.leaving.is_some_and(|last| last < MAX_STREAM))
    }

    pub(super) fn stream(&mut self, line: &Line) -> Option<&mut Stream> {
        self.streams.get_mut(line.key).filter(|stream| stream.id == line.id)
    }

    /// Adds a stream.
    pub(super) fn add(&mut self, id: u32) -> usize {
        // Until the peer has seen our settings it may believe in the default.
        let window = match self.settled {
            true => self.config.stream_window,
            false => self.config.stream_window.max(DEFAULT_WINDOW),
        };
        let key = self.streams.insert(Stream::new(id, i64::from(window), self.peer_window));
        self.ids.insert(id, key);
        self.open += 1;
        key
    }

    /// A stream of our own, if the peer takes one more. Its head has to follow at once.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        if let Some(broken) = self.dead {
            return Poll::Ready(Err(broken));
        }
        if self.left || !self.can_open() {
            return Poll::Ready(Err(Broken::LeftBehind));
        }
        if self.open >= self.peer_streams as usize {
            self.openers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let id = self.next_own;
        self.next_own += 2;
        Poll::Ready(Ok(self.add(id)))
    }

    /// Whether there are numbers left for streams of our own.
    pub(super) fn can_open(&self) -> bool {
        self.next_own <= MAX_STREAM
    }

    /// Whether such a number can be of a stream of ours that has been opened.
    pub(super) fn is_own(&self, id: u32) -> bool {
        self.config.role == Role::Client && id % 2 == 1 && id < self.next_own
    }

    /// Streams may be opened again, or there is no use in waiting.
    pub(super) fn wake_openers(&mut self) {
        self.openers.drain(..).for_each(Waker::wake);
    }

    /// A stream does not count any more.
    pub(super) fn close(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if !std::mem::replace(&mut stream.closed, true) {
            self.open -= 1;
            self.wake_openers();
            if self.leaving.is_some() {
                self.stir();
            }
        }
    }

    pub(super) fn close_if_ended(&mut self, key: usize) {
        let stream = &self.streams[key];
        if stream.received_all && stream.sent_all {
            self.close(key);
        }
    }

    /// Breaks a stream, for whatever reason.
    pub(super) fn break_stream(&mut self, key: usize, broken: Broken) {
        let stream = &mut self.streams[key];
        if stream.broken.is_none() {
            stream.broken = Some(broken);
        }
        stream.wake();
        self.close(key);
    }

    /// Resets a stream because of what the peer has done on it. Too many of those end the connection.
    pub(super) fn stream_error(
        &mut self,
        key: usize,
        reason: Reason,
        what: &'static str,
    ) -> Result<(), Violation> {
        let stream = &mut self.streams[key];
        stream.cut = true;
        let id = stream.id;
        self.break_stream(key, Broken::Violation(what));
        self.refuse(id, reason)
    }

    /// Tells the peer that a stream is over because of what it has done.
    pub(super) fn refuse(&mut self, id: u32, reason: Reason) -> Result<(), Violation> {
        frame::put_reset(self.out.tail(), id, reason);
        self.own_resets += 1;
        if self.own_resets > self.config.own_resets {
            return Err(Violation(Reason::ENHANCE_YOUR_CALM, "too many errors"));
        }
        Ok(())
    }

    /// Ends the connection: `reason` is told, if there is one to tell it to.
    pub(super) fn fail(&mut self, broken: Broken, reason: Option<Reason>) {
        if self.dead.is_some() {
            return;
        }
        if let Some(reason) = reason {
            frame::put_goaway(self.out.tail(), self.last_peer, reason);
        } else {
            self.out.clear();
        }
        self.dead = Some(broken);
        self.accepted.clear();
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.break_stream(key, broken);
        }
        self.wake_openers();
        self.stir();
    }

    /// Remembers how a stream has ended.
    pub(super) fn remember(&mut self, id: u32, reset: bool) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((id, reset));
    }

    /// Forgets a stream that nobody handles any more; one that has not ended is reset.
    fn release(&mut self, key: usize) {
        let stream = &self.streams[key];
        let (id, unread, granted) = (stream.id, stream.unread(), stream.granted);
        if !stream.closed {
            // RFC 9113 section 8.1: the answer is complete, and the rest of the request not needed.
            let answered = self.config.role == Role::Server && stream.sent_all;
            let reason = if answered { Reason::NO_ERROR } else { Reason::CANCEL };
            self.close(key);
            frame::put_reset(self.out.tail(), id, reason);
            self.streams[key].cut = true;
            self.stir();
        }
        let stream = self.streams.remove(key);
        self.ids.remove(&id);
        self.remember(id, stream.cut);
        self.give_back(unread);
        if granted > 0 {
            self.reserved -= granted;
            self.send_window += granted as i64;
            self.distribute();
        }
    }

    /// Bytes on the connection have been taken, or never will be: the peer may send as many more.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.credit += bytes as u32;
        if self.credit >= self.config.connection_window / 2 {
            self.receive_window += i64::from(self.credit);
            frame::put_window(self.out.tail(), 0, self.credit);
            self.credit = 0;
            self.stir();
        }
    }

    /// The next piece that has come on a stream; `None` at its end.
    pub(super) fn poll_piece(
        &mut self,
        line: &Line,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Broken>>> {
        let window = self.config.stream_window;
        let Some(stream) = self.stream(line) else { return Poll::Ready(Some(Err(Broken::Closed))) };
        let data = match stream.queue.pop_front() {
            Some(data) => data,
            None => std::mem::take(&mut stream.small).freeze(),
        };
        if !data.is_empty() {
            stream.credit += data.len() as u32;
            if stream.credit >= window / 2 && !stream.received_all && stream.broken.is_none() {
                let credit = std::mem::take(&mut stream.credit);
                stream.receive_window += i64::from(credit);
                frame::put_window(self.out.tail(), line.id, credit);
                self.stir();
            }
            self.give_back(data.len());
            return Poll::Ready(Some(Ok(Piece::Data(data))));
        }
        if let Some(trailers) = stream.trailers.take() {
            return Poll::Ready(Some(Ok(Piece::Trailers(trailers))));
        }
        if stream.received_all {
            return Poll::Ready(None);
        }
        if let Some(broken) = stream.broken {
            return Poll::Ready(Some(Err(broken)));
        }
        register(&mut stream.reader, cx);
        Poll::Pending
    }

    /// The head of the final response. Those before it are told.
    pub(super) fn poll_head(
        &mut self,
        line: &Line,
        informational: Option<&Informational>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<Fields>, Broken>> {
        let Some(stream) = self.stream(line) else { return Poll::Ready(Err(Broken::Closed)) };
        while let Some(Fields { status, headers, .. }) = stream.interim.pop_front() {
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            if let (Some(tell), Some(status)) = (informational, status.filter(|s| *s != StatusCode::CONTINUE))
            {
                tell(ResponseHead { status, headers });
            }
        }
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(broken) = stream.broken {
            return Poll::Ready(Err(broken));
        }
        register(&mut stream.reader, cx);
        Poll::Pending
    }

    /// Whether all of a stream has come, and been taken.
    pub(super) fn has_ended(&mut self, line: &Line) -> bool {
        let ended = |s: &mut Stream| s.received_all && s.unread() == 0 && s.trailers.is_none();
        self.stream(line).is_none_or(ended)
    }

    /// Ready when the stream is broken.
    pub(super) fn poll_broken(&mut self, line: &Line, cx: &mut Context<'_>) -> Poll<Broken> {
        let Some(stream) = self.stream(line) else { return Poll::Ready(Broken::Closed) };
        if let Some(broken) = stream.broken {
            return Poll::Ready(broken);
        }
        register(&mut stream.writer, cx);
        Poll::Pending
    }

    /// How many of so many bytes can be sent now, as soon as there are some.
    pub(super) fn poll_room(
        &mut self,
        line: &Line,
        wants: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Broken>> {
        let nobody_waits = self.waiting.is_empty();
        let Some(stream) = self.stream(line) else { return Poll::Ready(Err(Broken::Closed)) };
        if let Some(broken) = stream.broken {
            return Poll::Ready(Err(broken));
        }
        if stream.granted > 0 {
            return Poll::Ready(Ok(stream.granted.min(wants)));
        }
        stream.wants = wants;
        register(&mut stream.writer, cx);
        if !stream.queued && stream.send_window > 0 {
            stream.queued = true;
            self.waiting.push_back((line.key, line.id));
        }
        if nobody_waits {
            self.distribute();
        }
        match self.streams[line.key].granted {
            0 => Poll::Pending,
            granted => Poll::Ready(Ok(granted.min(wants))),
        }
    }

    /// Grants what there is to those who wait, a frame each, in the order in which they came.
    pub(super) fn distribute(&mut self) {
        while let Some(&(key, id)) = self.waiting.front() {
            let Some(stream) = self.streams.get_mut(key).filter(|stream| stream.id == id) else {
                self.waiting.pop_front();
                continue;
            };
            if stream.send_window > 0 && stream.wants > 0 {
                let room = self.config.send_buffer.saturating_sub(self.out.len() + self.reserved);
                let window = self.send_window.min(stream.send_window).max(0) as usize;
                let granted = stream.wants.min(DEFAULT_FRAME).min(window).min(room);
                if granted == 0 {
                    return;
                }
                self.send_window -= granted as i64;
                stream.send_window -= granted as i64;
                self.reserved += granted;
                stream.granted = granted;
                stream.wants = 0;
                stream.writer.iter().for_each(Waker::wake_by_ref);
            }
            stream.queued = false;
            self.waiting.pop_front();
        }
    }

    /// A stream's window has grown.
    pub(super) fn window_grown(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if stream.wants > 0 && !stream.queued && stream.send_window > 0 {
            stream.queued = true;
            self.waiting.push_back((key, stream.id));
            self.distribute();
        }
    }

    /// Sends a piece of a body, no longer than what has been granted.
    pub(super) fn send_data(&mut self, line: &Line, data: Bytes, end: bool) -> Result<(), Broken> {
        let Some(stream) = self.stream(line) else { return Err(Broken::Closed) };
        if let Some(broken) = stream.broken {
            return Err(broken);
        }
        debug_assert!(data.len() <= stream.granted && !stream.sent_all && stream.head_sent);
        stream.granted -= data.len();
        stream.sent_all = end;
        self.reserved -= data.len();
        self.idle_frames = 0;
        let flags = if end { frame::END_STREAM } else { 0 };
        let head = FrameHead { len: data.len(), kind: frame::DATA, flags, stream: line.id };
        self.out.tail().extend_from_slice(&head.bytes());
        self.out.push(data);
        if end {
            self.close_if_ended(line.key);
        }
        self.stir();
        Ok(())
    }

    /// Sends a header block: `encode` writes its fields.
    pub(super) fn send_block(
        &mut self,
        line: &Line,
        end: bool,
        encode: impl FnOnce(&mut Encoder, &mut BytesMut),
    ) -> Result<(), Broken> {
        let Some(stream) = self.stream(line) else { return Err(Broken::Closed) };
        if let Some(broken) = stream.broken {
            return Err(broken);
        }
        stream.sent_all = end;
        let out = self.out.tail();
        let start = out.len();
        out.extend_from_slice(&[0; frame::HEAD]);
        self.encoder.begin(out);
        encode(&mut self.encoder, out);
        let flags = if end { frame::END_STREAM } else { 0 };
        let len = out.len() - start - frame::HEAD;
        if len <= DEFAULT_FRAME {
            let flags = flags | frame::END_HEADERS;
            let head = FrameHead { len, kind: frame::HEADERS, flags, stream: line.id };
            out[start..start + frame::HEAD].copy_from_slice(&head.bytes());
        } else {
            let block = out.split_off(start + frame::HEAD);
            out.truncate(start);
            let mut parts = block.chunks(DEFAULT_FRAME).peekable();
            let (mut kind, mut flags) = (frame::HEADERS, flags);
            while let Some(part) = parts.next() {
                let last = if parts.peek().is_none() { frame::END_HEADERS } else { 0 };
                frame::put(out, kind, flags | last, line.id, part);
                (kind, flags) = (frame::CONTINUATION, 0);
            }
        }
        if end {
            self.close_if_ended(line.key);
        }
        self.stir();
        Ok(())
    }

    /// Resets a stream.
    pub(super) fn reset(&mut self, line: &Line, reason: Reason) {
        let Some(stream) = self.stream(line).filter(|stream| !stream.closed) else { return };
        stream.cut = true;
        frame::put_reset(self.out.tail(), line.id, reason);
        self.break_stream(line.key, Broken::Reset(reason));
        self.stir();
    }

    /// Sends a PING.
    pub(super) fn ping(&mut self, ping: Ping) {
        self.pings[ping as usize] = true;
        frame::put(self.out.tail(), frame::PING, 0, 0, ping.payload());
        self.stir();
    }

    /// Begins to go away in two steps (RFC 9113 section 6.8): first a GOAWAY that refuses nothing, and when the
    /// client has seen that, one with the last stream.
    pub(super) fn leave(&mut self) {
        if self.leaving.is_none() && self.dead.is_none() {
            self.leaving = Some(MAX_STREAM);
            frame::put_goaway(self.out.tail(), MAX_STREAM, Reason::NO_ERROR);
            self.ping(Ping::Leaving);
        }
    }

    /// The client has seen the first GOAWAY.
    pub(super) fn leave_finally(&mut self) {
        if self.leaving == Some(MAX_STREAM) {
            self.leaving = Some(self.last_peer);
            frame::put_goaway(self.out.tail(), self.last_peer, Reason::NO_ERROR);
            self.stir();
        }
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

/// Names a stream of a connection. What is done with one that has ended has no effect.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) mux: Shared,
    pub(super) key: usize,
    pub(super) id: u32,
}

/// The receiving half of a stream. Dropped: what else comes is not wanted.
pub(super) struct Receiver(pub(super) Line);

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut mux = self.0.mux.borrow_mut();
        let Some(stream) = mux.stream(&self.0) else { return };
        stream.reader_gone = true;
        stream.reader = None;
        if stream.writer_gone {
            return mux.release(self.0.key);
        }
        let unread = stream.unread();
        stream.queue.clear();
        stream.small = BytesMut::new();
        mux.give_back(unread);
    }
}

/// The sending half of a stream. Dropped before the end, along with the receiving half: it is reset.
pub(super) struct Sender(pub(super) Line);

impl Drop for Sender {
    fn drop(&mut self) {
        let mut mux = self.0.mux.borrow_mut();
        let Some(stream) = mux.stream(&self.0) else { return };
        stream.writer_gone = true;
        stream.writer = None;
        if stream.reader_gone {
            mux.release(self.0.key);
        }
    }
}
