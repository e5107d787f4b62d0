//! The tables find what trying the plan's entries one by one finds.

use std::fmt::Write;

use portway_plan::StringMatch;
use proptest::prelude::*;

use super::*;

/// Evaluates the plan as it is defined: hosts in order, entries in order. Shares no code with the tables.
fn naive(listener: &Listener, head: &RequestHead) -> Option<String> {
    let host = head.authority.host();
    let path = head.target.path();
    let value_matches = |wanted: &StringMatch, value: &str| match wanted {
        StringMatch::Exact(text) => **text == *value,
        StringMatch::Regex(regex) => regex::Regex::new(&regex.anchored()).unwrap().is_match(value),
    };
    let matches = |entry: &Entry| {
        let path_matches = match &entry.path {
            PathMatch::Exact(wanted) => **wanted == *path,
            PathMatch::Prefix(prefix) => path == &**prefix || path.starts_with(&format!("{prefix}/")),
            PathMatch::Regex(regex) => regex::Regex::new(&regex.anchored()).unwrap().is_match(path),
        };
        let header_matches = |header: &HeaderMatch| {
            let lines: Vec<_> = head
                .headers
                .iter()
                .filter(|(name, _)| name.to_ascii_lowercase() == header.name.as_bytes())
                .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
                .collect();
            !lines.is_empty() && value_matches(&header.value, &lines.join(","))
        };
        let query_matches = |parameter: &QueryMatch| {
            let pairs = head.target.query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
            let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            let first = pairs.find(|(name, _)| *name == &*parameter.name);
            first.is_some_and(|(_, value)| value_matches(&parameter.value, value))
        };
        path_matches
            && entry.method.as_deref().is_none_or(|method| method == head.method.as_str())
            && entry.headers.iter().all(header_matches)
            && entry.query.iter().all(query_matches)
    };
    let hosts = listener.hosts.iter().filter(|h| h.hostname.matches(host));
    let found = hosts.flat_map(|host| &host.entries).find(|entry| matches(entry));
    found.map(|entry| entry.rule.source.object.name.to_string())
}

fn path_text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4)
        .prop_map(|elements| elements.iter().fold(String::new(), |text, element| text + "/" + element))
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        path_text().prop_map(|text| exact(if text.is_empty() { "/" } else { &text })),
        path_text().prop_map(|text| prefix(&text)),
        prop::sample::select(vec![".*", "/a.*", "/(a|b)/?", "/[^/]+", "/ab", "/a/b|/b", "a", "(/a)+", "/b+"])
            .prop_map(regex),
    ]
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop::sample::select(vec!["1", "2", "1,2", "", "[12]", "1.*"]).prop_map(|text| {
        if text.contains(['[', '*']) {
            StringMatch::Regex(portway_plan::Regex(text.into()))
        } else {
            StringMatch::Exact(text.into())
        }
    })
}

fn an_entry() -> impl Strategy<Value = Entry> {
    let method = prop::option::weighted(0.3, prop::sample::select(vec!["GET", "POST"]));
    let headers = prop::collection::btree_map(prop::sample::select(vec!["x", "y"]), string_match(), 0..2);
    let queries = prop::collection::btree_map(prop::sample::select(vec!["p", "q"]), string_match(), 0..2);
    (path_match(), method, headers, queries).prop_map(|(path, method, headers, queries)| Entry {
        method: method.map(Into::into),
        headers: headers.into_iter().map(|(name, value)| HeaderMatch { name: name.into(), value }).collect(),
        query: queries.into_iter().map(|(name, value)| QueryMatch { name: name.into(), value }).collect(),
        ..entry(path, &rule("", &[]))
    })
}

/// A listener with some hosts, and entries in any order; each entry has a rule with a name of its own.
fn a_listener() -> impl Strategy<Value = Arc<Listener>> {
    let hostnames = vec!["a.b.c", "*.b.c", "*.c", ""];
    let hosts: Vec<_> =
        hostnames.into_iter().map(|name| (Just(name), prop::collection::vec(an_entry(), 0..20))).collect();
    hosts.prop_map(|hosts| {
        let mut name = 0;
        let hosts = hosts.into_iter().map(|(hostname, mut entries)| {
            for entry in &mut entries {
                name += 1;
                entry.rule = rule(&name.to_string(), &[]);
            }
            host(hostname, entries)
        });
        listener("", false, hosts.collect())
    })
}

fn a_request() -> impl Strategy<Value = RequestHead> {
    let value = || prop::sample::select(vec!["1", "2", ""]);
    let pairs = |names| prop::collection::vec((prop::sample::select(names), value()), 0..3);
    (
        prop::sample::select(vec!["GET", "POST", "PUT"]),
        prop::sample::select(vec!["a.b.c", "x.b.c", "b.c", "y.z.c", "other"]),
        path_text(),
        prop::sample::select(vec!["", "/"]),
        pairs(vec!["x", "X", "y"]),
        pairs(vec!["p", "q", "r"]),
    )
        .prop_map(|(method, host, path, slash, headers, query)| {
            let slash = if path.is_empty() { "/" } else { slash };
            let mut url = format!("http://{host}{path}{slash}");
            for (i, (name, value)) in query.iter().enumerate() {
                write!(url, "{}{name}={value}", if i == 0 { '?' } else { '&' }).unwrap();
            }
            let mut head = request(method, &url);
            for (name, value) in headers {
                head.headers.append(name, value);
            }
            head
        })
}

