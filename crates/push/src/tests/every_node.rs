//! A plan with every kind of node in it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portway_plan::{
    AuthProtocol, Backend, BackendKey, BackendProtocol, BackendTls, Certificate, CertificateKey,
    ClientValidation, Cors, CorsOrigin, Endpoint, EndpointAddress, EndpointState, Endpoints, Entry,
    ExternalAuth, Filter, Forward, ForwardKind, ForwardRule, HeaderEdit, HeaderMatch, HeaderPair, Host,
    HostPattern, Listener, ListenerProtocol, Mirror, NoBackend, ObjectRef, PathMatch, PathRewrite, Plan,
    Port, PrivateKey, QueryMatch, Redirect, RedirectPort, Regex, Retry, Rewrite, Rule, RuleKind, Session,
    SessionCarrier, Share, Source, StringMatch, SubjectName, Target, Timeouts, TlsTermination, Transport,
    Trust, TrustAnchors, TrustKey,
};
use prost::Message as _;

use super::Pair;
use crate::limits;
use crate::shard::Shard;

fn object(kind: &str, name: &str) -> ObjectRef {
    ObjectRef { kind: kind.into(), namespace: "store".into(), name: name.into() }
}

fn source(kind: &str, name: &str, section: Option<&str>) -> Source {
    Source {
        object: Arc::new(object(kind, name)),
        path: "spec.rules[0]".into(),
        section: section.map(Into::into),
    }
}

pub(super) fn backend(name: &str) -> BackendKey {
    BackendKey::tcp(object("Service", name), 8080)
}

fn host(name: &str) -> HostPattern {
    HostPattern::parse(name).unwrap()
}

fn session(carrier: SessionCarrier) -> Arc<Session> {
    Arc::new(Session {
        name: "cart".into(),
        carrier,
        absolute_timeout: Some(Duration::from_millis(90_500)),
        salt: "uid".into(),
    })
}

fn filters() -> Vec<Filter> {
    let invalid = NoBackend { reason: "BackendNotFound".into(), message: "no Service".into() };
    let invalid = Target::Invalid(Box::new(invalid));
    let pair = || HeaderPair { name: "X-A".into(), value: "1 \"quoted\" \\ ü".into() };
    let edit = HeaderEdit { set: vec![pair()], add: vec![pair()], remove: vec!["x-b".into()] };
    vec![
        Filter::RequestHeaders(edit.clone()),
        Filter::ResponseHeaders(edit),
        Filter::Redirect(Redirect {
            scheme: Some("https".into()),
            hostname: Some("other.example".into()),
            path: Some(PathRewrite::Full("/all".into())),
            port: RedirectPort::Number(8443),
            status: 308,
        }),
        Filter::Redirect(Redirect {
            scheme: None,
            hostname: None,
            path: None,
            port: RedirectPort::OfListener,
            status: 302,
        }),
        Filter::Rewrite(Rewrite { hostname: None, path: Some(PathRewrite::Prefix("/p".into())) }),
        Filter::Mirror(Mirror { target: Target::Backend(backend("mirror")), numerator: 1, denominator: 3 }),
        Filter::Cors(Cors {
            allow_origins: vec![
                CorsOrigin::Any,
                CorsOrigin::Of { scheme: "https".into(), host: host("*.example.com"), port: Some(8443) },
            ],
            allow_credentials: true,
            allow_methods: vec!["*".into()],
            allow_headers: vec!["x-a".into()],
            expose_headers: Vec::new(),
            max_age: Some(Duration::from_secs(5)),
        }),
        Filter::ExternalAuth(ExternalAuth {
            target: invalid,
            protocol: AuthProtocol::Grpc,
            request_headers: None,
            body_limit: 0,
        }),
        Filter::ExternalAuth(ExternalAuth {
            target: Target::Backend(backend("auth")),
            protocol: AuthProtocol::Http { path: "/check".into(), response_headers: vec!["x-user".into()] },
            request_headers: Some(vec!["authorization".into()]),
            body_limit: 4096,
        }),
        Filter::Broken { message: "no such filter".into() },
    ]
}

fn rule(name: &str, kind: RuleKind) -> Arc<Rule> {
    let share = |weight, target| Share {
        path: "spec.rules[0].backendRefs[0]".into(),
        weight,
        target,
        filters: filters().into(),
    };
    let invalid = NoBackend { reason: "RefNotPermitted".into(), message: "no ReferenceGrant".into() };
    let invalid = Target::Invalid(Box::new(invalid));
    let retry = Retry { codes: vec![502, 503], attempts: 2, backoff: Some(Duration::from_millis(10)) };
    Arc::new(Rule {
        source: source("HTTPRoute", name, Some("first")),
        kind,
        filters: filters().into(),
        backends: [share(3, Target::Backend(backend("web"))), share(0, invalid)].into(),
        timeouts: Timeouts {
            request: Some(Duration::from_secs(1)),
            backend_request: Some(Duration::from_nanos(7)),
        }
        .boxed(),
        retry: Some(Box::new(retry)),
        session: Some(session(SessionCarrier::Cookie { path: "/".into(), permanent: true })),
    })
}

