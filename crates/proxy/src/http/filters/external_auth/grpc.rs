//! Asking by Envoy's `ext_authz` over gRPC.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, StatusCode};
use portway_plan::RuleKind;
use prost::Message;

use super::messages::{
    ADD_IF_ABSENT, Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse,
    HeaderValueOption, HttpRequest, OVERWRITE_IF_EXISTS, OkHttpResponse, Peer, Request, SocketAddress,
    Timestamp, TlsSession,
};
use super::{ExternalAuth, Question, Refusal, is_free};
use crate::fault::{Fault, FaultKind};
use crate::http::filters::{Addition, Effects};
use crate::http::h1::Answer;
use crate::http::route::form_decoded;
use crate::http::{Body, Frame, Headers, RequestHead, Response, Target, Version, path};

/// The longest answer of a service: headers, and the body for who is refused.
const ANSWER_LIMIT: usize = 256 * 1024;

pub(super) async fn ask(
    auth: &ExternalAuth,
    question: &mut Question<'_>,
    body: Bytes,
    effects: &mut Effects,
) -> Result<(), Refusal> {
    let message = check(auth, question, body);
    let mut framed = BytesMut::with_capacity(5 + message.encoded_len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).map_err(|_| FaultKind::BodyTooLarge)?);
    // There is room for it.
    message.encode(&mut framed).map_err(|why| auth.unavailable(&why))?;
    let head = RequestHead {
        method: Method::POST,
        scheme: question.head.scheme,
        authority: question.head.authority.clone(),
        target: Target::new(Bytes::from_static(b"/envoy.service.auth.v3.Authorization/Check")),
        version: Version::Http2,
        headers: Headers::from([("content-type", "application/grpc"), ("te", "trailers")]),
    };
    let answer = auth.send(question, head, framed.freeze(), RuleKind::Grpc).await?;
    let response = read(answer).await.map_err(|why| auth.unavailable(&why))?;
    let passes = match (&response.status, &response.ok_response) {
        (Some(status), _) => status.code == 0,
        // Nothing at all is no yes.
        (None, ok) => ok.is_some(),
    };
    match response.denied_response {
        None if passes => {
            allow(question.head, response.ok_response.unwrap_or_default(), effects);
            Ok(())
        }
        denied => Err(deny(denied)),
    }
}

/// The question.
fn check(auth: &ExternalAuth, question: &Question<'_>, body: Bytes) -> CheckRequest {
    let Question { head, connection, .. } = question;
    let peer = |address: std::net::SocketAddr| Peer {
        address: Some(Address {
            socket_address: Some(SocketAddress {
                address: address.ip().to_canonical().to_string(),
                port_value: address.port().into(),
            }),
        }),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let size = match (body.len(), auth.plan.body_limit) {
        (0, 0) => question.body.length().and_then(|length| i64::try_from(length).ok()).unwrap_or(-1),
        (length, _) => i64::try_from(length).unwrap_or(i64::MAX),
    };
    let (body, raw_body) = match String::from_utf8(body.into()) {
        Ok(text) => (text, Bytes::new()),
        Err(bytes) => (String::new(), bytes.into_bytes().into()),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let http = HttpRequest {
        id: head.headers.get("x-request-id").map(text).unwrap_or_default(),
        method: head.method.as_str().to_owned(),
        headers: headers(auth, head),
        path: head.target.as_str().to_owned(),
        host: head.authority.as_str().to_owned(),
        scheme: head.scheme.as_str().to_owned(),
        size,
        protocol: head.version.as_str().to_owned(),
        body,
        raw_body,
    };
    let time = Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or(0),
    };
    let tls = connection.tls.as_ref();
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(connection.peer)),
            destination: Some(peer(connection.local)),
            request: Some(Request { time: Some(time), http: Some(http) }),
            tls_session: tls
                .map(|tls| TlsSession { sni: tls.server_name.as_deref().unwrap_or_default().to_owned() }),
        }),
    }
}

