//! What `portway run` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portway_api::diagnostic::Diagnostic;
use portway_api::object::KindId;
use portway_plan::{
    Entry, Filter, Listener, ListenerProtocol, ObjectRef, PathMatch, Plan, Rule, Share, Source, Target,
    Transport,
};
use portway_proxy::Applied;
use portway_store::{Change, Changes, Resources};
use portway_translate::Problems;

use super::{Serving, tries};
use crate::check::plural;
use crate::style::Style;
use crate::world;

/// Changes that are listed one by one; more are counted.
const MOST_CHANGES: usize = 12;

/// The first thing that is printed: what is served where, what is refused and why, and what to try.
pub(super) fn render(
    serving: &Serving,
    applied: &Applied,
    paths: &[PathBuf],
    diagnostics: &[Diagnostic],
    took: Duration,
    style: Style,
) -> String {
    let mut out = String::new();
    let objects: usize = KindId::ALL.iter().map(|kind| serving.resources.count(*kind)).sum();
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let _ = writeln!(
        out,
        "{} {} {}",
        style.bold("Portway"),
        style.bold(env!("CARGO_PKG_VERSION")),
        style.dim(format!(
            "{}: {}, {}, serving after {}",
            paths.join(", "),
            plural(objects, "object"),
            plural(serving.proxy.workers(), "worker"),
            millis(took)
        ))
    );
    let mut bound: Vec<(&Listener, SocketAddr)> = Vec::new();
    let mut gateway: Option<&Arc<ObjectRef>> = None;
    for (port, applied) in serving.translation.plan.ports.iter().zip(&applied.ports) {
        for listener in &port.listeners {
            let object = &listener.source.object;
            if gateway != Some(object) {
                let _ = writeln!(out, "\n{}", style.bold(object));
                gateway = Some(object);
            }
            let at = match &applied.bound {
                Ok(address) => {
                    bound.push((listener, reachable(*address)));
                    style.link(address.to_string()).to_string()
                }
                Err(why) => style.bad(format!("port {} not bound: {why}", port.port)).to_string(),
            };
            let is_open = applied.bound.is_ok();
            self::listener(&mut out, listener, &serving.translation.plan, &at, is_open, style);
        }
    }
    for failed in &applied.failed {
        let _ = writeln!(out, "{} {}: {}", style.bad("✗"), failed.listener, failed.reason);
    }
    problems(&mut out, serving, diagnostics, style);
    if bound.is_empty() {
        let _ = write!(out, "\n{}", no_listeners(&serving.resources, style));
    }
    let lines = tries::curl_lines(bound.into_iter());
    if !lines.is_empty() {
        let _ = writeln!(out, "\n{}", style.bold("Try"));
        for line in lines {
            let _ = writeln!(out, "  {}", style.link(line));
        }
    }
    let admin =
        serving.proxy.admin_address().map(|at| format!("Admin http://{at} (/status, /metrics, /plan). "));
    let watching =
        format!("{}Watching {}; Ctrl-C drains and ends.", admin.unwrap_or_default(), paths.join(", "));
    let _ = writeln!(out, "\n{}", style.dim(watching));
    out
}

fn listener(out: &mut String, listener: &Listener, plan: &Plan, at: &str, is_open: bool, style: Style) {
    let protocol = match listener.protocol {
        ListenerProtocol::Http => "HTTP",
        ListenerProtocol::Https(_) => "HTTPS",
        ListenerProtocol::Tls(_) | ListenerProtocol::TlsPassthrough => "TLS",
        ListenerProtocol::Tcp => "TCP",
        ListenerProtocol::Udp => "UDP",
    };
    let name = listener.source.section.as_deref().unwrap_or("?");
    let _ = writeln!(out, "  {} {protocol} {at} {}", style.bold(name), style.dim(&listener.hostname));
    for forward in &listener.forwards {
        let rule = &forward.rule;
        let mut shares = rule.backends.iter().filter(|share| share.weight > 0);
        let fails = !is_open || shares.all(|share| obstacle(share, plan).is_some());
        let _ = writeln!(
            out,
            "    {} {:<22} {} {}",
            if fails { style.bad("✗") } else { style.good("✓") },
            forward.hostname.to_string(),
            rule.source.object,
            style.dim(destination(&rule.source, &rule.backends, plan, false))
        );
    }
    for host in &listener.hosts {
        let mut routes: Vec<(&Arc<ObjectRef>, Vec<&Entry>)> = Vec::new();
        for entry in &host.entries {
            let source = &entry.rule.source;
            match routes.iter_mut().find(|(object, _)| *object == &source.object) {
                Some((_, firsts)) if firsts.iter().any(|known| known.rule.source == *source) => {}
                Some((_, firsts)) => firsts.push(entry),
                None => routes.push((&source.object, vec![entry])),
            }
        }
        for (object, rules) in routes {
            let failing = rules.iter().filter(|entry| fails(&entry.rule, plan)).count();
            let mark = match failing {
                _ if !is_open => style.bad("✗"),
                0 => style.good("✓"),
                some if some == rules.len() => style.bad("✗"),
                _ => style.warn("!"),
            };
            let several = rules.len() > 1;
            let to = rules.into_iter().map(|entry| match &entry.rule.source.section {
                None if several => format!("{} {}", path(&entry.path), of_rule(&entry.rule, plan)),
                _ => of_rule(&entry.rule, plan),
            });
            let to: Vec<String> = to.collect();
            let _ = writeln!(
                out,
                "    {mark} {:<22} {object} {}",
                host.hostname.to_string(),
                style.dim(to.join("; "))
            );
        }
    }
}

