//! A plan, compiled: what requests are served with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use portway_plan::{ListenerProtocol, Plan, Port, Transport, TrustKey};

use crate::http::route::{Compilation, PortTable};
use crate::l4::ForwardTable;
use crate::observe::Metrics;
use crate::proxy::FailedListener;
use crate::tls::{AnchorStore, Certificates, TlsContext, TlsTable};
use crate::upstream::{BackendMap, Backends, Connectors, Ingredients};

/// A plan and everything compiled from it. Shared by all workers; a request keeps the one it began with.
#[derive(Default)]
pub struct Snapshot {
    /// Counts up with each plan that is applied; 0 before the first.
    pub revision: u64,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The plan's backends.
    pub backends: BackendMap,
    ports: BTreeMap<PortKey, CompiledPort>,
    certificates: Certificates,
}

/// A port of a plan, compiled.
struct CompiledPort {
    table: Arc<PortTable>,
    tls: Option<Arc<TlsTable>>,
    forwards: Arc<ForwardTable>,
    speaks: Speaks,
}

/// What comes in at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// Plain-text HTTP.
    Http,
    /// TLS, with HTTP or bytes in it, that ends here or goes through.
    Tls,
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Speaks {
    /// The protocols that can share a port speak the same as far as their listeners can be told apart.
    fn of(port: &Port) -> Self {
        match port.listeners.first().map(|listener| &listener.protocol) {
            _ if port.transport == Transport::Udp => Self::Udp,
            None | Some(ListenerProtocol::Http) => Self::Http,
            Some(
                ListenerProtocol::Https(_) | ListenerProtocol::Tls(_) | ListenerProtocol::TlsPassthrough,
            ) => Self::Tls,
            Some(ListenerProtocol::Tcp) => Self::Tcp,
            Some(ListenerProtocol::Udp) => Self::Udp,
        }
    }
}

/// Names a port of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// The address; `None` for all.
    pub address: Option<IpAddr>,
    /// The port number as the plan has it.
    pub port: u16,
    /// TCP or UDP.
    pub transport: Transport,
}

impl From<&Port> for PortKey {
    fn from(port: &Port) -> Self {
        Self { address: port.address, port: port.port, transport: port.transport }
    }
}

impl Snapshot {
    /// What is served before the first plan: nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The routes of a port.
    pub fn port(&self, key: PortKey) -> Option<&Arc<PortTable>> {
        self.ports.get(&key).map(|port| &port.table)
    }

    /// Whether the plan has that port.
    pub(crate) fn has(&self, key: PortKey) -> bool {
        self.ports.contains_key(&key)
    }

    /// The listeners of a port that pass on what comes.
    pub fn forwards(&self, key: PortKey) -> Option<&Arc<ForwardTable>> {
        self.ports.get(&key).map(|port| &port.forwards)
    }

    /// What comes in at a port.
    pub(crate) fn speaks(&self, key: PortKey) -> Option<Speaks> {
        self.ports.get(&key).map(|port| port.speaks)
    }

    /// The port's TLS, if it has any.
    pub(crate) fn tls(&self, key: PortKey) -> Option<&Arc<TlsTable>> {
        self.ports.get(&key)?.tls.as_ref()
    }
}

/// Compiles plans, each with what has not changed since the one before.
pub(crate) struct Compiler {
    tls: TlsContext,
    anchors: AnchorStore,
    metrics: Arc<Metrics>,
    backends: Backends,
}

impl Compiler {
    pub(crate) fn new(tls: TlsContext, metrics: Arc<Metrics>, backends: Backends) -> Self {
        Self { tls, anchors: AnchorStore::default(), metrics, backends }
    }

    /// Compiles a plan. What cannot serve is named; the rest does.
    pub(crate) fn compile(
        &mut self,
        plan: Arc<Plan>,
        previous: &Snapshot,
    ) -> (Snapshot, Vec<FailedListener>) {
        let mut failed = Vec::new();
        let certificates = Certificates::load(&self.tls, &plan, &previous.certificates);
        let backends = self.backends.sync(&plan);
        self.secure(&plan, &certificates, &backends);
        let mut with =
            Compilation::new(&backends, &self.metrics, previous.ports.values().map(|port| &*port.table));
        let mut ports = BTreeMap::new();
        for planned in &plan.ports {
            let key = PortKey::from(&**planned);
            let old = previous.ports.get(&key);
            let old_tls = old.and_then(|p| p.tls.as_deref());
            let tls = {
                let trusted = |keys: &[TrustKey]| self.anchors.of(&plan, keys);
                TlsTable::build(&self.tls, planned, &certificates, trusted, old_tls, &mut failed)
            };
            let old_table = old.map(|p| &*p.table);
            let table = Arc::new(PortTable::compile_with(planned, old_table, &mut with));
            let old_forwards = old.map(|p| &*p.forwards);
            let forwards = Arc::new(ForwardTable::compile(planned, old_forwards, &backends, &self.metrics));
            let speaks = Speaks::of(planned);
            ports.insert(key, CompiledPort { table, tls: tls.map(Arc::new), forwards, speaks });
        }
        drop(with);
        self.anchors.prune();
        (Snapshot { revision: previous.revision + 1, plan, backends, ports, certificates }, failed)
    }

    /// Prepares TLS towards the backends that are reached by it.
    fn secure(&mut self, plan: &Plan, certificates: &Certificates, backends: &BackendMap) {
        let listeners = plan.ports.iter().flat_map(|port| &port.listeners);
        let shown: BTreeSet<_> =
            listeners.filter_map(|listener| listener.client_certificate.clone()).collect();
        let mut with = Ingredients {
            plan,
            provider: &self.tls.provider,
            certificates,
            anchors: &mut self.anchors,
            identities: &shown.into_iter().collect::<Vec<_>>(),
        };
        for (key, planned) in &plan.backends {
            let Some(backend) = backends.get(key) else { continue };
            backend
                .update_tls(|before| planned.tls.as_ref().map(|tls| Connectors::new(tls, before, &mut with)));
        }
    }
}