proptest! {
    #[test]
    fn finds_what_the_plan_says(
        listener in a_listener(),
        heads in prop::collection::vec(a_request(), 1..16),
    ) {
        let table = compile(&port(vec![listener.clone()]), None);
        for head in heads {
            let wanted = naive(&listener, &head).ok_or(FaultKind::NoRoute);
            prop_assert_eq!(route_of(&table, &head, None), wanted.clone());
            let trace = table.trace(&head, None);
            let traced = trace.outcome.map(|matched| matched.entry.rule.source.object.name.to_string());
            prop_assert_eq!(traced, wanted);
            let found = trace.entries.iter().filter(|e| e.result.is_ok() && e.lost_by.is_none()).count();
            prop_assert_eq!(found, usize::from(trace.outcome.is_ok()));
        }
    }

    /// Many entries with one path, which differ in headers and query parameters.
    #[test]
    fn many_entries_of_one_path(
        matches in prop::collection::vec((0usize..3, 0u8..6, 0u8..4, 0u8..4), 8..80),
        values in prop::collection::vec((0u8..7, 0u8..4, 0u8..4), 1..20),
    ) {
        let entries = (0..).zip(&matches).map(|(name, (kind, value, x, p)): (usize, _)| {
            let mut headers = match kind {
                0 => vec![],
                1 => vec![header("tenant", &value.to_string())],
                _ => {
                    let value = StringMatch::Regex(portway_plan::Regex(format!("[{value}-9]").into()));
                    vec![HeaderMatch { name: "tenant".into(), value }]
                }
            };
            if *x > 0 {
                headers.push(header("x", &x.to_string()));
            }
            let query = if *p > 0 { vec![query("p", &p.to_string())] } else { vec![] };
            Entry { headers, query, ..entry(prefix("/a"), &rule(&name.to_string(), &[])) }
        });
        let listener = listener("", false, vec![host("", entries.collect())]);
        let table = compile(&port(vec![listener.clone()]), None);
        for (value, x, p) in values {
            let mut head = request("GET", &format!("http://h/a/b?q=1&p={p}"));
            if value < 6 {
                head.headers.append("Tenant", value.to_string());
            }
            if x > 0 {
                head.headers.append("x", x.to_string());
            }
            let wanted = naive(&listener, &head).ok_or(FaultKind::NoRoute);
            prop_assert_eq!(route_of(&table, &head, None), wanted.clone());
            let trace = table.trace(&head, None);
            let traced = trace.outcome.map(|matched| matched.entry.rule.source.object.name.to_string());
            prop_assert_eq!(traced, wanted);
            prop_assert_eq!((trace.entries.len(), trace.omitted), (matches.len(), 0));
            prop_assert!(trace.entries.iter().all(|e| e.result != Err(Failure::Path)));
        }
    }

    /// Many entries with one path, which differ in the headers that they ask for.
    #[test]
    fn many_names_of_headers(
        names in prop::collection::vec((0u8..60, 0u8..8, 0u8..3), 30..90),
        sent in prop::collection::vec((0u8..60, 1u8..3), 0..12),
    ) {
        let entries = (0..).zip(&names).map(|(route, (name, other, value)): (usize, _)| {
            let mut headers = match value {
                0 => vec![],
                1 => {
                    let value = StringMatch::Regex(portway_plan::Regex("[12]".into()));
                    vec![HeaderMatch { name: format!("x-{name}").into(), value }]
                }
                _ => vec![header(&format!("x-{name}"), "1")],
            };
            match other {
                0 => headers.push(header("host", "h")),
                1 => headers.push(header("x-b", "1")),
                _ => {}
            }
            // Whatever asks for nothing comes last, or nothing else was ever found.
            let last = headers.is_empty();
            (last, Entry { headers, ..entry(prefix("/a"), &rule(&route.to_string(), &[])) })
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|(last, _)| *last);
        let listener = listener("", false, vec![host("", entries.into_iter().map(|(_, e)| e).collect())]);
        let table = compile(&port(vec![listener.clone()]), None);
        let mut head = request("GET", "http://h/a/b");
        for (name, value) in &sent {
            head.headers.append(format!("X-{name}"), value.to_string());
        }
        // The host as a header of the request, for the sake of the naive evaluation.
        let mut naive_head = head.clone();
        naive_head.headers.append("host", "h");
        let wanted = naive(&listener, &naive_head).ok_or(FaultKind::NoRoute);
        prop_assert_eq!(route_of(&table, &head, None), wanted.clone());
        let trace = table.trace(&head, None);
        let traced = trace.outcome.map(|matched| matched.entry.rule.source.object.name.to_string());
        prop_assert_eq!(traced, wanted);
        prop_assert_eq!((trace.entries.len(), trace.omitted), (names.len(), 0));
    }

    /// Hosts come, go and change in any way: the table that was built step by step finds the same.
    #[test]
    fn incremental_is_as_from_scratch(
        steps in prop::collection::vec(prop::collection::vec(0usize..3, 12), 1..6),
    ) {
        let version = |host: usize, version: usize| {
            let hostname = match host {
                10 => "*.h".to_owned(),
                11 => String::new(),
                _ => format!("h{host}.h"),
            };
            site(&hostname, &format!("{host}-{version}"))
        };
        let versions: Vec<[_; 2]> = (0..12).map(|host| [version(host, 1), version(host, 2)]).collect();
        let mut table = None;
        for step in steps {
            let present = step.iter().zip(&versions).filter(|(version, _)| **version > 0);
            let hosts = present.map(|(version, host)| host[version - 1].clone()).collect();
            let listener = listener("", false, hosts);
            let next = compile(&port(vec![listener.clone()]), table.as_ref());
            for host in (0..12).map(|host| format!("h{host}.h")).chain(["x".to_owned()]) {
                let head = request("GET", &format!("http://{host}/"));
                let wanted = naive(&listener, &head).ok_or(FaultKind::NoRoute);
                prop_assert_eq!(route_of(&next, &head, None), wanted);
            }
            table = Some(next);
        }
    }
}
