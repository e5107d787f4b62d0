//! What comes on a connection: frames, each checked as RFC 9113 asks. An error of the connection is returned;
//! one of a stream resets that stream. Those frames that are no part of a message are in
//! [`control`](super::control).

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};

use super::fields::{Fields, Length, Section, Taking};
use super::frame::{self, FrameHead, HEAD, MAX_STREAM, PREFACE, Reason};
use super::hpack::Sink as _;
use super::mux::{Block, Mux, Role, Violation};
use super::stream::Answered;
use super::wire::READ;
use crate::http::ResponseHead;

/// Frames of this size and more are passed on by reference. Such a piece keeps the buffer of its read alive as
/// long as nobody takes it, however much else was read into it.
const BY_REFERENCE: usize = READ / 4;
/// Reads of this size and more are shared by what was in them.
const SHARED: usize = 8 * 1024;
/// 1xx responses ahead of a final one.
const MAX_INTERIM: u8 = 32;
/// Frames that move nothing, one after another.
const MAX_IDLE_FRAMES: usize = 10_000;

pub(super) type Outcome = Result<(), Violation>;

pub(super) const fn protocol(what: &'static str) -> Violation {
    Violation(Reason::PROTOCOL_ERROR, what)
}

pub(super) const fn size(what: &'static str) -> Violation {
    Violation(Reason::FRAME_SIZE_ERROR, what)
}

impl Mux {
    /// Takes in what has been read, and empties it.
    ///
    /// # Errors
    /// With what the connection has to end with.
    pub(super) fn receive(&mut self, input: &mut BytesMut) -> Outcome {
        self.received += input.len() as u64;
        if input.len() < SHARED {
            let outcome = self.consume(input, None);
            input.clear();
            return outcome;
        }
        let shared = input.split().freeze();
        self.consume(&shared, Some(&shared))
    }

    fn consume(&mut self, mut bytes: &[u8], shared: Option<&Bytes>) -> Outcome {
        if self.preface_left > 0 {
            let n = self.preface_left.min(bytes.len());
            let begin = PREFACE.len() - self.preface_left;
            if bytes[..n] != PREFACE[begin..begin + n] {
                return Err(protocol("no preface"));
            }
            self.preface_left -= n;
            bytes = &bytes[n..];
        }
        while !bytes.is_empty() && self.dead.is_none() {
            if self.partial.is_empty()
                && let Some(head) = bytes.first_chunk().map(FrameHead::parse)
            {
                self.check_size(head)?;
                let end = HEAD + head.len;
                if bytes.len() >= end {
                    self.frame(head, &bytes[HEAD..end], shared)?;
                    bytes = &bytes[end..];
                    continue;
                }
                self.partial.reserve(end);
            }
            // The rest of this frame comes later, or it completes what came before.
            let missing = match self.partial.first_chunk().map(FrameHead::parse) {
                Some(head) => HEAD + head.len - self.partial.len(),
                None => HEAD.saturating_sub(self.partial.len()),
            };
            let n = missing.min(bytes.len());
            self.partial.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            let Some(head) = self.partial.first_chunk().map(FrameHead::parse) else { continue };
            self.check_size(head)?;
            if self.partial.len() == HEAD + head.len {
                let whole = std::mem::take(&mut self.partial).freeze();
                self.frame(head, &whole[HEAD..], Some(&whole))?;
            }
        }
        Ok(())
    }

    fn check_size(&self, head: FrameHead) -> Outcome {
        if head.len > self.config.frame_bytes as usize {
            return Err(size("a frame that is longer than allowed"));
        }
        Ok(())
    }

