//! What goes out on a connection: bodies as far as the windows allow, header blocks, and what is told of a
//! stream's or the connection's end.

use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::frame::{self, DEFAULT_FRAME, FrameHead, MAX_STREAM, Reason};
use super::hpack::Encoder;
use super::mux::{Mux, Ping};
use super::stream::{Broken, Line, register};

impl Mux {
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

    /// Takes back what a stream has asked for, and what it was granted and has not sent. It is asked for again
    /// when whoever sends on it is polled, as it will be where something was granted: that woke it.
    pub(super) fn revoke(&mut self, key: usize) {
        if self.ungrant(key) {
            self.distribute();
        }
    }

    /// The same without granting to others what it gives; says whether it gives something.
    pub(super) fn ungrant(&mut self, key: usize) -> bool {
        let stream = &mut self.streams[key];
        stream.wants = 0;
        let granted = std::mem::take(&mut stream.granted);
        stream.send_window += granted as i64;
        self.send_window += granted as i64;
        self.reserved -= granted;
        granted > 0
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
