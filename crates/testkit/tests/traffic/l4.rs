//! TLS listeners, passed through and terminated, and TCP listeners.

use std::sync::Arc;
use std::time::Duration;

use portway_proxy::Options;
use portway_testkit::certificates::{Certificate, trust};
use portway_testkit::client::tls;
use portway_testkit::{Client, Gateway, Origin, RawOrigin, origin, soon};
use rustls::RootCertStore;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;

use crate::{documents, named};

/// A class, and the Gateway `infra/edge` with these listeners.
pub(crate) fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: portway}}\nspec: \
         {{controllerName: portway.dev/gateway-controller}}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: \
         Gateway\nmetadata: {{name: edge, namespace: infra}}\nspec:\n  gatewayClassName: portway\n  listeners:\n{}",
        listeners
            .lines()
            .map(|line| format!("    - {{{line}, allowedRoutes: {{namespaces: {{from: All}}}}}}\n"))
            .collect::<String>()
    )
}

/// A route of that kind in the namespace `apps` on the listener `section`; `backends` is a YAML list.
pub(crate) fn passes(kind: &str, name: &str, section: &str, hostname: &str, backends: &str) -> String {
    let hostnames =
        if hostname.is_empty() { String::new() } else { format!("\n  hostnames: ['{hostname}']") };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: apps}}\nspec:\n  \
         parentRefs: [{{name: edge, namespace: infra, sectionName: {section}}}]{hostnames}\n  rules:\n    \
         - backendRefs: {backends}\n"
    )
}

const TCP: &str = "name: tcp, protocol: TCP, port: 9000";

