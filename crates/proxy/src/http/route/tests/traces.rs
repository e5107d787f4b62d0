//! What explain can tell.

use super::*;

#[test]
fn the_story_of_a_request() {
    let old = rule("old", &[]);
    let canary =
        Entry { headers: vec![header("x-canary", "yes")], ..entry(prefix("/cart"), &rule("canary", &[])) };
    let posts = Entry { method: Some("POST".into()), ..entry(prefix("/cart"), &old) };
    let asks = Entry { query: vec![query("v", "2")], ..entry(prefix("/cart"), &old) };
    let entries = vec![
        entry(exact("/cart"), &rule("exact", &[])),
        posts,
        canary,
        asks,
        entry(prefix("/cart"), &old),
        entry(prefix("/cart"), &rule("young", &[])),
        entry(prefix(""), &old),
        entry(regex("/ca.*"), &old),
    ];
    let wild = entry(prefix("/cart"), &rule("wild", &[]));
    let hosts = vec![host("shop.example.com", entries), host("*.example.com", vec![wild])];
    let table = compile(
        &port(vec![
            listener("*.example.com", false, hosts),
            listener("*.org", false, vec![]),
            listener("", false, vec![]),
        ]),
        None,
    );
    let head = request("GET", "http://shop.example.com/cart/1?v=1");
    let trace = table.trace(&head, None);
    let listeners: Vec<_> = trace.listeners.iter().map(|l| l.plan().hostname.to_string()).collect();
    assert_eq!(listeners, ["*.example.com", "*"]);
    let hosts: Vec<_> = trace.hosts.iter().map(|h| h.plan().hostname.to_string()).collect();
    assert_eq!(hosts, ["shop.example.com", "*.example.com"]);
    let told: Vec<_> =
        trace.entries.iter().map(|e| (&*e.entry.rule.source.object.name, e.result, e.lost_by)).collect();
    assert_eq!(
        told,
        [
            ("old", Err(Failure::Method), None),
            ("canary", Err(Failure::Header(0)), None),
            ("old", Err(Failure::Query(0)), None),
            ("old", Ok(()), None),
            ("young", Ok(()), Some(Criterion::Route)),
            ("old", Ok(()), Some(Criterion::PathLength)),
            ("old", Ok(()), Some(Criterion::PathType)),
            ("wild", Ok(()), Some(Criterion::Hostname)),
            ("exact", Err(Failure::Path), None),
        ]
    );
    let winner = trace.outcome.expect("a match");
    assert!(std::ptr::eq(winner.entry, &winner.host.plan().entries[4]));
    assert_eq!(winner.context().prefix_len, Some(5));
    assert_eq!(trace.omitted, 0);
}

#[test]
fn without_a_match_the_story_is_still_told() {
    let table = compile(&port(vec![listener("a.org", true, vec![site("a.org", "a")])]), None);
    let tls = TlsInfo { server_name: Some("a.org".into()) };
    let trace = table.trace(&request("GET", "https://b.org/"), Some(&tls));
    assert_eq!(trace.outcome.err(), Some(FaultKind::NoRoute));
    assert!(trace.listeners.is_empty() && trace.entries.is_empty() && trace.shown.is_some());
}

#[test]
fn a_story_has_an_end() {
    let rule = rule("r", &[]);
    let entries = (0..10_000).map(|i| entry(exact(&format!("/{i}")), &rule)).collect();
    let table = compile(&port(vec![listener("", false, vec![host("", entries)])]), None);
    let trace = table.trace(&request("GET", "http://a/9999"), None);
    assert_eq!((trace.entries.len(), trace.omitted), (Trace::MOST_ENTRIES, 10_000 - Trace::MOST_ENTRIES));
    assert!(trace.entries[0].result.is_ok() && trace.outcome.is_ok());
}

/// The criteria, each between two entries that differ in nothing of higher rank.
#[test]
fn what_decides() {
    let of = |name: &str| entry(prefix("/svc"), &rule(name, &[]));
    let with = |change: &dyn Fn(&mut Entry)| {
        let mut changed = of("a");
        change(&mut changed);
        changed
    };
    let grpc = |path: PathMatch| {
        let mut rule = (*rule("a", &[])).clone();
        rule.kind = RuleKind::Grpc;
        entry(path, &Arc::new(rule))
    };
    let second_rule = || {
        let mut rule = (*rule("a", &[])).clone();
        rule.source.path = "spec.rules[1]".into();
        entry(prefix("/svc"), &Arc::new(rule))
    };
    let host_of_route = HostPattern::parse("a.example").expect("a pattern");
    for (winner, loser, wanted) in [
        (with(&|e| e.route_hostname = host_of_route.clone()), of("a"), Criterion::Hostname),
        (
            entry(exact("/svc/m"), &rule("a", &[])),
            entry(regex("/svc/.*"), &rule("a", &[])),
            Criterion::PathType,
        ),
        (entry(regex("/.*"), &rule("a", &[])), of("a"), Criterion::PathType),
        (of("a"), entry(prefix(""), &rule("a", &[])), Criterion::PathLength),
        (with(&|e| e.method = Some("GET".into())), of("a"), Criterion::Method),
        (with(&|e| e.headers = vec![header("x", "1")]), of("a"), Criterion::Headers),
        (with(&|e| e.query = vec![query("q", "1")]), of("a"), Criterion::QueryParams),
        (of("a"), of("b"), Criterion::Route),
        (of("a"), second_rule(), Criterion::Rule),
        (of("a"), with(&|e| e.match_index = 1), Criterion::Match),
        (grpc(prefix("/svc")), grpc(regex("/[^/]+/m")), Criterion::PathLength),
        (grpc(prefix("/svc")), grpc(prefix("/svc")), Criterion::Match),
    ] {
        let told = format!("{winner:?}\n{loser:?}");
        let table = compile(&port(vec![listener("", false, vec![host("", vec![winner, loser])])]), None);
        let mut head = request("GET", "http://a.example/svc/m?q=1");
        head.headers.append("x", "1");
        let trace = table.trace(&head, None);
        assert_eq!(trace.entries[1].lost_by, Some(wanted), "{told}");
    }
}
