//! What the proxy takes from clients before it says no. Every limit is on by default; the defaults are safe
//! for a gateway that faces the internet, and documented here, where they are.

use std::time::Duration;

/// Limits on the client's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections that the whole proxy holds at once; more are closed as soon as they are accepted.
    /// 65,536, or 3/8 of the process's limit on open files where that is less: each may need a second one to
    /// a backend, and some must be left.
    pub connections: usize,
    /// For a TLS handshake, from the accepted connection to its end. 10 s.
    pub handshake_timeout: Duration,
    /// For a request's head, from its first byte to its end; for the first head of a connection from the
    /// moment that it is accepted (slowloris). 10 s.
    pub head_timeout: Duration,
    /// How long an HTTP/1.1 connection may wait for its next request. 60 s.
    pub idle_timeout: Duration,
    /// How long a request's body may make no progress while it is waited for. 30 s.
    pub body_timeout: Duration,
    /// How long a client may take nothing of a response that waits for it. 30 s.
    pub send_timeout: Duration,
    /// How long a tunnel (WebSocket and other upgrades) or a connection of a TLS or TCP listener may be
    /// silent both ways; `None` for ever. 1 h.
    pub tunnel_timeout: Option<Duration>,
    /// Sessions of UDP clients that the whole proxy holds at once; for one more, the one that has been silent
    /// for the longest is given up. 16,384, or 1/8 of the process's limit on open files where that is less:
    /// each needs a socket.
    pub udp_sessions: usize,
    /// How long a UDP client's session may be silent both ways. 60 s.
    pub udp_session_timeout: Duration,
    /// Bytes of a request's head: request line and headers. 64 KiB.
    pub head_bytes: usize,
    /// Bytes of a request's target (path and query). 16 KiB.
    pub target_bytes: usize,
    /// Header lines of a request, at most 256. 100.
    pub header_lines: usize,
    /// HTTP/2.
    pub http2: Http2Limits,
}

/// Limits of a client's HTTP/2 connection (RFC 9113).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Limits {
    /// Streams that a client may have open at once (SETTINGS_MAX_CONCURRENT_STREAMS). 128.
    pub concurrent_streams: u32,
    /// Bytes that a client may send on a stream ahead of our reading. 64 KiB.
    pub stream_window: u32,
    /// Bytes that a client may send on all streams of a connection ahead of our reading. 1 MiB.
    pub connection_window: u32,
    /// Bytes of the longest frame that is taken (SETTINGS_MAX_FRAME_SIZE). 16 KiB.
    pub frame_bytes: u32,
    /// Bytes of responses that wait for the client, of all streams of a connection. 128 KiB.
    pub send_buffer: usize,
    /// Streams that the proxy had to reset because of the client's errors, beyond those that it has answered;
    /// more end the connection with ENHANCE_YOUR_CALM (CVE-2025-8671). 256.
    pub own_resets: usize,
    /// How long a connection without streams stays open. 5 min.
    pub idle_timeout: Duration,
    /// How long a connection with open streams may be silent before it is asked with a PING. 30 s.
    pub ping_interval: Duration,
    /// How long the answer to that PING may take. 15 s.
    pub ping_timeout: Duration,
    /// After this time a connection is closed gracefully, so that clients spread again. None.
    pub max_age: Option<Duration>,
}

impl Limits {
    /// How many connections there can be, with the process's limit on open files.
    pub(crate) fn connections_within(&self, open_files: Option<usize>) -> usize {
        let possible = open_files.map_or(usize::MAX, |files| (files / 8 * 3).max(1));
        self.connections.min(possible)
    }

    /// How many UDP sessions there can be.
    pub(crate) fn udp_sessions_within(&self, open_files: Option<usize>) -> usize {
        let possible = open_files.map_or(usize::MAX, |files| (files / 8).max(1));
        self.udp_sessions.min(possible)
    }
}

/// The process's limit on open files (proc(5)); `None` when there is none or it is not known.
pub(crate) fn open_files() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(30),
            tunnel_timeout: Some(Duration::from_secs(3600)),
            udp_sessions: 16_384,
            udp_session_timeout: Duration::from_secs(60),
            head_bytes: 64 * 1024,
            target_bytes: 16 * 1024,
            header_lines: 100,
            http2: Http2Limits::default(),
        }
    }
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            concurrent_streams: 128,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            frame_bytes: 16 * 1024,
            send_buffer: 128 * 1024,
            own_resets: 256,
            idle_timeout: Duration::from_secs(300),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(15),
            max_age: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_among_the_open_files() {
        let limits = Limits::default();
        assert_eq!(limits.connections_within(None), 65_536);
        assert_eq!(limits.connections_within(Some(1024)), 384);
        assert_eq!(limits.connections_within(Some(1 << 20)), 65_536);
        assert_eq!(limits.udp_sessions_within(Some(1024)), 128);
        assert!(open_files().is_none_or(|files| files > 0));
    }
}