    fn frame(&mut self, head: FrameHead, payload: &[u8], shared: Option<&Bytes>) -> Outcome {
        if !self.greeted && (head.kind != frame::SETTINGS || head.has(frame::ACK)) {
            return Err(protocol("the first frame is not SETTINGS"));
        }
        if self
            .block
            .as_ref()
            .is_some_and(|b| head.kind != frame::CONTINUATION || head.stream != b.head.stream)
        {
            return Err(protocol("a frame within a header block"));
        }
        match head.kind {
            frame::DATA => self.data(head, payload, shared),
            frame::HEADERS => self.headers(head, payload),
            frame::PRIORITY => self.priority(head, payload),
            frame::RST_STREAM => self.reset_received(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::PUSH_PROMISE => Err(protocol("PUSH_PROMISE, which nobody may send here")),
            frame::PING => self.ping_received(head, payload),
            frame::GOAWAY => self.goaway(head, payload),
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            // RFC 9113 section 4.1: extensions that we do not know.
            _ => self.idle_frame(),
        }
    }

    /// A frame that moves nothing. A peer that sends nothing else only makes work.
    pub(super) fn idle_frame(&mut self) -> Outcome {
        self.idle_frames += 1;
        if self.idle_frames > MAX_IDLE_FRAMES {
            return Err(Violation(Reason::ENHANCE_YOUR_CALM, "frames that move nothing"));
        }
        Ok(())
    }

    /// Whether no stream of that number has been opened, nor refused by our GOAWAY.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        match self.config.role {
            Role::Server if id.is_multiple_of(2) => true,
            Role::Server => id > self.last_peer && self.leaving.is_none_or(|last| id <= last),
            Role::Client => !self.is_own(id),
        }
    }

    fn data(&mut self, head: FrameHead, payload: &[u8], shared: Option<&Bytes>) -> Outcome {
        if head.stream == 0 || self.is_idle(head.stream) {
            return Err(protocol("DATA for no stream"));
        }
        let data = unpad(head, payload)?;
        self.receive_window -= payload.len() as i64;
        if self.receive_window < 0 {
            return Err(Violation(Reason::FLOW_CONTROL_ERROR, "more than the connection's window"));
        }
        let end = head.has(frame::END_STREAM);
        if data.is_empty() && !end {
            self.idle_frame()?;
        } else {
            self.idle_frames = 0;
        }
        let Some(&key) = self.ids.get(&head.stream) else {
            self.give_back(payload.len());
            if self.was_reset(head.stream) == Some(true)
                || self.leaving.is_some_and(|last| head.stream > last)
            {
                return Ok(());
            }
            self.remember(head.stream, true);
            return self.refuse(head.stream, Reason::STREAM_CLOSED);
        };
        let stream = &mut self.streams[key];
        if stream.received_all || stream.broken.is_some() {
            let cut = stream.cut;
            self.give_back(payload.len());
            if cut {
                return Ok(());
            }
            return self.stream_error(key, Reason::STREAM_CLOSED, "DATA after the end");
        }
        stream.receive_window -= payload.len() as i64;
        let wrong = if stream.receive_window < 0 {
            Some((Reason::FLOW_CONTROL_ERROR, "more than the stream's window"))
        } else if !stream.begun {
            Some((Reason::PROTOCOL_ERROR, "a body before its head"))
        } else if stream.bodiless && !data.is_empty() {
            Some((Reason::PROTOCOL_ERROR, "a body where there is none"))
        } else {
            let left = stream.expected.map(|left| left.checked_sub(data.len() as u64));
            stream.expected = left.flatten();
            let wrong = left == Some(None) || (end && stream.expected.is_some_and(|left| left > 0));
            wrong.then_some((Reason::PROTOCOL_ERROR, "a body that is not as long as it says"))
        };
        if let Some((reason, what)) = wrong {
            self.give_back(payload.len());
            return self.stream_error(key, reason, what);
        }
        let padding = payload.len() - data.len();
        // Nobody reads what is not wanted.
        let unread = if stream.reader_gone { payload.len() } else { padding };
        if !data.is_empty() && !stream.reader_gone {
            match shared {
                Some(shared) if data.len() >= BY_REFERENCE => {
                    if !stream.small.is_empty() {
                        stream.queue.push_back(std::mem::take(&mut stream.small).freeze());
                    }
                    stream.queue.push_back(shared.slice_ref(data));
                }
                // Copied, and to one place: many short frames must not hold much more than their bytes.
                _ => stream.small.extend_from_slice(data),
            }
        }
        stream.received_all = end;
        stream.wake_reader();
        if padding > 0 {
            // It counts (RFC 9113 section 6.9.1), and is never read.
            self.give_back_on(key, padding);
        }
        if unread > 0 {
            self.give_back(unread);
        }
        if end {
            self.close_if_ended(key);
        }
        Ok(())
    }

    fn headers(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream == 0 {
            return Err(protocol("HEADERS for no stream"));
        }
        let mut block = unpad(head, payload)?;
        if head.has(frame::WITH_PRIORITY) {
            let Some((priority, rest)) = block.split_first_chunk::<5>() else {
                return Err(size("HEADERS without room for a priority"));
            };
            depends(head.stream, priority)?;
            block = rest;
        }
        if head.has(frame::END_HEADERS) {
            return self.block_received(head, block);
        }
        self.block = Some(Block { head, bytes: block.into(), frames: 0 });
        Ok(())
    }

    fn continuation(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        // What a whole head may have, and then some: its fields are counted larger than they are encoded.
        let most = self.config.bounds.bytes + frame::DEFAULT_FRAME;
        let Some(block) = &mut self.block else { return Err(protocol("CONTINUATION of nothing")) };
        block.frames += 1;
        if block.bytes.len() + payload.len() > most || block.frames > most / 1024 {
            return Err(Violation(Reason::ENHANCE_YOUR_CALM, "a header block without end"));
        }
        block.bytes.extend_from_slice(payload);
        match self.block.take_if(|_| head.has(frame::END_HEADERS)) {
            Some(block) => self.block_received(block.head, &block.bytes),
            None => Ok(()),
        }
    }

    fn block_received(&mut self, head: FrameHead, block: &[u8]) -> Outcome {
        let known = self.ids.get(&head.stream).copied();
        let section = match known {
            Some(key) if self.streams[key].begun => Section::Trailers,
            _ if self.config.role == Role::Client => Section::Response,
            _ => Section::Request,
        };
        // Also of a block that nobody wants: the decoder's table depends on it.
        let mut taking = Taking::new(section, self.config.bounds, block.len());
        let decoded = self.decoder.decode(block, &mut taking);
        decoded.map_err(|_| match taking.is_full() {
            true => Violation(Reason::ENHANCE_YOUR_CALM, "a head that is far too large"),
            false => Violation(Reason::COMPRESSION_ERROR, "a malformed header block"),
        })?;
        let fields = taking.finish();
        let end = head.has(frame::END_STREAM);
        let Some(key) = known else {
            return match self.config.role {
                Role::Server => self.request(head.stream, fields, end),
                Role::Client => self.late_block(head.stream),
            };
        };
        let stream = &self.streams[key];
        if stream.cut {
            return Ok(());
        }
        if stream.received_all || stream.broken.is_some() {
            return Err(Violation(Reason::STREAM_CLOSED, "HEADERS after the end"));
        }
        match section {
            Section::Trailers => self.trailers(key, fields, end),
            _ => self.response(key, fields, end),
        }
    }

    /// A header block for a stream that is gone.
    fn late_block(&mut self, id: u32) -> Outcome {
        match self.was_reset(id) {
            Some(true) => Ok(()),
            Some(false) => Err(Violation(Reason::STREAM_CLOSED, "HEADERS after the end")),
            None => Err(protocol("HEADERS for a stream that is not open")),
        }
    }

    fn request(&mut self, id: u32, fields: Fields, end: bool) -> Outcome {
        if id.is_multiple_of(2) {
            return Err(protocol("a stream of an even number"));
        }
        if id <= self.last_peer {
            return self.late_block(id);
        }
        if self.leaving.is_some_and(|last| id > last) {
            // The client learns from the GOAWAY that it can send it elsewhere.
            return Ok(());
        }
        self.last_peer = id;
        let refused = if self.open >= self.config.streams as usize {
            if !self.settled {
                // It may not know yet how many there may be: no error of its.
                self.remember(id, true);
                frame::put_reset(self.out.tail(), id, Reason::REFUSED_STREAM);
                return self.idle_frame();
            }
            Some(Reason::REFUSED_STREAM)
        } else {
            self.idle_frames = 0;
            let whole = match &fields.method {
                _ if fields.too_large => true,
                Some(method) if *method == Method::CONNECT => true,
                method => {
                    let path = fields.path.as_ref().is_some_and(|path| !path.is_empty());
                    method.is_some() && fields.scheme.is_some() && path
                }
            };
            let lies = end && matches!(fields.length, Length::Known(1..));
            (!whole || lies || fields.malformed.is_some()).then_some(Reason::PROTOCOL_ERROR)
        };
        if let Some(reason) = refused {
            self.remember(id, true);
            return self.refuse(id, reason);
        }
        let key = self.add(id);
        let stream = &mut self.streams[key];
        stream.begun = true;
        stream.received_all = end;
        if let Length::Known(length) = fields.length {
            stream.expected = Some(length);
        }
        self.accepted.push_back((key, fields));
        Ok(())
    }

    fn response(&mut self, key: usize, fields: Fields, end: bool) -> Outcome {
        let malformed = |what| Err((Reason::PROTOCOL_ERROR, what));
        let stream = &mut self.streams[key];
        let Fields { status, headers, length, .. } = fields;
        let taken = match status.map(|status| ResponseHead { status, headers }) {
            _ if fields.malformed.is_some() => malformed(fields.malformed.unwrap_or_default()),
            _ if fields.too_large => malformed("a head that is too large"),
            None => malformed("a response without status"),
            // RFC 9113 section 8.6: there are no upgrades.
            Some(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => malformed("status 101"),
            Some(head) if head.status.is_informational() => {
                if end {
                    malformed("an interim response that ends the stream")
                } else if stream.interims == MAX_INTERIM {
                    Err((Reason::ENHANCE_YOUR_CALM, "too many interim responses"))
                } else {
                    stream.interims += 1;
                    stream.interim.push_back(head);
                    Ok(())
                }
            }
            Some(head) => {
                stream.bodiless |= head.is_bodiless();
                stream.expected = match length {
                    Length::Known(length) if !stream.bodiless => Some(length),
                    _ => None,
                };
                if length == Length::Malformed {
                    malformed("a malformed content-length")
                } else if end && stream.expected.is_some_and(|length| length > 0) {
                    malformed("a body that is not as long as it says")
                } else {
                    stream.begun = true;
                    stream.received_all = end;
                    stream.head = Some(Box::new(Answered { head, length }));
                    Ok(())
                }
            }
        };
        if let Err((reason, what)) = taken {
            return self.stream_error(key, reason, what);
        }
        stream.wake_reader();
        if end {
            self.close_if_ended(key);
        }
        Ok(())
    }

    fn trailers(&mut self, key: usize, fields: Fields, end: bool) -> Outcome {
        let stream = &mut self.streams[key];
        let wrong = if !end {
            Some("trailers that do not end the stream")
        } else if fields.too_large {
            Some("trailers that are too large")
        } else if stream.expected.is_some_and(|left| left > 0) {
            Some("a body that is not as long as it says")
        } else {
            fields.malformed
        };
        if let Some(what) = wrong {
            return self.stream_error(key, Reason::PROTOCOL_ERROR, what);
        }
        if !fields.headers.is_empty() && !stream.reader_gone {
            stream.trailers = Some(Box::new(fields.headers));
        }
        stream.received_all = true;
        stream.wake_reader();
        self.close_if_ended(key);
        Ok(())
    }
}

/// The payload without its padding.
fn unpad(head: FrameHead, payload: &[u8]) -> Result<&[u8], Violation> {
    if !head.has(frame::PADDED) {
        return Ok(payload);
    }
    let Some((padding, rest)) = payload.split_first() else {
        return Err(size("a padded frame without room for its padding"));
    };
    let end = rest.len().checked_sub(usize::from(*padding));
    end.map(|end| &rest[..end]).ok_or(protocol("more padding than there is room"))
}

/// RFC 9113 section 5.3.2: priorities are not looked at; but a stream that depends on itself is an error to
/// those who still go by RFC 7540.
pub(super) fn depends(stream: u32, priority: &[u8; 5]) -> Outcome {
    let on = u32::from_be_bytes([priority[0], priority[1], priority[2], priority[3]]) & MAX_STREAM;
    if on == stream { Err(protocol("a stream that depends on itself")) } else { Ok(()) }
}
