//! A gateway of one rule, and a raw client.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portway_plan::{
    Backend, BackendKey, BackendProtocol, Endpoint, EndpointAddress, EndpointState, Endpoints, Entry, Filter,
    Host, HostPattern, Listener, ListenerProtocol, ObjectRef, PathMatch, Plan, Port, Retry, Rule, RuleKind,
    Share, Source, Target, Timeouts, Transport,
};
use portway_proxy::drain::Drain;
use portway_proxy::http::h2::server;
use portway_proxy::http::route::PortTable;
use portway_proxy::http::service::Gateway;
use portway_proxy::http::{Connection, Handler, Request, Response, h1};
use portway_proxy::observe::{Metrics, Recorder, Shard};
use portway_proxy::upstream::{Backends, Limits, Pools};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::origins;

/// A backend: its name, what it speaks, where it is.
type Planned = (&'static str, BackendProtocol, Vec<(SocketAddr, EndpointState)>);

/// What the gateway's only rule is.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) kind: RuleKind,
    pub(crate) filters: Vec<Filter>,
    /// Weight and backend by name; `None` is an invalid reference.
    pub(crate) shares: Vec<(u32, Option<&'static str>)>,
    pub(crate) backends: Vec<Planned>,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Option<Retry>,
    pub(crate) limits: Limits,
}

impl Setup {
    /// One backend, `a`, with these endpoints.
    pub(crate) fn to(addresses: &[SocketAddr]) -> Self {
        Self {
            kind: RuleKind::Http,
            filters: Vec::new(),
            shares: vec![(1, Some("a"))],
            backends: vec![("a", BackendProtocol::Unspecified, active(addresses))],
            timeouts: Timeouts::default(),
            retry: None,
            limits: Limits::default(),
        }
    }

    pub(crate) fn retry(mut self, codes: &[u16], attempts: u32) -> Self {
        self.retry = Some(Retry { codes: codes.to_vec(), attempts, backoff: None });
        self
    }

    pub(crate) fn timeouts(mut self, request: Option<u64>, backend_request: Option<u64>) -> Self {
        self.timeouts = Timeouts {
            request: request.map(Duration::from_millis),
            backend_request: backend_request.map(Duration::from_millis),
        };
        self
    }

    fn plan(&self) -> Plan {
        let source = Source {
            object: Arc::new(ObjectRef { kind: "HTTPRoute".into(), namespace: "a".into(), name: "b".into() }),
            path: "spec.rules[0]".into(),
            section: None,
        };
        let share = |(weight, name): &(u32, Option<&str>)| Share {
            path: "spec.rules[0].backendRefs[0]".into(),
            weight: *weight,
            target: match name {
                Some(name) => Target::Backend(key(name)),
                None => Target::Invalid(Box::new(portway_plan::NoBackend {
                    reason: "BackendNotFound".into(),
                    message: "no such Service".into(),
                })),
            },
            filters: Box::default(),
        };
        let rule = Rule {
            source: source.clone(),
            kind: self.kind,
            filters: self.filters.clone().into(),
            backends: self.shares.iter().map(share).collect(),
            timeouts: self.timeouts.clone().boxed(),
            retry: self.retry.clone().map(Box::new),
            session: None,
        };
        let entry = Entry {
            path: PathMatch::Prefix("".into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            match_index: 0,
            route_hostname: HostPattern::Any,
            rule: Arc::new(rule),
        };
        let host = Host { hostname: HostPattern::Any, entries: vec![entry] };
        let listener = Listener {
            source,
            hostname: HostPattern::Any,
            protocol: ListenerProtocol::Http,
            hosts: vec![Arc::new(host)],
            forwards: Vec::new(),
            filters: Vec::new(),
            client_certificate: None,
        };
        let port =
            Port { address: None, port: 80, transport: Transport::Tcp, listeners: vec![Arc::new(listener)] };
        let mut plan = Plan { ports: vec![Arc::new(port)], ..Plan::default() };
        for (name, protocol, addresses) in &self.backends {
            plan.backends.insert(key(name), Arc::new(Backend::new(key(name), *protocol)));
            let mut list: Vec<_> = addresses
                .iter()
                .map(|(address, state)| Endpoint {
                    address: EndpointAddress::Ip(address.ip()),
                    port: address.port(),
                    state: *state,
                    zone: None,
                })
                .collect();
            list.sort();
            plan.endpoints.insert(key(name), Arc::new(Endpoints { list }));
        }
        plan
    }
}

pub(crate) fn active(addresses: &[SocketAddr]) -> Vec<(SocketAddr, EndpointState)> {
    addresses.iter().map(|address| (*address, EndpointState::Active)).collect()
}

pub(crate) fn key(name: &str) -> BackendKey {
    let object = ObjectRef { kind: "Service".into(), namespace: "a".into(), name: name.into() };
    BackendKey::tcp(object, 80)
}

/// An address where nobody listens.
pub(crate) async fn refused() -> SocketAddr {
    // Bound and never listened on, for as long as the tests run.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bind");
    let address = socket.local_addr().expect("an address");
    std::mem::forget(socket);
    address
}

/// A worker that serves one port.
#[derive(Clone)]
pub(crate) struct Harness {
    backends: Rc<RefCell<Backends>>,
    metrics: Arc<Metrics>,
    table: Rc<RefCell<Arc<PortTable>>>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) gateway: Rc<Gateway>,
    pub(crate) address: SocketAddr,
}

impl Handler for Harness {
    async fn handle(&self, request: Request) -> Response {
        let table = self.table.borrow().clone();
        Box::pin(self.gateway.serve(Some(&table), request)).await
    }
}

impl Harness {
    pub(crate) async fn start(setup: &Setup) -> Self {
        let metrics = Arc::new(Metrics::new(1));
        let mut backends = Backends::new(tokio::runtime::Handle::current(), metrics.clone());
        let pools = Pools::new(0, setup.limits.clone(), backends.departures());
        let plan = setup.plan();
        let map = backends.sync(&plan);
        let table = PortTable::compile(&plan.ports[0], None, &map, &metrics);
        let gateway = Rc::new(Gateway::new(Rc::new(Recorder::detached()), pools.clone(), 0));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let backends = Rc::new(RefCell::new(backends));
        let table = Rc::new(RefCell::new(Arc::new(table)));
        let harness = Self { backends, metrics, table, pools, gateway, address };
        let serving = harness.clone();
        spawn_local(async move {
            let settings = h1::Settings::default();
            loop {
                let Ok((stream, peer)) = listener.accept().await else { return };
                let (handler, settings) = (serving.clone(), settings.clone());
                spawn_local(async move {
                    let connection = Rc::new(Connection::new(peer, handler.address, 80));
                    let drain = Drain::default();
                    h1::serve(stream, Bytes::new(), connection, &handler, &settings, drain.watch()).await;
                });
            }
        });
        harness
    }

    /// A connection of HTTP/2 to the gateway.
    pub(crate) async fn connect_h2(&self) -> h2::client::SendRequest<Bytes> {
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        let handler = Rc::new(self.clone());
        let address = self.address;
        spawn_local(async move {
            let connection = Rc::new(Connection::new(address, address, 80));
            let limits = Rc::new(portway_proxy::Limits::default());
            let settings = server::Settings {
                limits: &limits,
                recorder: Rc::new(Recorder::detached()),
                drain: Drain::default().watch(),
            };
            server::serve(theirs, Bytes::new(), connection, handler, settings).await;
        });
        let (send, connection) = h2::client::handshake(ours).await.expect("a handshake");
        spawn_local(async move {
            let _ = connection.await;
        });
        send
    }

    /// Takes another plan over.
    pub(crate) fn apply(&self, setup: &Setup) {
        let plan = setup.plan();
        let map = self.backends.borrow_mut().sync(&plan);
        let table = PortTable::compile(&plan.ports[0], None, &map, &self.metrics);
        *self.table.borrow_mut() = Arc::new(table);
    }

    pub(crate) async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.expect("connect");
        Client { stream, buffer: Vec::new() }
    }

    /// One GET on a connection of its own: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.connect().await.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }

    pub(crate) fn in_flight(&self, name: &str) -> usize {
        let setup = self.backends.borrow_mut();
        let map = setup.current();
        map.get(&key(name)).map_or(0, |backend| backend.in_flight())
    }

    pub(crate) fn counts(&self, name: &str) -> Arc<Shard<BackendKey>> {
        let setup = self.backends.borrow_mut();
        let backend = setup.current().get(&key(name)).expect("the backend").clone();
        backend.metrics().shard(0).clone()
    }
}

/// A client that writes what it is told.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("write");
    }

    /// Writes a request and reads the response: status and body.
    pub(crate) async fn send(&mut self, text: &str) -> (u16, String) {
        self.write(text).await;
        self.response().await
    }

    pub(crate) async fn response(&mut self) -> (u16, String) {
        let (head, body) = self.message().await.expect("a response");
        (status(&head), String::from_utf8_lossy(&body).into_owned())
    }

    /// The next message, or `None` if the connection ended within it.
    pub(crate) async fn message(&mut self) -> Option<(String, Vec<u8>)> {
        let read = origins::request(&mut self.stream, &mut self.buffer);
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("in time")
    }
}

pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status")
}

/// Runs a test on a worker's kind of runtime, for at most a minute.
pub(crate) fn run(test: impl Future<Output = ()>) {
    run_within(Duration::from_secs(60), test);
}

/// The same, for tests that pause the clock.
pub(crate) fn run_within(limit: Duration, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(limit, test).await.expect("in time");
    });
}
