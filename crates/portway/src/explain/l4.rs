//! What happens to a connection of a TLS or TCP listener, or to a client's datagrams.

use std::sync::Arc;

use http::Uri;
use portway_plan::{ForwardRule, HostPattern, Listener, ListenerProtocol, Port, Target, Transport};

use super::story::{Answer, BackendPart, HostPart, ListenerPart, Place, RulePart, Story, endpoint, some};
use crate::places::Places;
use crate::world::World;

/// Follows a connection to `tls://name:port`, `tcp://address:port` or `udp://address:port` through a plan.
pub(super) fn tell(url: &Uri, world: &World, places: &mut Places<'_>) -> Story {
    let mut story = Story { request: format!("connection to {url}"), ..Story::default() };
    story.answer = match follow(url, world, places, &mut story) {
        Ok(()) => verdict(&story.backends),
        Err(why) => Answer { why, ..Answer::default() },
    };
    story
}

fn follow(url: &Uri, world: &World, places: &mut Places<'_>, story: &mut Story) -> Result<(), String> {
    let plan = &world.translation.plan;
    let scheme = url.scheme_str().unwrap_or_default();
    let speaks = |listener: &Listener| match &listener.protocol {
        ListenerProtocol::Tls(_) | ListenerProtocol::TlsPassthrough => scheme == "tls",
        ListenerProtocol::Tcp => scheme == "tcp",
        ListenerProtocol::Udp => scheme == "udp",
        ListenerProtocol::Http | ListenerProtocol::Https(_) => false,
    };
    let transport = if scheme == "udp" { Transport::Udp } else { Transport::Tcp };
    let candidates: Vec<&Arc<Port>> =
        plan.ports.iter().filter(|port| port.listeners.iter().any(|listener| speaks(listener))).collect();
    let wanted = url.port_u16();
    let port = match candidates.as_slice() {
        [only] if wanted.is_none() => Some(only),
        all => all.iter().find(|port| Some(port.port) == wanted && port.transport == transport),
    };
    let Some(port) = port else {
        let known = some(candidates.iter().map(|port| port.port.to_string()));
        let known = if known.is_empty() { "none".to_owned() } else { known };
        return Err(format!("no {scheme} listener has that port (ports that speak {scheme}: {known})"));
    };
    let name = url.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let is_name = name.parse::<std::net::IpAddr>().is_err();
    let matches = |pattern: &HostPattern| match pattern {
        HostPattern::Any => true,
        pattern => scheme == "tls" && is_name && pattern.matches(&name),
    };
    let Some(listener) = port.listeners.iter().find(|listener| matches(&listener.hostname)) else {
        let names = some(port.listeners.iter().map(|listener| listener.hostname.to_string()));
        return Err(format!(
            "reset: no listener of port {} is for {name:?} (they are for {names})",
            port.port
        ));
    };
    let (protocol, why) = match &listener.protocol {
        ListenerProtocol::Tls(_) => ("TLS", "TLS ends here"),
        ListenerProtocol::TlsPassthrough => ("TLS", "TLS goes through to the backend"),
        ListenerProtocol::Tcp => ("TCP", "takes every connection to the port"),
        ListenerProtocol::Udp => ("UDP", "takes every datagram to the port"),
        ListenerProtocol::Http | ListenerProtocol::Https(_) => {
            return Err(format!("{} takes it: ask for https://{name}", listener.source));
        }
    };
    let place = |source: &portway_plan::Source, places: &mut Places<'_>| Place {
        source: source.to_string(),
        at: places.of(&source.object, &source.path),
    };
    story.listener = Some(ListenerPart {
        place: place(&listener.source, places),
        port: port.port,
        protocol,
        hostname: listener.hostname.to_string(),
        why: why.to_owned(),
    });
    let Some(forward) = listener.forwards.iter().find(|forward| matches(&forward.hostname)) else {
        let names = some(listener.forwards.iter().map(|forward| forward.hostname.to_string()));
        let names = if names.is_empty() { String::new() } else { format!("; its routes are for {names}") };
        return Err(format!("reset: no route of this listener takes it{names}"));
    };
    story.hostnames.push(HostPart { pattern: forward.hostname.to_string(), chosen: true });
    story.rule = Some(RulePart {
        place: place(&forward.rule.source, places),
        matched: if scheme == "tls" { "by server name" } else { "everything" }.to_owned(),
        limits: Vec::new(),
    });
    story.backends = backends(&forward.rule, world, places);
    Ok(())
}

fn backends(rule: &ForwardRule, world: &World, places: &mut Places<'_>) -> Vec<BackendPart> {
    let total: u64 = rule.backends.iter().map(|share| u64::from(share.weight)).sum();
    let part = |share: &portway_plan::Share| {
        let source = format!("{} {}", rule.source.object, share.path);
        let (to, endpoints, fault) = match &share.target {
            Target::Invalid(no) => (no.reason.to_string(), Vec::new(), Some(no.message.to_string())),
            Target::Backend(key) => {
                let known = world.translation.plan.endpoints.get(key);
                let list: Vec<_> =
                    known.iter().flat_map(|endpoints| endpoints.list.iter().map(endpoint)).collect();
                let fault = list.is_empty().then(|| "no EndpointSlice says where it is".to_owned());
                (key.to_string(), list, fault)
            }
        };
        BackendPart {
            place: Place { source, at: places.of(&rule.source.object, &share.path) },
            to,
            percent: if total == 0 { 0.0 } else { f64::from(share.weight) * 100.0 / total as f64 },
            protocol: None,
            endpoints,
            filters: Vec::new(),
            sent: None,
            answer: fault.map(|why| Answer { why: format!("reset: {why}"), ..Answer::default() }),
        }
    };
    rule.backends.iter().map(part).collect()
}

fn verdict(backends: &[BackendPart]) -> Answer {
    let mut weighted = backends.iter().filter(|part| part.percent > 0.0).peekable();
    let why = if weighted.peek().is_none() {
        "reset: the rule has no backend with a weight above 0"
    } else if weighted.clone().all(|part| part.answer.is_some()) {
        "reset: no backend can take it"
    } else if weighted.any(|part| part.answer.is_some()) {
        "a backend takes it; what falls to the shares without one is reset"
    } else {
        "a backend takes it"
    };
    Answer { why: why.to_owned(), ..Answer::default() }
}