/// A connection that has heard its backend's name.
struct Heard<S> {
    stream: BufStream<S>,
    name: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Heard<S> {
    async fn on(stream: S) -> anyhow::Result<Self> {
        let mut stream = BufStream::new(stream);
        let name = line(&mut stream).await?;
        Ok(Self { stream, name })
    }

    /// Sends a line and reads it back.
    async fn echo(&mut self, text: &str) -> anyhow::Result<()> {
        self.stream.write_all(format!("{text}\n").as_bytes()).await?;
        self.stream.flush().await?;
        let back = line(&mut self.stream).await?;
        anyhow::ensure!(back == text, "{back:?} came back for {text:?}");
        Ok(())
    }

    /// Closes its own side and reads what is still said.
    async fn close(mut self) -> anyhow::Result<String> {
        self.stream.shutdown().await?;
        let mut rest = String::new();
        soon("the end", self.stream.read_to_string(&mut rest)).await??;
        Ok(rest)
    }

    /// Whether the other side has ended the connection.
    async fn ended(&mut self) -> anyhow::Result<bool> {
        let read = soon("the end", self.stream.read_u8()).await?;
        Ok(read.is_err())
    }
}

async fn line(stream: &mut (impl AsyncBufReadExt + Unpin)) -> anyhow::Result<String> {
    let mut line = String::new();
    soon("a line", stream.read_line(&mut line)).await??;
    anyhow::ensure!(line.ends_with('\n'), "the connection ended after {line:?}");
    Ok(line.trim_end().to_owned())
}

async fn tcp(gateway: &Gateway, listener: &str) -> anyhow::Result<Heard<TcpStream>> {
    Heard::on(TcpStream::connect(gateway.addr(listener)?).await?).await
}

/// The name of the backend that a TLS client reaches.
async fn reached(
    gateway: &Gateway,
    listener: &str,
    name: &str,
    roots: &Arc<RootCertStore>,
) -> anyhow::Result<String> {
    Ok(Heard::on(tls(gateway.addr(listener)?, name, roots, b"").await?).await?.name)
}

#[tokio::test]
async fn the_server_name_chooses_where_tls_goes_through() -> anyhow::Result<()> {
    let (a, b) = (Certificate::new(["a.example.com"])?, Certificate::new(["*.example.com"])?);
    let (one, two) = (RawOrigin::with_tls("one", &a).await?, RawOrigin::with_tls("two", &b).await?);
    let gateway = Gateway::from_yaml(&documents([
        &gateway(
            "name: through, protocol: TLS, port: 443, hostname: '*.example.com', tls: {mode: Passthrough}",
        ),
        &passes("TLSRoute", "a", "through", "a.example.com", "[{name: one, port: 80}]"),
        &passes("TLSRoute", "b", "through", "*.b.example.com", "[{name: two, port: 80}]"),
        &one.service("apps", "one"),
        &two.service("apps", "two"),
    ]))?;
    let roots = trust([&a, &b])?;
    assert_eq!(reached(&gateway, "through", "a.example.com", &roots).await?, "one for a.example.com");
    assert_eq!(reached(&gateway, "through", "A.Example.Com", &roots).await?, "one for a.example.com");
    let deep = Certificate::new(["x.b.example.com"])?;
    let three = RawOrigin::with_tls("three", &deep).await?;
    drop(two);
    let service = three.service("apps", "two");
    let mut gateway = gateway;
    gateway.apply(&documents([
        &self::gateway(
            "name: through, protocol: TLS, port: 443, hostname: '*.example.com', tls: {mode: Passthrough}",
        ),
        &passes("TLSRoute", "b", "through", "*.b.example.com", "[{name: two, port: 80}]"),
        &service,
    ]))?;
    let roots = trust([&a, &deep])?;
    assert_eq!(reached(&gateway, "through", "x.b.example.com", &roots).await?, "three for x.b.example.com");
    for name in ["a.example.com", "b.example.com", "example.org"] {
        assert!(reached(&gateway, "through", name, &roots).await.is_err(), "no route for {name}");
    }
    Ok(())
}

#[tokio::test]
async fn https_tls_that_ends_and_tls_that_goes_through_share_a_port() -> anyhow::Result<()> {
    let own = Certificate::new(["web.example.com", "ends.example.com"])?;
    let theirs = Certificate::new(["through.example.com"])?;
    let through = RawOrigin::with_tls("through", &theirs).await?;
    let ends = RawOrigin::named("ends").await?;
    let ([_web], web) = named(["web"]).await?;
    let listeners = "\
name: web, protocol: HTTPS, port: 443, hostname: web.example.com, tls: {certificateRefs: [{name: own}]}
name: ends, protocol: TLS, port: 443, hostname: ends.example.com, tls: {mode: Terminate, certificateRefs: [{name: own}]}
name: through, protocol: TLS, port: 443, hostname: through.example.com, tls: {mode: Passthrough}";
    let gateway = Gateway::from_yaml(&documents([
        &gateway(listeners),
        &passes("TLSRoute", "ends", "ends", "ends.example.com", "[{name: ends, port: 80}]"),
        &passes("TLSRoute", "through", "through", "through.example.com", "[{name: through, port: 80}]"),
        &passes("HTTPRoute", "web", "web", "web.example.com", "[{name: web, port: 80}]"),
        &own.secret("infra", "own"),
        &ends.service("apps", "ends"),
        &through.service("apps", "through"),
        &web,
    ]))?;
    let address = gateway.addr("web")?;
    assert_eq!(gateway.addr("through")?, address);
    let roots = trust([&own, &theirs])?;
    assert_eq!(
        reached(&gateway, "through", "through.example.com", &roots).await?,
        "through for through.example.com"
    );
    let mut client = Heard::on(tls(address, "ends.example.com", &roots, b"h2").await?).await?;
    assert_eq!(client.name, "ends", "in plain text");
    client.echo("hello").await?;
    assert_eq!(client.close().await?, "bye\n", "each side closes by itself");
    let mut https = Client::connect_tls(address, "web.example.com", &roots).await?;
    assert_eq!(https.get("web.example.com", "/").await?.text(), "web");
    assert_eq!(https.get("through.example.com", "/").await?.status(), 421, "another listener's host");
    assert!(tls(address, "none.example.com", &roots, b"").await.is_err(), "no listener is for that name");
    Ok(())
}

#[tokio::test]
async fn connections_share_backends_by_weight_and_each_side_closes_by_itself() -> anyhow::Result<()> {
    let (a, b, c) =
        (RawOrigin::named("a").await?, RawOrigin::named("b").await?, RawOrigin::named("c").await?);
    let shares =
        "[{name: a, port: 80, weight: 7}, {name: b, port: 80, weight: 3}, {name: c, port: 80, weight: 0}]";
    let gateway = Gateway::from_yaml(&documents([
        &gateway(TCP),
        &passes("TCPRoute", "r", "tcp", "", shares),
        &a.service("apps", "a"),
        &b.service("apps", "b"),
        &c.service("apps", "c"),
    ]))?;
    for _ in 0..100 {
        let mut client = tcp(&gateway, "tcp").await?;
        client.echo("x").await?;
        assert_eq!(client.close().await?, "bye\n");
    }
    assert_eq!([&a, &b, &c].map(RawOrigin::connections), [70, 30, 0]);
    let sessions = "portway_rule_sessions_total{route_kind=\"TCPRoute\",route_namespace=\"apps\",route=\"r\",\
                    rule=\"spec.rules[0]\",outcome=\"passed\"} 100";
    // The gateway may notice the end of the last one after its client has.
    let counted = async {
        while !gateway.proxy().metrics().expose().contains(sessions) {
            tokio::task::yield_now().await;
        }
    };
    soon(sessions, counted).await?;
    Ok(())
}

#[tokio::test]
async fn what_leads_nowhere_is_reset_by_weight() -> anyhow::Result<()> {
    let a = RawOrigin::named("a").await?;
    let shares = "[{name: a, port: 80}, {name: missing, port: 80}, {name: empty, port: 80}]";
    let gateway = Gateway::from_yaml(&documents([
        &gateway(&format!("{TCP}\nname: bare, protocol: TCP, port: 9001")),
        &passes("TCPRoute", "r", "tcp", "", shares),
        &a.service("apps", "a"),
        &origin::service("apps", "empty", &[]),
    ]))?;
    let mut refused = 0;
    for _ in 0..30 {
        // The reset may come before the client knows that it is connected.
        let first =
            async { TcpStream::connect(gateway.addr("tcp")?).await?.read_u8().await.map_err(Into::into) };
        let first: anyhow::Result<u8> = soon("an answer", first).await?;
        let reset = |error: anyhow::Error| {
            let error = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            error == Some(std::io::ErrorKind::ConnectionReset)
        };
        refused += usize::from(first.is_err_and(reset));
    }
    assert_eq!((refused, a.connections()), (20, 10));
    assert!(tcp(&gateway, "bare").await.is_err(), "a listener without a route");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() -> anyhow::Result<()> {
    let a = RawOrigin::named("a").await?;
    // Bound, so that no other test gets the port, and never listened on.
    let refusing = tokio::net::TcpSocket::new_v4()?;
    refusing.bind(([127, 0, 0, 1], 0).into())?;
    let gone = refusing.local_addr()?;
    let gateway = Gateway::from_yaml(&documents([
        &gateway(TCP),
        &passes("TCPRoute", "r", "tcp", "", "[{name: s, port: 80}]"),
        &origin::service("apps", "s", &[gone, a.address()]),
    ]))?;
    for _ in 0..20 {
        assert_eq!(tcp(&gateway, "tcp").await?.name, "a");
    }
    Ok(())
}

/// 16 MiB through one connection, of which the reader takes nothing at first.
#[tokio::test]
async fn much_goes_through_without_being_held() -> anyhow::Result<()> {
    let a = RawOrigin::named("a").await?;
    let gateway = Gateway::from_yaml(&documents([
        &gateway(TCP),
        &passes("TCPRoute", "r", "tcp", "", "[{name: a, port: 80}]"),
        &a.service("apps", "a"),
    ]))?;
    let (mut read, mut write) = tcp(&gateway, "tcp").await?.stream.into_inner().into_split();
    let sent: Vec<u8> = (0u32..4 << 20).flat_map(u32::to_le_bytes).collect();
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move {
            write.write_all(&sent).await?;
            write.shutdown().await
        }
    });
    let mut back = Vec::new();
    soon("all of it", read.read_to_end(&mut back)).await??;
    writing.await??;
    assert!(back == [&sent[..], b"bye\n"].concat(), "{} bytes came back", back.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_end_no_connection_but_those_that_need_a_grant_that_is_gone() -> anyhow::Result<()> {
    let (a, b, far) =
        (RawOrigin::named("a").await?, RawOrigin::named("b").await?, RawOrigin::named("far").await?);
    let listeners = format!("{TCP}\nname: far, protocol: TCP, port: 9001");
    let grant = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\n\
                 spec:\n  from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: apps}]\n  to: \
                 [{group: '', kind: Service}]\n";
    let services =
        documents([&a.service("apps", "a"), &b.service("apps", "b"), &far.service("other", "far")]);
    let to_far = passes("TCPRoute", "far", "far", "", "[{name: far, namespace: other, port: 80}]");
    let with = |backend: &str, grant: &str| {
        let route = passes("TCPRoute", "r", "tcp", "", &format!("[{{name: {backend}, port: 80}}]"));
        documents([&gateway(&listeners), &route, &to_far, &services, grant])
    };
    let mut gateway = Gateway::from_yaml(&with("a", grant))?;
    let mut near = tcp(&gateway, "tcp").await?;
    let mut distant = tcp(&gateway, "far").await?;
    for n in 0..50 {
        gateway.apply(&with(if n % 2 == 0 { "b" } else { "a" }, grant))?;
        near.echo("still here").await?;
        distant.echo("still here").await?;
        let name = tcp(&gateway, "tcp").await?.name;
        assert_eq!(name, if n % 2 == 0 { "b" } else { "a" }, "a change holds for new connections");
    }
    gateway.apply(&documents([&self::gateway(&listeners), &to_far, &services, grant]))?;
    near.echo("its route is gone").await?;
    gateway.apply(&with("b", ""))?;
    assert!(distant.ended().await?, "its grant is gone");
    near.echo("still here").await?;
    Ok(())
}

