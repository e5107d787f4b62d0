//! Plans made by hand.

use std::net::SocketAddr;
use std::sync::Arc;

use portway_plan::{
    Backend, BackendKey, BackendProtocol, Certificate, CertificateKey, Endpoint, EndpointAddress,
    EndpointState, Endpoints, Entry, Host, HostPattern, Listener, ListenerProtocol, ObjectRef, PathMatch,
    Plan, Port, PrivateKey, Rule, RuleKind, Share, Source, Target, TlsTermination, Transport,
};
use portway_proxy::snapshot::PortKey;

pub(crate) fn object(kind: &str, name: &str) -> ObjectRef {
    ObjectRef { kind: kind.into(), namespace: "test".into(), name: name.into() }
}

pub(crate) fn backend_key(name: &str) -> BackendKey {
    BackendKey::tcp(object("Service", name), 80)
}

pub(crate) fn listener_source(name: &str) -> Source {
    Source {
        object: Arc::new(object("Gateway", "shared")),
        path: "spec.listeners[0]".into(),
        section: Some(name.into()),
    }
}

/// A listener for `hostname` (empty for all) that sends everything to the backend `to`; over TLS when it has
/// certificates.
pub(crate) fn listener(name: &str, hostname: &str, to: &str, certificates: &[&str]) -> Arc<Listener> {
    let hostname = HostPattern::parse(hostname).unwrap();
    let rule = Arc::new(Rule {
        source: Source {
            object: Arc::new(object("HTTPRoute", to)),
            path: "spec.rules[0]".into(),
            section: None,
        },
        kind: RuleKind::Http,
        filters: Box::default(),
        backends: [Share {
            path: "spec.rules[0].backendRefs[0]".into(),
            weight: 1,
            target: Target::Backend(backend_key(to)),
            filters: Box::default(),
        }]
        .into(),
        timeouts: None,
        retry: None,
        session: None,
    });
    let entry = Entry {
        path: PathMatch::Prefix("".into()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        match_index: 0,
        route_hostname: HostPattern::Any,
        rule,
    };
    let certificates: Vec<_> = certificates.iter().map(|c| CertificateKey((*c).into())).collect();
    Arc::new(Listener {
        source: listener_source(name),
        hosts: vec![Arc::new(Host { hostname: hostname.clone(), entries: vec![entry] })],
        hostname,
        protocol: match certificates.is_empty() {
            true => ListenerProtocol::Http,
            false => ListenerProtocol::Https(TlsTermination::new(certificates)),
        },
        forwards: Vec::new(),
        filters: Vec::new(),
        client_certificate: None,
    })
}

/// A port of all addresses with these listeners.
pub(crate) fn port(number: u16, listeners: &[Arc<Listener>]) -> Arc<Port> {
    let listeners = listeners.to_vec();
    Arc::new(Port { address: None, port: number, transport: Transport::Tcp, listeners })
}

pub(crate) fn key(number: u16) -> PortKey {
    PortKey { address: None, port: number, transport: Transport::Tcp }
}

/// A plan with these ports and backends.
pub(crate) fn plan(ports: &[Arc<Port>], backends: &[(&str, SocketAddr)]) -> Plan {
    let mut plan = Plan { ports: ports.to_vec(), ..Plan::default() };
    for (name, address) in backends {
        let key = backend_key(name);
        let backend = Backend::new(key.clone(), BackendProtocol::Unspecified);
        let endpoint = Endpoint {
            address: EndpointAddress::Ip(address.ip()),
            port: address.port(),
            state: EndpointState::Active,
            zone: None,
        };
        plan.backends.insert(key.clone(), Arc::new(backend));
        plan.endpoints.insert(key, Arc::new(Endpoints { list: vec![endpoint] }));
    }
    plan
}

/// A certificate for the plan, and what a client needs to trust it.
pub(crate) struct Issued {
    pub(crate) name: &'static str,
    pub(crate) certificate: Certificate,
    pub(crate) root: rustls::pki_types::CertificateDer<'static>,
}

/// A self-signed certificate for these names.
pub(crate) fn issue(name: &'static str, names: &[&str], rsa: bool) -> Issued {
    let algorithm = if rsa { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
    let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let names_owned: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let issued = rcgen::CertificateParams::new(names_owned).unwrap().self_signed(&pair).unwrap();
    let certificate = Certificate {
        chain: vec![issued.der().to_vec()],
        key: PrivateKey(pair.serialize_der()),
        names: names.iter().map(|n| HostPattern::parse(n).unwrap()).collect(),
        not_after: i64::MAX,
    };
    Issued { name, certificate, root: issued.der().clone() }
}

/// The plan with these certificates.
pub(crate) fn with_certificates(mut plan: Plan, issued: &[&Issued]) -> Plan {
    for one in issued {
        plan.certificates.insert(CertificateKey(one.name.into()), Arc::new(one.certificate.clone()));
    }
    plan
}

/// Trust in these certificates and no others.
pub(crate) fn trust(issued: &[&Issued]) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for one in issued {
        roots.add(one.root.clone()).unwrap();
    }
    Arc::new(roots)
}
