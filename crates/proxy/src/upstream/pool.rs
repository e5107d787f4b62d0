//! One worker's connections to endpoints.

mod shared;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use portway_plan::{BackendKey, CertificateKey};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustls::ClientConfig;
use slab::Slab;
use tokio::sync::watch;
use tokio::time::Instant;

use super::backend::now_ms;
use super::connect::{Secure, connect};
use super::permits::{Permit, Permits, Waiting};
use super::queue::Queue;
use super::tls::{ClientTls, ClientTlsId};
use super::{Backend, Endpoint, EndpointId, InFlight, Limits, Transport};
use crate::fault::{Fault, FaultKind};
use crate::http::{h1, h2};
use crate::ids::IdHasher;
use crate::observe::Shard;

/// How often idle connections and exchanges are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// One worker's connections, by endpoint. Idle HTTP/1.1 connections lie on a stack, so that the warmest is
/// taken and the others can grow old; HTTP/2 connections are shared.
pub struct Pools {
    /// The worker's number.
    worker: usize,
    limits: Limits,
    endpoints: RefCell<HashMap<PoolKey, Rc<Pool>, BuildHasherDefault<IdHasher>>>,
    rng: RefCell<SmallRng>,
    /// Exchanges under way, to be given up when nothing moves.
    leases: RefCell<Slab<Weak<Lease>>>,
    mirrors: Cell<usize>,
    /// Bytes of request bodies that are held back.
    held_back: Cell<usize>,
    /// Room for what HTTP/2 backends send ahead of slow clients.
    loans: Rc<h2::Loans>,
    /// Counts sweeps: the clock of [`Lease::touch`].
    sweeps: Cell<u64>,
    /// Counts requests.
    turns: Cell<u64>,
}

/// Which endpoint, and by which TLS it is reached.
type PoolKey = (EndpointId, ClientTlsId);

/// Connections to one endpoint.
struct Pool {
    endpoint: Arc<Endpoint>,
    tls: Option<Arc<ClientTls>>,
    /// Made for the first connection.
    config: RefCell<Option<Arc<ClientConfig>>>,
    /// This worker's counters of the backend.
    counts: Arc<Shard<BackendKey>>,
    idle_limit: usize,
    idle: RefCell<Vec<Idle>>,
    /// As many as HTTP/1.1 connections may be in use.
    permits: Rc<Permits>,
    waiting: Cell<usize>,
    shared: RefCell<Vec<Rc<h2::client::Client>>>,
    /// The HTTP/2 connection that was opened last, until one of those who wait has looked at it.
    fresh: RefCell<Weak<h2::client::Client>>,
    /// Those who wait for room on an HTTP/2 connection.
    queue: Rc<Queue>,
    /// An HTTP/2 connection is being opened.
    opening: Cell<bool>,
    /// When opening an HTTP/2 connection has failed last, and why.
    failed: RefCell<Option<(Instant, Fault)>>,
    /// The time of the last sweep, which is when connections come back.
    now: Cell<Instant>,
}

struct Idle {
    client: h1::Client<Transport>,
    since: Instant,
}

impl Idle {
    /// Whether the connection can still be used. Does not block.
    fn is_alive(&mut self) -> bool {
        let quiet = self.client.io().is_quiet();
        quiet.unwrap_or_else(|| self.client.is_alive())
    }
}

/// One try of one request at an endpoint: counted in flight until it is dropped, which is when the
/// response's body has ended. Takes the connection back.
pub struct Lease {
    in_flight: InFlight,
    pool: Rc<Pool>,
    permit: RefCell<Option<Permit>>,
    pools: Weak<Pools>,
    slot: Cell<usize>,
    touched: Cell<u64>,
    expired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A connection to send a request on.
pub enum Connection {
    /// HTTP/1.1, this request's alone.
    H1 {
        /// The connection.
        client: h1::Client<Transport>,
        /// It has served requests before.
        reused: bool,
    },
    /// HTTP/2, shared.
    H2(Rc<h2::client::Client>),
}

/// What is to be spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/1.1 on a connection that has served nothing yet.
    H1Fresh,
    /// HTTP/2 with prior knowledge.
    H2,
}

