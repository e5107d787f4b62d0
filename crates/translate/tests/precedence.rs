//! Which rule gets a request: the plan, tried entry by entry, against a second, naive reading of the spec
//! that goes over the API objects and knows nothing of plans.

mod common;

use std::cmp::Ordering;

use portway_api::object::KindId;
use portway_plan::Plan;
use portway_store::{AnyObject, Resources};
use portway_translate::translate;
use proptest::prelude::*;
use serde_json::{Value, json};

struct Request {
    host: String,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

/// A rule: the route's namespace and name, and the rule's index.
type Winner = Option<(String, usize)>;

// What the plan says: the first listener, host and entry that match.

fn planned(plan: &Plan, request: &Request) -> Winner {
    let listener = plan.ports.first()?.listeners.iter().find(|it| it.hostname.matches(&request.host))?;
    let hosts = listener.hosts.iter().filter(|host| host.hostname.matches(&request.host));
    let entry = hosts.flat_map(|host| &host.entries).find(|entry| {
        common::takes(entry, request.method, &request.path, &request.headers, &request.query)
    })?;
    let source = &entry.rule.source;
    let index = source.path.trim_start_matches("spec.rules[").trim_end_matches(']').parse().unwrap();
    Some((format!("{}/{}", source.object.namespace, source.object.name), index))
}

// What the spec says.

/// "Hostnames that are prefixed with a wildcard label are interpreted as a suffix match."
fn host_matches(hostname: &str, host: &str) -> bool {
    match hostname.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix) && host.len() > suffix.len(),
        None => hostname.is_empty() || hostname == host,
    }
}

/// "Characters in a matching non-wildcard hostname", then "characters in a matching hostname".
fn host_rank(hostname: &str) -> (usize, usize) {
    (if hostname.starts_with('*') { 0 } else { hostname.len() }, hostname.len())
}

