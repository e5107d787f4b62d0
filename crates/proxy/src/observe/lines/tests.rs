use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use proptest::prelude::*;
use serde::Serialize;
use time::OffsetDateTime;

use super::*;
use crate::fault::Fault;
use crate::http::message::TlsInfo;
use crate::http::{Authority, Body, Headers, RequestHead, Target};
use crate::observe::session::Spoken;

/// A request with these headers.
pub(in crate::observe) fn request(headers: Headers) -> Request {
    let address = "192.0.2.1:5".parse().unwrap();
    Request {
        head: Box::new(RequestHead {
            method: Method::GET,
            scheme: Scheme::Https,
            authority: Authority::parse(Bytes::from_static(b"a.example")).unwrap(),
            target: Target::new(Bytes::from_static(b"/x?y")),
            version: Version::Http11,
            headers,
        }),
        body: Body::Empty,
        upgrade: None,
        expects_continue: false,
        informational: None,
        connection: Rc::new(Connection::new(address, address, 443)),
    }
}

fn time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_763_863_200_123)
}

fn line(format: AccessLogFormat, request: &Request, id: &[u8], ending: &Ending<'_>) -> String {
    let mut lines = Lines::new(format);
    let mut draft = lines.begin(time(), request, None);
    draft.set_request_id(id);
    let mut out = Vec::new();
    lines.end(&mut out, &draft, ending);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_client_cannot_forge_a_line() {
    let evil = "evil\" 200 0\n192.0.2.9 \u{1b}[31m\u{7f}\\";
    let mut headers = Headers::default();
    headers.append("user-agent", [evil.as_bytes(), b"\xff"].concat());
    let request = request(headers);
    let ending = Ending {
        status: Some(StatusCode::OK),
        sent: 12,
        duration: Duration::from_micros(2_250),
        complete: true,
        tries: 1,
        ..Ending::default()
    };
    assert_eq!(
        line(AccessLogFormat::Common, &request, b"id", &ending),
        "192.0.2.1 - - [23/Nov/2025:02:00:00 +0000] \"GET /x?y HTTP/1.1\" 200 12 \"-\" \
         \"evil\\x22 200 0\\x0A192.0.2.9 \\x1B[31m\\x7F\\x5C\\xFF\"\n"
    );
    assert_eq!(
        line(AccessLogFormat::Json, &request, b"id", &ending),
        "{\"time\":\"2025-11-23T02:00:00.123Z\",\"client\":\"192.0.2.1\",\"method\":\"GET\",\
         \"scheme\":\"https\",\"host\":\"a.example\",\"path\":\"/x?y\",\"protocol\":\"HTTP/1.1\",\
         \"status\":200,\"sent\":12,\"received\":0,\"duration_ms\":2.25,\"complete\":true,\"tries\":1,\
         \"request_id\":\"id\",\"user_agent\":\"evil\\\" 200 0\\n192.0.2.9 \\u001b[31m\u{7f}\\\\\u{fffd}\"}\n"
    );
}

#[test]
fn a_refused_request_and_a_session_have_lines_too() {
    let refused = |format| {
        let mut lines = Lines::new(format);
        let draft = lines.begin_refused(time(), &request(Headers::default()).connection);
        let fault = FaultKind::BadRequest;
        let ending = Ending { status: Some(fault.status()), fault: Some(fault), ..Ending::default() };
        let mut out = Vec::new();
        lines.end(&mut out, &draft, &ending);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        refused(AccessLogFormat::Common),
        "192.0.2.1 - - [23/Nov/2025:02:00:00 +0000] \"-\" 400 0 \"-\" \"-\"\n"
    );
    assert_eq!(
        refused(AccessLogFormat::Json),
        "{\"time\":\"2025-11-23T02:00:00.123Z\",\"client\":\"192.0.2.1\",\"scheme\":\"http\",\"host\":\"\",\
         \"path\":\"\",\"protocol\":\"HTTP/1.1\",\"status\":400,\"sent\":0,\"received\":0,\"duration_ms\":0.0,\
         \"complete\":false,\"tries\":0,\"fault\":\"bad_request\"}\n"
    );
    let fault = Fault { kind: FaultKind::Connect, detail: Some("no \"way\"".into()) };
    let session = |format| {
        let mut out = Vec::new();
        let record = SessionRecord {
            time: time(),
            duration: Duration::from_secs(2),
            spoken: Spoken::Tls,
            peer: "[2001:db8::1]:5".parse().unwrap(),
            server_name: Some("a.example"),
            passed: Passed {
                rule: Some("\"TLSRoute a/b\""),
                endpoint: Some("[::1]:443".parse().unwrap()),
                ..Passed::default()
            },
            tries: 1,
            sent: 7,
            received: 8,
            end: Some(End::Idle),
            fault: Some(&fault),
        };
        Lines::new(format).session(&mut out, &record);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        session(AccessLogFormat::Common),
        "2001:db8::1 - - [23/Nov/2025:02:00:00 +0000] \"TLS a.example\" 503 7 \"-\" \"-\"\n"
    );
    assert_eq!(
        session(AccessLogFormat::Json),
        "{\"time\":\"2025-11-23T02:00:00.123Z\",\"client\":\"2001:db8::1\",\"protocol\":\"TLS\",\
         \"server_name\":\"a.example\",\"sent\":7,\"received\":8,\"duration_ms\":2000.0,\"end\":\"idle\",\
         \"rule\":\"TLSRoute a/b\",\"endpoint\":\"[::1]:443\",\"tries\":1,\"fault\":\"connect\",\
         \"detail\":\"no \\\"way\\\"\"}\n"
    );
}

#[test]
fn a_second_that_changes_is_written_anew() {
    let mut lines = Lines::new(AccessLogFormat::Json);
    for (millis, want) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_005, "1970-01-01T00:00:01.005Z"),
        (999, "1970-01-01T00:00:00.999Z"),
    ] {
        let mut out = Vec::new();
        lines.json_client(
            &mut out,
            SystemTime::UNIX_EPOCH + Duration::from_millis(millis),
            "1.2.3.4:5".parse().unwrap(),
        );
        assert!(String::from_utf8(out).unwrap().contains(want), "{want}");
    }
}

