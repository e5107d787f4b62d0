//! Which listener and which host get a request.

use super::*;
use portway_plan::{Cors, Filter};

#[test]
fn the_most_specific_listener_and_no_other() {
    let table = compile(
        &port(vec![
            listener("shop.example.com", false, vec![site("shop.example.com", "shop")]),
            listener("*.example.com", false, vec![host("*.example.com", vec![])]),
            listener("*.com", false, vec![site("*.com", "com")]),
            listener("", false, vec![site("", "any")]),
        ]),
        None,
    );
    for (authority, wanted) in [
        ("shop.example.com", Ok("shop")),
        // Listener isolation: the listener for *.com would match, and is not asked.
        ("other.example.com", Err(FaultKind::NoRoute)),
        ("a.shop.example.com", Err(FaultKind::NoRoute)),
        ("example.com", Ok("com")),
        ("com", Ok("any")),
        ("", Ok("any")),
        ("[::1]", Ok("any")),
        ("192.0.2.1", Ok("any")),
    ] {
        let got = get(&table, &format!("http://{authority}/"));
        assert_eq!(got.as_deref(), wanted.as_deref(), "{authority}");
    }
}

#[test]
fn no_listener_no_route() {
    let table = compile(&port(vec![listener("a.example", false, vec![site("a.example", "a")])]), None);
    assert_eq!(get(&table, "http://b.example/"), Err(FaultKind::NoRoute));
    let head = request("GET", "https://a.example/");
    assert_eq!(route_of(&table, &head, Some(Some("a.example"))), Err(FaultKind::NoRoute));
}

#[test]
fn less_specific_hosts_are_tried_when_no_entry_matches() {
    let one = |hostname: &str, path: &str, route: &str| {
        host(hostname, vec![entry(prefix(path), &rule(route, &[]))])
    };
    let table = compile(
        &port(vec![listener(
            "",
            false,
            vec![
                one("www.shop.example.com", "/a", "exact"),
                one("*.shop.example.com", "/b", "near"),
                one("*.example.com", "/c", "far"),
                one("", "/d", "any"),
            ],
        )]),
        None,
    );
    for (path, wanted) in [("/a", "exact"), ("/b", "near"), ("/c", "far"), ("/d", "any")] {
        assert_eq!(get(&table, &format!("http://www.shop.example.com{path}")).as_deref(), Ok(wanted));
    }
    assert_eq!(get(&table, "http://www.shop.example.com/e"), Err(FaultKind::NoRoute));
    assert_eq!(get(&table, "http://example.com/c"), Err(FaultKind::NoRoute));
}

/// The cases of HTTPRouteHTTPSListenerDetectMisdirectedRequests.
#[test]
fn misdirected_requests() {
    let table = compile(
        &port(vec![
            listener("fourth-example.wildcard.org", true, vec![site("fourth-example.wildcard.org", "4")]),
            listener("second-example.org", true, vec![site("second-example.org", "2")]),
            listener("*.wildcard.org", true, vec![site("*.wildcard.org", "3")]),
            listener("", true, vec![site("example.org", "1")]),
        ]),
        None,
    );
    const MISDIRECTED: Result<&str, FaultKind> = Err(FaultKind::Misdirected);
    const NO_ROUTE: Result<&str, FaultKind> = Err(FaultKind::NoRoute);
    for (sni, authority, wanted) in [
        ("example.org", "example.org", Ok("1")),
        ("example.org", "second-example.org", MISDIRECTED),
        ("example.org", "unknown-example.org", NO_ROUTE),
        ("second-example.org", "second-example.org", Ok("2")),
        ("second-example.org", "example.org", MISDIRECTED),
        ("second-example.org", "unknown-example.org", MISDIRECTED),
        ("third-example.wildcard.org", "third-example.wildcard.org", Ok("3")),
        ("third-example.wildcard.org", "fith-example.wildcard.org", Ok("3")),
        ("third-example.wildcard.org", "fourth-example.wildcard.org", MISDIRECTED),
        ("third-example.wildcard.org", "second-example.org", MISDIRECTED),
        ("third-example.wildcard.org", "unknown-example.org", MISDIRECTED),
        ("fourth-example.wildcard.org", "fourth-example.wildcard.org", Ok("4")),
        ("fourth-example.wildcard.org", "fith-example.wildcard.org", MISDIRECTED),
        ("unknown-example.org", "example.org", Ok("1")),
        ("unknown-example.org", "unknown-example.org", NO_ROUTE),
        // Without a server name, the listener without hostname has shown its certificate.
        ("", "example.org", Ok("1")),
        ("", "second-example.org", MISDIRECTED),
    ] {
        let head = request("GET", &format!("https://{authority}/"));
        let got = route_of(&table, &head, Some((!sni.is_empty()).then_some(sni)));
        assert_eq!(got.as_deref(), wanted.as_deref(), "SNI {sni:?}, host {authority}");
    }
}

