//! Sends a request to a backend: picks an endpoint, gets a connection, tries, tries again, keeps time.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use portway_plan::{BackendProtocol, CertificateKey, RuleKind, Timeouts};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::h1::{Answer, Progress, SendError, SendOptions};
use super::inbound::Inbound;
use super::reply::is_grpc;
use super::retry::{Outcome, Retries};
use super::session::Stick;
use super::{Body, BodySource, Frame, Informational, RequestHead, Tunnel, Version, h2};
use crate::fault::{Fault, FaultKind, Side};
use crate::observe::Exchange;
use crate::upstream::{Backend, Connection, EndpointId, Lease, Pools, Protocol, Retrying};

/// A request on its way to a backend.
pub(crate) struct Forward<'a> {
    /// The worker's connections.
    pub(crate) pools: &'a Rc<Pools>,
    /// Where to.
    pub(crate) backend: &'a Arc<Backend>,
    /// The certificate to show to it, if it is reached over TLS.
    pub(crate) identity: Option<&'a CertificateKey>,
    /// The kind of the rule: gRPC goes over HTTP/2.
    pub(crate) kind: RuleKind,
    /// Limits in time.
    pub(crate) timeouts: &'a Timeouts,
    /// When the request's own time began, if that was a while ago.
    pub(crate) begun: Option<Instant>,
    /// When to try again.
    pub(crate) retries: Retries<'a>,
    /// The session that it belongs to.
    pub(crate) stick: Option<&'a Stick<'a>>,
    /// The request, as filters have left it.
    pub(crate) head: Box<RequestHead>,
    /// Its body.
    pub(crate) body: Inbound,
    /// The protocol that the client asks to switch to.
    pub(crate) upgrade: Option<Bytes>,
    /// The client waits for `100 Continue`.
    pub(crate) expects_continue: bool,
    /// Told of 1xx responses.
    pub(crate) informational: Option<Informational>,
}

/// A timer that may be armed.
type Deadline = Option<Pin<Box<Sleep>>>;

/// A connection's answer, or how far the request got, and whether the connection had idled before.
struct Tried {
    result: Result<Answer, SendError>,
    reused: bool,
}