/// What tells rules without names apart, in few words.
fn path(path: &PathMatch) -> &str {
    match path {
        PathMatch::Prefix(prefix) if prefix.is_empty() => "/",
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
        // It may have anything in it, also what a terminal would obey.
        PathMatch::Regex(regex) if regex.0.bytes().all(|byte| byte.is_ascii_graphic()) => &regex.0,
        PathMatch::Regex(_) => "a pattern",
    }
}

/// Why nothing of this share reaches a backend, and the status that requests get.
fn obstacle(share: &Share, plan: &Plan) -> Option<(u16, String)> {
    match &share.target {
        Target::Backend(key) => {
            let none = plan.endpoints.get(key).is_none_or(|known| known.list.is_empty());
            none.then(|| (503, format!("{} has no endpoints", key.object.name)))
        }
        Target::Invalid(no) => Some((500, no.reason.to_string())),
    }
}

/// Whether every request of a rule gets an error of the gateway's own.
fn fails(rule: &Rule, plan: &Plan) -> bool {
    let redirects = rule.filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
    let mut shares = rule.backends.iter().filter(|share| share.weight > 0);
    !redirects && shares.all(|share| obstacle(share, plan).is_some())
}

/// Where a rule sends requests, in few words.
fn of_rule(rule: &Rule, plan: &Plan) -> String {
    let redirect = rule.filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => {
            let to = redirect.hostname.as_deref().or(redirect.scheme.as_deref());
            Some(format!("{} to {}", redirect.status, to.unwrap_or("another URL")))
        }
        _ => None,
    });
    match redirect {
        Some(redirect) => format!("{}→ {redirect}", named(&rule.source)),
        None => destination(&rule.source, &rule.backends, plan, true),
    }
}

fn named(rule: &Source) -> String {
    rule.section.as_deref().map(|name| format!("{name}: ")).unwrap_or_default()
}

/// Where shares go, in few words; of `requests`, with the status for those that go nowhere.
fn destination(rule: &Source, backends: &[Share], plan: &Plan, requests: bool) -> String {
    let total: u64 = backends.iter().map(|share| u64::from(share.weight)).sum();
    let shares: Vec<String> = backends
        .iter()
        .filter(|share| share.weight > 0)
        .map(|share| {
            let to = match (obstacle(share, plan), &share.target) {
                (None, Target::Backend(key)) => key.object.name.to_string(),
                (None, Target::Invalid(_)) => String::new(),
                (Some((status, why)), _) if requests => format!("{status} {why}"),
                (Some((_, why)), _) => format!("reset, {why}"),
            };
            if backends.len() == 1 {
                to
            } else {
                format!("{to} {}%", u64::from(share.weight) * 100 / total.max(1))
            }
        })
        .collect();
    let to = match (shares.is_empty(), requests) {
        (false, _) => shares.join(", "),
        (true, true) => "500".to_owned(),
        (true, false) => "reset".to_owned(),
    };
    format!("{}→ {to}", named(rule))
}

