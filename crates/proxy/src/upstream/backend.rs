use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use portway_plan::{BackendKey, BackendProtocol, CertificateKey, EndpointAddress, EndpointState, Endpoints};
use rand::Rng;
use tokio::sync::{Notify, watch};

use super::tls::{ClientTls, Connectors};
use crate::http::Session;
use crate::observe::BackendMetrics;

/// Names an endpoint within this process; never used again once the endpoint has left.
pub type EndpointId = u64;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A backend's state, shared by all rules and workers that use it. It lives on from plan to plan, so that
/// balance, health and connections outlive changes.
pub struct Backend {
    key: BackendKey,
    protocol: AtomicU8,
    has_session: AtomicBool,
    session: ArcSwapOption<Session>,
    set: ArcSwap<EndpointSet>,
    inputs: Mutex<Inputs>,
    /// Told when the set has been swapped.
    swapped: Notify,
    in_flight: AtomicUsize,
    retrying: AtomicUsize,
    metrics: Arc<BackendMetrics>,
    departures: Departures,
    /// `None` for plain text.
    tls: ArcSwapOption<Connectors>,
}

/// Tells workers that endpoints have left, so that they close their idle connections to them.
#[derive(Clone, Debug, Default)]
pub struct Departures(Arc<watch::Sender<u64>>);

impl Departures {
    /// Changes whenever endpoints have left.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    pub(super) fn tell(&self) {
        self.0.send_modify(|count| *count += 1);
    }
}

/// What the endpoint set is made of.
#[derive(Default)]
struct Inputs {
    planned: Arc<Endpoints>,
    resolved: BTreeMap<Arc<str>, Vec<IpAddr>>,
}

/// Where a backend is, at one time.
#[derive(Default)]
pub struct EndpointSet {
    active: Vec<Arc<Endpoint>>,
    terminating: Vec<Arc<Endpoint>>,
    /// Some names have not been resolved yet.
    unresolved: bool,
}

/// One address and port where a backend answers.
#[derive(Debug)]
pub struct Endpoint {
    id: EndpointId,
    address: SocketAddr,
    in_flight: AtomicU32,
    /// Connects that failed in a row.
    failures: AtomicU32,
    /// Put aside until then, in milliseconds of [`now_ms`]; 0 is not at all.
    aside_until: AtomicU64,
    removed: AtomicBool,
}

/// Counts a request against its backend and endpoint until it is dropped.
pub struct InFlight {
    backend: Arc<Backend>,
    endpoint: Arc<Endpoint>,
}

/// Milliseconds since the first call, on the monotonic clock.
pub(crate) fn now_ms() -> u64 {
    static EPOCH: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    // One more, since 0 has a meaning of its own.
    EPOCH.get_or_init(std::time::Instant::now).elapsed().as_millis() as u64 + 1
}

impl Endpoint {
    fn new(address: SocketAddr) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            aside_until: AtomicU64::new(0),
            removed: AtomicBool::new(false),
        }
    }

    /// Its name within this process.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests in flight, from all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it has left its backend: its streams finish, and no connection to it is kept.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// It could not be connected to: puts it aside for half a second, doubled with each failure in a row,
    /// up to 30 s. Connects that fail while it is put aside, most of them begun before, count as one.
    pub fn connect_failed(&self, now_ms: u64) {
        if now_ms < self.aside_until.load(Ordering::Relaxed) {
            return;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(6);
        self.aside_until.store(now_ms + (500u64 << failures).min(30_000), Ordering::Relaxed);
    }

    /// It could be connected to.
    pub fn connected(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.aside_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it is put aside.
    #[inline]
    pub fn is_aside(&self) -> bool {
        let until = self.aside_until.load(Ordering::Relaxed);
        until != 0 && now_ms() < until
    }
}

impl EndpointSet {
    /// The endpoints that take requests now: the active ones, else those that terminate.
    pub fn candidates(&self) -> &[Arc<Endpoint>] {
        if self.active.is_empty() { &self.terminating } else { &self.active }
    }

    /// The endpoint at that address, if it is one that serves: active or not, but not put aside.
    pub fn at(&self, address: SocketAddr) -> Option<&Arc<Endpoint>> {
        self.all().find(|endpoint| endpoint.address == address && !endpoint.is_aside())
    }

    /// All endpoints.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.active.iter().chain(&self.terminating)
    }

    /// Picks an endpoint: of two taken at random, the one with fewer requests in flight. One that is put
    /// aside or was just tried is taken only when there is no other. `None` when there are none at all.
    pub fn choose(&self, rng: &mut impl Rng, tried: Option<EndpointId>) -> Option<&Arc<Endpoint>> {
        let all = self.candidates();
        match all {
            [] => return None,
            [one] => return Some(one),
            _ => {}
        }
        let bad = |e: &Endpoint| u8::from(Some(e.id) == tried) + 2 * u8::from(e.is_aside());
        let first = rng.random_range(0..all.len());
        let second = (first + rng.random_range(1..all.len())) % all.len();
        let (a, b) = (&all[first], &all[second]);
        let rank = |e: &Endpoint| (bad(e), e.in_flight());
        let best = if rank(b) < rank(a) { b } else { a };
        if bad(best) == 0 {
            return Some(best);
        }
        // Both are bad: look at all, from a random place on so that load spreads.
        (0..all.len()).map(|i| &all[(first + i) % all.len()]).min_by_key(|e| rank(e))
    }
}

