use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{CertificateKey, Entry, Filter, Forward, HostPattern, Source, TrustKey};

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
    /// Bytes over TLS that ends here.
    Tls(TlsTermination),
    /// TLS that goes through: the server name in the ClientHello chooses the backend.
    TlsPassthrough,
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp,
}

/// How TLS ends at a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsTermination {
    /// In the listener's order. The first that fits the client (server name, signature algorithm) is used.
    /// Never empty.
    pub certificates: Vec<CertificateKey>,
    /// How certificates of clients are checked (GEP-91); `None`: none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientValidation>,
}

impl TlsTermination {
    /// With these certificates, and without asking clients for theirs.
    #[must_use]
    pub fn new(certificates: Vec<CertificateKey>) -> Self {
        Self { certificates, client: None }
    }
}

/// How certificates of clients are checked (Gateway `tls.frontend`, GEP-91).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientValidation {
    /// Who may have signed them. Empty if none of the references can be followed: then no certificate is
    /// valid.
    pub trust: Vec<TrustKey>,
    /// A client without a certificate, or with one that is not valid, is served all the same
    /// (`AllowInsecureFallback`).
    pub optional: bool,
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
    /// For TLS, TCP and UDP: where connections go, ordered like `hosts`; the first that matches the server
    /// name. Empty for HTTP and HTTPS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// Applied to every request before it is matched (GEP-1494, Gateway `listeners[].filters`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// The certificate that is shown to backends with TLS (Gateway `tls.backend.clientCertificateRef`,
    /// GEP-3155).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<CertificateKey>,
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
