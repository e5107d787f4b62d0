//! ExternalAuth filters that ask over gRPC: Envoy's `ext_authz`, with the messages written down a second
//! time, from the `.proto` files.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use portway_testkit::{Client, Gateway, Http2, Origin};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{GATEWAY, HOST, documents, named, route};

#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attributes {
    #[prost(message, optional, tag = "1")]
    source: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    request: Option<Asked>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Peer {
    #[prost(message, optional, tag = "1")]
    address: Option<Address>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Address {
    #[prost(message, optional, tag = "1")]
    socket: Option<Socket>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Socket {
    #[prost(string, tag = "2")]
    address: String,
    #[prost(uint32, tag = "3")]
    port: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HttpRequest {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(string, tag = "5")]
    host: String,
    #[prost(string, tag = "6")]
    scheme: String,
    #[prost(int64, tag = "9")]
    size: i64,
    #[prost(string, tag = "10")]
    protocol: String,
    #[prost(string, tag = "11")]
    body: String,
    #[prost(bytes = "vec", tag = "12")]
    raw_body: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, optional, tag = "2")]
    denied: Option<Denied>,
    #[prost(message, optional, tag = "3")]
    ok: Option<Allowed>,
}

/// `google.rpc.Status` and `envoy.type.v3.HttpStatus` alike.
#[derive(Clone, PartialEq, prost::Message)]
struct Code {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Denied {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Allowed {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
    #[prost(string, repeated, tag = "5")]
    remove: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    response_headers: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn header(key: &str, value: &str) -> HeaderOption {
    HeaderOption { header: Some(Header { key: key.into(), value: value.into() }) }
}

/// Lets requests with `authorization: ann` pass and refuses others.
fn decide(asked: &HttpRequest) -> CheckResponse {
    match asked.headers.get("authorization").map(String::as_str) {
        Some("ann") => CheckResponse {
            status: Some(Code { code: 0 }),
            denied: None,
            ok: Some(Allowed {
                headers: vec![header("x-user", "ann"), header("host", "evil.example.com")],
                remove: vec!["authorization".into()],
                response_headers: vec![header("x-checked", "yes")],
            }),
        },
        Some("plain") => CheckResponse { status: Some(Code { code: 7 }), denied: None, ok: None },
        Some("nothing") => CheckResponse::default(),
        _ => CheckResponse {
            status: Some(Code { code: 16 }),
            denied: Some(Denied {
                status: Some(Code { code: 401 }),
                headers: vec![header("www-authenticate", "Bearer")],
                body: "who?".into(),
            }),
            ok: None,
        },
    }
}

/// An authorization service. Its tasks end when it is dropped.
struct Service {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<HttpRequest>>>,
    _tasks: JoinSet<()>,
}

impl Service {
    async fn new() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let asked: Arc<Mutex<Vec<_>>> = Arc::default();
        let recorded = Arc::clone(&asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let recorded = Arc::clone(&recorded);
                connections.spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    let mut streams = JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let recorded = Arc::clone(&recorded);
                        streams.spawn(async move {
                            answer(request, respond, &recorded).await.expect("a well-formed question");
                        });
                    }
                });
            }
        });
        Ok(Self { address, asked, _tasks: tasks })
    }

    fn asked(&self) -> Vec<HttpRequest> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    recorded: &Mutex<Vec<HttpRequest>>,
) -> anyhow::Result<()> {
    let (head, mut body) = request.into_parts();
    anyhow::ensure!(head.uri.path() == "/envoy.service.auth.v3.Authorization/Check");
    anyhow::ensure!(head.headers["content-type"] == "application/grpc" && head.headers["te"] == "trailers");
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    let asked = CheckRequest::decode(&bytes[5..])?.attributes.expect("attributes");
    let source = asked.source.and_then(|peer| peer.address).and_then(|address| address.socket);
    anyhow::ensure!(source.is_some_and(|socket| socket.address == "127.0.0.1" && socket.port != 0));
    let asked = asked.request.and_then(|request| request.http).expect("an HTTP request");
    let message = decide(&asked).encode_to_vec();
    recorded.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len().try_into()?);
    framed.extend_from_slice(&message);
    let response = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(framed.freeze(), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}

