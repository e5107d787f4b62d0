//! check, explain and get, as users call them.

#[allow(dead_code, reason = "shared by tests that each use a part")]
mod binary;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use binary::{portway, root};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn check_tells_usable_from_broken_from_missing() -> anyhow::Result<()> {
    let good = portway(&["check", "examples"])?;
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stdout));
    assert!(text(&good.stdout).contains("0 errors, 1 warning"), "{}", text(&good.stdout));
    assert_eq!(portway(&["check", "--strict", "examples"])?.status.code(), Some(1));
    assert_eq!(portway(&["check", "no/such/folder"])?.status.code(), Some(2));
    assert_eq!(portway(&["check"])?.status.code(), Some(2));

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("route.yaml");
    std::fs::write(
        &file,
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: r\nspec:\n  rules:\n    - matches:\n        - path:\n            value: no-slash\n",
    )?;
    let bad = portway(&["check", &file.to_string_lossy()])?;
    assert_eq!(bad.status.code(), Some(1));
    let said = text(&bad.stdout);
    assert!(said.contains("route.yaml:8:"), "{said}");
    assert!(said.contains("HTTPRoute default/r"), "{said}");
    assert!(said.contains("^^^"), "{said}");
    Ok(())
}

#[test]
fn check_warns_of_kinds_that_do_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("policy.yaml");
    std::fs::write(
        &file,
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
         metadata: {name: b, namespace: a}\nspec:\n  targetRefs: [{group: '', kind: Service, name: s}]\n",
    )?;
    let said = portway(&["check", "-o", "short", &file.to_string_lossy()])?;
    assert_eq!(said.status.code(), Some(0));
    let said = text(&said.stdout);
    assert!(said.contains("warning: XBackendTrafficPolicy a/b: NotSupported"), "{said}");
    Ok(())
}

#[test]
fn explain_names_the_winner_and_why() -> anyhow::Result<()> {
    let told = portway(&[
        "explain",
        "-f",
        "examples/quickstart",
        "GET",
        "https://shop.example.com:8443/cart",
        "-H",
        "x-canary: yes",
    ])?;
    let said = text(&told.stdout);
    assert!(
        said.contains("HTTPRoute store/shop spec.rules[0] (canary)  examples/quickstart/store/routes.yaml:"),
        "{said}"
    );
    assert!(said.contains("100.0%  Service store/cart-v2:80"), "{said}");
    assert!(said.contains("the winner asks for more headers"), "{said}");
    Ok(())
}

#[test]
fn explain_follows_the_operators_redirect_in_json_too() -> anyhow::Result<()> {
    let told = portway(&[
        "explain",
        "-f",
        "examples/quickstart",
        "GET",
        "http://shop.example.com/api/x",
        "-o",
        "json",
    ])?;
    let story: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    assert_eq!(story["answer"]["status"], 301);
    assert_eq!(story["answer"]["location"], "https://shop.example.com:8443/api/x");
    let then = &story["then"];
    assert_eq!(then["listener"]["port"], 8443);
    assert_eq!(then["backends"][0]["to"], "Service store/catalog:80");
    assert_eq!(then["backends"][0]["sent"], "GET /v2/x, host shop.example.com:8443");
    Ok(())
}