impl Pools {
    /// No connections yet, for the worker of that number. A local task closes what has idled for too long, and the idle connections of
    /// endpoints that leave as soon as `departures` ([`super::Backends::departures`]) changes.
    ///
    /// Must be called within a `LocalSet`.
    pub fn new(worker: usize, limits: Limits, departures: watch::Receiver<u64>) -> Rc<Self> {
        let pools = Rc::new(Self {
            loans: h2::Loans::new(limits.read_ahead),
            worker,
            limits,
            endpoints: RefCell::default(),
            rng: RefCell::new(SmallRng::seed_from_u64(rand::random())),
            leases: RefCell::default(),
            mirrors: Cell::new(0),
            held_back: Cell::new(0),
            sweeps: Cell::new(0),
            turns: Cell::new(0),
        });
        tokio::task::spawn_local(sweep(Rc::downgrade(&pools), departures));
        pools
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Picks an endpoint for a try and counts it there: the preferred one if it serves; else one that was just
    /// tried is avoided. With TLS, it is shown the certificate of that name.
    ///
    /// # Errors
    /// [`FaultKind::NoEndpoints`] when there are none, for a name when it has not been resolved in time.
    pub async fn lease(
        self: &Rc<Self>,
        backend: &Arc<Backend>,
        identity: Option<&CertificateKey>,
        preferred: Option<SocketAddr>,
        tried: Option<EndpointId>,
    ) -> Result<Rc<Lease>, Fault> {
        if backend.is_unresolved() {
            // Only right after the plan that brought the name.
            let resolved = tokio::time::timeout(self.limits.connect_timeout, backend.wait_resolved());
            let _ = Box::pin(resolved).await;
        }
        let endpoints = backend.endpoints();
        let endpoint = preferred
            .and_then(|address| endpoints.at(address))
            .or_else(|| endpoints.choose(&mut *self.rng.borrow_mut(), tried))
            .ok_or_else(|| Fault::new(FaultKind::NoEndpoints, backend.key()))?
            .clone();
        drop(endpoints);
        let pool = self.pool(backend, &endpoint, backend.tls(identity));
        let mut leases = self.leases.borrow_mut();
        let slot = leases.vacant_entry();
        let lease = Rc::new(Lease {
            in_flight: InFlight::new(backend.clone(), endpoint),
            pool,
            permit: RefCell::new(None),
            pools: Rc::downgrade(self),
            slot: Cell::new(slot.key()),
            touched: Cell::new(self.sweeps.get()),
            expired: Cell::new(false),
            waker: RefCell::new(None),
        });
        slot.insert(Rc::downgrade(&lease));
        Ok(lease)
    }

    fn pool(&self, backend: &Backend, endpoint: &Arc<Endpoint>, tls: Option<Arc<ClientTls>>) -> Rc<Pool> {
        let mut pools = self.endpoints.borrow_mut();
        let key = (endpoint.id(), tls.as_ref().map_or(0, |tls| tls.id()));
        let pool = pools.entry(key).or_insert_with(|| {
            Rc::new(Pool {
                endpoint: endpoint.clone(),
                tls,
                config: RefCell::default(),
                counts: backend.metrics().shard(self.worker).clone(),
                idle_limit: self.limits.idle_per_endpoint,
                idle: RefCell::default(),
                permits: Permits::new(self.limits.connections_per_endpoint),
                waiting: Cell::new(0),
                shared: RefCell::default(),
                fresh: RefCell::default(),
                queue: Rc::default(),
                failed: RefCell::default(),
                opening: Cell::new(false),
                now: Cell::new(Instant::now()),
            })
        });
        pool.clone()
    }

    /// The turn of a new request, by which it waits where others do.
    #[inline]
    pub fn turn(&self) -> u64 {
        self.turns.replace(self.turns.get() + 1)
    }

    /// A connection for a try of the request with that turn: one that idles, a shared one, or a new one. What
    /// takes time is boxed, since requests that find a connection would carry the room for it.
    ///
    /// # Errors
    /// [`FaultKind::Connect`] or [`FaultKind::UpstreamTls`] when there is none to be had;
    /// [`FaultKind::Overloaded`] when all are in use and too many requests wait already, or for too long.
    pub async fn connection(
        &self,
        lease: &Lease,
        protocol: Protocol,
        turn: u64,
    ) -> Result<Connection, Fault> {
        if protocol == Protocol::H2 {
            return lease.pool.shared_connection(self, turn).await.map(Connection::H2);
        }
        let pool = &lease.pool;
        let permit = match pool.permits.try_take() {
            Some(permit) => permit,
            None => {
                let waiting = pool.wait(&self.limits, self.limits.wait_timeout, pool.permits.wait());
                Box::pin(waiting).await?
            }
        };
        lease.permit.replace(Some(permit));
        if protocol == Protocol::H1 {
            while let Some(mut idle) = pool.pop_idle() {
                if idle.is_alive() {
                    pool.counts.reused.add(1);
                    return Ok(Connection::H1 { client: idle.client, reused: true });
                }
            }
        }
        let stream = Box::pin(pool.connect(&self.limits, b"http/1.1")).await?;
        Ok(Connection::H1 { client: h1::Client::new(stream), reused: false })
    }

    /// A connection of a try's own, for bytes of any kind: with TLS if the backend wants it, or, where the
    /// client's own TLS goes `through`, without.
    ///
    /// # Errors
    /// [`FaultKind::Connect`] when there is none to be had; [`FaultKind::Overloaded`] when too many are in use.
    pub async fn dial(&self, lease: &Lease, through: bool) -> Result<Transport, Fault> {
        let permit = lease.pool.permits.try_take();
        let permit = permit.ok_or_else(|| Fault::new(FaultKind::Overloaded, lease.endpoint().address()))?;
        lease.permit.replace(Some(permit));
        if through {
            lease.pool.dial(None, &self.limits).await
        } else {
            // What is spoken is between the client and the backend.
            lease.pool.connect(&self.limits, b"").await
        }
    }

    /// Counts a mirrored request in, until the guard is dropped; `None` when there are too many.
    pub fn mirror(self: &Rc<Self>) -> Option<Mirroring> {
        let mirrors = self.mirrors.get();
        (mirrors < self.limits.mirrors).then(|| {
            self.mirrors.set(mirrors + 1);
            Mirroring(self.clone())
        })
    }

    /// Room for a request's body that is held back until someone has been asked. It grows with
    /// [`HeldBack::grow`] and is given back when it is dropped.
    pub fn hold_back(self: &Rc<Self>) -> HeldBack {
        HeldBack { pools: self.clone(), bytes: 0 }
    }

    /// How many HTTP/1.1 connections idle and how many HTTP/2 connections are open.
    pub fn held(&self) -> (usize, usize) {
        let pools = self.endpoints.borrow();
        pools
            .values()
            .fold((0, 0), |(h1, h2), pool| (h1 + pool.idle.borrow().len(), h2 + pool.shared.borrow().len()))
    }

    /// Closes what leads to endpoints that have left, or goes by TLS that is no longer theirs.
    fn leave(&self) {
        let mut left = Vec::new();
        self.endpoints.borrow_mut().retain(|_, pool| {
            let removed = pool.is_closed();
            if removed {
                left.push(pool.clone());
            }
            !removed
        });
        for pool in left {
            pool.idle.take();
            pool.shared.take();
        }
    }

    /// Closes what has idled for too long.
    fn purge(&self) {
        let now = Instant::now();
        let mut closing = Vec::new();
        self.endpoints.borrow_mut().retain(|_, pool| {
            pool.purge(now, self.limits.idle_timeout, &mut closing);
            // One that is in use is held by a lease, too.
            Rc::strong_count(pool) > 1 || !(pool.idle.borrow().is_empty() && pool.shared.borrow().is_empty())
        });
    }

    /// Gives up exchanges in which nothing has moved for too long.
    fn expire(&self) {
        let now = self.sweeps.get() + 1;
        self.sweeps.set(now);
        let most = self.limits.stream_idle_timeout.as_secs().div_ceil(SWEEP.as_secs()).max(1);
        // Held until the list is free again, since a lease takes itself off it when it is dropped.
        let leases: Vec<_> = self.leases.borrow().iter().filter_map(|(_, lease)| lease.upgrade()).collect();
        for lease in leases.iter().filter(|lease| now - lease.touched.get() > most) {
            lease.expired.set(true);
            lease.waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// A mirrored request under way.
pub struct Mirroring(Rc<Pools>);

impl Drop for Mirroring {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get() - 1);
    }
}

/// Room for a body that is held back.
pub struct HeldBack {
    pools: Rc<Pools>,
    bytes: usize,
}

impl HeldBack {
    /// Takes room for that many more bytes.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] when this worker holds too many back.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Fault> {
        let all = self.pools.held_back.get() + bytes;
        if all > self.pools.limits.auth_bodies {
            return Err(Fault::new(FaultKind::Overloaded, "too many bodies are held back"));
        }
        self.pools.held_back.set(all);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.pools.held_back.set(self.pools.held_back.get() - self.bytes);
    }
}

async fn sweep(pools: Weak<Pools>, mut departures: watch::Receiver<u64>) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    let mut watching = true;
    loop {
        let ticked = tokio::select! {
            changed = departures.changed(), if watching => {
                // Without a sender there are no changes any more, but connections still grow old.
                watching = changed.is_ok();
                false
            }
            _ = tick.tick() => true,
        };
        let Some(pools) = pools.upgrade() else { return };
        pools.leave();
        if ticked {
            pools.purge();
            pools.expire();
        }
    }
}