async fn guarded(settings: &str) -> anyhow::Result<(Gateway, Origin, Service)> {
    let auth = Service::new().await?;
    let ([app], services) = named(["app"]).await?;
    let rules = format!(
        "\
- filters:
    - type: ExternalAuth
      externalAuth: {{protocol: GRPC, backendRef: {{name: auth, port: 80}}, {settings}}}
  backendRefs: [{{name: app, port: 80}}]"
    );
    let service = portway_testkit::origin::service("apps", "auth", &[auth.address]);
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", &rules), &services, &service]))?;
    Ok((gateway, app, auth))
}

#[tokio::test]
async fn who_may_pass_does_with_what_the_service_changes() -> anyhow::Result<()> {
    let (gateway, app, auth) = guarded("grpc: {}, forwardBody: {maxSize: 100}").await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let headers = [("Authorization", "ann"), ("X-User", "root"), ("x-two", "1"), ("X-Two", "2")];
    let answer = client.request("POST", HOST, "/cart?q=1", &headers, b"body").await?;
    assert_eq!((answer.status(), answer.header("x-checked")), (200, Some("yes")));
    let got = app.requests().pop().expect("the request arrived");
    assert_eq!((got.header("host"), got.header("x-user")), (Some(HOST), Some("ann")));
    assert_eq!((got.header("authorization"), got.body.as_slice()), (None, &b"body"[..]));
    let asked = auth.asked().pop().expect("the service was asked");
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/cart?q=1"));
    assert_eq!((asked.host.as_str(), asked.scheme.as_str()), (HOST, "http"));
    assert_eq!((asked.protocol.as_str(), asked.body.as_str(), asked.size), ("HTTP/1.1", "body", 4));
    assert_eq!(asked.headers["x-two"], "1,2");
    // Bytes that are no text.
    let headers = [("authorization", "ann")];
    assert_eq!(client.request("PUT", HOST, "/", &headers, b"\xff\x00").await?.status(), 200);
    let asked = auth.asked().pop().expect("the service was asked");
    assert_eq!((asked.body.as_str(), asked.raw_body.as_slice()), ("", &b"\xff\x00"[..]));
    Ok(())
}

#[tokio::test]
async fn who_may_not_gets_the_services_answer() -> anyhow::Result<()> {
    let (gateway, app, _auth) = guarded("grpc: {}").await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let answer = client.get(HOST, "/").await?;
    assert_eq!((answer.status(), answer.body.as_slice()), (401, &b"who?"[..]));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    for silent in ["plain", "nothing"] {
        let answer = client.request("GET", HOST, "/", &[("authorization", silent)], b"").await?;
        assert_eq!(answer.status(), 403, "{silent}");
    }
    assert!(app.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn only_the_headers_that_the_route_names_are_told() -> anyhow::Result<()> {
    let (gateway, _app, auth) = guarded("grpc: {allowedHeaders: [Authorization]}").await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let headers = [("authorization", "ann"), ("x-other", "1")];
    assert_eq!(client.request("GET", HOST, "/", &headers, b"").await?.status(), 200);
    let asked = auth.asked().pop().expect("the service was asked");
    assert_eq!(asked.headers, HashMap::from([("authorization".to_owned(), "ann".to_owned())]));
    assert_eq!(asked.path, "/");
    Ok(())
}

#[tokio::test]
async fn a_grpc_client_is_told_in_its_own_terms() -> anyhow::Result<()> {
    let (gateway, _app, _auth) = guarded("grpc: {}").await?;
    let client = Http2::connect(gateway.addr("http")?).await?;
    let call = Request::post(format!("http://{HOST}/s.S/M")).header("content-type", "application/grpc");
    let answer = client.send(call.body(Bytes::from_static(b"\0\0\0\0\0"))?).await?;
    assert_eq!((answer.head.status().as_u16(), &answer.head.headers()["grpc-status"]), (200, &"16".parse()?));
    assert_eq!(answer.head.headers()["www-authenticate"], "Bearer");
    Ok(())
}

#[tokio::test]
async fn what_speaks_no_grpc_lets_nobody_pass() -> anyhow::Result<()> {
    let ([app, _plain], services) = named(["app", "auth"]).await?;
    let rules = "\
- filters:
    - {type: ExternalAuth, externalAuth: {protocol: GRPC, grpc: {}, backendRef: {name: auth, port: 80}}}
  backendRefs: [{name: app, port: 80}]";
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", rules), &services]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    assert_eq!((client.get(HOST, "/").await?.status(), app.requests().len()), (503, 0));
    Ok(())
}