#[test]
fn a_host_that_no_listener_has_is_not_found() {
    let table = compile(&port(vec![listener("a.example", true, vec![site("a.example", "a")])]), None);
    let head = request("GET", "https://b.example/");
    assert_eq!(route_of(&table, &head, Some(Some("a.example"))), Err(FaultKind::NoRoute));
}

/// Else a client that names no server would get around what another listener asks of clients.
#[test]
fn without_a_server_name_the_least_specific_listener_is_shown() {
    let table = compile(
        &port(vec![
            listener("a.example", true, vec![site("a.example", "a")]),
            listener("*.example", true, vec![site("*.example", "wild")]),
        ]),
        None,
    );
    for (authority, wanted) in [("b.example", Ok("wild")), ("a.example", Err(FaultKind::Misdirected))] {
        let head = request("GET", &format!("https://{authority}/"));
        assert_eq!(route_of(&table, &head, Some(None)).as_deref(), wanted.as_deref(), "{authority}");
    }
}

#[test]
fn plain_text_and_tls_on_one_port_are_apart() {
    let table = compile(
        &port(vec![
            listener("a.example", true, vec![site("a.example", "tls")]),
            listener("a.example", false, vec![site("a.example", "plain")]),
        ]),
        None,
    );
    assert_eq!(get(&table, "http://a.example/").as_deref(), Ok("plain"));
    let head = request("GET", "https://a.example/");
    assert_eq!(route_of(&table, &head, Some(Some("a.example"))).as_deref(), Ok("tls"));
}

/// The same host in other words gets the same answer, with one host and with many.
#[test]
fn spellings_of_a_host() {
    for others in [0, 150] {
        let mut hosts = vec![site("shop.example.com", "shop")];
        hosts.extend((0..others).map(|i| site(&format!("h{i}.example.com"), "other")));
        hosts.push(site("*.example.com", "wild"));
        let table = compile(&port(vec![listener("", false, hosts)]), None);
        for (host, wanted) in [("shop.example.com", "shop"), ("a.b.example.com", "wild")] {
            let upper = host.to_ascii_uppercase();
            for spelling in [
                host.to_owned(),
                upper.clone(),
                format!("{host}."),
                format!("{host}:8080"),
                format!("{upper}.:1"),
                format!("{host}:"),
            ] {
                assert_eq!(get(&table, &format!("http://{spelling}/")).as_deref(), Ok(wanted), "{spelling}");
            }
        }
        assert_eq!(get(&table, "http://example.com/"), Err(FaultKind::NoRoute));
        assert_eq!(get(&table, "http://shop.example.com..x/"), Err(FaultKind::NoRoute));
    }
}

/// What is matched is what is sent: every spelling of a path meets the same rule.
#[test]
fn spellings_of_a_path() {
    let table = compile(
        &port(vec![listener(
            "",
            false,
            vec![host(
                "",
                vec![
                    entry(exact("/admin/%7eroot"), &rule("root", &[])),
                    entry(prefix("/admin"), &rule("admin", &[])),
                    entry(prefix(""), &rule("all", &[])),
                ],
            )],
        )]),
        None,
    );
    for (path, wanted) in [
        ("/admin/~root", "root"),
        ("//admin/./x/..//%7Eroot", "root"),
        ("/admin", "admin"),
        ("//admin", "admin"),
        ("/./admin/", "admin"),
        ("/x/../%61dmin/y", "admin"),
        ("/admin?/../", "admin"),
        ("/Admin", "all"),
        ("/administrator", "all"),
        ("/admin%2Fx", "all"),
        ("/admin;x=1", "all"),
    ] {
        assert_eq!(get(&table, &format!("http://a{path}")).as_deref(), Ok(wanted), "{path}");
    }
}

#[test]
fn a_preflight_finds_the_rule_for_the_method_that_it_asks_for() {
    let mut planned = (*rule("cors", &[])).clone();
    planned.filters = [Filter::Cors(Cors::default())].into();
    let limited = |rule: &Arc<Rule>| Entry { method: Some("PUT".into()), ..entry(prefix("/a"), rule) };
    let entries = vec![limited(&rule("plain", &[])), limited(&Arc::new(planned))];
    let table = compile(&port(vec![listener("", false, vec![host("", entries)])]), None);
    let preflight = |method: &'static str| {
        let mut head = request("OPTIONS", "http://a/a");
        head.headers.append("origin", "https://o");
        head.headers.append("access-control-request-method", method);
        route_of(&table, &head, None)
    };
    assert_eq!(preflight("PUT").as_deref(), Ok("cors"));
    assert_eq!(preflight("GET"), Err(FaultKind::NoRoute));
    assert_eq!(route_of(&table, &request("OPTIONS", "http://a/a"), None), Err(FaultKind::NoRoute));
    assert_eq!(route_of(&table, &request("PUT", "http://a/a"), None).as_deref(), Ok("plain"));
}
