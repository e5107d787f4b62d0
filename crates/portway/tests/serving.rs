//! The real binary under load: broken files, and its end.

#[allow(dead_code, reason = "shared by tests that each use a part")]
mod binary;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, ensure};
use binary::{HOST, Portway, folder, route};
use bytes::Bytes;
use portway_testkit::certificates::Authority;
use portway_testkit::{Answer, Client, H2Origin, Http2, Load, Origin, Target, soon};
use tokio::task::JoinSet;

async fn chat() -> anyhow::Result<Origin> {
    Origin::new(|_| {
        Answer::Upgrade(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        )
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_broken_and_mended_under_load_fail_no_request() -> anyhow::Result<()> {
    let (a, chat) = (Origin::named("a").await?, chat().await?);
    let edit = |nth: usize| {
        route(&format!(
            "[{{matches: [{{path: {{value: /chat}}}}], backendRefs: [{{name: chat, port: 80}}]}}, \
             {{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-edit, value: '{nth}'}}]}}}}], \
             backendRefs: [{{name: a, port: 80}}]}}]"
        ))
    };
    let folder = folder(&edit(0), &[a.service("apps", "a"), chat.service("apps", "chat")])?;
    let mut portway = Portway::run(folder.path(), &[])?;
    let target = Target::plain(portway.address("http")?, HOST);
    let load = Load::on(&target).await?.with_new_connections(&target);
    let mut load = load.with_websocket(&target, "/chat").await?;
    let file = folder.path().join("route.yaml");
    let mut client = target.http1().await?;
    for nth in 1..=20 {
        let good = edit(nth);
        let broken = match nth % 4 {
            // As an editor or a copy would leave it for a moment.
            0 => good[..good.len() / 2].to_owned(),
            1 => good.replace("[{name: a, port: 80}]", "[{name: a, port: eighty}]"),
            2 => format!("{good}\t- what: [is this\n"),
            _ => good.replace("{name: r,", "{name: r, name: twice,"),
        };
        std::fs::write(&file, broken)?;
        portway.wait_for("route.yaml:")?;
        load.answered(10).await?;
        let seen = client.get(HOST, "/").await?;
        assert_eq!(seen.header("x-edit"), Some((nth - 1).to_string().as_str()), "what served before serves");
        std::fs::write(&file, good)?;
        portway.wait_for("~ HTTPRoute apps/r: applied in")?;
        let seen = client.get(HOST, "/").await?;
        assert_eq!(seen.header("x-edit"), Some(nth.to_string().as_str()), "an edit holds once it is told");
    }
    assert!(load.end().await? > 0, "every client was answered");
    Ok(())
}

/// How many whole answers clients have got.
type Answered = Arc<AtomicUsize>;

/// Sends requests on one connection until it is closed. Fails unless each has its whole answer, or the
/// connection was closed cleanly without a byte of one.
async fn keep_alive_to_the_end(mut client: Client, answered: Answered) -> anyhow::Result<()> {
    use portway_testkit::wire::Reading;
    loop {
        client.write(format!("GET /load HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await?;
        let answer = client.wire().message(Reading::Response { to_head: false }).await?;
        let Some(answer) = answer else { return Ok(()) };
        ensure!(answer.status() == 200 && answer.text() == "load", "{answer:?}");
        answered.fetch_add(1, Ordering::Relaxed);
        if answer.header("connection") == Some("close") {
            ensure!(client.wire().rest().await?.is_empty(), "bytes after the last answer");
            return Ok(());
        }
    }
}

/// Sends requests on streams of one connection until it goes away. Fails unless each has its whole answer, or
/// was refused by a GOAWAY without an error.
async fn streams_to_the_end(http2: Http2, answered: Answered) -> anyhow::Result<()> {
    loop {
        let request = http::Request::get(format!("http://{HOST}/load")).body(Bytes::new())?;
        match http2.send(request).await {
            Ok(answer) => {
                ensure!(answer.head.status() == 200 && answer.body == "load", "{answer:?}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
                let clean = matches!(reason, Some(h2::Reason::NO_ERROR | h2::Reason::REFUSED_STREAM));
                ensure!(clean, "{error:?}");
                return Ok(());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_costs_no_request_its_answer() -> anyhow::Result<()> {
    // More than the sockets between the backend and the client hold: the download is under way for sure.
    const DOWNLOAD: usize = 48 << 20;
    let origin = Origin::new(|request| match request.target() {
        "/download" => {
            let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {DOWNLOAD}\r\n\r\n").into_bytes();
            answer.resize(answer.len() + DOWNLOAD, b'x');
            Answer::Raw(answer)
        }
        _ => Answer::text("load"),
    })
    .await?;
    let grpc = H2Origin::new().await?;
    let rules = "[{matches: [{path: {value: /orders}}], backendRefs: [{name: orders, port: 80}]}, \
                 {backendRefs: [{name: a, port: 80}]}]";
    let folder = folder(&route(rules), &[origin.service("apps", "a"), grpc.service("apps", "orders")])?;
    let mut portway = Portway::run(folder.path(), &[])?;
    let address = portway.address("http")?;
    let admin = portway.admin()?;
    let target = Target::plain(address, HOST);

    let (answered, mut clients) = (Answered::default(), JoinSet::new());
    for _ in 0..4 {
        clients.spawn(keep_alive_to_the_end(target.http1().await?, Arc::clone(&answered)));
    }
    let http2 = target.http2().await?;
    for _ in 0..4 {
        clients.spawn(streams_to_the_end(http2.clone(), Arc::clone(&answered)));
    }

    let mut download = target.http1().await?;
    download.write(format!("GET /download HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await?;
    assert_eq!(download.wire().head().await?.map(|head| head.status()), Some(200));
    let call = target.http2().await?;
    let request = http::Request::post(format!("http://{HOST}/orders")).body(())?;
    let (response, mut stream) = call.open(request, false).await?;
    let mut incoming = soon("the stream's head", response).await??.into_body();
    stream.send_data(Bytes::from_static(b"before"), false)?;
    assert_eq!(soon("the first message", incoming.data()).await?.transpose()?, Some("before".into()));
    let busy = async {
        while answered.load(Ordering::Relaxed) < 200 {
            tokio::task::yield_now().await;
        }
    };
    soon("200 answers", busy).await?;
    assert_eq!(Client::connect(admin).await?.get("localhost", "/readyz").await?.status(), 200);

    portway.terminate()?;
    portway.wait_for("Draining")?;
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    // Nothing that reached a backend was lost on the way back.
    let arrived = origin.requests().iter().filter(|request| request.target() == "/load").count();
    assert_eq!(answered.load(Ordering::Relaxed), arrived);
    let unready = async {
        loop {
            let answer = Client::connect(admin).await?.get("localhost", "/readyz").await?;
            if answer.status() == 503 {
                return anyhow::Ok(answer.text());
            }
        }
    };
    assert_eq!(soon("/readyz says that it goes", unready).await??, "shutting down\n");
    let refused = async { while Client::connect(address).await.is_ok() {} };
    soon("new connections are refused", refused).await?;

    stream.send_data(Bytes::from_static(b"after"), true)?;
    assert_eq!(soon("the last message", incoming.data()).await?.transpose()?, Some("after".into()));
    let trailers = soon("the trailers", async {
        while let Some(data) = incoming.data().await {
            data?;
        }
        incoming.trailers().await
    });
    assert_eq!(trailers.await??.expect("trailers")["grpc-status"], "0");
    let body = download.wire().exactly(DOWNLOAD).await?;
    assert!(body.iter().all(|byte| *byte == b'x'), "the download is whole");
    assert!(download.wire().rest().await?.is_empty(), "the connection ends cleanly");
    drop((call, http2));
    let (status, printed) = portway.ended()?;
    assert!(status.success(), "{status}");
    assert!(printed.contains("Drained in") && !printed.contains("cut"), "{printed}");
    Ok(())
}

#[tokio::test]
async fn the_systems_authorities_are_trusted_where_a_policy_says_so() -> anyhow::Result<()> {
    let (ca, other) = (Authority::new()?, Authority::new()?);
    let config = ca.issue(["web.internal"])?.server(b"http/1.1", None)?;
    let origin = Origin::over_tls(&config, |_| Answer::text("secure")).await?;
    let policy = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: web, namespace: apps}\n\
                  spec:\n  targetRefs: [{group: '', kind: Service, name: web}]\n  \
                  validation: {hostname: web.internal, wellKnownCACertificates: System}\n";
    let services = [origin.service("apps", "web"), policy.to_owned()];
    let folder = folder(&route("[{backendRefs: [{name: web, port: 80}]}]"), &services)?;
    let store = tempfile::tempdir()?;
    let file = store.path().join("ca.crt");
    let empty = store.path().join("certs");
    std::fs::create_dir(&empty)?;
    for (trusted, status) in [(Some(&ca), 200), (Some(&other), 502), (None, 502)] {
        std::fs::write(&file, trusted.map(|ca| ca.certificate().chain.as_str()).unwrap_or_default())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_portway"));
        command.args(["run", "--free-ports", "--admin", "127.0.0.1:0", "--workers", "1"]).arg(folder.path());
        command.env("SSL_CERT_FILE", &file).env("SSL_CERT_DIR", &empty);
        let portway = Portway::from(command)?;
        let mut client = Client::connect(portway.address("http")?).await?;
        assert_eq!(client.get(HOST, "/").await?.status(), status);
    }
    assert_eq!(origin.requests().len(), 1);
    Ok(())
}

/// As a login shell or systemd starts it: few open files for those who do not ask, many for those who do.
#[tokio::test]
async fn it_takes_as_many_connections_as_the_hard_limit_has_files_for() -> anyhow::Result<()> {
    const CLIENTS: usize = 100;
    let origin = Origin::named("a").await?;
    let folder = folder(&route("[{backendRefs: [{name: a, port: 80}]}]"), &[origin.service("apps", "a")])?;
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 100 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_portway")]);
    command.args(["run", "--free-ports", "--admin", "127.0.0.1:0", "--workers", "2"]).arg(folder.path());
    let portway = Portway::from(command)?;
    let address = portway.address("http")?;
    let mut clients = Vec::new();
    for nth in 0..CLIENTS {
        let mut client = Client::connect(address).await?;
        assert_eq!(client.get(HOST, "/").await?.status(), 200, "client {nth}");
        clients.push(client);
    }
    Ok(())
}

/// A terminal that is stopped (Ctrl-S), or a collector of logs that hangs: edits are served, and it ends when
/// it is told to.
#[tokio::test]
async fn it_goes_on_while_nobody_reads_what_it_prints() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let edit = |nth: usize| {
        route(&format!(
            "[{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-edit, value: '{nth}'}}]}}}}], \
             backendRefs: [{{name: a, port: 80}}]}}]"
        ))
    };
    let folder = folder(&edit(0), &[origin.service("apps", "a")])?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_portway"));
    command.args(["run", "--free-ports", "--admin", "off", "--access-log", "json"]).arg(folder.path());
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut printed = BufReader::new(child.stdout.take().context("its standard output")?);
    let mut address = None;
    loop {
        let mut line = String::new();
        ensure!(printed.read_line(&mut line)? > 0, "it has ended");
        if let Some(listener) = line.trim().strip_prefix("http HTTP ") {
            address = listener.split(' ').next().and_then(|address| address.parse().ok());
        }
        if line.contains("Ctrl-C") {
            break;
        }
    }
    // Far more than a pipe holds.
    let wrong = "apiVersion: v1\nkind: Service\nmetadata: {name: A}\n---\n".repeat(2000);
    std::fs::write(folder.path().join("wrong.yaml"), wrong)?;
    let mut client = Client::connect(address.context("the listener's line")?).await?;
    for nth in 1..=3 {
        std::fs::write(folder.path().join("route.yaml"), edit(nth))?;
        let served = async {
            while client.get(HOST, "/").await?.header("x-edit") != Some(nth.to_string().as_str()) {}
            anyhow::Ok(())
        };
        soon("the edit", served).await??;
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
    let ended = soon("its end", tokio::task::spawn_blocking(move || child.wait())).await???;
    assert!(ended.success(), "{ended}");
    drop(printed);
    Ok(())
}

/// Two listeners of one port, of which the one for `*.example.com` does not get `www.example.com`.
#[tokio::test]
async fn what_is_shown_to_try_reaches_each_rule() -> anyhow::Result<()> {
    let listener = |name: &str, hostname: &str| {
        format!("{{name: {name}, protocol: HTTP, port: 80, hostname: '{hostname}'}}")
    };
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: portway}}\n\
         spec: {{controllerName: portway.dev/gateway-controller}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\n\
         spec: {{gatewayClassName: portway, listeners: [{}, {}]}}\n",
        listener("one", "www.example.com"),
        listener("all", "*.example.com"),
    );
    let route = |name: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
             spec: {{parentRefs: [{{name: edge, sectionName: {name}}}], rules: [{{filters: [\
             {{type: RequestRedirect, requestRedirect: {{hostname: {name}.test, port: 80}}}}]}}]}}\n"
        )
    };
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("all.yaml"), gateway + &route("one") + &route("all"))?;
    let portway = Portway::run(folder.path(), &[])?;
    let mut reached = Vec::new();
    for line in portway.printed.lines().filter(|line| line.trim_start().starts_with("curl ")) {
        let url: http::Uri = line.rsplit(' ').next().context("a URL")?.parse()?;
        let port = url.port_u16().context("its port")?;
        let mut client = Client::connect(([127, 0, 0, 1], port).into()).await?;
        let answer = client.get(url.host().context("its host")?, url.path()).await?;
        reached.push(answer.header("location").unwrap_or_default().to_owned());
    }
    reached.sort();
    assert_eq!(reached, ["http://all.test/", "http://one.test/"], "{}", portway.printed);
    Ok(())
}
