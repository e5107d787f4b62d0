use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{CertificateKey, ObjectRef, Session, SubjectName, Transport, TrustKey};

/// Names a backend: an object and, for Services, one of its ports. As text: `Service store/cart:8080`, and
/// `Service store/names:53/UDP` for a UDP port, which a Service may have beside the TCP port of that number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The object, such as `Service store/cart`. Very many rules can name one.
    pub object: Arc<ObjectRef>,
    /// The Service's port; 0 for kinds without ports.
    pub port: u16,
    /// Which of the two ports of that number.
    pub transport: Transport,
}

impl BackendKey {
    /// A TCP port of an object.
    #[must_use]
    pub fn tcp(object: impl Into<Arc<ObjectRef>>, port: u16) -> Self {
        Self { object: object.into(), port, transport: Transport::Tcp }
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.object, self.port)?;
        match self.transport {
            Transport::Tcp => Ok(()),
            Transport::Udp => f.write_str("/UDP"),
        }
    }
}

impl Serialize for BackendKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BackendKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parse = || {
            let (object, port) = text.rsplit_once(':')?;
            let (port, transport) = match port.strip_suffix("/UDP") {
                Some(port) => (port, Transport::Udp),
                None => (port, Transport::Tcp),
            };
            let (kind, key) = object.split_once(' ')?;
            let (namespace, name) = key.split_once('/').unwrap_or(("", key));
            let object = ObjectRef { kind: kind.into(), namespace: namespace.into(), name: name.into() };
            Some(Self { object: object.into(), port: port.parse().ok()?, transport })
        };
        parse().ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no backend key")))
    }
}

/// How to speak to a backend. Its endpoints are apart, in [`crate::Plan::endpoints`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Its name.
    pub key: BackendKey,
    /// What it speaks.
    pub protocol: BackendProtocol,
    /// TLS towards it (BackendTLSPolicy, XBackend `tls`); `None` for plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<BackendTls>>,
    /// Session persistence for all that is sent to it (XBackend); that of a rule comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Arc<Session>>,
}

impl Backend {
    /// A backend in plain text, without sessions.
    #[must_use]
    pub fn new(key: BackendKey, protocol: BackendProtocol) -> Self {
        Self { key, protocol, tls: None, session: None }
    }
}

/// How TLS is spoken to a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    /// The server name that is asked for, and that the certificate must have unless `names` says otherwise.
    pub server_name: Arc<str>,
    /// If not empty, the certificate must have one of these, and `server_name` is for SNI only.
    pub names: Vec<SubjectName>,
    /// Who may have signed the certificate.
    pub trust: TrustAnchors,
    /// The certificate that is shown to the backend; before that of the listener
    /// ([`crate::Listener::client_certificate`]).
    pub client_certificate: Option<CertificateKey>,
}

/// Who may have signed a backend's certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrustAnchors {
    /// The system's certificate authorities (`wellKnownCACertificates: System`).
    System,
    /// These, all together.
    Of(Vec<TrustKey>),
}

/// What a backend speaks: a Service port's `appProtocol` (GEP-1911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BackendProtocol {
    /// Nothing was said: HTTP/1.1, and HTTP/2 with prior knowledge for rules of GRPCRoutes.
    #[default]
    Unspecified,
    /// HTTP/1.1 (`http`, `kubernetes.io/ws`).
    Http1,
    /// HTTP/2 with prior knowledge (`kubernetes.io/h2c`, `grpc`).
    H2c,
}

/// Where a backend is, ordered by address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// All that are known, those that terminate too.
    pub list: Vec<Endpoint>,
}

/// One place where a backend answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its address.
    pub address: EndpointAddress,
    /// Its port.
    pub port: u16,
    /// Whether it takes requests.
    pub state: EndpointState,
    /// `topology.kubernetes.io/zone`, if known.
    pub zone: Option<Arc<str>>,
}

/// An endpoint's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndpointAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A name that the proxy resolves (ExternalName Services, FQDN EndpointSlices).
    Name(Arc<str>),
}

/// Whether an endpoint takes requests (EndpointSlice conditions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndpointState {
    /// Serving and not terminating: takes requests.
    Active,
    /// Serving and terminating: takes requests only when none is active.
    Terminating,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_reads_back_what_it_says() {
        let object = ObjectRef { kind: "Service".into(), namespace: "a".into(), name: "b".into() };
        let tcp = BackendKey::tcp(object, 53);
        let udp = BackendKey { transport: Transport::Udp, ..tcp.clone() };
        for (key, text) in [(tcp, r#""Service a/b:53""#), (udp, r#""Service a/b:53/UDP""#)] {
            assert_eq!(serde_json::to_string(&key).unwrap(), text);
            assert_eq!(serde_json::from_str::<BackendKey>(text).unwrap(), key);
        }
    }
}