/// Whether one of two hostnames lies within the other: then the narrower is what both have in common.
fn common_hostname<'h>(a: &'h str, b: &'h str) -> Option<&'h str> {
    if a.is_empty() || a == b {
        return Some(b);
    }
    if b.is_empty() {
        return Some(a);
    }
    let within = |narrow: &str, wide: &str| wide.starts_with('*') && narrow.ends_with(&wide[1..]);
    if within(a, b) {
        Some(a)
    } else if within(b, a) {
        Some(b)
    } else {
        None
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// How one match of one rule ranks, with what the spec puts first being greatest.
#[derive(PartialEq, Eq)]
struct Claim {
    common: (usize, usize),
    original: (usize, usize),
    exact: bool,
    regex: Option<usize>,
    prefix: usize,
    method: bool,
    headers: usize,
    query: usize,
    created: Option<String>,
    name: String,
    rule: usize,
}

impl Claim {
    fn compare(&self, other: &Self) -> Ordering {
        self.common
            .cmp(&other.common)
            .then(self.original.cmp(&other.original))
            .then(self.exact.cmp(&other.exact))
            .then(self.regex.cmp(&other.regex))
            .then(self.prefix.cmp(&other.prefix))
            .then(self.method.cmp(&other.method))
            .then(self.headers.cmp(&other.headers))
            .then(self.query.cmp(&other.query))
            // The oldest; a route without a time counts as the newest.
            .then(match (&self.created, &other.created) {
                (Some(a), Some(b)) => b.cmp(a),
                (a, b) => a.is_some().cmp(&b.is_some()),
            })
            .then(other.name.cmp(&self.name))
            .then(other.rule.cmp(&self.rule))
    }
}

fn claim(spec: &Value, request: &Request) -> Option<Claim> {
    let matches = |spec: &Value, value: &str| {
        let wanted = text(spec, "value");
        match text(spec, "type") {
            "RegularExpression" => regex::Regex::new(&format!("^(?:{wanted})$")).unwrap().is_match(value),
            _ => wanted == value,
        }
    };
    let mut claim = Claim {
        common: (0, 0),
        original: (0, 0),
        exact: false,
        regex: None,
        prefix: 0,
        method: false,
        headers: 0,
        query: 0,
        created: None,
        name: String::new(),
        rule: 0,
    };
    let path = &spec["path"];
    let wanted = path["value"].as_str().unwrap_or("/");
    match text(path, "type") {
        "Exact" => {
            claim.exact = true;
            (wanted == request.path).then_some(())?;
        }
        "RegularExpression" => {
            claim.regex = Some(wanted.len());
            matches(path, &request.path).then_some(())?;
        }
        _ => {
            // "Done on a path element by element basis"; "a trailing `/` is ignored".
            let elements = |path: &str| -> Vec<String> {
                path.trim_end_matches('/').split('/').skip(1).map(str::to_owned).collect()
            };
            claim.prefix = wanted.trim_end_matches('/').len();
            elements(&request.path).starts_with(&elements(wanted)).then_some(())?;
        }
    }
    if let Some(method) = spec["method"].as_str() {
        claim.method = true;
        (method == request.method).then_some(())?;
    }
    let mut headers: Vec<String> = Vec::new();
    for header in spec["headers"].as_array().into_iter().flatten() {
        let name = text(header, "name").to_lowercase();
        // "Only the first entry with an equivalent name MUST be considered."
        if headers.contains(&name) {
            continue;
        }
        request.headers.iter().any(|(known, value)| *known == name && matches(header, value)).then_some(())?;
        headers.push(name);
    }
    claim.headers = headers.len();
    let mut params: Vec<&str> = Vec::new();
    for param in spec["queryParams"].as_array().into_iter().flatten() {
        let name = text(param, "name");
        if params.contains(&name) {
            continue;
        }
        request.query.iter().any(|(known, value)| *known == name && matches(param, value)).then_some(())?;
        params.push(name);
    }
    claim.query = params.len();
    Some(claim)
}

fn by_the_spec(listeners: &[String], routes: &[Value], request: &Request) -> Winner {
    let listener = listeners
        .iter()
        .filter(|hostname| host_matches(hostname, &request.host))
        .max_by_key(|hostname| host_rank(hostname))?;
    let mut claims = Vec::new();
    for route in routes {
        let none = vec![json!("")];
        let hostnames =
            route["spec"]["hostnames"].as_array().filter(|list| !list.is_empty()).unwrap_or(&none);
        for hostname in hostnames.iter().filter_map(Value::as_str) {
            let Some(common) = common_hostname(listener, hostname) else { continue };
            if !host_matches(common, &request.host) {
                continue;
            }
            for (index, rule) in route["spec"]["rules"].as_array().into_iter().flatten().enumerate() {
                let default = vec![json!({})];
                let specs = rule["matches"].as_array().filter(|list| !list.is_empty()).unwrap_or(&default);
                claims.extend(specs.iter().filter_map(|spec| claim(spec, request)).map(|claim| Claim {
                    common: host_rank(common),
                    original: host_rank(hostname),
                    created: route["metadata"]["creationTimestamp"].as_str().map(str::to_owned),
                    name: format!(
                        "{}/{}",
                        text(&route["metadata"], "namespace"),
                        text(&route["metadata"], "name")
                    ),
                    rule: index,
                    ..claim
                }));
            }
        }
    }
    claims.into_iter().max_by(Claim::compare).map(|claim| (claim.name, claim.rule))
}

// Random worlds.

fn hostname() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a.com".to_owned()),
        Just("b.a.com".to_owned()),
        Just("c.b.a.com".to_owned()),
        Just("*.com".to_owned()),
        Just("*.a.com".to_owned()),
        Just("*.b.a.com".to_owned()),
    ]
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..3).prop_flat_map(|elements| {
        let path = format!("/{}", elements.join("/"));
        let slash = if path == "/" { path.clone() } else { format!("{path}/") };
        prop_oneof![3 => Just(path), 1 => Just(slash)]
    })
}

