//! The access log: a line for each exchange, made and written apart from the workers.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::exchange::{Details, Record};
use super::recorder::Entry;
use super::session::{End, SessionRecord};
use super::trace::hex;
use crate::options::{AccessLog, AccessLogFormat, AccessLogTarget};

/// Lines are written when there are so many bytes of them, or when no more come.
const BUFFER: usize = 64 * 1024;
/// How often to look whether the file has been moved away.
const LOOK: Duration = Duration::from_secs(1);

/// Writes the lines.
pub(super) struct AccessLogWriter {
    format: AccessLogFormat,
    target: Target,
    buffer: Vec<u8>,
}

enum Target {
    Stdout,
    File { path: PathBuf, file: File, looked: Instant },
}

impl AccessLogWriter {
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn open(log: &AccessLog) -> io::Result<Self> {
        let target = match &log.target {
            AccessLogTarget::Stdout => Target::Stdout,
            AccessLogTarget::File(path) => {
                Target::File { file: append(path)?, path: path.clone(), looked: Instant::now() }
            }
        };
        Ok(Self { format: log.format, target, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// When the buffer was full and could not be written; its lines are lost.
    pub(super) fn add(&mut self, entry: &Entry) -> io::Result<()> {
        match (self.format, entry) {
            (AccessLogFormat::Json, Entry::Exchange(record)) => self.json(&JsonLine::of(record))?,
            (AccessLogFormat::Json, Entry::Session(record)) => self.json(&SessionLine::of(record))?,
            (AccessLogFormat::Common, Entry::Exchange(record)) => common(&mut self.buffer, record),
            (AccessLogFormat::Common, Entry::Session(record)) => common_session(&mut self.buffer, record),
        }
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn json(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.buffer, line)?;
        self.buffer.push(b'\n');
        Ok(())
    }

    /// Writes what is there.
    ///
    /// # Errors
    /// When it cannot be written; the lines are lost.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let written = match &mut self.target {
            Target::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&self.buffer).and_then(|()| out.flush())
            }
            Target::File { path, file, looked } => {
                if looked.elapsed() >= LOOK {
                    *looked = Instant::now();
                    if moved(path, file) {
                        *file = append(path)?;
                    }
                }
                file.write_all(&self.buffer)
            }
        };
        self.buffer.clear();
        written
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Whether the path is no longer that file.
fn moved(path: &Path, file: &File) -> bool {
    match (path.metadata(), file.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) != (b.dev(), b.ino()),
        _ => true,
    }
}

const JSON_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const COMMON_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

/// A line as JSON, with the field names of OpenTelemetry's conventions where they have one that is short.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    scheme: &'static str,
    host: Text<'a>,
    path: Text<'a>,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    sent: u64,
    received: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<std::net::SocketAddr>,
    tries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<Text<'a>>,
}

/// Bytes that a client chose: shown as text, with U+FFFD for what is none.
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0))
    }
}

impl<'a> JsonLine<'a> {
    fn of(record: &'a Record) -> Self {
        let Details { method, host, target, .. } = &*record.details;
        let details = &*record.details;
        Self {
            time: stamp(details.time, JSON_TIME),
            client: details.peer.ip(),
            method: method.as_ref().map(http::Method::as_str),
            scheme: details.scheme.as_str(),
            host: Text(host),
            path: Text(target),
            protocol: details.version.as_str(),
            status: record.status.map(|s| s.as_u16()),
            sent: record.sent,
            received: record.received,
            duration_ms: millis(record.duration),
            upstream_ms: details.upstream.map(millis),
            complete: record.complete,
            listener: record.listener.as_ref().map(ToString::to_string),
            rule: record.rule.as_ref().map(|rule| rule.source.to_string()),
            backend: record.backend.as_ref().map(ToString::to_string),
            endpoint: details.endpoint,
            tries: record.tries,
            fault: record.fault.map(crate::fault::FaultKind::reason),
            detail: details.detail.as_deref(),
            request_id: details.request_id.as_deref().map(Text),
            trace_id: details.span.as_ref().map(|span| hex(&span.trace_id)),
            server_name: details.server_name.as_deref(),
            user_agent: details.user_agent.as_deref().map(Text),
            referer: details.referer.as_deref().map(Text),
        }
    }
}