#[tokio::test]
async fn a_drain_waits_for_open_connections_and_takes_no_new_ones() -> anyhow::Result<()> {
    let a = RawOrigin::named("a").await?;
    let gateway = Gateway::from_yaml(&documents([
        &gateway(TCP),
        &passes("TCPRoute", "r", "tcp", "", "[{name: a, port: 80}]"),
        &a.service("apps", "a"),
    ]))?;
    let address = gateway.addr("tcp")?;
    let mut open = tcp(&gateway, "tcp").await?;
    let draining = tokio::task::spawn_blocking(move || gateway.proxy().drain());
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    soon("nobody listens", refused).await?;
    open.echo("still here").await?;
    assert_eq!(open.close().await?, "bye\n");
    assert_eq!(soon("the drain", draining).await??.cut, 0);
    Ok(())
}

#[tokio::test]
async fn silent_connections_end() -> anyhow::Result<()> {
    let a = RawOrigin::named("a").await?;
    let mut options = Options::default();
    options.limits.tunnel_timeout = Some(Duration::from_millis(200));
    let yaml = documents([
        &gateway(TCP),
        &passes("TCPRoute", "r", "tcp", "", "[{name: a, port: 80}]"),
        &a.service("apps", "a"),
    ]);
    let gateway = Gateway::with(&yaml, options)?;
    let mut client = tcp(&gateway, "tcp").await?;
    assert!(client.ended().await?);
    Ok(())
}

