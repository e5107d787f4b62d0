//! A push server on a free port of loopback, and proxies that record what they are given.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use portway_plan::{
    Certificate, CertificateKey, Entry, Host, HostPattern, Listener, ListenerProtocol, ObjectRef, PathMatch,
    Plan, Port, PrivateKey, Rule, RuleKind, Source, TicketKey, Transport,
};
use portway_push::{
    Apply, Authenticator, Client, ClientOptions, ClientState, GatewayName, GatewayState, Identity, Outcome,
    Pod, Refusal, Server, ServiceAccount, ServingCertificate,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it does not come")
}

/// The Gateway of most tests.
pub(crate) fn gateway() -> GatewayName {
    GatewayName::new("store", "edge")
}

/// The ServiceAccount of its proxies.
pub(crate) fn account() -> ServiceAccount {
    ServiceAccount::new("store", "edge-portway")
}

/// Tokens, and whose they are.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<String, Identity>>);

impl Tokens {
    pub(crate) fn give(&self, token: &str, account: ServiceAccount, pod: &str) {
        let pod = Some(Pod { name: pod.into(), uid: format!("uid of {pod}").into() });
        self.0.lock().unwrap().insert(token.to_owned(), Identity { account, pod });
    }
}

impl Authenticator for Tokens {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Identity, Refusal>> {
        let identity = self.0.lock().unwrap().get(token).cloned();
        async move { identity.ok_or_else(|| Refusal::Invalid("nobody knows it".to_owned())) }.boxed()
    }
}

/// A controller.
pub(crate) struct Controller {
    pub(crate) server: Server,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) address: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    serving: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Controller {
    /// One that serves, and knows the token `token` of pod `one`.
    pub(crate) async fn start() -> Self {
        let tokens = Arc::new(Tokens::default());
        tokens.give("token", account(), "one");
        let server = Server::new(Arc::clone(&tokens) as Arc<dyn Authenticator>);
        let folder = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let mut controller = Self { server, tokens, address, folder, serving: None };
        controller.serve().await;
        controller
    }

    /// Serves, on the address of before if there was one, with a new authority.
    pub(crate) async fn serve(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["push.example".to_owned()]).unwrap();
        let signed = params.signed_by(&key, &authority).unwrap();
        std::fs::write(self.ca_file(), authority.pem()).unwrap();
        let certificate = ServingCertificate::new();
        certificate.set(signed.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let server = self.server.clone();
        let serving = tokio::spawn(async move {
            server.serve(listener, &certificate, ended.map(drop)).await.unwrap();
        });
        self.serving = Some((end, serving));
    }

    /// Ends, as a controller does that is told to.
    pub(crate) async fn end(&mut self) {
        let (end, serving) = self.serving.take().unwrap();
        end.send(()).unwrap();
        soon(serving).await.unwrap();
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    pub(crate) fn publish(&self, plan: &Plan) -> u64 {
        self.server.publish(&gateway(), &account(), plan).unwrap()
    }

    /// Waits until the Gateway's proxies are as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&GatewayState) -> bool) -> GatewayState {
        soon(async {
            loop {
                let state = self.server.state(&gateway()).unwrap_or_default();
                if wanted(&state) {
                    return state;
                }
                self.server.changed().await;
            }
        })
        .await
    }

    /// Waits until a proxy has acknowledged that revision.
    pub(crate) async fn acknowledged(&self, revision: u64) -> GatewayState {
        self.until(|state| state.replicas.iter().any(|replica| replica.acknowledged == revision)).await
    }

    /// How a proxy with that token finds it.
    pub(crate) fn options(&self, token: &str) -> ClientOptions {
        let token_file = self.folder.path().join(format!("token of {token}"));
        std::fs::write(&token_file, token).unwrap();
        ClientOptions {
            controller: self.address.to_string(),
            server_name: "push.example".to_owned(),
            gateway: gateway(),
            pod: Pod::default(),
            token_file,
            ca_file: self.ca_file(),
            state_dir: None,
        }
    }
}

/// What a proxy is to say of the next plan.
pub(crate) type Verdict = Result<Outcome, String>;

/// A proxy. It takes its plans when the test does.
pub(crate) struct Proxy {
    pub(crate) state: watch::Receiver<ClientState>,
    plans: mpsc::UnboundedReceiver<(Arc<Plan>, bool, oneshot::Sender<Verdict>)>,
    pub(crate) ticket_keys: watch::Receiver<Vec<TicketKey>>,
    running: JoinHandle<()>,
}

