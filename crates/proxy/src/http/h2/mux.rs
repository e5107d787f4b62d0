//! The streams of one connection, of either side: what each has received and may send, and the windows that
//! they share. Frames come in through [`receive`](super::receive) and go out through [`send`](super::send); the
//! connection's task does the reading and writing ([`wire`](super::wire)). Streams are handled by other tasks of the same thread, so there are
//! no locks.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use slab::Slab;

use super::fields::{Bounds, Fields};
use super::frame::{self, DEFAULT_FRAME, DEFAULT_WINDOW, FrameHead, MAX_STREAM, Reason, setting};
use super::hpack::{Decoder, Encoder};
use super::loans::Loans;
use super::output::Output;
use super::stream::{Broken, Line, Stream, register};
use crate::http::Taken;
use crate::ids::IdHasher;

/// Bytes of SETTINGS_HEADER_TABLE_SIZE: the default, which we do not change.
const TABLE: usize = 4096;
/// Streams that have ended, and as many that we have reset, of which that is still known: the peer may not have
/// heard of it.
const RECENT: usize = 256;
/// Streams that a client may cancel before their answer beyond those that have one; then the connection is
/// ended (CVE-2023-44487).
const CANCELLED: usize = 256;
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
    /// Streams that we may have to reset because of the peer's errors beyond those that we have answered.
    pub(super) own_resets: usize,
    /// Bytes of bodies that wait to be written.
    pub(super) send_buffer: usize,
}

/// What breaks the protocol so that the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation(pub(super) Reason, pub(super) &'static str);

/// A header block that has not come whole.
pub(super) struct Block {
    pub(super) head: FrameHead,
    pub(super) bytes: BytesMut,
    pub(super) frames: usize,
}

/// A connection's state.
pub(super) struct Mux {
    pub(super) config: Config,
    pub(super) streams: Slab<Stream>,
    pub(super) ids: HashMap<u32, usize, BuildHasherDefault<IdHasher>>,
    /// Streams that count: open, or half closed.
    pub(super) open: usize,
    /// Streams that have ended lately, and those that we have reset.
    recent: [VecDeque<u32>; 2],
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
    pub(super) waiting: VecDeque<(usize, u32)>,
    /// Bytes that were granted to streams and that they have not sent yet.
    pub(super) reserved: usize,
    /// Bytes of answers to frames that are no part of a message, since the output was last empty.
    pub(super) replies: usize,
    /// Bytes that have come.
    pub(super) received: u64,
    /// Bytes that have been written.
    pub(super) written: u64,
    /// Counts what the peer has taken below TLS, if there is TLS.
    pub(super) below: Option<Taken>,
    /// There is more to write, for which the peer has no room.
    pub(super) blocked: bool,
    pub(super) own_resets: usize,
    /// Requests that we have answered, and those that the client has cancelled before.
    pub(super) answered: usize,
    cancelled: usize,
    /// Frames that moved nothing since something was moved last.
    pub(super) idle_frames: usize,
    /// The PINGs that were sent and not answered.
    pub(super) pings: [bool; 2],
    /// The peer has sent GOAWAY; and for which reason, if it is an error.
    pub(super) left: bool,
    pub(super) gone_away: Option<Reason>,
    /// It has looked at some streams before it did.
    pub(super) took_some: bool,
    /// The last stream of the peer's that is served: of our own GOAWAY; or none, as nobody needs the backend.
    pub(super) leaving: Option<u32>,
    /// The connection is over; what is in the output still goes out.
    pub(super) dead: Option<Broken>,
    /// The connection's task, and whether it has been woken, or runs.
    pub(super) task: Option<Waker>,
    pub(super) woken: bool,
    /// Those who wait until a stream can be opened.
    openers: Vec<Waker>,
    /// Lets windows grow, towards backends.
    pub(super) loans: Option<Rc<Loans>>,
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
            recent: Default::default(),
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
            replies: 0,
            received: 0,
            written: 0,
            below: None,
            blocked: false,
            own_resets: 0,
            answered: 0,
            cancelled: 0,
            idle_frames: 0,
            pings: [false; 2],
            left: false,
            gone_away: None,
            took_some: false,
            leaving: None,
            dead: None,
            task: None,
            woken: false,
            openers: Vec::new(),
            loans: None,
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

