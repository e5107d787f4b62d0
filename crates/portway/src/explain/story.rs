//! What happens to a request, step by step, found with the proxy's own tables and filters.

use std::sync::Arc;

use http::Uri;
use portway_api::gateway::{GRPCRoute, HTTPRoute};
use portway_api::object::ObjectKey;
use portway_plan::{
    BackendProtocol, Endpoint, EndpointAddress, EndpointState, Filter, HostPattern, ListenerProtocol,
    ObjectRef, Plan, Port, Rule, Share, Source, Target,
};
use portway_proxy::fault::FaultKind;
use portway_proxy::http::filters::Effects;
use portway_proxy::http::route::{Criterion, EntryTrace, Failure, Matched, PortTable, Trace};
use portway_proxy::http::{RequestHead, Response, Scheme, TlsInfo};
use portway_proxy::observe::Metrics;
use portway_proxy::upstream::BackendMap;
use serde::Serialize;

use super::asked::Asked;
use super::filters;
use crate::demo;
use crate::places::Places;
use crate::world::World;

/// What happens to a request.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Story {
    pub(super) request: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
    pub(super) listener: Option<ListenerPart>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) hostnames: Vec<HostPart>,
    pub(super) rule: Option<RulePart>,
    /// Other matches that were tried, and why they did not win.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) others: Vec<OtherPart>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) others_left_out: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) filters: Vec<FilterPart>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) backends: Vec<BackendPart>,
    pub(super) answer: Answer,
    /// Routes for this hostname that are not served, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) refused: Vec<RefusedPart>,
    /// Where a redirect leads, if it comes back here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) then: Option<Box<Story>>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// An object, a place in it, and where that is in the files.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Place {
    /// `HTTPRoute store/shop spec.rules[0] (canary)`.
    pub(super) source: String,
    /// `file:line:column`.
    pub(super) at: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListenerPart {
    pub(super) place: Place,
    pub(super) port: u16,
    pub(super) protocol: &'static str,
    pub(super) hostname: String,
    pub(super) why: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HostPart {
    pub(super) pattern: String,
    pub(super) chosen: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RulePart {
    pub(super) place: Place,
    pub(super) matched: String,
    pub(super) limits: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OtherPart {
    pub(super) place: Place,
    pub(super) asks: String,
    /// Whether the request meets all that it asks.
    pub(super) matches: bool,
    pub(super) why: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefusedPart {
    pub(super) place: Place,
    pub(super) why: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FilterPart {
    pub(super) place: Place,
    pub(super) what: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackendPart {
    pub(super) place: Place,
    pub(super) to: String,
    /// Of 100 requests, so many.
    pub(super) percent: f64,
    pub(super) protocol: Option<&'static str>,
    pub(super) endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) filters: Vec<FilterPart>,
    /// What the backend gets: `GET /v2/products`, host and changed headers.
    pub(super) sent: Option<String>,
    /// The gateway's own answer to this share, and why.
    pub(super) answer: Option<Answer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    /// The status of the gateway's own answer; none when a backend answers.
    pub(super) status: Option<u16>,
    pub(super) why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) location: Option<String>,
}

impl Answer {
    pub(super) fn fault(kind: FaultKind, why: impl Into<String>) -> Self {
        Self { status: Some(kind.status().as_u16()), why: why.into(), location: None }
    }
}

/// The most hostnames that are listed where none fits.
const MOST_NAMES: usize = 5;

/// The most redirects that are followed.
const MOST_HOPS: usize = 3;

/// Follows a request through a plan.
pub(super) fn tell(asked: &Asked, world: &World, places: &mut Places<'_>) -> Story {
    let mut told = Telling { world, places }.one(asked);
    let mut last = &mut told;
    for _ in 0..MOST_HOPS {
        let Some(next) = last.answer.location.as_deref().and_then(|location| location.parse::<Uri>().ok())
        else {
            break;
        };
        let asked = asked.redirected(next);
        let then = Telling { world, places }.one(&asked);
        if then.listener.is_none() {
            break;
        }
        last = last.then.insert(Box::new(then));
    }
    told
}

/// Whether the listener passes on what is in TLS, whatever it is.
fn is_tls(protocol: &ListenerProtocol) -> bool {
    matches!(protocol, ListenerProtocol::Tls(_) | ListenerProtocol::TlsPassthrough)
}

struct Telling<'a, 'p> {
    world: &'a World,
    places: &'a mut Places<'p>,
}

impl Telling<'_, '_> {
    fn one(&mut self, asked: &Asked) -> Story {
        let mut story = Story { request: format!("{} {}", asked.method, asked.url), ..Story::default() };
        if let Err(answer) = self.tell(asked, &mut story) {
            story.answer = answer;
            story.refused = self.refused(asked.url.host().unwrap_or_default());
        }
        story
    }

    fn plan(&self) -> &Plan {
        &self.world.translation.plan
    }

    /// Routes that are for this host, or for all, and have something in their way.
    fn refused(&mut self, host: &str) -> Vec<RefusedPart> {
        let host = host.to_ascii_lowercase();
        let resources = &self.world.resources;
        let names = |hostnames: &[String]| {
            let fits = |name: &String| HostPattern::parse(name).is_ok_and(|pattern| pattern.matches(&host));
            hostnames.is_empty() || hostnames.iter().any(fits)
        };
        let http =
            resources.all::<HTTPRoute>().filter(|route| names(&route.spec.hostnames)).map(|route| &route.key);
        let grpc =
            resources.all::<GRPCRoute>().filter(|route| names(&route.spec.hostnames)).map(|route| &route.key);
        let keys: Vec<&ObjectKey> = http.chain(grpc).collect();
        let mut refused = Vec::new();
        for key in keys {
            let object = ObjectRef {
                kind: key.kind.as_str().into(),
                namespace: Arc::clone(&key.namespace),
                name: Arc::clone(&key.name),
            };
            for problem in self.world.translation.problems.of(key) {
                let at = self.places.of(&object, &problem.path);
                let place = Place { source: format!("{key} {}", problem.path), at };
                refused.push(RefusedPart { place, why: format!("{}: {}", problem.reason, problem.message) });
            }
        }
        refused
    }

    fn tell(&mut self, asked: &Asked, story: &mut Story) -> Result<(), Answer> {
        let tls = asked.url.scheme_str() == Some("https");
        let port = self.port(&asked.url, tls, story)?;
        let head = asked.head(port.port)?;
        let table = PortTable::compile(&port, None, &BackendMap::default(), &Metrics::new(1));
        let server_name = asked.server_name();
        let tls_info = tls.then(|| TlsInfo { server_name: server_name.as_deref().map(Into::into) });
        let named = server_name.map_or_else(|| "no server name".to_owned(), |name| format!("{name:?}"));
        let shown = tls_info.as_ref().map(|tls| table.shown_listener(tls));
        if let Some(Some(listener)) = shown
            && is_tls(&listener.plan().protocol)
        {
            // Whatever is in it: nobody here reads it as HTTP.
            let (name, source) = (asked.url.host().unwrap_or_default(), &listener.plan().source);
            let why = format!("{source} takes it, as bytes: ask for tls://{name}:{}", port.port);
            return Err(Answer { why, ..Answer::default() });
        }
        if shown.is_some_and(|shown| shown.is_none()) {
            let why = format!(
                "the TLS handshake is refused: no listener of port {} is for {named} (they are for {})",
                port.port,
                some(port.listeners.iter().map(|listener| listener.hostname.to_string()))
            );
            return Err(Answer { why, ..Answer::default() });
        }
        let trace = table.trace(&head, tls_info.as_ref());
        self.listener(&trace, &head, port.port, story);
        let chosen = trace.outcome.as_ref().ok().map(|matched| matched.host);
        story.hostnames = trace
            .hosts
            .iter()
            .map(|host| HostPart {
                pattern: host.plan().hostname.to_string(),
                chosen: chosen.is_some_and(|chosen| std::ptr::eq(chosen, *host)),
            })
            .collect();
        let winner = trace.outcome.as_ref().ok().map(|matched| matched.entry);
        story.others = trace
            .entries
            .iter()
            .filter(|entry| !winner.is_some_and(|winner| std::ptr::eq(winner, entry.entry)))
            .map(|entry| self.other(entry, &head))
            .collect();
        story.others_left_out = trace.omitted;
        match trace.outcome {
            Ok(matched) => {
                self.matched(&matched, &head, story);
                Ok(())
            }
            Err(FaultKind::Misdirected) => {
                let why = format!(
                    "the TLS connection was made for {named}, which is another listener than that of {}; a \
                     client that reuses the connection is told to open a new one",
                    head.authority.host()
                );
                Err(Answer::fault(FaultKind::Misdirected, why))
            }
            Err(kind) => {
                let others = trace.listeners.first().map_or_else(String::new, |table| {
                    let known = |name: &String| !story.hostnames.iter().any(|host| host.pattern == *name);
                    let names = table.plan().hosts.iter().map(|host| host.hostname.to_string()).filter(known);
                    let names = some(names);
                    if names.is_empty() {
                        names
                    } else {
                        format!("; other routes of this listener are for {names}")
                    }
                });
                let why = match (&story.listener, story.hostnames.is_empty()) {
                    (None, _) => {
                        format!("no listener of port {} is for {:?}", port.port, head.authority.host())
                    }
                    (Some(_), true) => format!("no route of this listener is for that hostname{others}"),
                    (Some(_), false) => format!("no rule of these hostnames matches{others}"),
                };
                Err(Answer::fault(kind, why))
            }
        }
    }

    /// The port that the URL means: the one it names, else its scheme's own, else the only one that speaks it.
    fn port(&self, url: &Uri, tls: bool, story: &mut Story) -> Result<Arc<Port>, Answer> {
        let scheme = if tls { Scheme::Https } else { Scheme::Http };
        let speaks = |port: &&Arc<Port>| {
            port.listeners.iter().any(|listener| match listener.protocol {
                ListenerProtocol::Http => !tls,
                ListenerProtocol::Https(_) => tls,
                _ => false,
            })
        };
        let wanted = url.port_u16().unwrap_or(scheme.default_port());
        let takes = |port: &&Arc<Port>| {
            speaks(port) || tls && port.listeners.iter().any(|listener| is_tls(&listener.protocol))
        };
        if let Some(port) = self.plan().ports.iter().filter(takes).find(|port| port.port == wanted) {
            return Ok(Arc::clone(port));
        }
        let scheme = scheme.as_str();
        let candidates: Vec<&Arc<Port>> = self.plan().ports.iter().filter(speaks).collect();
        match (url.port_u16(), candidates.as_slice()) {
            (None, [port, ..]) => {
                story.notes.push(format!("no listener has port {wanted}; taken for port {}", port.port));
                Ok(Arc::clone(port))
            }
            _ => {
                let ports: Vec<String> = candidates.iter().map(|port| port.port.to_string()).collect();
                let served = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
                let why =
                    format!("no {scheme} listener has port {wanted} (ports that speak {scheme}: {served})");
                Err(Answer { why, ..Answer::default() })
            }
        }
    }

    fn listener(&mut self, trace: &Trace<'_>, head: &RequestHead, port: u16, story: &mut Story) {
        let Some((first, rest)) = trace.listeners.split_first() else { return };
        let listener = first.plan();
        let host = head.authority.host();
        let why = match rest {
            [] => format!("the only listener of port {port} for {host}"),
            rest => {
                let names: Vec<String> = rest.iter().map(|table| table.plan().hostname.to_string()).collect();
                format!("its hostname is more specific than {}", names.join(", "))
            }
        };
        story.listener = Some(ListenerPart {
            place: self.place(&listener.source, ""),
            port,
            protocol: match listener.protocol {
                ListenerProtocol::Http => "HTTP",
                ListenerProtocol::Https(_) => "HTTPS",
                ListenerProtocol::Tls(_) | ListenerProtocol::TlsPassthrough => "TLS",
                ListenerProtocol::Tcp => "TCP",
                ListenerProtocol::Udp => "UDP",
            },
            hostname: listener.hostname.to_string(),
            why,
        });
        let before = |filter| format!("before routes are matched: {}", filters::filter(filter));
        story.notes.extend(listener.filters.iter().map(before));
    }

    fn other(&mut self, tried: &EntryTrace<'_>, head: &RequestHead) -> OtherPart {
        let entry = tried.entry;
        let why = match (tried.result, tried.lost_by) {
            (Ok(()), Some(criterion)) => goes_first(criterion).to_owned(),
            (Ok(()), None) => "not reached".to_owned(),
            (Err(Failure::Path), _) => format!("path {} does not match", head.target.path()),
            (Err(Failure::Method), _) => format!("method is {}", head.method),
            (Err(Failure::Header(at)), _) => entry.headers.get(at).map_or_else(String::new, |header| {
                let got = head.headers.get(&header.name).map(String::from_utf8_lossy);
                format!("header {} is {}", header.name, got.as_deref().unwrap_or("not there"))
            }),
            (Err(Failure::Query(at)), _) => entry
                .query
                .get(at)
                .map_or_else(String::new, |query| format!("query {} is another", query.name)),
        };
        OtherPart {
            place: self.place(&entry.rule.source, ""),
            asks: filters::entry(entry),
            matches: tried.result.is_ok(),
            why,
        }
    }

    fn matched(&mut self, matched: &Matched<'_>, head: &RequestHead, story: &mut Story) {
        let rule = matched.rule.plan();
        story.rule = Some(RulePart {
            place: self.place(&rule.source, ""),
            matched: filters::entry(matched.entry),
            limits: limits(rule),
        });
        let list = format!("{}.filters", rule.source.path);
        story.filters = self.filters(&rule.filters, &rule.source, &list);
        let mut filtered = head.clone();
        let context = matched.context();
        let mut effects = Effects::default();
        if let Some(stop) = filters::stopped(matched.rule.filters(), &mut filtered, &context, &mut effects) {
            story.answer = own_answer(stop, "a filter answers; no backend is asked");
            return;
        }
        let total: u64 = rule.backends.iter().map(|share| u64::from(share.weight)).sum();
        for (nth, share) in rule.backends.iter().enumerate() {
            let mut part = self.backend(share, rule, total);
            if part.answer.is_none()
                && let Some(entry) = matched.rule.share(nth)
            {
                let mut head = filtered.clone();
                match filters::stopped(entry.filters, &mut head, &context, &mut effects) {
                    None => part.sent = Some(sent(&head)),
                    Some(stop) => part.answer = Some(own_answer(stop, "a filter of this backend answers")),
                }
            }
            story.backends.push(part);
        }
        story.answer = verdict(&story.backends);
    }

    fn backend(&mut self, share: &Share, rule: &Rule, total: u64) -> BackendPart {
        let filters = self.filters(&share.filters, &rule.source, &format!("{}.filters", share.path));
        let mut part = BackendPart {
            place: self.place(&rule.source, &share.path),
            to: String::new(),
            percent: if total == 0 { 0.0 } else { f64::from(share.weight) * 100.0 / total as f64 },
            protocol: None,
            endpoints: Vec::new(),
            filters,
            sent: None,
            answer: None,
        };
        match &share.target {
            Target::Invalid(no) => {
                part.to = no.reason.to_string();
                part.answer = Some(Answer::fault(FaultKind::InvalidRoute, no.message.to_string()));
            }
            Target::Backend(key) => {
                part.to = key.to_string();
                part.protocol = self.plan().backends.get(key).map(|backend| match backend.protocol {
                    BackendProtocol::Unspecified if rule.kind == portway_plan::RuleKind::Grpc => "h2c",
                    BackendProtocol::Unspecified | BackendProtocol::Http1 => "HTTP/1.1",
                    BackendProtocol::H2c => "h2c",
                });
                let endpoints = self.plan().endpoints.get(key);
                part.endpoints = endpoints.iter().flat_map(|set| set.list.iter().map(endpoint)).collect();
                if part.endpoints.is_empty() {
                    part.answer = Some(Answer::fault(FaultKind::NoEndpoints, "nothing says where it is"));
                }
            }
        }
        part
    }

    fn filters(&mut self, filters: &[Filter], source: &Source, path: &str) -> Vec<FilterPart> {
        let part = |(nth, filter): (usize, &Filter)| FilterPart {
            place: self.place(source, &format!("{path}[{nth}]")),
            what: filters::filter(filter),
        };
        filters.iter().enumerate().map(part).collect()
    }

    /// The place of a source, or of another field of its object.
    fn place(&mut self, source: &Source, path: &str) -> Place {
        if path.is_empty() {
            return Place { source: source.to_string(), at: self.places.of(&source.object, &source.path) };
        }
        Place { source: format!("{} {path}", source.object), at: self.places.of(&source.object, path) }
    }
}

/// A list of names that stays short.
pub(super) fn some(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(MOST_NAMES);
    names.truncate(MOST_NAMES);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    names.join(", ") + &more
}

/// What a filter answers in place of a backend.
fn own_answer(answer: Result<Response, FaultKind>, why: &str) -> Answer {
    match answer {
        Ok(response) => Answer {
            status: Some(response.head.status.as_u16()),
            why: why.to_owned(),
            location: response
                .head
                .headers
                .get("location")
                .map(|at| String::from_utf8_lossy(at).into_owned()),
        },
        Err(kind) => Answer::fault(kind, "a filter cannot be honoured"),
    }
}

fn limits(rule: &Rule) -> Vec<String> {
    let mut limits = Vec::new();
    limits.extend(rule.timeouts().request.map(|time| format!("request timeout {time:?}")));
    limits.extend(rule.timeouts().backend_request.map(|time| format!("backend request timeout {time:?}")));
    limits.extend(rule.retry.as_ref().map(|retry| format!("{} retries", retry.attempts)));
    limits.extend(rule.session.as_deref().map(filters::session));
    limits
}

fn sent(head: &RequestHead) -> String {
    format!("{} {}, host {}", head.method, head.target.as_str(), head.authority.as_str())
}

pub(super) fn endpoint(endpoint: &Endpoint) -> String {
    let state = match endpoint.state {
        EndpointState::Active => "",
        EndpointState::Terminating => " (terminating)",
    };
    match &endpoint.address {
        EndpointAddress::Ip(ip) if ip.is_loopback() && endpoint.port == demo::PRETENDED_PORT => {
            "a demo echo instance that portway run starts".to_owned()
        }
        EndpointAddress::Ip(ip) => format!("{}{state}", std::net::SocketAddr::new(*ip, endpoint.port)),
        EndpointAddress::Name(name) => format!("{name}:{}{state}", endpoint.port),
    }
}

fn verdict(backends: &[BackendPart]) -> Answer {
    let weighted: Vec<&BackendPart> = backends.iter().filter(|part| part.percent > 0.0).collect();
    let failing = weighted.iter().find_map(|part| part.answer.clone());
    match (weighted.as_slice(), failing) {
        ([], _) => Answer::fault(FaultKind::InvalidRoute, "the rule has no backend with a weight above 0"),
        (all, Some(answer)) if all.iter().all(|part| part.answer.is_some()) => answer,
        (_, Some(answer)) => {
            let status = answer.status.unwrap_or(500);
            Answer {
                why: format!("a backend answers; for the shares without one, {status}"),
                ..Answer::default()
            }
        }
        (_, None) => Answer { why: "a backend answers".to_owned(), ..Answer::default() },
    }
}

fn goes_first(criterion: Criterion) -> &'static str {
    match criterion {
        Criterion::Hostname => "matches too; the winner's hostname is more specific",
        Criterion::PathType => "matches too; exact paths go first, then prefixes, then expressions",
        Criterion::PathLength => "matches too; the winner's path is longer",
        Criterion::Method => "matches too; the winner asks for a method",
        Criterion::Headers => "matches too; the winner asks for more headers",
        Criterion::QueryParams => "matches too; the winner asks for more query parameters",
        Criterion::Route => "matches too; the winner's route is older, or first by namespace and name",
        Criterion::Rule => "matches too; the winner's rule comes first in the route",
        Criterion::Match => "matches too; the winner's match comes first in the rule",
    }
}
