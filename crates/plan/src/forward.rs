use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{HostPattern, Share, Source};

/// What a listener for TLS, TCP or UDP does with the connections (or datagrams) of a server name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forward {
    /// Which TLS server names; any for TCP and UDP.
    pub hostname: HostPattern,
    /// What happens to them.
    pub rule: Arc<ForwardRule>,
}

/// Which kind of route a [`ForwardRule`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ForwardKind {
    /// A TLSRoute.
    #[serde(rename = "TLSRoute")]
    Tls,
    /// A TCPRoute.
    #[serde(rename = "TCPRoute")]
    Tcp,
    /// A UDPRoute.
    #[serde(rename = "UDPRoute")]
    Udp,
}

/// What the rule of a TLSRoute, TCPRoute or UDPRoute does: bytes go to a backend, by weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardRule {
    /// `TCPRoute ns/name spec.rules[i] (rule name)`.
    pub source: Source,
    /// Which kind of route.
    pub kind: ForwardKind,
    /// Where the bytes go; chosen once for each connection or UDP session. Their `filters` are empty. A
    /// connection that falls to an invalid share, or to one without endpoints, is closed (reset).
    pub backends: Vec<Share>,
}