/// The headers that the service is told, by their lower-case names; lines of one name are joined. All of
/// them, and with them what HTTP/2 has as pseudo-headers, unless the route names some.
fn headers(auth: &ExternalAuth, head: &RequestHead) -> HashMap<String, String> {
    let all = auth.plan.request_headers.is_none();
    let mut told = HashMap::new();
    for (name, value) in head.headers.iter().filter(|(name, _)| all || auth.tells(name)) {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let joint = if name == "cookie" { "; " } else { "," };
        let value = String::from_utf8_lossy(value);
        told.entry(name)
            .and_modify(|all: &mut String| {
                all.push_str(joint);
                all.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    if all {
        for (name, value) in [
            (":method", head.method.as_str()),
            (":path", head.target.as_str()),
            (":authority", head.authority.as_str()),
            (":scheme", head.scheme.as_str()),
        ] {
            told.insert(name.to_owned(), value.to_owned());
        }
    }
    if all || auth.tells(b"host") {
        told.insert("host".to_owned(), head.authority.as_str().to_owned());
    }
    told
}

/// Reads the one message of a gRPC answer.
async fn read(answer: Answer) -> Result<CheckResponse, Fault> {
    let invalid = |what: &str| Fault::new(FaultKind::UpstreamProtocol, what);
    let Answer { head, mut body, tunnel: _ } = answer;
    if head.status != StatusCode::OK {
        return Err(invalid(&format!("HTTP status {}", head.status.as_u16())));
    }
    let mut bytes = BytesMut::new();
    let mut status = head.headers.get("grpc-status").map(<[u8]>::to_vec);
    while let Some(frame) = body.frame().await {
        match frame? {
            Frame::Data(data) if bytes.len() + data.len() > ANSWER_LIMIT => {
                return Err(invalid("an answer that is too long"));
            }
            Frame::Data(data) => bytes.extend_from_slice(&data),
            Frame::Trailers(trailers) => status = trailers.get("grpc-status").map(<[u8]>::to_vec),
        }
    }
    match status.as_deref() {
        Some(b"0") => {}
        Some(other) => {
            let code: String = other.iter().take(4).map(|b| char::from(*b)).collect();
            return Err(invalid(&format!("gRPC status {}", code.escape_default())));
        }
        None => return Err(invalid("no gRPC status")),
    }
    let message = match bytes.split_first_chunk::<5>() {
        Some(([0, length @ ..], rest)) if usize::try_from(u32::from_be_bytes(*length)) == Ok(rest.len()) => {
            rest
        }
        _ => return Err(invalid("not one uncompressed message")),
    };
    CheckResponse::decode(message).map_err(|why| invalid(&why.to_string()))
}

/// What the service adds to a request that may pass.
fn allow(head: &mut RequestHead, ok: OkHttpResponse, effects: &mut Effects) {
    for name in ok.headers_to_remove.iter().filter(|name| is_free(name.as_bytes())) {
        head.headers.remove(name);
    }
    let additions = |options: Vec<HeaderValueOption>| options.into_iter().filter_map(addition);
    for addition in additions(ok.headers) {
        addition.apply(&mut head.headers);
    }
    effects.additions.extend(additions(ok.response_headers_to_add));
    if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
        let set = ok.query_parameters_to_set.iter().map(|set| (set.key.as_str(), set.value.as_str()));
        let set: Vec<_> = set.collect();
        let remove = ok.query_parameters_to_remove;
        let gone = |key: &[u8]| {
            set.iter().any(|(name, _)| name.as_bytes() == key) || remove.iter().any(|r| r.as_bytes() == key)
        };
        query(head, &set, gone);
    }
}

/// Sets and removes query parameters. Those that stay keep their spelling, and no spelling keeps one that goes.
fn query(head: &mut RequestHead, set: &[(&str, &str)], gone: impl Fn(&[u8]) -> bool) {
    let kept = head.target.query().unwrap_or_default().split('&').filter(|pair| {
        let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
        !pair.is_empty() && !gone(&form_decoded(key))
    });
    let set = set.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value)));
    let pairs: Vec<String> = kept.map(str::to_owned).chain(set).collect();
    let mut text = head.target.path().to_owned();
    if !pairs.is_empty() {
        text.push('?');
        text.push_str(&pairs.join("&"));
    }
    if let Ok(target) = path::normalise(&text.into()) {
        head.target = target;
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// A header of an answer; `None` for one that may not be changed or cannot stand in a message.
fn addition(option: HeaderValueOption) -> Option<Addition> {
    let header = option.header?;
    let value = if header.raw_value.is_empty() { header.value.into() } else { header.raw_value };
    if !is_free(header.key.as_bytes())
        || http::HeaderName::from_bytes(header.key.as_bytes()).is_err()
        || http::HeaderValue::from_maybe_shared(value.clone()).is_err()
    {
        return None;
    }
    let name = Bytes::from(header.key);
    Some(match (option.append, option.append_action) {
        (Some(append), _) if append.value => Addition::Append(name, value),
        (None, ADD_IF_ABSENT) => Addition::IfAbsent(name, value),
        (None, OVERWRITE_IF_EXISTS) => Addition::IfPresent(name, value),
        // CheckResponse: in `ext_authz`, nothing said means to overwrite.
        _ => Addition::Set(name, value),
    })
}

/// The answer for who is refused: 403 unless the service says otherwise.
fn deny(denied: Option<DeniedHttpResponse>) -> Refusal {
    let Some(denied) = denied else { return FaultKind::AuthDenied.into() };
    let code = denied.status.and_then(|status| u16::try_from(status.code).ok());
    // One that is no refusal would tell the client that all is well though nothing was done.
    let status = code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| !status.is_informational() && !status.is_success())
        .unwrap_or(StatusCode::FORBIDDEN);
    let body = if denied.body.is_empty() { Body::Empty } else { Body::Full(denied.body.into()) };
    let mut response = Response::new(status, body);
    for addition in denied.headers.into_iter().filter_map(addition) {
        addition.apply(&mut response.head.headers);
    }
    if !response.body.is_empty() && !response.head.headers.contains("content-type") {
        response.head.headers.append("content-type", "text/plain; charset=utf-8");
    }
    Refusal::Denied(response)
}