#[tokio::test]
async fn what_is_no_hello_reaches_nobody() -> anyhow::Result<()> {
    let certificate = Certificate::new(["a.example.com"])?;
    let origin = RawOrigin::with_tls("a", &certificate).await?;
    let mut options = Options::default();
    options.limits.handshake_timeout = Duration::from_millis(500);
    let yaml = documents([
        &gateway("name: through, protocol: TLS, port: 443, tls: {mode: Passthrough}"),
        &passes("TLSRoute", "a", "through", "a.example.com", "[{name: a, port: 80}]"),
        &origin.service("apps", "a"),
    ]);
    let gateway = Gateway::with(&yaml, options)?;
    let endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 16_379]].concat();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[22, 3, 1],
        &[22, 3, 1, 0, 0],
        &[22, 3, 1, 0, 5, 1, 0xff, 0xff, 0xff, 0],
        &endless.repeat(5),
        b"",
    ] {
        let mut client = TcpStream::connect(gateway.addr("through")?).await?;
        // The connection may be gone before all is written.
        let _ = client.write_all(bytes).await;
        let read = soon("the end", client.read_u8()).await?;
        assert!(read.is_err(), "{:?} was answered", &bytes[..bytes.len().min(20)]);
    }
    assert_eq!(origin.connections(), 0);
    let roots = trust([&certificate])?;
    assert_eq!(reached(&gateway, "through", "a.example.com", &roots).await?, "a for a.example.com");
    Ok(())
}