struct Recorder {
    plans: mpsc::UnboundedSender<(Arc<Plan>, bool, oneshot::Sender<Verdict>)>,
    ticket_keys: watch::Sender<Vec<TicketKey>>,
}

impl Apply for Recorder {
    fn apply(&mut self, plan: Arc<Plan>, complete: bool) -> Verdict {
        let (verdict, said) = oneshot::channel();
        self.plans.send((plan, complete, verdict)).map_err(|_| "the test is over".to_owned())?;
        said.blocking_recv().unwrap_or_else(|_| Err("the test is over".to_owned()))
    }

    fn set_ticket_keys(&mut self, keys: Vec<TicketKey>) {
        self.ticket_keys.send_replace(keys);
    }
}

impl Proxy {
    pub(crate) fn start(options: ClientOptions) -> Self {
        let (sender, plans) = mpsc::unbounded_channel();
        let (ticket_keys, told) = watch::channel(Vec::new());
        let (client, state) = Client::new(options, Recorder { plans: sender, ticket_keys });
        Self { state, plans, ticket_keys: told, running: tokio::spawn(client.run()) }
    }

    /// Takes the next plan, and says that.
    pub(crate) async fn say(&mut self, verdict: Verdict) -> (Arc<Plan>, bool) {
        let (plan, complete, say) = soon(self.plans.recv()).await.unwrap();
        say.send(verdict).unwrap();
        (plan, complete)
    }

    /// Takes the next plan and serves it.
    pub(crate) async fn take(&mut self) -> Arc<Plan> {
        self.say(Ok(Outcome::default())).await.0
    }

    /// Gets the next plan and takes its time.
    pub(crate) async fn get(&mut self) -> (Arc<Plan>, oneshot::Sender<Verdict>) {
        let (plan, _, say) = soon(self.plans.recv()).await.unwrap();
        (plan, say)
    }

    /// Whether a plan waits.
    pub(crate) fn has_plan(&mut self) -> bool {
        !self.plans.is_empty()
    }

    pub(crate) async fn until(&mut self, wanted: impl FnMut(&ClientState) -> bool) -> ClientState {
        soon(self.state.wait_for(wanted)).await.unwrap().clone()
    }

    pub(crate) async fn stop(self) {
        self.running.abort();
        // It was aborted.
        let _ = self.running.await;
    }
}

/// A plan with that many hosts; the rule of host 0 has a version.
pub(crate) fn plan(hosts: u32, version: u32) -> Plan {
    let source = |kind: &str, name: String| Source {
        object: Arc::new(ObjectRef { kind: kind.into(), namespace: "store".into(), name: name.into() }),
        path: "".into(),
        section: None,
    };
    let host = |number: u32| {
        let hostname = HostPattern::parse(&format!("h{number:05}.example.com")).unwrap();
        let version = if number == 0 { version } else { 0 };
        let entry = Entry {
            path: PathMatch::Prefix("/".into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            match_index: 0,
            route_hostname: hostname.clone(),
            rule: Arc::new(Rule {
                source: source("HTTPRoute", format!("r{number} version {version}")),
                kind: RuleKind::Http,
                filters: Box::default(),
                backends: Box::default(),
                timeouts: None,
                retry: None,
                session: None,
            }),
        };
        Arc::new(Host { hostname, entries: vec![entry] })
    };
    let listener = Listener {
        source: source("Gateway", "edge".to_owned()),
        hostname: HostPattern::Any,
        protocol: ListenerProtocol::Http,
        hosts: (0..hosts).rev().map(host).collect(),
        forwards: Vec::new(),
        filters: Vec::new(),
        client_certificate: None,
    };
    let port =
        Port { address: None, port: 80, transport: Transport::Tcp, listeners: vec![Arc::new(listener)] };
    let certificate = Certificate {
        chain: vec![vec![1]],
        key: PrivateKey(b"a key".to_vec()),
        names: Vec::new(),
        not_after: 0,
    };
    let key = CertificateKey("store/cert".into());
    let certificates = [(key, Arc::new(certificate))].into_iter().collect();
    Plan { ports: vec![Arc::new(port)], certificates, ..Plan::default() }
}