impl Forward<'_> {
    /// Sends it, as often as it takes. The answer's body keeps the rule's time to its end.
    ///
    /// # Errors
    /// When no try gave an answer: the last one's fault.
    pub(crate) async fn send(mut self, exchange: &mut Exchange) -> Result<Answer, Fault> {
        let mut deadline = self.request_deadline().map(|at| Box::pin(sleep_until(at)));
        let mut tried = None;
        let mut fresh = false;
        let turn = self.pools.turn();
        // Held from a retry's begin to the end of its response.
        let mut budget: Option<Retrying> = None;
        loop {
            let lease = self.lease(tried, &mut deadline).await?;
            let endpoint = lease.endpoint();
            tried = Some(endpoint.id());
            if let Some(stick) = self.stick {
                stick.used.set(Some(endpoint.address()));
            }
            exchange.begin_try(endpoint.address(), &mut self.head.headers);
            // The first try begins with the request, but for what someone was asked before. To the microsecond
            // that matters only where it is limited by itself.
            let begun = match exchange.tries {
                1 if self.begun.is_none() && self.timeouts.backend_request.is_none() => {
                    exchange.begun().into()
                }
                _ => Instant::now(),
            };
            let mut per_try = self.timeouts.backend_request.filter(|t| !t.is_zero()).and_then(|timeout| {
                let at = begun + timeout;
                let sooner = deadline.as_ref().is_none_or(|whole| at < whole.deadline());
                sooner.then(|| Box::pin(sleep_until(at)))
            });
            let tries = self.try_once(&lease, fresh, turn, &mut deadline, &mut per_try);
            let Tried { result, reused } = tries.await;
            let now = Instant::now();
            let took = now.saturating_duration_since(begun);
            let (outcome, result) = match result {
                Ok(answer) => {
                    exchange.end_try(now.into_std(), took, Ok(answer.head.status));
                    (Outcome::Status(answer.head.status), Ok(answer))
                }
                Err(SendError { mut fault, progress }) => {
                    // A backend that keeps the same time (gRPC) may end the stream before our timer fires.
                    if is_past(&deadline, now) && fault.kind.side() == Side::Upstream {
                        fault = FaultKind::UpstreamTimeout.into();
                    }
                    if let Some(stick) = self.stick.filter(|_| fault.kind == FaultKind::Connect) {
                        stick.preferred.set(None);
                    }
                    exchange.end_try(now.into_std(), took, Err(fault.kind));
                    (Outcome::Failed { kind: fault.kind, progress, reused }, Err(fault))
                }
            };
            if !is_past(&deadline, now)
                && let Some((pause, taken)) = self.again(outcome, deadline.as_ref().map(|d| d.deadline()))
            {
                // The answer that is not taken is cut; the connection with it, unless it has ended.
                drop((result, lease));
                budget = taken.or(budget);
                fresh = reused;
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                continue;
            }
            self.body.settle();
            exchange.received = self.body.received();
            return result.map(|answer| {
                let limits = Limited { lease, deadlines: [per_try, deadline], _budget: budget };
                limits.attach(answer)
            });
        }
    }

    /// Until when the exchange must have ended: the rule's timeout, or gRPC's own if that is sooner.
    fn request_deadline(&self) -> Option<Instant> {
        let rule = self.timeouts.request.filter(|timeout| !timeout.is_zero());
        let headers = &self.head.headers;
        // gRPC is HTTP/2: others are spared the search.
        let grpc = (self.head.version == Version::Http2).then(|| headers.get("grpc-timeout")).flatten();
        let grpc = grpc.filter(|_| is_grpc(headers.get("content-type"))).and_then(grpc_timeout);
        let timeout = match (rule, grpc) {
            (Some(rule), Some(grpc)) => rule.min(grpc),
            (one, other) => one.or(other)?,
        };
        self.begun.unwrap_or_else(Instant::now).checked_add(timeout)
    }

    /// Whether to try again, after which pause, with what is taken from the budget.
    fn again(&mut self, outcome: Outcome, deadline: Option<Instant>) -> Option<(Duration, Option<Retrying>)> {
        if !self.body.can_replay() {
            return None;
        }
        let again = self.retries.next(outcome)?;
        // A pause beyond the end would only turn this answer into a timeout.
        if deadline.is_some_and(|end| Instant::now() + again.pause >= end) {
            return None;
        }
        let taken = match again.counted {
            true => Some(self.backend.take_retry(self.pools.limits().retry_budget_percent)?),
            false => None,
        };
        Some((again.pause, taken))
    }

    fn protocol(&self, fresh: bool) -> Protocol {
        match over_h2(self.backend, self.kind) {
            true => Protocol::H2,
            // A tunnel never comes back, so it takes none of those that would.
            false if fresh || self.upgrade.is_some() => Protocol::H1Fresh,
            false => Protocol::H1,
        }
    }

    /// An endpoint for a try. Takes time only where names have not been resolved yet.
    async fn lease(&self, tried: Option<EndpointId>, deadline: &mut Deadline) -> Result<Rc<Lease>, Fault> {
        let preferred = self.stick.and_then(|stick| stick.preferred.get());
        let mut leasing = pin!(self.pools.lease(self.backend, self.identity, preferred, tried));
        poll_fn(|cx| match leasing.as_mut().poll(cx) {
            Poll::Ready(lease) => Poll::Ready(lease),
            Poll::Pending => poll_deadline(deadline, cx).map(|()| Err(FaultKind::UpstreamTimeout.into())),
        })
        .await
    }

    /// One try, as long as time allows.
    async fn try_once(
        &self,
        lease: &Rc<Lease>,
        fresh: bool,
        turn: u64,
        deadline: &mut Deadline,
        per_try: &mut Deadline,
    ) -> Tried {
        let reused = Cell::new(false);
        let mut attempt = pin!(self.attempt(lease, fresh, turn, &reused));
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = attempt.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            let late = poll_deadline(deadline, cx).is_ready() || poll_deadline(per_try, cx).is_ready();
            if late || lease.poll_expired(cx).is_ready() {
                let fault = FaultKind::UpstreamTimeout.into();
                return Poll::Ready(Err(SendError { fault, progress: Progress::Unanswered }));
            }
            Poll::Pending
        })
        .await;
        Tried { result, reused: reused.get() }
    }

    async fn attempt(
        &self,
        lease: &Rc<Lease>,
        fresh: bool,
        turn: u64,
        was_reused: &Cell<bool>,
    ) -> Result<Answer, SendError> {
        let connection = self.pools.connection(lease, self.protocol(fresh), turn).await;
        match connection {
            Ok(Connection::H1 { client, reused }) => {
                was_reused.set(reused);
                let options = SendOptions {
                    expects_continue: self.expects_continue,
                    upgrade: self.upgrade.clone(),
                    informational: self.informational.clone(),
                    // A frame of HTTP/2 holds no more.
                    read_limit: if self.head.version == Version::Http2 { 16 * 1024 } else { usize::MAX },
                    recycle: Some(lease.clone()),
                };
                client.send(&self.head, self.body.attempt(lease), options).await
            }
            Ok(Connection::H2(client)) => {
                was_reused.set(client.has_answered());
                let outgoing = h2::client::Outgoing {
                    head: &self.head,
                    endpoint: lease.endpoint().address(),
                    body: self.body.attempt(lease),
                    informational: self.informational.clone(),
                    hold: lease.clone(),
                };
                client.send(outgoing).await
            }
            Err(fault) => Err(SendError { fault, progress: Progress::Unsent }),
        }
    }
}