/// A hello in records of one byte each, as no client sends it, still gets through.
#[tokio::test]
async fn a_hello_in_pieces_is_one() -> anyhow::Result<()> {
    let certificate = Certificate::new(["a.example.com"])?;
    let origin = RawOrigin::with_tls("a", &certificate).await?;
    let gateway = Gateway::from_yaml(&documents([
        &gateway("name: through, protocol: TLS, port: 443, tls: {mode: Passthrough}"),
        &passes("TLSRoute", "a", "through", "a.example.com", "[{name: a, port: 80}]"),
        &origin.service("apps", "a"),
    ]))?;
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let gatewayed = TcpStream::connect(gateway.addr("through")?).await?;
    gatewayed.set_nodelay(true)?;
    // Between the client and the gateway: cuts the client's first record into records of 7 bytes.
    let cutting = tokio::spawn(async move {
        let mut header = [0; 5];
        near.read_exact(&mut header).await?;
        let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        near.read_exact(&mut hello).await?;
        let mut gatewayed = gatewayed;
        for part in hello.chunks(7) {
            let record = [&header[..3], &(part.len() as u16).to_be_bytes(), part].concat();
            gatewayed.write_all(&record).await?;
        }
        tokio::io::copy_bidirectional(&mut near, &mut gatewayed).await.map(drop)
    });
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust([&certificate])?)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = soon("the handshake", connector.connect("a.example.com".try_into()?, far)).await??;
    assert_eq!(Heard::on(stream).await?.name, "a for a.example.com");
    cutting.abort();
    Ok(())
}

/// The HTTP listener beside it does not mind.
#[tokio::test]
async fn a_port_may_change_what_it_speaks() -> anyhow::Result<()> {
    let web = Origin::named("web").await?;
    let raw = RawOrigin::named("raw").await?;
    let services = documents([&web.service("apps", "web"), &raw.service("apps", "raw")]);
    let http = documents([
        &gateway("name: port, protocol: HTTP, port: 9000"),
        &passes("HTTPRoute", "r", "port", "", "[{name: web, port: 80}]"),
        &services,
    ]);
    let bytes = documents([
        &gateway("name: port, protocol: TCP, port: 9000"),
        &passes("TCPRoute", "r", "port", "", "[{name: raw, port: 80}]"),
        &services,
    ]);
    let mut gateway = Gateway::from_yaml(&http)?;
    let address = gateway.addr("port")?;
    for _ in 0..3 {
        assert_eq!(Client::connect(address).await?.get("x", "/").await?.text(), "web");
        gateway.apply(&bytes)?;
        assert_eq!(tcp(&gateway, "port").await?.name, "raw");
        gateway.apply(&http)?;
        assert_eq!(gateway.addr("port")?, address);
    }
    Ok(())
}