    /// Whether more is to be read: not while the peer lets the answers to its own frames pile up. Those to a
    /// client are all that is sent to it. A backend is read while our requests wait for it: two proxies that
    /// have filled each other's buffers would wait for each other.
    pub(super) fn reads(&self) -> bool {
        let pile = match self.config.role {
            Role::Server => self.out.len().saturating_sub(self.config.send_buffer),
            Role::Client => self.replies,
        };
        self.dead.is_none() && pile < REPLIES
    }

    /// Answers a frame of the peer's that is no part of a message.
    pub(super) fn reply(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.replies += frame::HEAD + payload.len();
        frame::put(self.out.tail(), kind, flags, stream, payload);
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

    /// What streams are that the peer has not looked at when it went away.
    pub(super) fn turned_away(&self) -> Broken {
        self.gone_away.map_or(Broken::LeftBehind { others: self.took_some }, Broken::TurnedAway)
    }

    /// A stream of our own, if the peer takes one more. Its head has to follow at once.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        if let Some(broken) = self.dead {
            return Poll::Ready(Err(broken));
        }
        if self.left || !self.can_open() {
            return Poll::Ready(Err(self.turned_away()));
        }
        if self.open >= self.peer_streams as usize {
            if !self.openers.iter().any(|waker| waker.will_wake(cx.waker())) {
                self.openers.push(cx.waker().clone());
            }
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

    /// Whether we have ever opened a stream.
    pub(super) fn has_opened(&self) -> bool {
        self.next_own > 1
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
        self.revoke(key);
    }

    /// The peer has reset a stream. Counted here, where it comes: the streams' tasks do not run before all is
    /// taken in that has come.
    pub(super) fn cancel(&mut self, key: usize, reason: Reason) -> Result<(), Violation> {
        let unanswered = self.config.role == Role::Server && !self.streams[key].head_sent;
        self.break_stream(key, Broken::Reset(reason));
        self.cancelled += usize::from(unanswered);
        if self.cancelled > CANCELLED + self.answered {
            return Err(Violation(Reason::ENHANCE_YOUR_CALM, "too many requests that are cancelled"));
        }
        Ok(())
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
        self.reply(frame::RST_STREAM, 0, id, &reason.0.to_be_bytes());
        self.own_resets += 1;
        if self.own_resets > self.config.own_resets.saturating_add(self.answered) {
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
        let recent = &mut self.recent[usize::from(reset)];
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(id);
    }

    /// Whether we have reset that stream a while ago, so that the peer may not know yet; `None`: it was never
    /// opened, or ended long ago. A client cancels any number of streams while the answer to the first is on
    /// its way (RFC 9113 section 5.1), so what comes on one that it has forgotten is no error.
    pub(super) fn was_reset(&self, id: u32) -> Option<bool> {
        let [ended, reset] = &self.recent;
        if reset.contains(&id) {
            return Some(true);
        }
        ended.contains(&id).then_some(false).or_else(|| self.is_own(id).then_some(true))
    }

    /// Forgets a stream that nobody handles any more; one that has not ended is reset.
    pub(super) fn release(&mut self, key: usize) {
        self.revoke(key);
        let stream = &self.streams[key];
        let (id, unread) = (stream.id, stream.unread());
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
        self.repay(stream.lent);
        self.ids.remove(&id);
        self.remember(id, stream.cut);
        self.give_back(unread);
    }

    /// Bytes on a stream have been taken, or are padding: the peer may send as many more there.
    pub(super) fn give_back_on(&mut self, key: usize, bytes: usize) {
        let window = self.window_of(key);
        let stream = &mut self.streams[key];
        stream.credit += bytes as u32;
        if stream.credit >= window / 2 && !stream.received_all && stream.broken.is_none() {
            let more = self.lend(key);
            let stream = &mut self.streams[key];
            let credit = std::mem::take(&mut stream.credit) + more;
            stream.receive_window += i64::from(credit);
            frame::put_window(self.out.tail(), stream.id, credit);
            self.stir();
        }
    }

    /// Bytes on the connection have been taken, or never will be: the peer may send as many more. It is told
    /// when that is half of what it has left, however much of the window those hold who do not read.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.credit += bytes as u32;
        if self.credit > 0 && i64::from(self.credit) >= self.receive_window / 2 {
            self.receive_window += i64::from(self.credit);
            frame::put_window(self.out.tail(), 0, self.credit);
            self.credit = 0;
            self.stir();
        }
    }
}