/// Whether requests of such a rule go to the backend over HTTP/2.
pub(crate) fn over_h2(backend: &Backend, kind: RuleKind) -> bool {
    match (backend.protocol(), kind) {
        (BackendProtocol::H2c, _) | (_, RuleKind::Grpc) => true,
        (BackendProtocol::Unspecified | BackendProtocol::Http1, RuleKind::Http) => false,
    }
}

fn is_past(deadline: &Deadline, now: Instant) -> bool {
    deadline.as_ref().is_some_and(|sleep| sleep.deadline() <= now)
}

fn poll_deadline(deadline: &mut Deadline, cx: &mut Context<'_>) -> Poll<()> {
    match deadline {
        Some(sleep) => sleep.as_mut().poll(cx),
        None => Poll::Pending,
    }
}

/// `grpc-timeout` (gRPC over HTTP/2): at most 8 digits and a unit.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// What an answer's body stands under until it has ended.
struct Limited {
    lease: Rc<Lease>,
    /// Of the try and of the whole.
    deadlines: [Deadline; 2],
    _budget: Option<Retrying>,
}

impl Limited {
    fn attach(self, mut answer: Answer) -> Answer {
        if let Some(io) = answer.tunnel.take() {
            // The rule's time is that of the handshake; a tunnel has its own limits.
            answer.tunnel = Some(Box::new(Held { io, _lease: self.lease }));
        } else if let Body::Stream(_) = answer.body {
            answer.body = Body::Stream(Box::new(LimitedBody { body: answer.body, limited: self }));
        }
        answer
    }
}

struct LimitedBody {
    body: Body,
    limited: Limited,
}

impl BodySource for LimitedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let polled = self.body.poll_frame(cx);
        if polled.is_ready() {
            self.limited.lease.touch();
        }
        // Time passes for a backend that always has more, too; not for one that has given all.
        let more = match &polled {
            Poll::Pending => true,
            Poll::Ready(frame) => matches!(frame, Some(Ok(_))) && self.body.remaining() != Some(0),
        };
        let mut late = more && self.limited.deadlines.iter_mut().any(|d| poll_deadline(d, cx).is_ready());
        if let Poll::Ready(Some(Err(fault))) = &polled
            && fault.kind.side() == Side::Upstream
        {
            // A backend that keeps the same time may have ended it before our timer fires.
            let now = Instant::now();
            late |= self.limited.deadlines.iter().any(|deadline| is_past(deadline, now));
        }
        if polled.is_ready() && !late {
            return polled;
        }
        if late || self.limited.lease.poll_expired(cx).is_ready() {
            // The connection is in the middle of a response: closed, not kept.
            self.body = Body::Empty;
            return Poll::Ready(Some(Err(FaultKind::UpstreamTimeout.into())));
        }
        Poll::Pending
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }
}

