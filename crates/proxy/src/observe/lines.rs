//! How the access log's lines look.
//!
//! A line is begun with its request, while the request is as the client sent it, and ended with the answer.
//! No value is an allocation of its own.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::session::{End, SessionRecord};
use super::text::{Clock, Pieces, address, common_text, hex, ip, json_string, millis, number, three};
use super::trace::Span;
use crate::fault::FaultKind;
use crate::http::{Connection, Request, Scheme, Version};
use crate::options::AccessLogFormat;

const JSON_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
const COMMON_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

/// Room for the begin of most lines.
const USUAL: usize = 512;

/// Writes lines of one format.
#[derive(Debug)]
pub(super) struct Lines {
    format: AccessLogFormat,
    clock: Clock,
}

/// A line that has begun.
#[derive(Debug, Default)]
pub(super) struct Draft(Pieces);

/// The pieces of a draft: what stands before the answer, what stands behind it, and between them the
/// request's id, which is known last.
const BEGIN: usize = 0;
const REST: usize = 1;
const ID: usize = 2;

/// What a line says of the answer.
#[derive(Debug, Default)]
pub(super) struct Ending<'a> {
    pub(super) status: Option<StatusCode>,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) duration: Duration,
    pub(super) upstream: Option<Duration>,
    pub(super) complete: bool,
    pub(super) passed: Passed<'a>,
    pub(super) tries: u32,
    pub(super) fault: Option<FaultKind>,
    pub(super) detail: Option<&'a str>,
}

/// Who took it, as JSON strings, and the endpoint.
#[derive(Debug, Default)]
pub(super) struct Passed<'a> {
    pub(super) listener: Option<&'a str>,
    pub(super) rule: Option<&'a str>,
    pub(super) backend: Option<&'a str>,
    pub(super) endpoint: Option<SocketAddr>,
}

impl Lines {
    pub(super) fn new(format: AccessLogFormat) -> Self {
        let time = match format {
            AccessLogFormat::Json => JSON_TIME,
            AccessLogFormat::Common => COMMON_TIME,
        };
        Self { format, clock: Clock::new(time) }
    }

    /// Begins the line of a request.
    pub(super) fn begin(&mut self, time: SystemTime, request: &Request, span: Option<&Span>) -> Draft {
        let Request { head, connection, .. } = request;
        let (host, target) = (head.authority.text(), head.target.text());
        let (referer, agent) = (head.headers.get("referer"), head.headers.get("user-agent"));
        let mut draft = Pieces::with_capacity(USUAL);
        draft.write(BEGIN, |out| match self.format {
            AccessLogFormat::Json => {
                self.json_client(out, time, connection.peer);
                field(out, "method", |out| json_string(out, head.method.as_str().as_bytes()));
                json_request(out, head.scheme, host, target, head.version);
            }
            AccessLogFormat::Common => {
                self.common_client(out, time, connection.peer);
                common_text(out, head.method.as_str().as_bytes());
                out.push(b' ');
                common_text(out, target);
                out.push(b' ');
                out.extend_from_slice(head.version.as_str().as_bytes());
            }
        });
        draft.write(REST, |out| match self.format {
            AccessLogFormat::Json => {
                if let Some(span) = span {
                    field(out, "trace_id", |out| {
                        out.push(b'"');
                        hex(out, &span.trace_id);
                        out.push(b'"');
                    });
                }
                json_server_name(out, connection);
                text(out, "user_agent", agent);
                text(out, "referer", referer);
            }
            AccessLogFormat::Common => common_client_text(out, referer, agent),
        });
        Draft(draft)
    }

    /// Begins the line of a request that an engine has refused before it was known.
    pub(super) fn begin_refused(&mut self, time: SystemTime, connection: &Connection) -> Draft {
        let scheme = if connection.tls.is_some() { Scheme::Https } else { Scheme::Http };
        let mut draft = Pieces::with_capacity(USUAL);
        draft.write(BEGIN, |out| match self.format {
            AccessLogFormat::Json => {
                self.json_client(out, time, connection.peer);
                json_request(out, scheme, b"", b"", Version::Http11);
            }
            AccessLogFormat::Common => {
                self.common_client(out, time, connection.peer);
                out.push(b'-');
            }
        });
        draft.write(REST, |out| match self.format {
            AccessLogFormat::Json => json_server_name(out, connection),
            AccessLogFormat::Common => common_client_text(out, None, None),
        });
        Draft(draft)
    }

    /// Ends a line.
    pub(super) fn end(&self, out: &mut Vec<u8>, Draft(draft): &Draft, ending: &Ending<'_>) {
        out.extend_from_slice(draft.get(BEGIN));
        match self.format {
            AccessLogFormat::Json => {
                if let Some(status) = ending.status {
                    field(out, "status", |out| out.extend_from_slice(status.as_str().as_bytes()));
                }
                json_bytes(out, ending.sent, ending.received, ending.duration);
                if let Some(upstream) = ending.upstream {
                    field(out, "upstream_ms", |out| millis(out, upstream));
                }
                let complete = if ending.complete { "true" } else { "false" };
                field(out, "complete", |out| out.extend_from_slice(complete.as_bytes()));
                json_passed(out, &ending.passed);
                json_outcome(out, ending.tries, ending.fault, ending.detail);
                out.extend_from_slice(draft.get(ID));
                out.extend_from_slice(draft.get(REST));
                out.extend_from_slice(b"}\n");
            }
            AccessLogFormat::Common => {
                out.extend_from_slice(b"\" ");
                number(out, ending.status.map_or(499, |s| s.as_u16()));
                out.push(b' ');
                number(out, ending.sent);
                out.extend_from_slice(draft.get(REST));
                out.push(b'\n');
            }
        }
    }