fn problems(out: &mut String, serving: &Serving, diagnostics: &[Diagnostic], style: Style) {
    let problems = world::problems(&serving.translation.problems, &Problems::default(), &serving.resources);
    let missing = world::without_endpoints(&serving.translation.plan);
    let missing = world::no_endpoints(&missing, &serving.resources);
    let unserved = world::unserved(world::idle(&serving.resources), &serving.resources);
    for diagnostic in diagnostics.iter().chain(&problems).chain(&missing).chain(&unserved) {
        let _ = write!(out, "\n{}\n", diagnostic.render(style.colour()));
    }
}

/// What to say when nothing listens.
fn no_listeners(resources: &Resources, style: Style) -> String {
    let example = [
        "apiVersion: gateway.networking.k8s.io/v1",
        "kind: GatewayClass",
        "metadata:",
        "  name: portway",
        "spec:",
        "  controllerName: portway.dev/gateway-controller",
    ]
    .map(|line| format!("  {line}\n"))
    .concat();
    let head = style.warn("Nothing listens yet.");
    if resources.count(KindId::GatewayClass) == 0 {
        return format!(
            "{head} There is no GatewayClass; Portway serves the Gateways of a class like this one:\n\n{example}"
        );
    }
    if resources.count(KindId::Gateway) == 0 {
        return format!("{head} There is no Gateway; it says which ports to open.\n");
    }
    format!(
        "{head} No Gateway has a listener that can serve. Portway serves Gateways of classes whose controllerName is \
         portway.dev/gateway-controller; what stands in the way is told above, and by `portway get -f … gateways -o yaml`.\n"
    )
}

/// What changed, line by line.
pub(super) fn changes(changes: &Changes, took: Duration, style: Style) -> String {
    let mut out = String::new();
    for (key, change) in changes.iter().take(MOST_CHANGES) {
        let mark = match change {
            Change::Added => style.good("+"),
            Change::Changed => style.warn("~"),
            Change::Removed => style.bad("-"),
        };
        let _ = writeln!(out, "{mark} {key}: applied in {}", millis(took));
    }
    let more = changes.len().saturating_sub(MOST_CHANGES);
    if more > 0 {
        let _ = writeln!(out, "{} and {more} more: applied in {}", style.warn("~"), millis(took));
    }
    out
}

/// Which ports a change opened and closed.
pub(super) fn ports(
    before: &Plan,
    now: &Plan,
    unavailable: &BTreeMap<(Option<IpAddr>, u16, Transport), String>,
    style: Style,
) -> String {
    let keys = |plan: &Plan| -> BTreeSet<_> {
        plan.ports.iter().map(|port| (port.address, port.port, port.transport)).collect()
    };
    let named = |(_, port, transport): &(_, _, _)| numbered(*port, *transport);
    let (before, now) = (keys(before), keys(now));
    let opened = now.difference(&before).filter(|key| !unavailable.contains_key(key));
    let opened = opened.map(|key| format!("{} port {} is open\n", style.good("✓"), named(key)));
    let closed =
        before.difference(&now).map(|key| format!("{} port {} is closed\n", style.bad("-"), named(key)));
    opened.chain(closed).collect()
}

/// A port for people: `8080`, `53/UDP`.
pub(super) fn numbered(port: u16, transport: Transport) -> String {
    match transport {
        Transport::Tcp => port.to_string(),
        Transport::Udp => format!("{port}/UDP"),
    }
}

fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1_000.0;
    if millis < 10.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

/// The address at which a client on this machine reaches a socket that is bound to all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use portway_translate::Translator;

    use super::*;

    #[test]
    fn rules_without_names_are_told_apart_by_their_paths() {
        let objects = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec: {controllerName: portway.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec: {gatewayClassName: portway, listeners: [{name: http, protocol: HTTP, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app}
spec:
  parentRefs: [{name: web}]
  rules:
    - matches: [{path: {value: /docs}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: docs.example.com}}]
    - backendRefs: [{name: app, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {ports: [{port: 80}]}
";
        let resources = Resources::from_documents(objects).expect("valid objects");
        let options = world::options(world::machine());
        let plan = Translator::new().update(&resources, &Changes::default(), &options).plan;
        let no_terminal = Style::of(&tempfile::tempfile().expect("a file"));
        let mut out = String::new();
        listener(&mut out, &plan.ports[0].listeners[0], &plan, "[::]:80", true, no_terminal);
        assert!(out.contains("/docs → 302 to docs.example.com; / → 503 app has no endpoints"), "{out}");
    }
}