/// A tunnel, counted in flight.
struct Held {
    io: Box<dyn Tunnel>,
    _lease: Rc<Lease>,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use portway_plan::{BackendKey, Endpoint, EndpointAddress, EndpointState, Endpoints, ObjectRef, Plan};

    use super::*;
    use crate::observe::Metrics;
    use crate::upstream::{Backends, Limits};

    /// A body of which there is always more.
    struct Endless;

    impl BodySource for Endless {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
            Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(b"more")))))
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    /// Pools, and a backend with one endpoint.
    fn upstream() -> (Rc<Pools>, Arc<Backend>) {
        let object = ObjectRef { kind: "Service".into(), namespace: "a".into(), name: "b".into() };
        let key = BackendKey::tcp(object, 80);
        let address = EndpointAddress::Ip([127, 0, 0, 1].into());
        let list = vec![Endpoint { address, port: 1, state: EndpointState::Active, zone: None }];
        let backend = portway_plan::Backend::new(key.clone(), BackendProtocol::Unspecified);
        let mut plan = Plan::default();
        plan.backends.insert(key.clone(), Arc::new(backend));
        plan.endpoints.insert(key.clone(), Arc::new(Endpoints { list }));
        let runtime = tokio::runtime::Handle::current();
        let mut backends = Backends::new(runtime, Arc::new(Metrics::new(1)));
        let backend = backends.sync(&plan).get(&key).expect("the backend").clone();
        (Pools::new(0, Limits::default(), backends.departures()), backend)
    }

    /// A body that a backend resets.
    struct Reset;

    impl BodySource for Reset {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
            Poll::Ready(Some(Err(FaultKind::UpstreamClosed.into())))
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    async fn limited(source: impl BodySource + 'static, timeout: Option<Duration>) -> (Body, Rc<Lease>) {
        let (pools, backend) = upstream();
        let lease = pools.lease(&backend, None, None, None).await.expect("an endpoint");
        let deadline = timeout.map(|timeout| Box::pin(sleep_until(Instant::now() + timeout)));
        let limited = Limited { lease: lease.clone(), deadlines: [None, deadline], _budget: None };
        let head = super::super::ResponseHead { status: http::StatusCode::OK, headers: Default::default() };
        let answer = Answer { head, body: Body::Stream(Box::new(source)), tunnel: None };
        // Lives on as a worker's pools do.
        tokio::task::spawn_local(async move {
            let _pools = pools;
            std::future::pending::<()>().await;
        });
        (limited.attach(answer).body, lease)
    }

    #[tokio::test(start_paused = true)]
    async fn time_passes_for_a_backend_that_always_has_more() {
        let test = async {
            let (mut body, _lease) = limited(Endless, Some(Duration::from_secs(10))).await;
            tokio::time::sleep(Duration::from_secs(9)).await;
            assert!(matches!(body.frame().await, Some(Ok(_))));
            tokio::time::sleep(Duration::from_secs(2)).await;
            let fault = body.frame().await.and_then(Result::err).expect("a fault");
            assert_eq!(fault.kind, FaultKind::UpstreamTimeout);
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_keeps_the_same_time_does_not_hide_that_it_is_over() {
        let test = async {
            for (timeout, want) in [(0, FaultKind::UpstreamTimeout), (10, FaultKind::UpstreamClosed)] {
                let (mut body, _lease) = limited(Reset, Some(Duration::from_secs(timeout))).await;
                let fault = body.frame().await.and_then(Result::err).expect("a fault");
                assert_eq!(fault.kind, want);
            }
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_long_does_not_make_the_backend_silent() {
        let test = async {
            let (mut body, lease) = limited(Endless, None).await;
            tokio::time::sleep(Duration::from_secs(400)).await;
            assert!(matches!(body.frame().await, Some(Ok(_))));
            // What the body asks when it next has to wait for the backend.
            let silent = poll_fn(|cx| Poll::Ready(lease.poll_expired(cx).is_ready())).await;
            assert!(!silent);
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[test]
    fn grpc_timeouts() {
        for (text, want) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("1n", Some(Duration::from_nanos(1))),
            ("123456789S", None),
            ("S", None),
            ("-1S", None),
            ("1s", None),
            ("", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), want, "{text}");
        }
    }
}
