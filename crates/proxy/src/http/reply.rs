//! The answers of the gateway's own: the one place where a fault becomes a response.

use bytes::Bytes;
use http::StatusCode;

use super::{Body, Response};
use crate::fault::FaultKind;

/// The answer to a request that met a fault: the fault's status, with its reason phrase as text and
/// nothing of what went wrong inside.
pub fn fault(kind: FaultKind) -> Response {
    let status = kind.status();
    let mut response = Response::new(status, Body::Empty);
    if let Some(phrase) = status.canonical_reason() {
        response.head.headers.append("content-type", "text/plain; charset=utf-8");
        response.body = Body::Full(Bytes::from_static(phrase.as_bytes()));
    }
    if kind == FaultKind::Overloaded {
        response.head.headers.append("retry-after", "1");
    }
    response
}

/// The answer to a gRPC request that met a fault: a response of trailers only, which is status 200 and the
/// gRPC status in the headers (gRPC over HTTP/2, "Responses"; the statuses as in "HTTP to gRPC Status Code
/// Mapping", save for what gRPC can say better).
pub fn grpc_fault(kind: FaultKind) -> Response {
    let mut response = Response::new(StatusCode::OK, Body::Empty);
    let headers = &mut response.head.headers;
    headers.append("content-type", "application/grpc");
    headers.append("grpc-status", grpc_status(kind));
    // Reason phrases need no percent-encoding: they hold letters and spaces.
    if let Some(phrase) = kind.status().canonical_reason() {
        headers.append("grpc-message", phrase);
    }
    response
}

/// The answer to a gRPC request for which somebody else has answered with a plain HTTP response: trailers
/// only, with the gRPC status that clients would make of the HTTP one, and the response's own headers.
pub fn grpc_refusal(refusal: Response) -> Response {
    let status = match refusal.head.status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    };
    let mut response = Response::new(StatusCode::OK, Body::Empty);
    response.head.headers = refusal.head.headers;
    let headers = &mut response.head.headers;
    for name in ["content-length", "content-encoding", "grpc-message"] {
        headers.remove(name);
    }
    headers.set("content-type", "application/grpc");
    headers.set("grpc-status", status);
    response
}

fn grpc_status(kind: FaultKind) -> &'static str {
    const DEADLINE_EXCEEDED: &str = "4";
    const PERMISSION_DENIED: &str = "7";
    const RESOURCE_EXHAUSTED: &str = "8";
    const UNIMPLEMENTED: &str = "12";
    const INTERNAL: &str = "13";
    const UNAVAILABLE: &str = "14";
    match kind {
        FaultKind::NoRoute | FaultKind::NotImplemented | FaultKind::Misdirected => UNIMPLEMENTED,
        FaultKind::RequestTimeout | FaultKind::UpstreamTimeout => DEADLINE_EXCEEDED,
        FaultKind::HeadersTooLarge | FaultKind::BodyTooLarge => RESOURCE_EXHAUSTED,
        FaultKind::AuthDenied => PERMISSION_DENIED,
        FaultKind::BadRequest
        | FaultKind::TargetTooLong
        | FaultKind::ExpectationFailed
        | FaultKind::VersionNotSupported
        | FaultKind::ClientGone
        | FaultKind::Internal => INTERNAL,
        // GRPCRouteRule backendRefs: what would be 500 for HTTP is UNAVAILABLE.
        FaultKind::InvalidRoute
        | FaultKind::Overloaded
        | FaultKind::NoEndpoints
        | FaultKind::Connect
        | FaultKind::UpstreamTls
        | FaultKind::UpstreamClosed
        | FaultKind::UpstreamProtocol
        | FaultKind::AuthUnavailable => UNAVAILABLE,
    }
}

/// Whether a request's or response's content type is gRPC's (`application/grpc`, `application/grpc+proto`).
pub fn is_grpc(content_type: Option<&[u8]>) -> bool {
    let Some((start, rest)) = content_type.and_then(|value| value.split_at_checked(16)) else { return false };
    start.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_content_types() {
        for yes in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=y"] {
            assert!(is_grpc(Some(yes.as_bytes())), "{yes}");
        }
        for no in ["application/grpc-web", "application/grp", "text/plain"] {
            assert!(!is_grpc(Some(no.as_bytes())), "{no}");
        }
        assert!(!is_grpc(None));
    }

    #[test]
    fn grpc_faults_are_trailers_only() {
        for (kind, status) in [
            (FaultKind::NoRoute, "12"),
            (FaultKind::NoEndpoints, "14"),
            (FaultKind::UpstreamTimeout, "4"),
            (FaultKind::InvalidRoute, "14"),
            (FaultKind::Internal, "13"),
        ] {
            let response = grpc_fault(kind);
            assert_eq!(response.head.status, StatusCode::OK);
            assert!(response.body.is_empty());
            assert_eq!(response.head.headers.get("grpc-status"), Some(status.as_bytes()));
        }
    }

    #[test]
    fn faults_say_no_more_than_their_status() {
        let response = fault(FaultKind::Overloaded);
        assert_eq!(response.head.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.head.headers.get("retry-after"), Some(&b"1"[..]));
        let Body::Full(text) = response.body else { panic!("a text") };
        assert_eq!(text, "Service Unavailable");
        assert!(fault(FaultKind::NoRoute).head.headers.get("retry-after").is_none());
    }
}
