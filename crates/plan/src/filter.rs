use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{HostPattern, Target};

/// A filter of a rule or of one of its shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Filter {
    /// RequestHeaderModifier.
    RequestHeaders(HeaderEdit),
    /// ResponseHeaderModifier.
    ResponseHeaders(HeaderEdit),
    /// RequestRedirect: answers by itself.
    Redirect(Redirect),
    /// URLRewrite.
    Rewrite(Rewrite),
    /// RequestMirror.
    Mirror(Mirror),
    /// CORS (GEP-1767).
    Cors(Cors),
    /// ExternalAuth (GEP-1494): another service decides whether the request may pass.
    ExternalAuth(ExternalAuth),
    /// A filter that could not be translated; every request that meets it is answered with 500, as the spec
    /// demands of filters that cannot be honoured.
    Broken {
        /// Why, for people.
        message: Arc<str>,
    },
}

/// Changes to headers (HTTPHeaderFilter): first `set`, then `add`, then `remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderEdit {
    /// Replaces all values of the name.
    pub set: Vec<HeaderPair>,
    /// Appends a value to those of the name.
    pub add: Vec<HeaderPair>,
    /// Drops the header. In the spelling of the route; compared without case.
    pub remove: Vec<Arc<str>>,
}

/// A header's name and value, both valid on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderPair {
    /// In the spelling of the route; compared without case.
    pub name: Arc<str>,
    /// The value.
    pub value: Arc<str>,
}

/// A redirect (HTTPRequestRedirectFilter). What is `None` stays as it is in the request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// The host.
    pub hostname: Option<Arc<str>>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// The port.
    pub port: RedirectPort,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// The port of a redirect's Location.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RedirectPort {
    /// This one; left out of the Location where it is the scheme's own (80 or 443).
    Number(u16),
    /// The scheme was given and the port was not: the scheme's own port, left out.
    OfScheme,
    /// Neither was given: the listener's port, left out where it is the request scheme's own.
    OfListener,
}

/// How a path changes (HTTPPathModifier).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    /// The whole path. The query stays.
    Full(Arc<str>),
    /// The matched prefix; only with [`crate::PathMatch::Prefix`].
    Prefix(Arc<str>),
}

/// A rewrite (HTTPURLRewriteFilter).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewrite {
    /// The new Host.
    pub hostname: Option<Arc<str>>,
    /// The new path.
    pub path: Option<PathRewrite>,
}

/// Sends a copy of the request elsewhere and ignores the answer (HTTPRequestMirrorFilter, GEP-3171).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Where to. An invalid target mirrors nothing.
    pub target: Target,
    /// Of `denominator` requests, this many are mirrored.
    pub numerator: u32,
    /// Never 0.
    pub denominator: u32,
}

/// Cross-origin resource sharing (HTTPCORSFilter, GEP-1767).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// Who may ask.
    pub allow_origins: Vec<CorsOrigin>,
    /// Whether credentials may be sent.
    pub allow_credentials: bool,
    /// Which methods; `*` for all.
    pub allow_methods: Vec<Arc<str>>,
    /// Which request headers; `*` for all.
    pub allow_headers: Vec<Arc<str>>,
    /// Which response headers a script may read; `*` for all.
    pub expose_headers: Vec<Arc<str>>,
    /// How long a preflight's answer holds.
    pub max_age: Option<Duration>,
}

/// An origin of [`Cors::allow_origins`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CorsOrigin {
    /// `*`.
    Any,
    /// `scheme://host[:port]`.
    Of {
        /// Lower case.
        scheme: Arc<str>,
        /// A host or a wildcard.
        host: HostPattern,
        /// `None` where the scheme's own port is meant.
        port: Option<u16>,
    },
}

/// Asks another service whether a request may pass (HTTPExternalAuthFilter, GEP-1494).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAuth {
    /// Whom to ask. An invalid target refuses every request (500).
    pub target: Target,
    /// How to ask.
    pub protocol: AuthProtocol,
    /// The headers of the request that are told, lower case; `None`: those of the protocol's default (gRPC:
    /// all; HTTP: the few that it always tells).
    pub request_headers: Option<Vec<Arc<str>>>,
    /// How many bytes of the body are sent along; 0 for none. A longer body is refused with 413.
    pub body_limit: u32,
}

/// How an authorization service is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AuthProtocol {
    /// Envoy's `ext_authz` over gRPC (`envoy.service.auth.v3.Authorization/Check`).
    Grpc,
    /// A plain HTTP request; 200 lets pass, any other answer goes to the client.
    Http {
        /// Prefixed to the path of the request.
        path: Arc<str>,
        /// The headers of a 200 that are added to the request, lower case.
        response_headers: Vec<Arc<str>>,
    },
}