impl Pool {
    fn pop_idle(&self) -> Option<Idle> {
        self.idle.borrow_mut().pop()
    }

    /// Whether no connection is to be kept.
    fn is_closed(&self) -> bool {
        self.endpoint.is_removed() || self.tls.as_ref().is_some_and(|tls| tls.is_retired())
    }

    /// Connects. `alpn` is what is to be spoken, if it is over TLS.
    async fn connect(&self, limits: &Limits, alpn: &[u8]) -> Result<Transport, Fault> {
        let secure = match &self.tls {
            None => None,
            Some(tls) => {
                let known = self.config.borrow().clone();
                let config = match known {
                    Some(config) => config,
                    None => self.config.borrow_mut().insert(tls.config()?).clone(),
                };
                Some(Secure { tls, config, alpn })
            }
        };
        self.dial(secure, limits).await
    }

    async fn dial(&self, secure: Option<Secure<'_>>, limits: &Limits) -> Result<Transport, Fault> {
        let result = connect(self.endpoint.address(), secure, limits, &self.counts).await;
        match &result {
            Ok(_) => self.endpoint.connected(),
            Err(_) => self.endpoint.connect_failed(now_ms()),
        }
        result
    }

    /// Waits among at most as many as the limits allow, for at most as long.
    async fn wait<T>(
        &self,
        limits: &Limits,
        timeout: Duration,
        until: impl Future<Output = T>,
    ) -> Result<T, Fault> {
        if self.waiting.get() >= limits.waiting_per_endpoint {
            return Err(Fault::new(FaultKind::Overloaded, "too many requests wait for a connection"));
        }
        let _waiting = Waiting::begin(&self.waiting);
        tokio::time::timeout(timeout, until)
            .await
            .map_err(|_| Fault::new(FaultKind::Overloaded, "no connection became free in time"))
    }

