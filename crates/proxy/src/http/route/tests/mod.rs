//! Plans built by hand, and what the tables make of them.

mod incremental;
mod linear;
mod selection;
mod traces;

use std::sync::Arc;

use portway_plan::{
    BackendKey, CertificateKey, Entry, HeaderMatch, Host, HostPattern, Listener, ListenerProtocol, ObjectRef,
    PathMatch, Port, QueryMatch, Rule, RuleKind, Share, Source, StringMatch, Target, TlsTermination,
    Transport,
};

use super::*;
use crate::http::filters::tests::request;

fn source(kind: &str, name: &str, path: &str) -> Source {
    let object = ObjectRef { kind: kind.into(), namespace: "ns".into(), name: name.into() };
    Source { object: Arc::new(object), path: path.into(), section: None }
}

/// A rule of the route of that name, with shares of these weights of the Service `a/gone`.
fn rule(route: &str, weights: &[u32]) -> Arc<Rule> {
    let object = ObjectRef { kind: "Service".into(), namespace: "a".into(), name: "gone".into() };
    let target = Target::Backend(BackendKey::tcp(object, 80));
    let share = |weight: &u32| Share {
        path: "".into(),
        weight: *weight,
        target: target.clone(),
        filters: Box::default(),
    };
    Arc::new(Rule {
        source: source("HTTPRoute", route, "spec.rules[0]"),
        kind: RuleKind::Http,
        filters: Box::default(),
        backends: weights.iter().map(share).collect(),
        timeouts: None,
        retry: None,
        session: None,
    })
}

fn entry(path: PathMatch, rule: &Arc<Rule>) -> Entry {
    Entry {
        path,
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        match_index: 0,
        route_hostname: HostPattern::Any,
        rule: rule.clone(),
    }
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.into())
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn regex(text: &str) -> PathMatch {
    PathMatch::Regex(portway_plan::Regex(text.into()))
}

fn header(name: &str, value: &str) -> HeaderMatch {
    HeaderMatch { name: name.into(), value: StringMatch::Exact(value.into()) }
}

fn query(name: &str, value: &str) -> QueryMatch {
    QueryMatch { name: name.into(), value: StringMatch::Exact(value.into()) }
}

fn host(hostname: &str, entries: Vec<Entry>) -> Arc<Host> {
    Arc::new(Host { hostname: HostPattern::parse(hostname).expect("a pattern"), entries })
}

/// A host with one rule, of the route of that name, for all paths.
fn site(hostname: &str, route: &str) -> Arc<Host> {
    host(hostname, vec![entry(prefix(""), &rule(route, &[]))])
}

fn listener(hostname: &str, tls: bool, hosts: Vec<Arc<Host>>) -> Arc<Listener> {
    let certificates = vec![CertificateKey("ns/certificate".into())];
    Arc::new(Listener {
        source: source("Gateway", "gateway", hostname),
        hostname: HostPattern::parse(hostname).expect("a pattern"),
        protocol: if tls {
            ListenerProtocol::Https(TlsTermination::new(certificates))
        } else {
            ListenerProtocol::Http
        },
        hosts,
        forwards: Vec::new(),
        filters: Vec::new(),
        client_certificate: None,
    })
}

fn port(listeners: Vec<Arc<Listener>>) -> Arc<Port> {
    Arc::new(Port { address: None, port: 8080, transport: Transport::Tcp, listeners })
}

fn compile(port: &Arc<Port>, previous: Option<&PortTable>) -> PortTable {
    PortTable::compile(port, previous, &BackendMap::default(), &Metrics::new(1))
}

/// The name of the route that gets a request, or the fault.
fn route_of(table: &PortTable, head: &RequestHead, sni: Option<Option<&str>>) -> Result<String, FaultKind> {
    let tls = sni.map(|name| TlsInfo { server_name: name.map(Into::into) });
    table.route(head, tls.as_ref()).map(|matched| matched.rule.plan().source.object.name.to_string())
}

fn get(table: &PortTable, url: &str) -> Result<String, FaultKind> {
    route_of(table, &request("GET", url), None)
}