#[test]
fn explain_tells_why_nothing_serves() -> anyhow::Result<()> {
    let explain = |arguments: &[&str]| {
        let told = portway(&[&["explain", "-f", "examples/quickstart", "-o", "json"], arguments].concat())?;
        anyhow::Ok(serde_json::from_slice::<serde_json::Value>(&told.stdout)?)
    };
    let party = explain(&["GET", "https://party.example.com/"])?;
    assert_eq!(party["answer"]["status"], 404);
    assert_eq!(party["refused"][0]["place"]["source"], "HTTPRoute guest/party spec.parentRefs[0]");
    assert!(party["refused"][0]["why"].as_str().is_some_and(|why| why.starts_with("NotAllowedByListeners")));
    assert_eq!(explain(&["GET", "https://shop.example.com/nothing"])?["answer"]["status"], 404);
    assert_eq!(explain(&["GET", "https://shop.example.com/../x"])?["answer"]["status"], 400);
    let refused = explain(&["GET", "https://example.org/"])?;
    assert!(
        refused["answer"]["why"].as_str().is_some_and(|why| why.contains("handshake is refused")),
        "{refused}"
    );
    let other = explain(&["GET", "https://shop.example.org:8443/", "-H", "host: shop.example.com"])?;
    let why = other["answer"]["why"].as_str();
    assert!(why.is_some_and(|why| why.contains("is for \"shop.example.org\"")), "{other}");
    let unnamed = explain(&["GET", "https://127.0.0.1:8443/"])?;
    assert_eq!(unnamed["answer"]["status"], 404, "{unnamed}");
    let closed = explain(&["GET", "https://shop.example.com:9999/"])?;
    assert!(closed["answer"]["why"].as_str().is_some_and(|why| why.contains("8443")), "{closed}");
    Ok(())
}

/// What clients say of where they come from is not matched, and what the gateway says of it is.
#[test]
fn explain_reads_a_request_as_the_proxy_does() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let rule = |name: &str, header: &str, value: &str| {
        format!(
            "{{name: {name}, matches: [{{headers: [{{name: {header}, value: '{value}'}}]}}], \
             filters: [{{type: RequestRedirect, requestRedirect: {{hostname: {name}.test}}}}]}}"
        )
    };
    let rules = [
        rule("forged", "x-real-ip", "192.0.2.1"),
        rule("hop", "keep-alive", "5"),
        rule("known", "x-forwarded-port", "80"),
    ];
    std::fs::write(folder.path().join("gateway.yaml"), binary::GATEWAY)?;
    std::fs::write(folder.path().join("route.yaml"), binary::route(&format!("[{}]", rules.join(", "))))?;
    let path = folder.path().to_string_lossy().into_owned();
    let explain = |method: &str, url: &str, header: &str| {
        let told = portway(&["explain", "-f", &path, "-o", "json", method, url, "-H", header])?;
        anyhow::Ok(serde_json::from_slice::<serde_json::Value>(&told.stdout)?)
    };
    let url = format!("http://{}/", binary::HOST);
    for header in ["X-Real-IP: 192.0.2.1", "Keep-Alive: 5"] {
        let story = explain("GET", &url, header)?;
        assert_eq!(story["answer"]["location"], "http://known.test/", "{story}");
    }
    for (method, header, status) in
        [("CONNECT", "a: b", 501), ("GET", "a b: c", 400), ("GET", "Expect: x", 417)]
    {
        assert_eq!(explain(method, &url, header)?["answer"]["status"], status);
    }
    for host in [format!("{}.", binary::HOST), format!("user:secret@{}", binary::HOST)] {
        let story = explain("GET", &format!("http://{host}/"), "a: b")?;
        assert_eq!(story["answer"]["status"], 302, "{story}");
    }
    Ok(())
}

#[test]
fn a_path_that_leads_nowhere_is_a_wrong_argument() -> anyhow::Result<()> {
    for arguments in [["get", "all"].as_slice(), &["explain", "GET", "http://localhost/"]] {
        let told = portway(&[arguments, &["-f", "/nowhere"]].concat())?;
        assert_eq!(told.status.code(), Some(2));
        assert!(text(&told.stderr).contains("/nowhere: no such file or folder"));
    }
    Ok(())
}

#[test]
fn nothing_is_an_empty_list_for_programs() -> anyhow::Result<()> {
    let told = portway(&["get", "-f", "examples/l4", "grpcroutes", "-o", "json"])?;
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&told.stdout)?["items"], serde_json::json!([]));
    Ok(())
}

#[test]
fn explain_does_not_take_for_http_what_a_tls_listener_passes_on() -> anyhow::Result<()> {
    let told =
        portway(&["explain", "-f", "examples/l4", "-o", "json", "GET", "https://through.example.com:8443/"])?;
    let story: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    assert_eq!(story["answer"]["status"], serde_json::Value::Null, "{story}");
    let why = story["answer"]["why"].as_str();
    assert!(why.is_some_and(|why| why.contains("ask for tls://through.example.com:8443")), "{story}");
    Ok(())
}