    fn purge(&self, now: Instant, idle_timeout: Duration, closing: &mut Vec<Idle>) {
        self.now.set(now);
        closing.clear();
        {
            let mut idle = self.idle.borrow_mut();
            // Swapped out, not dropped under the borrow.
            let all = std::mem::take(&mut *idle);
            for mut entry in all {
                if now.duration_since(entry.since) < idle_timeout && entry.is_alive() {
                    idle.push(entry);
                } else {
                    closing.push(entry);
                }
            }
        }
        self.shared.borrow_mut().retain(|client| {
            client.is_usable()
                && client.idle_since().is_none_or(|since| now.duration_since(since) < idle_timeout)
        });
    }
}

impl Lease {
    /// Whose endpoint it is.
    pub fn backend(&self) -> &Arc<Backend> {
        self.in_flight.backend()
    }

    /// Where the try goes.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.endpoint()
    }

    /// Something has moved: the exchange is alive.
    #[inline]
    pub fn touch(&self) {
        if let Some(pools) = self.pools.upgrade() {
            self.touched.set(pools.sweeps.get());
            // Not pulled for long is not silent for long.
            self.expired.set(false);
        }
    }

    /// Ready when nothing has moved for too long; else the task is woken when that is so.
    #[inline]
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.expired.get() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl h1::Recycle<Transport> for Lease {
    fn recycle(&self, client: h1::Client<Transport>) {
        let pool = &self.pool;
        if pool.is_closed() {
            return;
        }
        let mut idle = pool.idle.borrow_mut();
        if idle.len() < pool.idle_limit {
            idle.push(Idle { client, since: pool.now.get() });
        }
        drop(idle);
        // Not before the connection can be had: who waits takes it.
        self.permit.take();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pools) = self.pools.upgrade()
            && let Ok(mut leases) = pools.leases.try_borrow_mut()
        {
            leases.try_remove(self.slot.get());
        }
    }
}
