use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{CertificateKey, Entry, HostPattern, Source};

/// The transport protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// Stream sockets.
    Tcp,
    /// Datagram sockets.
    Udp,
}

/// One address and port to bind, and the listeners that share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The address to bind; `None` for all addresses, IPv4 and IPv6.
    pub address: Option<IpAddr>,
    /// The port number as the listeners name it.
    pub port: u16,
    /// TCP or UDP.
    pub transport: Transport,
    /// The listeners, which all speak protocols that can share a socket. Ordered by hostname, the most
    /// specific first: the first whose hostname matches the TLS server name or the request's host gets it,
    /// and no other listener's routes are tried (listener isolation).
    pub listeners: Vec<Arc<Listener>>,
}

/// What is spoken on a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerProtocol {
    /// Plain-text HTTP/1.1, and HTTP/2 with prior knowledge.
    Http,
    /// HTTP/1.1 and HTTP/2 over TLS that ends here.
    Https(TlsTermination),
}

/// How TLS ends at a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsTermination {
    /// In the listener's order. The first that fits the client (server name, signature algorithm) is used.
    /// Never empty.
    pub certificates: Vec<CertificateKey>,
}

/// A listener of a Gateway or ListenerSet that is accepted and programmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// `Gateway ns/name spec.listeners[i] (listener name)`.
    pub source: Source,
    /// Which server names and hosts are this listener's.
    pub hostname: HostPattern,
    /// What is spoken.
    pub protocol: ListenerProtocol,
    /// The virtual hosts: the intersections of the listener's hostname with those of its routes, each once,
    /// ordered from the most specific to the least.
    ///
    /// A request is tried on every host whose pattern matches, in this order, until an entry matches
    /// (HTTPRoute `hostnames`: precedence goes to the more specific hostname; it does not hide the others).
    pub hosts: Vec<Arc<Host>>,
}

/// The rules for one hostname pattern on one listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// The pattern.
    pub hostname: HostPattern,
    /// In order of precedence: the first entry that matches wins. The proxy may look entries up in any way
    /// that finds the same one.
    pub entries: Vec<Entry>,
}
