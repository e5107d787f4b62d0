//! HTTP/1.1 (RFC 9112): the hot path and the security boundary, so it is strict. Whatever two readers could
//! take for two different messages is answered 400 and the connection is closed; nothing is repaired.
//!
//! ```text
//!   socket ─► io::Wire ─► parse (head) ─► Request ─► Handler ─► Response ─► encode ─► io::Wire ─► socket
//!                 └─────► framing (body, pulled by whoever sends it on) ─┘        server.rs drives all of it
//!
//!   client.rs: the same parts the other way round, one request at a time on one upstream connection
//! ```
//!
//! One task serves a connection. What is not pulled is not read, so back-pressure needs no buffers; a
//! connection that waits holds none at all.

mod client;
mod encode;
mod framing;
pub(crate) mod io;
mod lines;
pub(in crate::http) mod names;
mod parse;
mod request_body;
mod server;
mod target;

use std::rc::Rc;
use std::time::Duration;

pub use client::{Answer, Client, Progress, Recycle, SendError, SendOptions};
pub use server::{End, serve};

use bytes::Bytes;

use super::{Connection, RequestHead, Scheme};
use crate::fault::FaultKind;

/// Limits and times of the client's side. The defaults are meant for the open internet.
#[derive(Clone)]
pub struct Settings {
    /// From the first byte of a head to its last; 10 s. Passed: 408.
    pub head_timeout: Duration,
    /// Between two requests, and before the first; 60 s. Passed: the connection is closed.
    pub idle_timeout: Duration,
    /// Without one byte of a request's body that is waited for; 30 s. Passed: the body fails with
    /// `RequestTimeout`.
    pub body_timeout: Duration,
    /// Without the client taking one byte of what is to be sent; 30 s. Passed: the connection is cut.
    pub write_timeout: Duration,
    /// How long a client that was told to go away is listened to, so that it can read why; 2 s.
    pub linger_timeout: Duration,
    /// A tunnel in which nothing moves either way; an hour. `None`: for ever.
    pub tunnel_timeout: Option<Duration>,
    /// A tunnel of which one side has closed, and in which nothing moves the other way; 60 s.
    pub half_closed_timeout: Duration,
    /// Bytes of a whole head; 64 KiB. More: 431.
    pub max_head: usize,
    /// Field lines of a head or a trailer section; 100, at most 256. More: 431.
    pub max_headers: usize,
    /// Bytes of the request's target; 16 KiB. More: 414.
    pub max_target: usize,
    /// What becomes of header names with an underscore.
    pub underscores: Underscores,
    /// Whether request header values may hold bytes above 0x7F (obs-text, RFC 9110 section 5.5); no: 400.
    pub allow_obs_text: bool,
    /// Told of what no handler sees.
    pub observer: Option<Rc<dyn Observer>>,
}

/// What becomes of request headers with an underscore in the name. CGI, WSGI and their kin show `X_Real_IP`
/// and `X-Real-IP` to the application under one name, so one can be passed off as the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// Those whose twin with a hyphen the gateway sets or checks (`X_Forwarded_For`, `Content_Length`,
    /// `Authorization` and the like) are dropped; others pass.
    #[default]
    DropTwins,
    /// All are dropped, as nginx does.
    Drop,
    /// The request is answered 400.
    Reject,
}

/// Told of what no handler sees: requests that are refused before one is called, and panics in one.
pub trait Observer {
    /// A request was refused, or its client was too slow; it has been answered with the fault's status.
    fn rejected(&self, connection: &Connection, kind: FaultKind, detail: &'static str);

    /// A handler or a body that it gave panicked.
    fn panicked(&self, connection: &Connection);
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            linger_timeout: Duration::from_secs(2),
            tunnel_timeout: Some(Duration::from_secs(3600)),
            half_closed_timeout: Duration::from_secs(60),
            max_head: 64 * 1024,
            max_headers: 100,
            max_target: 16 * 1024,
            underscores: Underscores::default(),
            allow_obs_text: false,
            observer: None,
        }
    }
}

/// What a request's head, as it would be on the wire, is taken for; for those who tell and do not serve.
///
/// # Errors
/// What it is refused with, and why.
pub fn read_head(text: impl Into<Bytes>, scheme: Scheme) -> Result<RequestHead, (FaultKind, &'static str)> {
    let (mut input, settings) = (text.into(), Settings::default());
    match parse::request(&mut input, &mut parse::Progress::default(), scheme, &settings) {
        Ok(Some(received)) => Ok(*received.head),
        Ok(None) => Err((FaultKind::BadRequest, "the head has no end")),
        Err(refusal) => Err((refusal.kind, refusal.detail)),
    }
}