    /// The line of a connection or a UDP session, with the same names. In the combined format there are, in
    /// the place of the request, what was spoken and the server name; the status is that of nginx's streams.
    pub(super) fn session(&mut self, out: &mut Vec<u8>, record: &SessionRecord<'_>) {
        match self.format {
            AccessLogFormat::Json => {
                self.json_client(out, record.time, record.peer);
                field(out, "protocol", |out| json_string(out, record.spoken.as_str().as_bytes()));
                text(out, "server_name", record.server_name.map(str::as_bytes));
                json_bytes(out, record.sent, record.received, record.duration);
                text(out, "end", record.end.map(End::as_str).map(str::as_bytes));
                json_passed(out, &record.passed);
                let detail = record.fault.and_then(|fault| fault.detail.as_deref());
                json_outcome(out, record.tries, record.fault.map(|fault| fault.kind), detail);
                out.extend_from_slice(b"}\n");
            }
            AccessLogFormat::Common => {
                self.common_client(out, record.time, record.peer);
                out.extend_from_slice(record.spoken.as_str().as_bytes());
                out.push(b' ');
                common_text(out, record.server_name.unwrap_or("-").as_bytes());
                out.extend_from_slice(b"\" ");
                number(out, record.status());
                out.push(b' ');
                number(out, record.sent);
                common_client_text(out, None, None);
                out.push(b'\n');
            }
        }
    }

    fn json_client(&mut self, out: &mut Vec<u8>, time: SystemTime, client: SocketAddr) {
        let (second, milliseconds) = self.clock.read(time);
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(second);
        out.push(b'.');
        three(out, milliseconds);
        out.extend_from_slice(b"Z\",\"client\":\"");
        ip(out, client.ip());
        out.push(b'"');
    }

    fn common_client(&mut self, out: &mut Vec<u8>, time: SystemTime, client: SocketAddr) {
        ip(out, client.ip());
        out.extend_from_slice(b" - - [");
        out.extend_from_slice(self.clock.read(time).0);
        out.extend_from_slice(b"] \"");
    }
}

impl Draft {
    /// The request's id.
    pub(super) fn set_request_id(&mut self, id: &[u8]) {
        // The combined format has no place for it, and shows no such piece.
        self.0.write(ID, |out| text(out, "request_id", Some(id)));
    }
}

/// Appends a field of a JSON object that is not its first one.
fn field(out: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    value(out);
}

/// Appends a field if it has a value. The names are those of OpenTelemetry's conventions where they have one
/// that is short.
fn text(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    if let Some(value) = value {
        field(out, name, |out| json_string(out, value));
    }
}

fn json_request(out: &mut Vec<u8>, scheme: Scheme, host: &[u8], target: &[u8], version: Version) {
    text(out, "scheme", Some(scheme.as_str().as_bytes()));
    text(out, "host", Some(host));
    text(out, "path", Some(target));
    text(out, "protocol", Some(version.as_str().as_bytes()));
}

fn json_server_name(out: &mut Vec<u8>, connection: &Connection) {
    let name = connection.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
    text(out, "server_name", name.map(str::as_bytes));
}

fn json_bytes(out: &mut Vec<u8>, sent: u64, received: u64, duration: Duration) {
    field(out, "sent", |out| number(out, sent));
    field(out, "received", |out| number(out, received));
    field(out, "duration_ms", |out| millis(out, duration));
}

fn json_passed(out: &mut Vec<u8>, passed: &Passed<'_>) {
    let who = [("listener", passed.listener), ("rule", passed.rule), ("backend", passed.backend)];
    for (name, label) in who {
        if let Some(label) = label {
            field(out, name, |out| out.extend_from_slice(label.as_bytes()));
        }
    }
    if let Some(endpoint) = passed.endpoint {
        field(out, "endpoint", |out| {
            out.push(b'"');
            address(out, endpoint);
            out.push(b'"');
        });
    }
}

fn json_outcome(out: &mut Vec<u8>, tries: u32, fault: Option<FaultKind>, detail: Option<&str>) {
    field(out, "tries", |out| number(out, tries));
    text(out, "fault", fault.map(FaultKind::reason).map(str::as_bytes));
    text(out, "detail", detail.map(str::as_bytes));
}

/// The end of a line of the combined format,
/// `client - - [time] "request" status bytes "referer" "user agent"`.
fn common_client_text(out: &mut Vec<u8>, referer: Option<&[u8]>, user_agent: Option<&[u8]>) {
    for value in [referer, user_agent] {
        out.extend_from_slice(b" \"");
        common_text(out, value.unwrap_or(b"-"));
        out.push(b'"');
    }
}

#[cfg(test)]
pub(super) mod tests;
