//! A change costs what it touches, and what it does not touch lives on.

use super::*;
use crate::http::filters::tests::backends;

fn shares_of(table: &PortTable, url: &str, requests: usize) -> Vec<usize> {
    let head = request("GET", url);
    let mut counts = vec![0; 2];
    for _ in 0..requests {
        let matched = table.route(&head, None).expect("a match");
        let share = matched.rule.choose().expect("a share");
        counts[usize::from(share.plan.weight == 1)] += 1;
    }
    counts
}

fn weighted(hostname: &str, route: &str) -> Arc<Host> {
    host(hostname, vec![entry(prefix(""), &rule(route, &[9, 1]))])
}

#[test]
fn only_the_changed_host_is_compiled() {
    let service = backends(&["gone"]);
    let metrics = Metrics::new(1);
    let hosts: Vec<_> = (0..100).map(|i| site(&format!("h{i:02}.example"), &format!("r{i}"))).collect();
    let other = listener("*.other", false, vec![site("a.other", "other")]);
    let first = PortTable::compile(
        &port(vec![other.clone(), listener("", false, hosts.clone())]),
        None,
        &service,
        &metrics,
    );
    let mut changed = hosts;
    changed[7] = site("h07.example", "new");
    changed.remove(50);
    changed.insert(0, site("added.example", "added"));
    let second = PortTable::compile(
        &port(vec![other, listener("", false, changed)]),
        Some(&first),
        &service,
        &metrics,
    );
    assert!(Arc::ptr_eq(&first.listeners()[0], &second.listeners()[0]));
    let before = first.listeners()[1].hosts();
    let after = second.listeners()[1].hosts();
    let shared = after.iter().filter(|a| before.iter().any(|b| Arc::ptr_eq(a, b))).count();
    assert_eq!((after.len(), shared), (100, 98));
    for (url, wanted) in [
        ("http://h07.example/", Ok("new")),
        ("http://h08.example/", Ok("r8")),
        ("http://h99.example/", Ok("r99")),
        ("http://added.example/", Ok("added")),
        ("http://h50.example/", Err(FaultKind::NoRoute)),
    ] {
        assert_eq!(get(&second, url).as_deref(), wanted.as_deref(), "{url}");
    }
}

#[test]
fn a_rule_keeps_its_place_in_the_weights_when_its_neighbours_change() {
    let service = backends(&["gone"]);
    let metrics = Metrics::new(1);
    let kept = rule("kept", &[9, 1]);
    let with = |path: &str, hosts: Vec<Arc<Host>>| {
        let mut hosts = hosts;
        hosts.push(host("", vec![entry(exact(path), &rule("new", &[])), entry(prefix(""), &kept)]));
        port(vec![listener("", false, hosts)])
    };
    for before in 0..10 {
        let first = PortTable::compile(&with("/x", vec![]), None, &service, &metrics);
        let mut counts = shares_of(&first, "http://a/", before);
        let second = PortTable::compile(&with("/y", vec![site("b", "b")]), Some(&first), &service, &metrics);
        assert_eq!(get(&second, "http://a/y").as_deref(), Ok("new"));
        assert_eq!(get(&second, "http://a/x").as_deref(), Ok("kept"));
        let rest = shares_of(&second, "http://a/", 10 - before);
        counts.iter_mut().zip(rest).for_each(|(count, more)| *count += more);
        assert_eq!(counts, [9, 1], "{before} before the change");
    }
}

#[test]
fn weights_are_exact_and_spread() {
    let table = compile(&port(vec![listener("", false, vec![weighted("", "r")])]), None);
    for _ in 0..20 {
        assert_eq!(shares_of(&table, "http://a/", 10), [9, 1]);
    }
    for weights in [&[0, 0][..], &[]] {
        let nothing = host("", vec![entry(prefix(""), &rule("r", weights))]);
        let table = compile(&port(vec![listener("", false, vec![nothing])]), None);
        let matched = table.route(&request("GET", "http://a/"), None).expect("a match");
        assert!(matched.rule.choose().is_none());
    }
}

#[test]
fn a_backend_that_comes_late_is_found() {
    let metrics = Metrics::new(1);
    let planned = port(vec![listener("", false, vec![weighted("", "r")])]);
    let has_backend = |table: &PortTable| {
        let matched = table.route(&request("GET", "http://a/"), None).expect("a match");
        matched.rule.share(0).is_some_and(|share| share.backend.is_some())
    };
    let without = PortTable::compile(&planned, None, &BackendMap::default(), &metrics);
    assert!(!has_backend(&without));
    let with = PortTable::compile(&planned, Some(&without), &backends(&["gone"]), &metrics);
    assert!(has_backend(&with));
}

#[test]
fn a_host_that_listeners_share_is_one_and_so_is_its_place_in_the_weights() {
    let (service, metrics) = (backends(&["gone"]), Metrics::new(1));
    let shared = weighted("", "r");
    let of = |hosts| port(vec![listener("", false, hosts), listener("", true, vec![shared.clone()])]);
    let table = PortTable::compile(&of(vec![shared.clone()]), None, &service, &metrics);
    let rules = || table.listeners().iter().map(|listener| listener.hosts()[0].rule(0).expect("a rule"));
    for _ in 0..20 {
        let picks = rules().cycle().take(10).filter_map(|rule| rule.choose());
        assert_eq!(picks.filter(|share| share.plan.weight == 9).count(), 9);
    }
    let host = |table: &PortTable, nth: usize| table.listeners()[nth].hosts()[0].clone();
    assert!(Arc::ptr_eq(&host(&table, 0), &host(&table, 1)));
    // They need not stay alike.
    let other = of(vec![site("", "other")]);
    let changed = PortTable::compile(&other, Some(&table), &service, &metrics);
    assert_eq!(get(&changed, "http://a/").as_deref(), Ok("other"));
    assert!(Arc::ptr_eq(&host(&changed, 1), &host(&table, 1)));
    // A listener that comes later has it, too.
    let planned = |listeners| port(listeners);
    let first = listener("", true, vec![shared.clone()]);
    let alone = PortTable::compile(&planned(vec![first.clone()]), None, &service, &metrics);
    let both = planned(vec![first, listener("b", false, vec![shared.clone()])]);
    let both = PortTable::compile(&both, Some(&alone), &service, &metrics);
    assert!(Arc::ptr_eq(&host(&both, 1), &host(&alone, 0)));
}