#[test]
fn explain_tells_of_a_route_for_all_hosts_that_is_not_attached() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(
        folder.path().join("web.yaml"),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: portway}\n\
         spec: {controllerName: portway.dev/gateway-controller}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: web}\n\
         spec: {gatewayClassName: portway, listeners: [{name: http, protocol: HTTP, port: 8080}]}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: app}\n\
         spec: {parentRefs: [{name: webb}]}\n",
    )?;
    let told =
        portway(&["explain", "-f", &folder.path().to_string_lossy(), "GET", "http://localhost:8080/"])?;
    let said = text(&told.stdout);
    assert!(said.contains("NotFound: there is no Gateway default/webb"), "{said}");
    Ok(())
}

#[test]
fn get_prints_what_kubectl_would() -> anyhow::Result<()> {
    let table = text(&portway(&["get", "-f", "examples/quickstart", "gateways"])?.stdout);
    let columns: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(columns[0], ["NAMESPACE", "NAME", "CLASS", "ADDRESS", "PROGRAMMED", "AGE"]);
    assert_eq!(columns[1], ["infra", "shared", "portway", "127.0.0.1", "True", "<unknown>"]);
    let json =
        portway(&["get", "-f", "examples/quickstart", "httproute", "party", "-n", "guest", "-o", "json"])?;
    let route: serde_json::Value = serde_json::from_slice(&json.stdout)?;
    assert_eq!(route["apiVersion"], "gateway.networking.k8s.io/v1");
    let accepted = &route["status"]["parents"][0]["conditions"][0];
    assert_eq!((&accepted["type"], &accepted["status"]), (&"Accepted".into(), &"False".into()));
    assert_eq!(accepted["reason"], "NotAllowedByListeners");
    let yaml =
        text(&portway(&["get", "-f", "examples/quickstart", "gateways", "shared", "-o", "yaml"])?.stdout);
    assert!(yaml.contains("attachedRoutes: 3"), "{yaml}");
    assert_eq!(portway(&["get", "-f", "examples/quickstart", "httproute", "nobody"])?.status.code(), Some(1));
    Ok(())
}

/// A command whose standard output nobody reads any more.
#[test]
fn a_reader_that_leaves_changes_nothing() -> anyhow::Result<()> {
    let (reader, unread) = std::io::pipe()?;
    drop(reader);
    let mut check = Command::new(env!("CARGO_BIN_EXE_portway"));
    let checked = check.args(["check", "examples"]).current_dir(root()).stdout(unread).output()?;
    assert_eq!((checked.status.code(), text(&checked.stderr)), (Some(0), String::new()));

    let mut run = Command::new(env!("CARGO_BIN_EXE_portway"));
    run.args(["run", "--free-ports", "--admin", "off", "examples/quickstart"]).current_dir(root());
    let mut gateway = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let printed = BufReader::new(gateway.stdout.take().context("its standard output")?);
    let serves = printed.lines().map_while(Result::ok).any(|line| line.contains("Ctrl-C"));
    // The reader is gone; the words about the drain find nobody.
    let told = Command::new("kill").args(["-TERM", &gateway.id().to_string()]).status()?;
    let ended = gateway.wait_with_output()?;
    assert!(serves && told.success());
    assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), String::new()));
    Ok(())
}

#[test]
fn the_readme_shows_what_the_tools_say() -> anyhow::Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let explain = "explain -f examples/quickstart GET http://shop.example.com/cart -H x-canary:yes";
    let get = "get -f examples/quickstart httproutes -o wide";
    for line in [explain, get] {
        let said = text(&portway(&line.split(' ').collect::<Vec<_>>())?.stdout);
        assert!(!said.is_empty());
        assert!(readme.contains(said.trim_end()), "the README shows something else than\n{said}");
    }
    Ok(())
}
