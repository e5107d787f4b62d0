//! What it costs to find the rule for a request, by the number of routes and by how they differ.
//!
//! Requests go round over many routes, so that the larger tables pay for the memory that they touch.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::Method;
use portway_plan::{
    Entry, HeaderMatch, Host, HostPattern, Listener, ListenerProtocol, ObjectRef, PathMatch, Port,
    QueryMatch, Rule, RuleKind, Source, StringMatch, Transport,
};
use portway_proxy::http::route::PortTable;
use portway_proxy::http::{Authority, Headers, RequestHead, Scheme, Version, path};
use portway_proxy::observe::Metrics;
use portway_proxy::upstream::BackendMap;

/// Requests to take in turn.
const REQUESTS: usize = 1024;

/// Rules of each host where there are many hosts.
const PER_HOST: usize = 10;

fn source(kind: &str, name: &str) -> Source {
    let object = ObjectRef { kind: kind.into(), namespace: "ns".into(), name: name.into() };
    Source { object: Arc::new(object), path: "".into(), section: None }
}

fn entry(name: usize, path: PathMatch) -> Entry {
    Entry {
        path,
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        match_index: 0,
        route_hostname: HostPattern::Any,
        rule: Arc::new(Rule {
            source: source("HTTPRoute", &name.to_string()),
            kind: RuleKind::Http,
            filters: Box::default(),
            backends: Box::default(),
            timeouts: None,
            retry: None,
            session: None,
        }),
    }
}

fn exact(text: String) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn header(name: &str, value: String) -> HeaderMatch {
    HeaderMatch { name: name.into(), value: exact(value) }
}

/// A request as a browser sends it.
fn head(host: &str, target: String, tenant: &str) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Authority::parse(host.to_owned().into()).expect("a host"),
        target: path::normalise(&target.into()).expect("a target"),
        version: Version::Http11,
        headers: Headers::from([
            ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"),
            ("Accept", "*/*"),
            ("Accept-Language", "en"),
            ("Accept-Encoding", "gzip, br"),
            ("X-Tenant", tenant),
            ("X-Version", "3"),
            ("Cookie", "a=b"),
        ]),
    }
}

/// Routes that differ in one way, and a request for the route of that number.
struct Shape {
    name: &'static str,
    entry: fn(usize) -> Entry,
    head: fn(usize) -> RequestHead,
}

/// One host has all the routes, which differ in this.
const SHAPES: [Shape; 7] = [
    Shape {
        name: "prefixes",
        entry: |n| entry(n, PathMatch::Prefix(format!("/team-{}/app-{n}", n % 100).into())),
        head: |n| head("www.example.com", format!("/team-{}/app-{n}/x/y?z=1", n % 100), ""),
    },
    Shape {
        name: "prefixes of many lengths",
        entry: |n| entry(n, PathMatch::Prefix(format!("/{}/{n}", "x".repeat(1 + n % 200)).into())),
        head: |n| head("www.example.com", format!("/{}/{n}/x/y?z=1", "x".repeat(1 + n % 200)), ""),
    },
    Shape {
        name: "exact paths",
        entry: |n| entry(n, PathMatch::Exact(format!("/team-{}/app-{n}", n % 100).into())),
        head: |n| head("www.example.com", format!("/team-{}/app-{n}?z=1", n % 100), ""),
    },
    Shape {
        name: "values of one header",
        entry: |n| Entry {
            headers: vec![header("x-tenant", n.to_string())],
            ..entry(n, PathMatch::Prefix("".into()))
        },
        head: |n| head("www.example.com", "/x".to_owned(), &n.to_string()),
    },
    Shape {
        name: "values of two headers",
        entry: |n| Entry {
            headers: vec![
                header("x-tenant", (n / 100).to_string()),
                header("x-build", (n % 100).to_string()),
            ],
            ..entry(n, PathMatch::Prefix("".into()))
        },
        head: |n| {
            let mut head = head("www.example.com", "/x".to_owned(), &(n / 100).to_string());
            head.headers.append("X-Build", (n % 100).to_string());
            head
        },
    },
    Shape {
        name: "names of headers",
        entry: |n| Entry {
            headers: vec![header(&format!("x-{n}"), "1".to_owned())],
            ..entry(n, PathMatch::Prefix("".into()))
        },
        head: |n| {
            let mut head = head("www.example.com", "/x".to_owned(), "");
            head.headers.append(format!("X-{n}"), "1");
            head
        },
    },
    Shape {
        name: "values of a query parameter",
        entry: |n| Entry {
            query: vec![QueryMatch { name: "tenant".into(), value: exact(n.to_string()) }],
            ..entry(n, PathMatch::Prefix("".into()))
        },
        head: |n| head("www.example.com", format!("/x?a=b&tenant={n}"), ""),
    },
];

