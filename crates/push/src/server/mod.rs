//! The controller's half.

mod listen;
mod peers;
mod report;
pub(crate) mod revision;
mod service;
mod session;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use portway_plan::Plan;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::auth::{Authenticator, GatewayName, Pod, ServiceAccount};
use crate::encode::Encoder;
use crate::limits;
use crate::outcome::Outcome;
use crate::shard::Sum;
use crate::tickets::TicketRoot;
use crate::tls::{ServingCertificate, TlsError};
pub use peers::PeerOptions;
use revision::Revision;
pub(crate) use service::PATH;

/// Hands plans to proxies. Clones are the same server.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

/// What all streams share.
struct Shared {
    authenticator: Arc<dyn Authenticator>,
    gateways: Mutex<HashMap<GatewayName, Arc<Gateway>>>,
    /// Counts up when a Gateway is published for the first time.
    published: watch::Sender<u64>,
    changed: Mutex<BTreeSet<GatewayName>>,
    news: Notify,
    streams: AtomicU64,
    counters: Counted,
    said: session::Said,
    /// What tells this controller from the others.
    identity: Box<str>,
    /// The ServiceAccount of all controllers, once it is known.
    controllers: Mutex<Option<ServiceAccount>>,
    /// What the other controllers have told.
    heard: Mutex<report::Heard>,
    /// Counts up when a proxy here has said something.
    reports: watch::Sender<u64>,
    /// What the keys of tickets are made from, once it is known.
    ticket_root: watch::Sender<Option<TicketRoot>>,
}

/// A Gateway, its plan and its proxies.
struct Gateway {
    name: GatewayName,
    account: Mutex<ServiceAccount>,
    encoder: Mutex<Encoder>,
    /// `None` when the Gateway is withdrawn.
    newest: watch::Sender<Option<Arc<Revision>>>,
    replicas: Mutex<BTreeMap<Pod, Connected>>,
    recent: Mutex<report::Recent>,
}

/// A proxy and the stream that it has, or had last.
struct Connected {
    stream: u64,
    gone: Option<Instant>,
    replica: Replica,
    /// The sum of the plan that is acknowledged, for other controllers; and of the one that is rejected.
    acknowledged: Option<Sum>,
    rejected: Option<Sum>,
}

/// What is known of a Gateway's proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayState {
    /// The newest revision. They count up, separately in each controller and for each Gateway.
    pub revision: u64,
    /// The proxies that are connected, or were in the last [`limits::GONE`]; ordered by pod.
    pub replicas: Vec<Replica>,
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its pod.
    pub pod: Pod,
    /// Its version of Portway.
    pub version: String,
    /// Whether its stream is open.
    pub connected: bool,
    /// The newest revision that it serves; 0 if it has said of none that it does.
    pub acknowledged: u64,
    /// What it could not do of that revision.
    pub outcome: Outcome,
    /// The newest revision that it does not serve, if that is newer than the acknowledged one.
    pub rejected: Option<Rejection>,
}

/// A revision that a proxy does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which.
    pub revision: u64,
    /// Why, for people.
    pub reason: String,
}

/// What is counted, from the start of the server on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams that were opened by a proxy that may have the plan.
    pub accepted: u64,
    /// Streams that were refused since the token was not valid.
    pub unauthenticated: u64,
    /// Streams that were refused since the token is not that of the Gateway's proxies.
    pub forbidden: u64,
    /// Revisions that a proxy has acknowledged.
    pub acknowledged: u64,
    /// Revisions that a proxy has rejected.
    pub rejected: u64,
    /// Shards that were sent.
    pub shards: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Default)]
struct Counted {
    accepted: AtomicU64,
    unauthenticated: AtomicU64,
    forbidden: AtomicU64,
    acknowledged: AtomicU64,
    rejected: AtomicU64,
    shards: AtomicU64,
    bytes: AtomicU64,
}

