use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BackendKey, Filter, HostPattern, Regex, Session, Source, StringMatch};

/// One match of one rule. A rule with several matches has several entries, which share the rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The path.
    pub path: PathMatch,
    /// The method; `None` for all. Case-sensitive (RFC 9110 section 9.1).
    pub method: Option<Arc<str>>,
    /// All must match. Names are lower case and each occurs once.
    pub headers: Vec<HeaderMatch>,
    /// All must match. Each name occurs once.
    pub query: Vec<QueryMatch>,
    /// The index of the match in its rule; 0 for the match that an empty `matches` stands for.
    pub match_index: u16,
    /// The hostname of the route that this entry serves, before it was intersected with the listener's.
    pub route_hostname: HostPattern,
    /// What happens to the request.
    pub rule: Arc<Rule>,
}

/// How the path of a request is matched: on its normalised form, without the query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// Byte for byte.
    Exact(Arc<str>),
    /// Element by element, held without its trailing slashes: `/foo` matches `/foo`, `/foo/` and `/foo/bar`
    /// but not `/foobar`; the empty prefix matches every path.
    Prefix(Arc<str>),
    /// The whole path matches.
    Regex(Regex),
}

/// A header that must be there. Several lines of one name are compared joined by `,` (RFC 9110 section 5.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Lower case.
    pub name: Arc<str>,
    /// Its value.
    pub value: StringMatch,
}

/// A query parameter that must be there; of several with one name, the first counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryMatch {
    /// Case-sensitive, compared after percent-decoding.
    pub name: Arc<str>,
    /// Its value, compared after percent-decoding.
    pub value: StringMatch,
}

/// Which kind of route a rule is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RuleKind {
    /// An HTTPRoute.
    #[serde(rename = "HTTPRoute")]
    Http,
    /// A GRPCRoute: HTTP/2 to the backends, and faults are answered as gRPC statuses.
    #[serde(rename = "GRPCRoute")]
    Grpc,
}

/// What a rule of an HTTPRoute or GRPCRoute does with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// `HTTPRoute ns/name spec.rules[i] (rule name)`.
    pub source: Source,
    /// HTTPRoute or GRPCRoute.
    pub kind: RuleKind,
    /// In the route's order; applied before those of the chosen share.
    pub filters: Box<[Filter]>,
    /// Where requests go, by weight. Empty when a filter answers (a redirect) or when the rule has no
    /// backends, which is a 500.
    pub backends: Box<[Share]>,
    /// Limits in time, where there are any ([`Rule::timeouts`]).
    #[serde(with = "limits")]
    pub timeouts: Option<Box<Timeouts>>,
    /// When to try again.
    pub retry: Option<Box<Retry>>,
    /// Session persistence among the endpoints of the share that was chosen; the choice of the share is not
    /// the session's (GEP-1619).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Arc<Session>>,
}

impl Rule {
    /// Limits in time.
    pub fn timeouts(&self) -> &Timeouts {
        self.timeouts.as_deref().unwrap_or(&Timeouts::NONE)
    }
}

/// Limits that are none are told all the same.
mod limits {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Timeouts;

    pub(super) fn serialize<S: Serializer>(
        timeouts: &Option<Box<Timeouts>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        timeouts.as_deref().unwrap_or(&Timeouts::NONE).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Box<Timeouts>>, D::Error> {
        Ok(Timeouts::deserialize(deserializer)?.boxed())
    }
}

/// A weighted part of a rule's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// The field path of the backendRef in the rule's object, such as `spec.rules[0].backendRefs[1]`.
    pub path: Arc<str>,
    /// Its part of the sum of all weights of the rule. 0 gets nothing.
    pub weight: u32,
    /// Where they go.
    pub target: Target,
    /// Applied after the rule's own.
    pub filters: Box<[Filter]>,
}

/// A backendRef, resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// Goes to a backend of [`crate::Plan::backends`].
    Backend(BackendKey),
    /// Is answered with 500: the reference is not valid.
    Invalid(Box<NoBackend>),
}

/// Why a backendRef leads nowhere, as the route's `ResolvedRefs` condition says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NoBackend {
    /// The condition's reason: `BackendNotFound`, `RefNotPermitted`, `InvalidKind`, ….
    pub reason: Arc<str>,
    /// The sentence for people.
    pub message: Arc<str>,
}

/// Limits in time of a rule (HTTPRoute `timeouts`). `None` is no limit of the rule's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For the whole exchange: from the request's head to the end of the response; retries count in.
    pub request: Option<Duration>,
    /// For one try: from its begin to the end of the response.
    pub backend_request: Option<Duration>,
}

impl Timeouts {
    /// No limit.
    pub const NONE: Self = Self { request: None, backend_request: None };

    /// For a rule, which has none where there is no limit.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::NONE).then(|| Box::new(self))
    }
}

/// When a request is tried again (HTTPRoute `retry`, GEP-1731). Connection errors always are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Statuses that are tried again.
    pub codes: Vec<u16>,
    /// How many tries may follow the first; 0 turns all retries off.
    pub attempts: u32,
    /// The least time between two tries.
    pub backoff: Option<Duration>,
}
