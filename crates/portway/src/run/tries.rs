//! Command lines that show what is served.

use std::collections::HashSet;
use std::net::SocketAddr;

use portway_plan::{Entry, HostPattern, Listener, ListenerProtocol, PathMatch, RuleKind, StringMatch};

/// More would be read by nobody.
const MOST: usize = 8;

/// `curl` lines for rules of these listeners and the addresses where they are bound: one for each rule, as far
/// as a line can be made of what it asks for.
pub(super) fn curl_lines<'a>(listeners: impl Iterator<Item = (&'a Listener, SocketAddr)>) -> Vec<String> {
    let listeners: Vec<_> = listeners.collect();
    let exact = |pattern: &'a HostPattern| match pattern {
        HostPattern::Exact(name) => Some(&**name),
        _ => None,
    };
    let hosts = listeners.iter().flat_map(|(listener, _)| &listener.hosts).map(|host| &host.hostname);
    let names = listeners.iter().map(|(listener, _)| &listener.hostname).chain(hosts);
    let taken: HashSet<&str> = names.filter_map(exact).collect();
    let mut lines = Vec::new();
    let mut rules = HashSet::new();
    for (listener, address) in listeners {
        for host in &listener.hosts {
            for entry in &host.entries {
                let source = &entry.rule.source;
                if rules.insert((source.object.clone(), source.path.clone()))
                    && let Some(line) = curl(listener, &host.hostname, &taken, entry, address)
                    && !lines.contains(&line)
                {
                    lines.push(line);
                }
            }
        }
    }
    lines.truncate(MOST);
    lines
}

fn curl(
    listener: &Listener,
    hostname: &HostPattern,
    taken: &HashSet<&str>,
    entry: &Entry,
    address: SocketAddr,
) -> Option<String> {
    let tls = matches!(listener.protocol, ListenerProtocol::Https(_));
    let grpc = entry.rule.kind == RuleKind::Grpc;
    let scheme = if tls { "https" } else { "http" };
    let host = match hostname {
        HostPattern::Exact(name) => name.to_string(),
        // A name that is nobody's own.
        HostPattern::Wildcard(suffix) => {
            let names = ["www", "app", "any"].map(|label| format!("{label}{suffix}"));
            names.into_iter().find(|name| !taken.contains(name.as_str()))?
        }
        HostPattern::Any => "localhost".to_owned(),
    };
    let mut path = match &entry.path {
        PathMatch::Exact(path) => path.to_string(),
        PathMatch::Prefix(prefix) if prefix.is_empty() => "/".to_owned(),
        PathMatch::Prefix(prefix) if grpc => format!("{prefix}/Get"),
        PathMatch::Prefix(prefix) => prefix.to_string(),
        PathMatch::Regex(_) => return None,
    };
    let mut options = String::new();
    if tls {
        options += " -k";
    }
    if entry.rule.backends.is_empty() && !grpc {
        options += " -i";
    }
    for header in &entry.headers {
        let StringMatch::Exact(value) = &header.value else { return None };
        options += &format!(" -H {}", quoted(&format!("{}: {value}", header.name))?);
    }
    for (nth, parameter) in entry.query.iter().enumerate() {
        let StringMatch::Exact(value) = &parameter.value else { return None };
        path += &format!("{}{}={value}", if nth == 0 { '?' } else { '&' }, parameter.name);
    }
    if let Some(method) = entry.method.as_ref().filter(|method| &***method != "GET" && !grpc) {
        options += &format!(" -X {}", quoted(method)?);
    }
    let port = address.port();
    if host != "localhost" {
        options += &format!(" --resolve {host}:{port}:{}", address.ip());
    }
    let url = quoted(&format!("{scheme}://{host}:{port}{path}"))?;
    // A message of five bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
    Some(if grpc {
        let http2 = if tls { "--http2" } else { "--http2-prior-knowledge" };
        format!(
            r"printf '\0\0\0\0\5hello' | curl{options} {http2} -H 'content-type: application/grpc' --data-binary @- --output - {url}"
        )
    } else {
        format!("curl{options} {url}")
    })
}

/// A word for a shell that means just this text, since what teams write into routes is on the line: nobody who
/// copies it shall run a command of theirs. None for what a terminal would not show as it is.
fn quoted(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:@%+,=".contains(c);
    if text.chars().any(|c| !c.is_ascii_graphic() && c != ' ') {
        return None;
    }
    Some(if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) })
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn what_routes_say_runs_no_command() {
        assert_eq!(quoted("http://localhost:8080/cart").as_deref(), Some("http://localhost:8080/cart"));
        assert_eq!(quoted("x-canary: yes").as_deref(), Some("'x-canary: yes'"));
        assert_eq!(quoted("/a?b=$(id)").as_deref(), Some("'/a?b=$(id)'"));
        assert_eq!(quoted("x: '; id; '").as_deref(), Some(r"'x: '\''; id; '\'''"));
        assert_eq!(quoted("x: \u{1b}[2J"), None);
        assert_eq!(quoted("x: \u{202e}"), None);
    }
}