fn one_match() -> impl Strategy<Value = Value> {
    let path = prop::option::weighted(
        0.9,
        (prop_oneof![
            (Just("Exact"), path()),
            (Just("PathPrefix"), path()),
            (
                Just("RegularExpression"),
                prop::sample::select(vec!["/.*", "/a(/.*)?", "/[ab]+", "/a|/b/a"]).prop_map(str::to_owned)
            ),
        ],),
    );
    let pair = |names: Vec<&'static str>| {
        (prop::sample::select(names), prop::sample::select(vec!["1", "2"]), any::<bool>()).prop_map(
            |(name, value, exact)| {
                if exact {
                    json!({"name": name, "value": value})
                } else {
                    json!({"name": name, "type": "RegularExpression", "value": format!("[{value}]")})
                }
            },
        )
    };
    (
        path,
        prop::option::weighted(0.3, prop::sample::select(vec!["GET", "POST"])),
        prop::collection::vec(pair(vec!["x", "X", "y"]), 0..3),
        prop::collection::vec(pair(vec!["q", "r"]), 0..3),
    )
        .prop_map(|(path, method, headers, query)| {
            let mut spec = json!({"headers": headers, "queryParams": query});
            if let Some(((kind, value),)) = path {
                spec["path"] = json!({"type": kind, "value": value});
            }
            if let Some(method) = method {
                spec["method"] = json!(method);
            }
            spec
        })
}

fn routes() -> impl Strategy<Value = Vec<Value>> {
    let route = (
        prop::option::weighted(0.6, 1..3u8),
        prop::collection::vec(hostname(), 0..3),
        prop::collection::vec(prop::collection::vec(one_match(), 0..3), 1..4),
    );
    prop::collection::vec(route, 1..6).prop_map(|routes| {
        let names = [("a", "x"), ("a-b", "x"), ("a", "y"), ("b", "x"), ("a.b", "w")];
        routes
            .into_iter()
            .zip(names)
            .map(|((created, hostnames, rules), (namespace, name))| {
                let mut metadata = json!({"namespace": namespace, "name": name});
                if let Some(day) = created {
                    metadata["creationTimestamp"] = json!(format!("2026-01-0{day}T00:00:00Z"));
                }
                let rules: Vec<_> = rules.into_iter().map(|matches| json!({"matches": matches})).collect();
                json!({"metadata": metadata, "spec": {
                    "parentRefs": [{"name": "g", "namespace": "infra"}], "hostnames": hostnames, "rules": rules,
                }})
            })
            .collect()
    })
}

fn request() -> impl Strategy<Value = Request> {
    let pairs = |names: [&'static str; 2]| {
        (
            prop::option::of(prop::sample::select(vec!["1", "2"])),
            prop::option::of(prop::sample::select(vec!["1", "2"])),
        )
            .prop_map(move |(a, b)| {
                a.map(|a| (names[0], a)).into_iter().chain(b.map(|b| (names[1], b))).collect::<Vec<_>>()
            })
    };
    (
        prop::sample::select(vec!["a.com", "b.a.com", "c.b.a.com", "d.c.b.a.com", "x.com", "x.net"]),
        prop::sample::select(vec!["GET", "POST"]),
        path(),
        pairs(["x", "y"]),
        pairs(["q", "r"]),
    )
        .prop_map(|(host, method, path, headers, query)| Request {
            host: host.to_owned(),
            method,
            path,
            headers,
            query,
        })
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, method, path, headers, query } = self;
        write!(f, "{method} http://{host}{path} query {query:?} headers {headers:?}")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_plan_says_what_the_spec_says(
        listeners in prop::collection::btree_set(prop_oneof![3 => hostname(), 1 => Just(String::new())], 1..4),
        routes in routes(),
        requests in prop::collection::vec(request(), 1..12),
    ) {
        let listeners: Vec<String> = listeners.into_iter().collect();
        let mut resources = Resources::default();
        let mut put = |kind: KindId, value: &Value| {
            resources.insert(AnyObject::read(kind, value.clone(), None, |_| {}).unwrap());
        };
        put(KindId::GatewayClass, &json!({"metadata": {"name": "c"}, "spec": {"controllerName": "portway.dev/gateway-controller"}}));
        let specs: Vec<_> = listeners.iter().enumerate().map(|(i, hostname)| json!({
            "name": format!("l{i}"), "port": 80, "protocol": "HTTP", "hostname": hostname,
            "allowedRoutes": {"namespaces": {"from": "All"}},
        })).collect();
        put(KindId::Gateway, &json!({"metadata": {"namespace": "infra", "name": "g"}, "spec": {"gatewayClassName": "c", "listeners": specs}}));
        for route in &routes {
            put(KindId::HTTPRoute, route);
        }
        let translation = translate(&resources, &common::options());
        for request in &requests {
            prop_assert_eq!(
                planned(&translation.plan, request),
                by_the_spec(&listeners, &routes, request),
                "{:?}", request
            );
        }
    }
}
