//! One connection of a client, passed on to a backend.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::{ForwardListener, ForwardRule, ForwardTable};
use crate::fault::{Fault, FaultKind};
use crate::http::h1::io::Deadline;
use crate::http::{Counted, Taken};
use crate::observe::{End, Session};
use crate::prefixed::Prefixed;
use crate::tunnel::{Copying, Ended, Patience};
use crate::upstream::{Backend, Lease, Pools, Transport, reset};

/// How long the one side may be silent when the other has closed. Longer than for upgrades of HTTP: to close
/// after the question and to wait for the answer is how some protocols work.
const HALF_CLOSED: Duration = Duration::from_secs(300);

/// The connections of one port on one worker that are passed on, so that a new plan can end those that it
/// no longer permits.
#[derive(Default)]
pub(crate) struct Live(RefCell<Slab<Passed>>);

struct Passed {
    rule: Arc<ForwardRule>,
    listener: Arc<ForwardListener>,
    backend: Arc<Backend>,
    fate: Rc<Fate>,
}

/// What ends a connection from outside.
#[derive(Default)]
struct Fate {
    told: Notify,
    end: Cell<End>,
}

impl Fate {
    fn tell(&self, end: End) {
        self.end.set(end);
        self.told.notify_one();
    }
}

impl Live {
    /// Ends the connections whose leave to go to their backend a new table takes back, and at the deadline
    /// those whose listener has gone from a port that stays.
    pub(crate) fn revise(&self, table: &ForwardTable, deadline: Instant) {
        let mut leaving = Vec::new();
        for passed in self.0.borrow().iter().map(|(_, passed)| passed) {
            let Some(listener) = table.listener(&passed.listener.plan().hostname) else {
                leaving.push(Rc::downgrade(&passed.fate));
                continue;
            };
            if Arc::ptr_eq(listener, &passed.listener) {
                continue;
            }
            let object = &passed.rule.plan().source.object;
            let mut same = listener.rules().iter().filter(|rule| rule.plan().source.object == *object);
            if same.any(|rule| rule.revokes(&passed.backend)) {
                passed.fate.tell(End::Revoked);
            }
        }
        if !leaving.is_empty() {
            tokio::task::spawn_local(async move {
                tokio::time::sleep_until(deadline).await;
                leaving.iter().filter_map(Weak::upgrade).for_each(|fate| fate.tell(End::Cut));
            });
        }
    }

    fn enter(&self, passed: Passed) -> Entered<'_> {
        Entered { live: self, slot: self.0.borrow_mut().insert(passed) }
    }
}

struct Entered<'a> {
    live: &'a Live,
    slot: usize,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.live.0.borrow_mut().try_remove(self.slot);
    }
}

/// A client's side of a connection that is passed on.
pub(crate) trait Client: AsyncRead + AsyncWrite + Unpin {
    /// Has the connection reset when it is dropped.
    fn abort(&self);
}

impl Client for TcpStream {
    fn abort(&self) {
        reset(self);
    }
}

impl Client for TlsStream<Counted<Prefixed<TcpStream>>> {
    fn abort(&self) {
        reset(self.get_ref().0.get_ref().get_ref());
    }
}

/// What a connection is passed on with.
pub(crate) struct Way<'a> {
    /// `None` when no listener is for it.
    pub(crate) listener: Option<Arc<ForwardListener>>,
    /// What has already been read from the client.
    pub(crate) initial: Bytes,
    /// The client's TLS goes through.
    pub(crate) through: bool,
    /// What the client has taken, where that is not seen from above.
    pub(crate) taken: Option<Taken>,
    pub(crate) silent: Option<Duration>,
    pub(crate) live: &'a Live,
    pub(crate) pools: &'a Rc<Pools>,
}

/// Chooses a backend, connects to it and copies both ways to the end. A client that cannot be passed on is
/// reset.
pub(crate) async fn relay(mut client: impl Client, way: Way<'_>, mut session: Session) {
    if let Some(listener) = &way.listener {
        session.set_listener(listener.metrics());
    }
    let rule = way.listener.as_ref().and_then(|listener| listener.rule(session.server_name()).cloned());
    let (Some(listener), Some(rule)) = (way.listener.clone(), rule) else {
        session.set_fault(&FaultKind::NoRoute.into());
        client.abort();
        return;
    };
    session.set_rule(rule.metrics());
    let (lease, mut backend) = match connect(&rule, &way, &mut session).await {
        Ok(connected) => connected,
        Err(fault) => {
            session.set_fault(&fault);
            client.abort();
            return;
        }
    };
    let fate = Rc::<Fate>::default();
    let passed = Passed { listener, rule, backend: lease.backend().clone(), fate: fate.clone() };
    let _entered = way.live.enter(passed);
    let mut copying = Copying::new(way.initial, Patience { silent: way.silent, half_closed: HALF_CLOSED });
    let mut deadline = Deadline::default();
    let copied = poll_fn(|cx| {
        let taken = way.taken.as_ref().map_or(0, Taken::get);
        let polled = copying.poll(cx, &mut client, &mut backend, taken, &mut deadline, None);
        session.moved(copying.sent_down(), copying.sent_up());
        polled
    });
    let end = tokio::select! {
        ended = copied => match ended {
            Ended::Closed => End::Closed,
            Ended::TimedOut => End::Idle,
            Ended::ClientBroke => {
                backend.abort();
                End::ClientReset
            }
            Ended::BackendBroke => {
                client.abort();
                End::BackendReset
            }
        },
        () = fate.told.notified() => {
            client.abort();
            backend.abort();
            fate.end.get()
        }
    };
    session.end(end);
}

/// Tries another endpoint when the first cannot be connected to.
async fn connect(
    rule: &ForwardRule,
    way: &Way<'_>,
    session: &mut Session,
) -> Result<(Rc<Lease>, Transport), Fault> {
    let backend = rule.choose().ok_or(FaultKind::InvalidRoute)?;
    session.set_backend(backend.metrics());
    let plan = way.listener.as_ref().map(|listener| listener.plan());
    let identity = plan.and_then(|plan| plan.client_certificate.as_ref());
    let lease = way.pools.lease(backend, identity, None, None).await?;
    session.begin_try(lease.endpoint().address());
    let failed = match way.pools.dial(&lease, way.through).await {
        Ok(transport) => return Ok((lease, transport)),
        Err(fault) => fault,
    };
    let again = way.pools.lease(backend, identity, None, Some(lease.endpoint().id())).await?;
    if again.endpoint().id() == lease.endpoint().id() {
        return Err(failed);
    }
    session.begin_try(again.endpoint().address());
    let transport = way.pools.dial(&again, way.through).await?;
    Ok((again, transport))
}