impl Backend {
    /// A backend without endpoints.
    pub fn new(
        key: BackendKey,
        protocol: BackendProtocol,
        metrics: Arc<BackendMetrics>,
        departures: Departures,
    ) -> Self {
        let backend = Self {
            key,
            protocol: AtomicU8::new(0),
            has_session: AtomicBool::new(false),
            session: ArcSwapOption::empty(),
            set: ArcSwap::default(),
            inputs: Mutex::default(),
            swapped: Notify::new(),
            in_flight: AtomicUsize::new(0),
            retrying: AtomicUsize::new(0),
            metrics,
            departures,
            tls: ArcSwapOption::empty(),
        };
        backend.set_protocol(protocol);
        backend
    }

    /// Its name.
    pub fn key(&self) -> &BackendKey {
        &self.key
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<BackendMetrics> {
        &self.metrics
    }

    /// What it speaks.
    #[inline]
    pub fn protocol(&self) -> BackendProtocol {
        match self.protocol.load(Ordering::Relaxed) {
            1 => BackendProtocol::Http1,
            2 => BackendProtocol::H2c,
            _ => BackendProtocol::Unspecified,
        }
    }

    pub(super) fn set_protocol(&self, protocol: BackendProtocol) {
        let code = match protocol {
            BackendProtocol::Unspecified => 0,
            BackendProtocol::Http1 => 1,
            BackendProtocol::H2c => 2,
        };
        self.protocol.store(code, Ordering::Relaxed);
    }

    /// The sessions of all that is sent to it.
    #[inline]
    pub fn session(&self) -> Option<Arc<Session>> {
        if self.has_session.load(Ordering::Relaxed) { self.session.load_full() } else { None }
    }

    pub(super) fn set_session(&self, planned: Option<&Arc<portway_plan::Session>>) {
        if self.session.load().as_ref().map(|session| session.plan()) == planned {
            return;
        }
        self.session.store(planned.and_then(Session::compile).map(Arc::new));
        self.has_session.store(planned.is_some(), Ordering::Relaxed);
    }

    /// How it is reached over TLS, if it is, with that certificate to show.
    #[inline]
    pub(super) fn tls(&self, identity: Option<&CertificateKey>) -> Option<Arc<ClientTls>> {
        self.tls.load().as_ref().and_then(|connectors| connectors.get(identity)).cloned()
    }

    /// Takes over how a plan has it reached over TLS, made from what was before. Connections that another
    /// way has made are closed as soon as they idle.
    pub(crate) fn update_tls(&self, next: impl FnOnce(Option<&Connectors>) -> Option<Connectors>) {
        let before = self.tls.load_full();
        let next = next(before.as_deref()).map(Arc::new);
        match (&before, &next) {
            (None, None) => return,
            (Some(before), Some(next)) if before.is_same(next) => return,
            _ => {}
        }
        self.tls.store(next.clone());
        if before.is_some_and(|before| before.retire(next.as_deref())) {
            self.departures.tell();
        }
    }

    /// Where it is now.
    #[inline]
    pub fn endpoints(&self) -> arc_swap::Guard<Arc<EndpointSet>> {
        self.set.load()
    }

    /// Requests in flight, from all workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes a plan's endpoints over.
    pub fn swap_endpoints(&self, planned: Arc<Endpoints>) {
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&inputs.planned, &planned) {
            return;
        }
        let names: Vec<_> = names(&planned).cloned().collect();
        inputs.planned = planned;
        inputs.resolved.retain(|name, _| names.contains(name));
        self.rebuild(&inputs);
    }