/// Why a plan cannot be published.
#[derive(Debug, thiserror::Error)]
#[error("a node of the plan cannot be written: {0}")]
pub struct PublishError(#[from] serde_json::Error);

impl Server {
    /// A server without Gateways.
    pub fn new(authenticator: Arc<dyn Authenticator>) -> Self {
        Self(Arc::new(Shared {
            authenticator,
            gateways: Mutex::default(),
            published: watch::Sender::new(0),
            changed: Mutex::default(),
            news: Notify::new(),
            streams: AtomicU64::new(0),
            counters: Counted::default(),
            said: session::Said::default(),
            identity: format!("{:032x}", rand::random::<u128>()).into(),
            controllers: Mutex::default(),
            heard: Mutex::default(),
            reports: watch::Sender::new(0),
            ticket_root: watch::Sender::new(None),
        }))
    }

    /// Makes this the newest plan of a Gateway, for proxies with that ServiceAccount and no others, and gives its
    /// revision. A plan that is equal to the one before keeps its revision. It costs what has changed, and a look at
    /// each pointer of the plan.
    ///
    /// # Errors
    /// When the plan cannot be written down; then the one before stays.
    pub fn publish(
        &self,
        gateway: &GatewayName,
        account: &ServiceAccount,
        plan: &Plan,
    ) -> Result<u64, PublishError> {
        let (entry, new) = self.0.entry(gateway, account);
        lock(&entry.account).clone_from(account);
        let mut encoder = lock(&entry.encoder);
        let shards = encoder.encode(plan)?;
        let before = entry.newest.borrow().clone();
        let revision = Revision::after(before.as_ref(), shards);
        let number = revision.as_ref().or(before.as_ref()).map_or(0, |revision| revision.number);
        if let Some(revision) = revision {
            lock(&entry.recent).push(revision.sum(), revision.number);
            entry.newest.send_replace(Some(revision));
        }
        drop(encoder);
        if new {
            self.0.published.send_modify(|count| *count += 1);
        }
        Ok(number)
    }

    /// Hands out keys of TLS session tickets from now on, made from this. Controllers that have the same hand out
    /// the same.
    pub fn set_ticket_root(&self, root: TicketRoot) {
        self.0.ticket_root.send_if_modified(|known| {
            let new = known.as_ref() != Some(&root);
            *known = Some(root);
            new
        });
    }

    /// Forgets a Gateway. Its proxies are told that it is gone; they go on with what they have.
    pub fn withdraw(&self, gateway: &GatewayName) {
        if let Some(entry) = lock(&self.0.gateways).remove(gateway) {
            entry.newest.send_replace(None);
        }
    }

    /// What is known of a Gateway's proxies, those of other controllers included (see [`Server::follow_peers`]);
    /// `None` for Gateways that are not published.
    pub fn state(&self, gateway: &GatewayName) -> Option<GatewayState> {
        let entry = self.0.gateway(gateway)?;
        let revision = entry.newest.borrow().as_ref().map_or(0, |revision| revision.number);
        let mut replicas = lock(&entry.replicas);
        replicas.retain(|_, connected| connected.gone.is_none_or(|since| since.elapsed() < limits::GONE));
        let mut all: BTreeMap<Pod, Replica> =
            replicas.iter().map(|(pod, connected)| (pod.clone(), connected.replica.clone())).collect();
        drop(replicas);
        for replica in self.0.elsewhere(&entry) {
            let rank = |replica: &Replica| (replica.connected, replica.acknowledged);
            if all.get(&replica.pod).is_none_or(|known| rank(known) < rank(&replica)) {
                all.insert(replica.pod.clone(), replica);
            }
        }
        Some(GatewayState { revision, replicas: all.into_values().collect() })
    }

    /// Waits until something has changed in what [`Server::state`] says, and gives the Gateways. One that a proxy
    /// has left comes twice: at once, and when the proxy is told of no more.
    pub async fn changed(&self) -> BTreeSet<GatewayName> {
        loop {
            let news = self.0.news.notified();
            let changed = std::mem::take(&mut *lock(&self.0.changed));
            if !changed.is_empty() {
                return changed;
            }
            news.await;
        }
    }

    /// What is counted.
    pub fn counters(&self) -> Counters {
        let Counted { accepted, unauthenticated, forbidden, acknowledged, rejected, shards, bytes } =
            &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            accepted: read(accepted),
            unauthenticated: read(unauthenticated),
            forbidden: read(forbidden),
            acknowledged: read(acknowledged),
            rejected: read(rejected),
            shards: read(shards),
            bytes: read(bytes),
        }
    }

    /// Serves on a socket until `end` completes; then all streams end, and the proxies connect elsewhere.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub async fn serve(
        &self,
        listener: TcpListener,
        certificate: &ServingCertificate,
        end: impl Future<Output = ()> + Send,
    ) -> Result<(), TlsError> {
        listen::serve(&self.0, listener, certificate.config()?, end).await;
        Ok(())
    }
}

impl Shared {
    fn gateway(&self, name: &GatewayName) -> Option<Arc<Gateway>> {
        lock(&self.gateways).get(name).cloned()
    }

    /// The Gateway, and whether it was not there.
    fn entry(&self, name: &GatewayName, account: &ServiceAccount) -> (Arc<Gateway>, bool) {
        let mut gateways = lock(&self.gateways);
        if let Some(entry) = gateways.get(name) {
            return (Arc::clone(entry), false);
        }
        let entry = Arc::new(Gateway {
            name: name.clone(),
            account: Mutex::new(account.clone()),
            encoder: Mutex::default(),
            newest: watch::Sender::new(None),
            replicas: Mutex::default(),
            recent: Mutex::default(),
        });
        gateways.insert(name.clone(), Arc::clone(&entry));
        (entry, true)
    }

    fn tell(&self, gateway: &GatewayName) {
        self.reports.send_modify(|count| *count += 1);
        lock(&self.changed).insert(gateway.clone());
        self.news.notify_one();
    }
}

impl Gateway {
    /// Changes what is known of a proxy, unless it has another stream by now. Says whether something is new.
    fn update(&self, pod: &Pod, stream: u64, change: impl FnOnce(&mut Connected)) -> Update {
        let mut replicas = lock(&self.replicas);
        match replicas.get_mut(pod) {
            Some(connected) if connected.stream == stream => {
                let before = connected.replica.clone();
                change(connected);
                if connected.replica == before { Update::Same } else { Update::New }
            }
            _ => Update::Superseded,
        }
    }
}

/// What became of news of a proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Update {
    Same,
    New,
    /// The proxy has another stream by now.
    Superseded,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