#[cfg(test)]
mod tests {
    use super::super::messages::{BoolValue, HeaderValue};
    use super::*;
    use crate::http::filters::tests::request;

    fn option(key: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(HeaderValue { key: key.into(), value: value.into(), raw_value: Bytes::new() }),
            append: append.map(|value| BoolValue { value }),
            append_action,
        }
    }

    #[test]
    fn headers_are_overwritten_unless_the_service_says_otherwise() {
        let mut head = request("GET", "http://h/");
        head.headers = Headers::from([("x-user", "root"), ("x-list", "1"), ("x-old", "o"), ("secret", "s")]);
        let ok = OkHttpResponse {
            headers: vec![
                option("x-user", "ann", None, 0),
                option("x-list", "2", Some(true), 0),
                option("x-old", "kept", None, ADD_IF_ABSENT),
                option("x-none", "not", None, OVERWRITE_IF_EXISTS),
                option("Host", "evil", None, 0),
                option(":path", "/evil", None, 0),
                option("x-bad", "a\r\nb: c", None, 0),
                option("transfer-encoding", "chunked", None, 0),
            ],
            headers_to_remove: vec!["Secret".into(), "Host".into()],
            ..OkHttpResponse::default()
        };
        allow(&mut head, ok, &mut Effects::default());
        let wanted = Headers::from([("x-user", "ann"), ("x-list", "1"), ("x-old", "o"), ("x-list", "2")]);
        assert_eq!(head.headers, wanted);
        assert_eq!((head.authority.as_str(), head.target.as_str()), ("h", "/"));
    }

    #[test]
    fn query_parameters_are_set_and_removed() {
        let mut head = request("GET", "http://h/p?a=1&b=%2F&c&%61=2");
        query(&mut head, &[("a", "x y&")], |key| key == b"a" || key == b"c");
        assert_eq!(head.target.as_str(), "/p?b=%2F&a=x%20y%26");
        query(&mut head, &[], |_| true);
        assert_eq!(head.target.as_str(), "/p");
    }

    #[test]
    fn a_refusal_is_never_a_success() {
        for (code, status) in [(401, 401), (302, 302), (200, 403), (0, 403), (99, 403), (-1, 403)] {
            let denied = DeniedHttpResponse {
                status: Some(super::super::messages::HttpStatus { code }),
                ..DeniedHttpResponse::default()
            };
            let Refusal::Denied(response) = deny(Some(denied)) else { panic!("an answer") };
            assert_eq!(response.head.status.as_u16(), status, "{code}");
        }
    }
}
