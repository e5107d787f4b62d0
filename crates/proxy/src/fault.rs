//! What goes wrong with a request, and whose fault it is: a closed set, from which the answer's status, the
//! log's reason and the metrics' label follow.

use std::fmt;

use http::StatusCode;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client's.
    Client,
    /// The gateway's, or its configuration's.
    Gateway,
    /// The backend's.
    Upstream,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The client's message breaks the protocol: 400.
    BadRequest,
    /// The request's target is longer than allowed: 414.
    TargetTooLong,
    /// The request's header section is larger than allowed: 431.
    HeadersTooLarge,
    /// The client did not send in time: 408.
    RequestTimeout,
    /// The client expects what no HTTP server knows but `100-continue`: 417.
    ExpectationFailed,
    /// The client speaks a version of HTTP that this port does not: 505.
    VersionNotSupported,
    /// The client has gone away; no answer.
    ClientGone,
    /// The method or feature is not implemented: 501.
    NotImplemented,
    /// No listener of this connection is for that host: 421.
    Misdirected,
    /// The request's body is longer than a filter takes: 413.
    BodyTooLarge,
    /// An authorization service has refused the request: its own answer, or 403 where it gave none.
    AuthDenied,
    /// No listener or no rule matches: 404.
    NoRoute,
    /// The rule's backend reference is not valid, or a filter cannot be honoured: 500.
    InvalidRoute,
    /// A panic while this request was served: 500.
    Internal,
    /// A limit of the gateway is reached: 503.
    Overloaded,
    /// The backend has no endpoints: 503.
    NoEndpoints,
    /// No connection to the backend: 503.
    Connect,
    /// TLS to the backend failed: one side does not trust the other, or nothing says whom to trust: 502.
    UpstreamTls,
    /// The backend closed or reset the connection before its response's head: 502.
    UpstreamClosed,
    /// The backend's message breaks the protocol: 502.
    UpstreamProtocol,
    /// The rule's timeout passed: 504.
    UpstreamTimeout,
    /// The authorization service could not be asked, or gave no answer: 503.
    AuthUnavailable,
}

/// A fault of one request.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// More for the log; never sent to the client.
    pub detail: Option<Box<str>>,
}

impl FaultKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 22] = [
        Self::BadRequest,
        Self::TargetTooLong,
        Self::HeadersTooLarge,
        Self::RequestTimeout,
        Self::ExpectationFailed,
        Self::VersionNotSupported,
        Self::ClientGone,
        Self::NotImplemented,
        Self::Misdirected,
        Self::BodyTooLarge,
        Self::AuthDenied,
        Self::NoRoute,
        Self::InvalidRoute,
        Self::Internal,
        Self::Overloaded,
        Self::NoEndpoints,
        Self::Connect,
        Self::UpstreamTls,
        Self::UpstreamClosed,
        Self::UpstreamProtocol,
        Self::UpstreamTimeout,
        Self::AuthUnavailable,
    ];

    /// Whose fault it is, the status to answer with, and the word for logs and metrics.
    pub fn entry(self) -> (Side, StatusCode, &'static str) {
        use FaultKind as K;
        use StatusCode as S;
        match self {
            K::BadRequest => (Side::Client, S::BAD_REQUEST, "bad_request"),
            K::TargetTooLong => (Side::Client, S::URI_TOO_LONG, "target_too_long"),
            K::HeadersTooLarge => (Side::Client, S::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large"),
            K::RequestTimeout => (Side::Client, S::REQUEST_TIMEOUT, "request_timeout"),
            K::ExpectationFailed => (Side::Client, S::EXPECTATION_FAILED, "expectation_failed"),
            K::VersionNotSupported => (Side::Client, S::HTTP_VERSION_NOT_SUPPORTED, "version_not_supported"),
            // Never on the wire; 499 in logs, as nginx has it.
            K::ClientGone => (Side::Client, S::from_u16(499).unwrap_or(S::BAD_REQUEST), "client_gone"),
            K::NotImplemented => (Side::Client, S::NOT_IMPLEMENTED, "not_implemented"),
            K::Misdirected => (Side::Client, S::MISDIRECTED_REQUEST, "misdirected"),
            K::BodyTooLarge => (Side::Client, S::PAYLOAD_TOO_LARGE, "body_too_large"),
            K::AuthDenied => (Side::Client, S::FORBIDDEN, "auth_denied"),
            K::NoRoute => (Side::Client, S::NOT_FOUND, "no_route"),
            K::InvalidRoute => (Side::Gateway, S::INTERNAL_SERVER_ERROR, "invalid_route"),
            K::Internal => (Side::Gateway, S::INTERNAL_SERVER_ERROR, "internal"),
            K::Overloaded => (Side::Gateway, S::SERVICE_UNAVAILABLE, "overloaded"),
            K::NoEndpoints => (Side::Upstream, S::SERVICE_UNAVAILABLE, "no_endpoints"),
            K::Connect => (Side::Upstream, S::SERVICE_UNAVAILABLE, "connect"),
            K::UpstreamTls => (Side::Upstream, S::BAD_GATEWAY, "upstream_tls"),
            K::UpstreamClosed => (Side::Upstream, S::BAD_GATEWAY, "upstream_closed"),
            K::UpstreamProtocol => (Side::Upstream, S::BAD_GATEWAY, "upstream_protocol"),
            K::UpstreamTimeout => (Side::Upstream, S::GATEWAY_TIMEOUT, "upstream_timeout"),
            K::AuthUnavailable => (Side::Upstream, S::SERVICE_UNAVAILABLE, "auth_unavailable"),
        }
    }

    /// Whose fault it is.
    pub fn side(self) -> Side {
        self.entry().0
    }

    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        self.entry().1
    }

    /// The word for logs and metrics.
    pub fn reason(self) -> &'static str {
        self.entry().2
    }
}

impl Fault {
    /// A fault with more for the log.
    pub fn new(kind: FaultKind, detail: impl fmt::Display) -> Self {
        Self { kind, detail: Some(detail.to_string().into()) }
    }
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self { kind, detail: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => write!(f, "{}: {detail}", self.kind.reason()),
            None => f.write_str(self.kind.reason()),
        }
    }
}

impl std::error::Error for Fault {}