    /// The endpoints that the last plan gave it.
    pub fn planned(&self) -> Arc<Endpoints> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).planned.clone()
    }

    /// Takes the addresses of a name over.
    pub(super) fn resolved(&self, name: &Arc<str>, addresses: Vec<IpAddr>) {
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        if !names(&inputs.planned).any(|n| n == name) || inputs.resolved.get(name) == Some(&addresses) {
            return;
        }
        inputs.resolved.insert(name.clone(), addresses);
        self.rebuild(&inputs);
    }

    /// The name does not resolve: it stands for no endpoints, unless it has resolved before.
    pub(super) fn unresolvable(&self, name: &Arc<str>) {
        let known = self.inputs.lock().unwrap_or_else(PoisonError::into_inner).resolved.contains_key(name);
        if !known {
            self.resolved(name, Vec::new());
        }
    }

    /// Makes the endpoint set anew; endpoints that stay are the same ones.
    fn rebuild(&self, inputs: &Inputs) {
        let old = self.set.load_full();
        let mut known: HashMap<SocketAddr, &Arc<Endpoint>> = old.all().map(|e| (e.address, e)).collect();
        let mut wanted: BTreeMap<SocketAddr, EndpointState> = BTreeMap::new();
        let mut set = EndpointSet::default();
        let mut want = |ip: IpAddr, port: u16, state: EndpointState| {
            let slot = wanted.entry(SocketAddr::new(ip, port)).or_insert(state);
            // Listed twice: active wins.
            *slot = (*slot).min(state);
        };
        for endpoint in &inputs.planned.list {
            match &endpoint.address {
                EndpointAddress::Ip(ip) => want(*ip, endpoint.port, endpoint.state),
                EndpointAddress::Name(name) => match inputs.resolved.get(name) {
                    Some(ips) => ips.iter().for_each(|ip| want(*ip, endpoint.port, endpoint.state)),
                    None => set.unresolved = true,
                },
            }
        }
        for (address, state) in wanted {
            let endpoint = match known.remove(&address) {
                Some(endpoint) => endpoint.clone(),
                None => Arc::new(Endpoint::new(address)),
            };
            match state {
                EndpointState::Active => set.active.push(endpoint),
                EndpointState::Terminating => set.terminating.push(endpoint),
            }
        }
        let gone: Vec<_> = known.into_values().cloned().collect();
        self.set.store(Arc::new(set));
        self.swapped.notify_waiters();
        gone.iter().for_each(|endpoint| endpoint.removed.store(true, Ordering::Relaxed));
        if !gone.is_empty() {
            self.departures.tell();
        }
    }

    /// Waits until names have been resolved, if there is no endpoint for want of that.
    pub async fn wait_resolved(&self) {
        loop {
            let swapped = self.swapped.notified();
            tokio::pin!(swapped);
            swapped.as_mut().enable();
            let set = self.set.load();
            if !set.unresolved || !set.candidates().is_empty() {
                return;
            }
            drop(set);
            swapped.await;
        }
    }

    /// Whether there is no endpoint only because names have not been resolved yet.
    pub fn is_unresolved(&self) -> bool {
        let set = self.set.load();
        set.unresolved && set.candidates().is_empty()
    }

    /// Takes one retry from the budget, which is `percent` of the requests in flight and never less than
    /// 10; `None` when it is used up. The retry is given back when the guard is dropped.
    pub fn take_retry(self: &Arc<Self>, percent: usize) -> Option<Retrying> {
        let most = (self.in_flight() * percent / 100).max(10);
        if self.retrying.fetch_add(1, Ordering::Relaxed) >= most {
            self.retrying.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Retrying(self.clone()))
    }
}

/// The names among planned endpoints.
pub(super) fn names(endpoints: &Endpoints) -> impl Iterator<Item = &Arc<str>> {
    endpoints.list.iter().filter_map(|endpoint| match &endpoint.address {
        EndpointAddress::Name(name) => Some(name),
        EndpointAddress::Ip(_) => None,
    })
}

/// A retry taken from a backend's budget.
pub struct Retrying(Arc<Backend>);

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retrying.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InFlight {
    /// Counts a request in.
    #[inline]
    pub fn new(backend: Arc<Backend>, endpoint: Arc<Endpoint>) -> Self {
        backend.in_flight.fetch_add(1, Ordering::Relaxed);
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { backend, endpoint }
    }

    /// Where the request is.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whose request it is.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.backend.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Once no plan and no request knows it any more, its idle connections are of no use. Not earlier: until
/// every worker has taken the next plan, requests still come by the one before.
impl Drop for Backend {
    fn drop(&mut self) {
        let set = self.set.load();
        let mut endpoints = set.all().peekable();
        if endpoints.peek().is_some() {
            endpoints.for_each(|endpoint| endpoint.removed.store(true, Ordering::Relaxed));
            self.departures.tell();
        }
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("key", &self.key).field("protocol", &self.protocol()).finish()
    }
}

#[cfg(test)]
mod tests;