fn entry(path: PathMatch, rule: &Arc<Rule>) -> Entry {
    Entry {
        path,
        method: Some("PATCH".into()),
        headers: vec![
            HeaderMatch { name: "x-a".into(), value: StringMatch::Exact("1".into()) },
            HeaderMatch { name: "x-b".into(), value: StringMatch::Regex(Regex("a|b".into())) },
        ],
        query: vec![QueryMatch { name: "q".into(), value: StringMatch::Exact("ä".into()) }],
        match_index: 4,
        route_hostname: host("*.example.com"),
        rule: Arc::clone(rule),
    }
}

fn listener(
    name: &str,
    protocol: ListenerProtocol,
    hosts: &[Arc<Host>],
    forwards: Vec<Forward>,
) -> Arc<Listener> {
    Arc::new(Listener {
        source: source("Gateway", "gateway", Some(name)),
        hostname: host("*.example.com"),
        protocol,
        hosts: hosts.to_vec(),
        forwards,
        filters: filters(),
        client_certificate: Some(CertificateKey("store/client".into())),
    })
}

fn port(
    number: u16,
    address: Option<IpAddr>,
    transport: Transport,
    listeners: Vec<Arc<Listener>>,
) -> Arc<Port> {
    Arc::new(Port { address, port: number, transport, listeners })
}

/// A plan with every kind of node in it.
pub(super) fn plan() -> Plan {
    let (shared, own) = (rule("shared", RuleKind::Http), rule("own", RuleKind::Grpc));
    let hosts = [
        Arc::new(Host {
            hostname: host("www.example.com"),
            entries: vec![
                entry(PathMatch::Exact("/a".into()), &shared),
                entry(PathMatch::Prefix(String::new().into()), &own),
            ],
        }),
        Arc::new(Host {
            hostname: host("*.example.com"),
            entries: vec![entry(PathMatch::Regex(Regex("/[a-z]+".into())), &shared)],
        }),
        Arc::new(Host {
            hostname: HostPattern::Any,
            entries: vec![entry(PathMatch::Prefix("/x".into()), &shared)],
        }),
    ];
    let forward_rule = |kind| {
        let target = Target::Backend(backend("tcp"));
        let share =
            Share { path: "spec.rules[0].backendRefs[0]".into(), weight: 1, target, filters: Box::default() };
        Arc::new(ForwardRule { source: source("TLSRoute", "bytes", None), kind, backends: vec![share] })
    };
    let tls = forward_rule(ForwardKind::Tls);
    let forward = |hostname: &str, rule: &Arc<ForwardRule>| Forward {
        hostname: host(hostname),
        rule: Arc::clone(rule),
    };
    let through = vec![forward("b.example.com", &tls), forward("a.example.com", &tls), forward("*", &tls)];
    let mut termination = TlsTermination::new(vec![CertificateKey("store/cert".into())]);
    termination.client =
        Some(ClientValidation { trust: vec![TrustKey("ConfigMap store/ca".into())], optional: true });
    let https = ListenerProtocol::Https(termination.clone());
    let mut one = Backend::new(backend("web"), BackendProtocol::H2c);
    one.tls = Some(Arc::new(BackendTls {
        server_name: "web.example".into(),
        names: vec![SubjectName::Hostname("*.web.example".into()), SubjectName::Uri("spiffe://a/b".into())],
        trust: TrustAnchors::Of(vec![TrustKey("ConfigMap store/ca".into())]),
        client_certificate: Some(CertificateKey("store/client".into())),
    }));
    one.session = Some(session(SessionCarrier::Header));
    let endpoint = |address, state| Endpoint { address, port: 80, state, zone: Some("z1".into()) };
    let endpoints = Endpoints {
        list: vec![
            endpoint(EndpointAddress::Ip("10.0.0.1".parse().unwrap()), EndpointState::Active),
            endpoint(EndpointAddress::Ip("fd00::1".parse().unwrap()), EndpointState::Terminating),
            endpoint(EndpointAddress::Name("db.example".into()), EndpointState::Active),
        ],
    };
    let certificate = |byte: u8| {
        Arc::new(Certificate {
            chain: vec![vec![byte; 700], vec![0, 255]],
            key: PrivateKey(vec![byte, 0, 255, 128]),
            names: vec![host("www.example.com"), host("*.example.com")],
            not_after: 1_800_000_000,
        })
    };
    let trust = Trust { certificates: vec![vec![1, 2, 3], vec![0; 900]] };
    let backends = [one, Backend::new(backend("tcp"), BackendProtocol::Unspecified)];
    Plan {
        ports: vec![
            port(
                80,
                None,
                Transport::Tcp,
                vec![listener("http", ListenerProtocol::Http, &hosts, Vec::new())],
            ),
            port(
                443,
                None,
                Transport::Tcp,
                vec![
                    listener("https", https, &hosts, Vec::new()),
                    listener("through", ListenerProtocol::TlsPassthrough, &[], through),
                ],
            ),
            port(
                53,
                Some("10.0.0.53".parse().unwrap()),
                Transport::Udp,
                vec![listener(
                    "dns",
                    ListenerProtocol::Udp,
                    &[],
                    vec![
                        forward("*", &forward_rule(ForwardKind::Udp)),
                        forward("*", &forward_rule(ForwardKind::Tcp)),
                    ],
                )],
            ),
            port(
                5000,
                Some("10.0.0.53".parse().unwrap()),
                Transport::Tcp,
                vec![
                    listener(
                        "tcp",
                        ListenerProtocol::Tcp,
                        &[],
                        vec![forward("*", &forward_rule(ForwardKind::Tcp))],
                    ),
                    listener("tls", ListenerProtocol::Tls(termination), &[], vec![forward("*", &tls)]),
                ],
            ),
        ],
        backends: backends.into_iter().map(|backend| (backend.key.clone(), Arc::new(backend))).collect(),
        endpoints: [(backend("web"), Arc::new(endpoints))].into_iter().collect(),
        certificates: [
            (CertificateKey("store/cert".into()), certificate(1)),
            (CertificateKey("store/client".into()), certificate(2)),
        ]
        .into_iter()
        .collect(),
        trust: [(TrustKey("ConfigMap store/ca".into()), Arc::new(trust))].into_iter().collect(),
    }
}