/// The line as serde_json writes it.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    client: std::net::IpAddr,
    method: &'a str,
    scheme: &'a str,
    host: &'a str,
    path: &'a str,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    sent: u64,
    received: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    tries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
}

fn address() -> impl Strategy<Value = SocketAddr> {
    any::<(std::net::IpAddr, u16)>().prop_map(SocketAddr::from)
}

proptest! {
    #[test]
    fn a_line_is_what_serde_json_writes(
        millis in 0..4_000_000_000_000_u64,
        (peer, endpoint) in (address(), proptest::option::of(address())),
        (duration, upstream) in (0..10_000_000_000_u64, proptest::option::of(0..3_000_u64)),
        (status, sent, received, tries) in
            (proptest::option::of(100..600_u16), any::<u64>(), any::<u64>(), any::<u32>()),
        (detail, name) in (proptest::option::of(any::<String>()), proptest::option::of(any::<String>())),
        (target, id, agent) in (any::<String>(), any::<Vec<u8>>(), proptest::option::of(any::<Vec<u8>>())),
    ) {
        let mut request = request(Headers::default());
        request.head.target = Target::new(target.clone().into());
        if let Some(agent) = &agent {
            request.head.headers.append("user-agent", agent);
        }
        let mut connection = Connection::new(peer, peer, 443);
        connection.tls = Some(TlsInfo { server_name: name.as_deref().map(Arc::from) });
        request.connection = Rc::new(connection);
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let ending = Ending {
            status: status.map(|s| StatusCode::from_u16(s).unwrap()),
            sent,
            received,
            duration: Duration::from_micros(duration),
            upstream: upstream.map(Duration::from_micros),
            complete: sent % 2 == 0,
            passed: Passed { endpoint, ..Passed::default() },
            tries,
            fault: None,
            detail: detail.as_deref(),
        };
        let mut lines = Lines::new(AccessLogFormat::Json);
        let mut draft = lines.begin(at, &request, None);
        draft.set_request_id(&id);
        let mut out = Vec::new();
        lines.end(&mut out, &draft, &ending);
        let format = format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        );
        let id = String::from_utf8_lossy(&id);
        let shown = agent.as_deref().map(String::from_utf8_lossy);
        let want = Line {
            time: OffsetDateTime::from(at).format(format).unwrap(),
            client: peer.ip(),
            method: "GET",
            scheme: "https",
            host: "a.example",
            path: &target,
            protocol: "HTTP/1.1",
            status,
            sent,
            received,
            duration_ms: duration as f64 / 1e3,
            upstream_ms: upstream.map(|micros| micros as f64 / 1e3),
            complete: sent % 2 == 0,
            endpoint,
            tries,
            detail: detail.as_deref(),
            request_id: &id,
            server_name: name.as_deref(),
            user_agent: shown.as_deref(),
        };
        prop_assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("{}\n", serde_json::to_string(&want).unwrap())
        );
    }
}