/// The routes of many hosts, as the bench kit has them: prefixes, an exact path, a header, a rest.
fn of_many_hosts(nth: usize) -> Entry {
    match nth % PER_HOST {
        0 => Entry {
            headers: vec![header("x-version", "2".to_owned())],
            ..entry(nth, PathMatch::Prefix("".into()))
        },
        1 => entry(nth, PathMatch::Prefix("".into())),
        2 => entry(nth, PathMatch::Exact("/healthz".into())),
        other => entry(nth, PathMatch::Prefix(format!("/api/v{other}").into())),
    }
}

fn host(hostname: &str, entries: Vec<Entry>) -> Arc<Host> {
    Arc::new(Host { hostname: HostPattern::parse(hostname).expect("a pattern"), entries })
}

fn table(hosts: Vec<Arc<Host>>) -> PortTable {
    let listener = Listener {
        source: source("Gateway", "gateway"),
        hostname: HostPattern::Any,
        protocol: ListenerProtocol::Http,
        hosts,
        forwards: Vec::new(),
        filters: Vec::new(),
        client_certificate: None,
    };
    let port =
        Port { address: None, port: 80, transport: Transport::Tcp, listeners: vec![Arc::new(listener)] };
    PortTable::compile(&Arc::new(port), None, &BackendMap::default(), &Metrics::new(1))
}

/// Numbers of routes, spread over all of them in no order.
fn spread(routes: usize) -> impl Iterator<Item = usize> {
    (0..REQUESTS).map(move |i| i * 7919 % routes)
}

fn find(criterion: &mut Criterion, name: &str, routes: usize, table: &PortTable, heads: &[RequestHead]) {
    let mut group = criterion.benchmark_group(name);
    group.bench_with_input(BenchmarkId::from_parameter(routes), heads, |bencher, heads| {
        let mut turn = heads.iter().cycle();
        bencher.iter(|| table.route(black_box(turn.next().expect("heads")), None).expect("a rule").port);
    });
}

fn many_hosts(criterion: &mut Criterion) {
    for routes in [100, 10_000, 100_000] {
        let hosts = (0..routes / PER_HOST).map(|nth| {
            let entries = (0..PER_HOST).map(|entry| of_many_hosts(nth * PER_HOST + entry)).collect();
            host(&format!("host-{nth}.example.com"), entries)
        });
        let heads: Vec<RequestHead> = spread(routes)
            .map(|n| {
                head(
                    &format!("host-{}.example.com", n / PER_HOST),
                    format!("/api/v{}/x?z=1", n % PER_HOST),
                    "",
                )
            })
            .collect();
        find(criterion, "many hosts", routes, &table(hosts.collect()), &heads);
    }
}

fn one_host(criterion: &mut Criterion) {
    for Shape { name, entry, head } in SHAPES {
        for routes in [100, 10_000, 100_000] {
            let table = table(vec![host("www.example.com", (0..routes).map(entry).collect())]);
            let heads: Vec<RequestHead> = spread(routes).map(head).collect();
            find(criterion, &format!("one host, {name}"), routes, &table, &heads);
        }
    }
}

/// Expressions of one host, and a request for the one of that number.
struct Expressions {
    name: &'static str,
    regex: fn(usize) -> String,
    target: fn(usize) -> String,
    most: usize,
}

const EXPRESSIONS: [Expressions; 4] = [
    Expressions {
        name: "by their begin",
        regex: |n| format!("/team-{n}/(a|b)[0-9]+(/.*)?"),
        target: |n| format!("/team-{n}/a{n}/x"),
        most: 10_000,
    },
    Expressions {
        name: "by their end",
        regex: |n| format!("/v[0-9]+/[^/]+/team-{n}"),
        target: |n| format!("/v12/some-name/team-{n}"),
        most: 10_000,
    },
    // What tells them apart is in the middle: they are looked for together.
    Expressions {
        name: "by their middle",
        regex: |n| format!("/v[0-9]+/team-{n}/.*"),
        target: |n| format!("/v12/team-{n}/x/y"),
        most: 1_000,
    },
    Expressions {
        name: "of one begin",
        regex: |n| format!("/api/v1/[a-z]+/team-{n}/.*"),
        target: |n| format!("/api/v1/users/team-{n}/x/y"),
        most: 1_000,
    },
];

fn expressions(criterion: &mut Criterion) {
    for Expressions { name, regex, target, most } in EXPRESSIONS {
        for routes in [100, 1_000, 10_000].into_iter().filter(|routes| *routes <= most) {
            let entry = |n| entry(n, PathMatch::Regex(portway_plan::Regex(regex(n).into())));
            let table = table(vec![host("www.example.com", (0..routes).map(entry).collect())]);
            let heads: Vec<RequestHead> =
                spread(routes).map(|n| head("www.example.com", target(n), "")).collect();
            find(criterion, &format!("one host, expressions {name}"), routes, &table, &heads);
        }
    }
}

criterion_group!(benches, many_hosts, one_host, expressions);
criterion_main!(benches);