#[test]
fn every_node_arrives_as_it_is() {
    let plan = plan();
    let (arrived, _) = Pair::default().follow(&plan);
    assert_eq!(*arrived, plan);
    let key = &arrived.certificates[&CertificateKey("store/cert".into())].key;
    assert_eq!(key.0, [1, 0, 255, 128], "the key itself, not the word that stands for it");
}

#[test]
fn a_rule_of_many_entries_is_sent_once_and_there_once() {
    let plan = plan();
    let mut pair = Pair::default();
    let (arrived, sent) = pair.follow(&plan);
    let rules = |port: usize| {
        let hosts = &arrived.ports[port].listeners[0].hosts;
        [&hosts[0].entries[0].rule, &hosts[1].entries[0].rule, &hosts[2].entries[0].rule].map(Arc::clone)
    };
    let first = &rules(0)[0];
    assert!(rules(0).iter().chain(&rules(1)).all(|rule| Arc::ptr_eq(rule, first)));
    // 2 rules, 3 forward rules, 6 hosts, 7 forwards, 6 listeners, 4 ports, and what else there is.
    assert_eq!(sent.shards, 2 + 3 + 6 + 7 + 6 + 4 + 2 + 1 + 2 + 1, "{sent:?}");
}

#[test]
fn what_did_not_change_stays_the_same_arc() {
    let mut plan = plan();
    let mut pair = Pair::default();
    let (before, _) = pair.follow(&plan);
    plan.endpoints.insert(backend("tcp"), Arc::default());
    let (after, sent) = pair.follow(&plan);
    assert_eq!((sent.shards, sent.removed), (1, 0));
    assert!(before.ports.iter().zip(&after.ports).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert!(before.backends.ptr_eq(&after.backends) && before.certificates.ptr_eq(&after.certificates));
    assert!(Arc::ptr_eq(&before.endpoints[&backend("web")], &after.endpoints[&backend("web")]));
}

#[test]
fn a_plan_that_is_made_anew_and_is_equal_is_no_revision() {
    let mut pair = Pair::default();
    pair.follow(&plan());
    let before = pair.newest.clone().unwrap();
    pair.publish(&plan());
    assert!(Arc::ptr_eq(&before, pair.newest.as_ref().unwrap()));
}

#[test]
fn only_certificates_hold_keys() {
    let plan = plan();
    let mut encoder = crate::encode::Encoder::default();
    let shards = encoder.encode(&plan).unwrap();
    for shard in shards.by_hash.values() {
        let mut body = Vec::new();
        shard.write(&mut body).unwrap();
        let certificate = matches!(shard, Shard::Certificate(..));
        let has_key = body
            .windows(4)
            .any(|window| [[1, 0, 255, 128], [2, 0, 255, 128]].contains(&window.try_into().unwrap()));
        assert_eq!(has_key, certificate, "{:?}", shard.kind());
        let message = crate::message::Shard { body: body.into(), ..crate::message::Shard::default() };
        assert!(!format!("{message:?}").contains("128"), "a dumped message tells a key");
        assert!(message.encoded_len() > 0);
    }
}

#[test]
fn a_shard_that_is_longer_than_a_message_comes_in_pieces() {
    let mut plan = plan();
    let list = (0..40_000u32).map(|n| Endpoint {
        address: EndpointAddress::Ip(IpAddr::from(n.to_be_bytes())),
        port: 80,
        state: EndpointState::Active,
        zone: None,
    });
    plan.endpoints.insert(backend("tcp"), Arc::new(Endpoints { list: list.collect() }));
    let (arrived, sent) = Pair::default().follow(&plan);
    assert!(sent.bytes > 8 * limits::PART, "{sent:?}");
    assert_eq!(*arrived, plan);
}
