//! Frames that are no part of a message: what they change of a stream, or the connection.

use super::frame::{self, FrameHead, MAX_STREAM, MAX_WINDOW, Reason, setting};
use super::mux::{Mux, Ping, Role, Violation};
use super::receive::{Outcome, depends, protocol, size};
use super::stream::Stream;

impl Mux {
    pub(super) fn priority(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream == 0 {
            return Err(protocol("PRIORITY for no stream"));
        }
        let priority = payload.try_into().map_err(|_| size("PRIORITY of a wrong size"))?;
        depends(head.stream, priority)?;
        self.idle_frame()
    }

    pub(super) fn reset_received(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        let reason = Reason(number(payload).ok_or(size("RST_STREAM of a wrong size"))?);
        if head.stream == 0 || self.is_idle(head.stream) {
            return Err(protocol("RST_STREAM for no stream"));
        }
        match self.ids.get(&head.stream) {
            Some(&key) if !self.streams[key].closed => self.cancel(key, reason),
            _ => self.idle_frame(),
        }
    }

    pub(super) fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream != 0 {
            return Err(protocol("SETTINGS on a stream"));
        }
        if head.has(frame::ACK) {
            self.settled = true;
            return if payload.is_empty() {
                self.idle_frame()
            } else {
                Err(size("an acknowledgement with SETTINGS"))
            };
        }
        if !payload.len().is_multiple_of(6) {
            return Err(size("SETTINGS of a wrong size"));
        }
        if !std::mem::replace(&mut self.greeted, true) {
            // RFC 9113 section 6.5.2: no limit unless one is told.
            self.peer_streams = u32::MAX;
        }
        self.idle_frame()?;
        for entry in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([entry[0], entry[1]]);
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            // One entry can be as much work as a frame: all streams are looked at.
            self.idle_frame()?;
            self.setting(name, value)?;
        }
        self.reply(frame::SETTINGS, frame::ACK, 0, b"");
        self.wake_openers();
        Ok(())
    }

    fn setting(&mut self, name: u16, value: u32) -> Outcome {
        match name {
            setting::HEADER_TABLE_SIZE => self.encoder.set_max_size(value as usize),
            setting::ENABLE_PUSH if value > u32::from(self.config.role == Role::Server) => {
                return Err(protocol("a wrong SETTINGS_ENABLE_PUSH"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer_streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                let overflow = Violation(Reason::FLOW_CONTROL_ERROR, "a window that is too large");
                let window = i64::from(value);
                let more = window - std::mem::replace(&mut self.peer_window, window);
                if window > MAX_WINDOW {
                    return Err(overflow);
                }
                let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
                for key in keys {
                    // What was granted is not sent beyond a window that shrinks (RFC 9113 section 6.9.2).
                    if more < 0 && self.streams[key].granted > 0 {
                        self.ungrant(key);
                    }
                    let stream = &mut self.streams[key];
                    stream.send_window += more;
                    if stream.send_window + stream.granted as i64 > MAX_WINDOW {
                        return Err(overflow);
                    }
                    self.window_grown(key);
                }
                self.distribute();
            }
            // We send no longer ones than all take: other streams would have to wait.
            setting::MAX_FRAME_SIZE if !(frame::DEFAULT_FRAME..1 << 24).contains(&(value as usize)) => {
                return Err(protocol("a wrong SETTINGS_MAX_FRAME_SIZE"));
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn ping_received(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream != 0 {
            return Err(protocol("PING on a stream"));
        }
        let payload: &[u8; 8] = payload.try_into().map_err(|_| size("PING of a wrong size"))?;
        if !head.has(frame::ACK) {
            self.reply(frame::PING, frame::ACK, 0, payload);
            return self.idle_frame();
        }
        self.idle_frame()?;
        for ping in [Ping::Alive, Ping::Leaving] {
            if payload == ping.payload()
                && std::mem::take(&mut self.pings[ping as usize])
                && ping == Ping::Leaving
            {
                self.leave_finally();
            }
        }
        Ok(())
    }

    pub(super) fn goaway(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream != 0 {
            return Err(protocol("GOAWAY on a stream"));
        }
        let (Some(last), Some(reason)) =
            (number(payload.get(..4).unwrap_or_default()), number(payload.get(4..8).unwrap_or_default()))
        else {
            return Err(size("GOAWAY of a wrong size"));
        };
        self.left = true;
        self.idle_frame()?;
        if self.config.role == Role::Client {
            if Reason(reason) != Reason::NO_ERROR {
                self.gone_away = Some(Reason(reason));
            }
            self.took_some = last & MAX_STREAM > 0;
            let broken = self.turned_away();
            let behind = |stream: &Stream| stream.id > last & MAX_STREAM;
            let left = self.streams.iter().filter(|(_, stream)| behind(stream));
            let mut left: Vec<(u32, usize)> = left.map(|(key, stream)| (stream.id, key)).collect();
            // They go on elsewhere in the order in which they came.
            left.sort_unstable();
            for (_, key) in left {
                self.break_stream(key, broken);
            }
        }
        self.wake_openers();
        Ok(())
    }

    pub(super) fn window_update(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        let more = number(payload).ok_or(size("WINDOW_UPDATE of a wrong size"))? & MAX_STREAM;
        let overflow = "a window that is too large";
        self.idle_frame()?;
        if head.stream == 0 {
            self.send_window += i64::from(more);
            if more == 0 {
                return Err(protocol("WINDOW_UPDATE by nothing"));
            }
            if self.send_window + self.reserved as i64 > MAX_WINDOW {
                return Err(Violation(Reason::FLOW_CONTROL_ERROR, overflow));
            }
            self.distribute();
            return Ok(());
        }
        if self.is_idle(head.stream) {
            return Err(protocol("WINDOW_UPDATE for no stream"));
        }
        let Some(&key) = self.ids.get(&head.stream) else { return Ok(()) };
        let stream = &mut self.streams[key];
        if stream.closed {
            return Ok(());
        }
        stream.send_window += i64::from(more);
        if more == 0 {
            return self.stream_error(key, Reason::PROTOCOL_ERROR, "WINDOW_UPDATE by nothing");
        }
        if stream.send_window + stream.granted as i64 > MAX_WINDOW {
            return self.stream_error(key, Reason::FLOW_CONTROL_ERROR, overflow);
        }
        self.window_grown(key);
        Ok(())
    }
}

fn number(payload: &[u8]) -> Option<u32> {
    payload.try_into().ok().map(u32::from_be_bytes)
}