/// The line of a connection or a UDP session, with the same names.
#[derive(Serialize)]
struct SessionLine<'a> {
    time: String,
    client: IpAddr,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
    sent: u64,
    received: u64,
    duration_ms: f64,
    /// How it ended; none for one that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<std::net::SocketAddr>,
    tries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl<'a> SessionLine<'a> {
    fn of(record: &'a SessionRecord) -> Self {
        Self {
            time: stamp(record.time, JSON_TIME),
            client: record.peer.ip(),
            protocol: record.spoken.as_str(),
            server_name: record.server_name.as_deref(),
            sent: record.sent,
            received: record.received,
            duration_ms: millis(record.duration),
            end: record.end.map(End::as_str),
            listener: record.listener.as_ref().map(ToString::to_string),
            rule: record.rule.as_ref().map(|rule| rule.source.to_string()),
            backend: record.backend.as_ref().map(ToString::to_string),
            endpoint: record.endpoint,
            tries: record.tries,
            fault: record.fault_kind().map(crate::fault::FaultKind::reason),
            detail: record.fault.as_ref().and_then(|fault| fault.detail.as_deref()),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

fn stamp(at: SystemTime, format: &[BorrowedFormatItem<'_>]) -> String {
    OffsetDateTime::from(at).format(format).unwrap_or_default()
}

/// The combined log format: `client - - [time] "request" status bytes "referer" "user agent"`.
fn common(out: &mut Vec<u8>, record: &Record) {
    let details = &*record.details;
    let status = record.status.map_or(499, |s| s.as_u16());
    // Writing to a Vec does not fail.
    let _ = write!(out, "{} - - [{}] \"", details.peer.ip(), stamp(details.time, COMMON_TIME));
    match &details.method {
        Some(method) => {
            escape(out, method.as_str().as_bytes());
            out.push(b' ');
            escape(out, &details.target);
            out.push(b' ');
            out.extend_from_slice(details.version.as_str().as_bytes());
        }
        None => out.push(b'-'),
    }
    let _ = write!(out, "\" {status} {}", record.sent);
    for value in [&details.referer, &details.user_agent] {
        out.extend_from_slice(b" \"");
        escape(out, value.as_deref().unwrap_or(b"-"));
        out.push(b'"');
    }
    out.push(b'\n');
}

/// In the place of the request what was spoken and the server name; the status is that of nginx's streams.
fn common_session(out: &mut Vec<u8>, record: &SessionRecord) {
    // Writing to a Vec does not fail.
    let _ = write!(
        out,
        "{} - - [{}] \"{} ",
        record.peer.ip(),
        stamp(record.time, COMMON_TIME),
        record.spoken.as_str()
    );
    escape(out, record.server_name.as_deref().unwrap_or("-").as_bytes());
    let _ = writeln!(out, "\" {} {} \"-\" \"-\"", record.status(), record.sent);
}

/// As nginx does, so that no client can end a field or a line: quotes, backslashes and what is not
/// printable ASCII become `\xHH`.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                // Writing to a Vec does not fail.
                let _ = write!(out, "\\x{byte:02X}");
            }
            byte => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Scheme, Version};
    use bytes::Bytes;

    fn record() -> Record {
        let details = Details {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_763_863_200_123),
            peer: "192.0.2.1:5".parse().unwrap(),
            method: Some(http::Method::GET),
            scheme: Scheme::Https,
            host: Bytes::from_static(b"a.example"),
            target: Bytes::from_static(b"/x?y"),
            version: Version::Http11,
            referer: None,
            user_agent: Some(Bytes::from_static(b"evil\" 200 0\n192.0.2.9 \x1b[31m\xff\\")),
            server_name: None,
            endpoint: None,
            request_id: None,
            detail: None,
            try_begun: None,
            upstream: Some(Duration::from_micros(1_500)),
            span: None,
        };
        Record {
            details: Box::new(details),
            duration: Duration::from_micros(2_250),
            status: Some(http::StatusCode::OK),
            sent: 12,
            received: 0,
            tries: 1,
            fault: None,
            complete: true,
            listener: None,
            rule: None,
            backend: None,
        }
    }

    #[test]
    fn a_client_cannot_forge_a_line() {
        let mut line = Vec::new();
        common(&mut line, &record());
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "192.0.2.1 - - [23/Nov/2025:02:00:00 +0000] \"GET /x?y HTTP/1.1\" 200 12 \"-\" \
             \"evil\\x22 200 0\\x0A192.0.2.9 \\x1B[31m\\xFF\\x5C\"\n"
        );
        let json = serde_json::to_string(&JsonLine::of(&record())).unwrap();
        assert!(!json.contains(|c: char| c.is_control()), "{json}");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["time"], "2025-11-23T02:00:00.123Z");
        assert_eq!(value["duration_ms"], 2.25);
        assert_eq!(value["user_agent"], "evil\" 200 0\n192.0.2.9 \u{1b}[31m\u{fffd}\\");
    }

    #[test]
    fn a_file_that_was_moved_is_opened_again() {
        let path = std::env::temp_dir().join(format!("portway-access-{}.log", std::process::id()));
        let aside = path.with_extension("1");
        let log = AccessLog { format: AccessLogFormat::Common, target: AccessLogTarget::File(path.clone()) };
        let mut writer = AccessLogWriter::open(&log).unwrap();
        std::fs::rename(&path, &aside).unwrap();
        if let Target::File { looked, .. } = &mut writer.target {
            *looked = looked.checked_sub(LOOK).unwrap();
        }
        writer.add(&Entry::Exchange(record())).unwrap();
        writer.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(aside).unwrap();
    }
}
