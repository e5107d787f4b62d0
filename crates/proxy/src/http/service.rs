//! Serves requests: route, filters, backend, filters.
//!
//! ```text
//! Request ─► forwarding headers ─► listener's filters ─► route ─► rule's filters ─► share ─► share's filters ─► forward
//!                                           │ answer        │            │ answer       │ none: 500     │ answer     │ fault
//! Response ◄─ rule's filters ◄──────────────┴───────────────┴────────────┴──────────────┴───────────────┴────────────┘
//! ```

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portway_plan::RuleKind;

use super::filters::{
    Effects, ExternalAuth, Filters, ForwardingHeaders, MatchContext, Question, Refusal, Stop,
};
use super::forward::{Forward, over_h2};
use super::h1::Answer;
use super::inbound::Inbound;
use super::retry::Retries;
use super::route::{ListenerTable, PortTable, RuleEntry};
use super::{
    Connection, Handler, Informational, Request, RequestHead, Response, Scheme, Version, mirror, reply,
};
use crate::fault::{Fault, FaultKind};
use crate::observe::{Exchange, Recorder};
use crate::snapshot::PortKey;
use crate::upstream::Pools;
use crate::worker::Worker;

/// Answers the requests of one port with the worker's current snapshot.
#[derive(Clone)]
pub struct Service {
    worker: Rc<Worker>,
    port: PortKey,
    gateway: Rc<Gateway>,
}

/// Answers requests with the routes of a port.
pub struct Gateway {
    recorder: Rc<Recorder>,
    pools: Rc<Pools>,
    forwarding: ForwardingHeaders,
}

impl Service {
    /// Serves that port.
    pub fn new(worker: Rc<Worker>, gateway: Rc<Gateway>, port: PortKey) -> Self {
        Self { worker, port, gateway }
    }
}

impl Handler for Service {
    async fn handle(&self, request: Request) -> Response {
        // The request keeps the snapshot that it began with. Boxed, so that a connection between two
        // requests does not hold the room for one.
        let snapshot = self.worker.snapshot();
        Box::pin(async move { self.gateway.serve(snapshot.port(self.port).map(|t| &**t), request).await })
            .await
    }
}

impl Gateway {
    /// For one worker.
    pub fn new(recorder: Rc<Recorder>, pools: Rc<Pools>, trusted_hops: u32) -> Self {
        Self { recorder, pools, forwarding: ForwardingHeaders { trusted_hops } }
    }

    /// The worker's connections to backends.
    pub(crate) fn pools(&self) -> &Rc<Pools> {
        &self.pools
    }

    /// Answers one request. `None` for a port that no plan has any more.
    pub async fn serve(&self, table: Option<&PortTable>, mut request: Request) -> Response {
        let mut exchange = Exchange::begin(&self.recorder, &request);
        let grpc = request.head.version == Version::Http2
            && reply::is_grpc(request.head.headers.get("content-type"));
        self.forwarding.apply(&mut request.head, &request.connection);
        exchange.set_request_id(|| request.head.headers.get("x-request-id").unwrap_or_default());
        let Request { mut head, body, upgrade, expects_continue, informational, connection } = request;
        let body = Inbound::new(body, 0);
        let mut effects = Effects::default();
        let mut passing = Passing {
            head: &mut head,
            body: &body,
            connection: &connection,
            effects: &mut effects,
            exchange: &mut exchange,
            context: MatchContext { prefix_len: None, port: connection.port },
            limit: None,
            grpc,
        };
        let routed = match listener(table, &mut passing) {
            Err(kind) => Err(kind.into()),
            Ok((table, listener)) => {
                let filters = listener.filters();
                let passed = if filters.is_empty() { Ok(()) } else { self.pass(filters, &mut passing).await };
                match passed {
                    Ok(()) => table.find(listener, passing.head).map_err(Refusal::from),
                    Err(refusal) => Err(refusal),
                }
            }
        };
        let mut response = match routed {
            Err(refusal) => refused(refusal, grpc, &mut exchange),
            Ok(matched) => {
                passing.exchange.set_rule(matched.rule.metrics());
                passing.context = matched.context();
                passing.limit = matched.rule.plan().timeouts().request;
                let filters = matched.rule.filters();
                let passed = if filters.is_empty() { Ok(()) } else { self.pass(filters, &mut passing).await };
                match passed {
                    // It has been through these filters' response side already.
                    Err(refusal) => refused(refusal, grpc, &mut exchange),
                    Ok(()) => {
                        let context = passing.context;
                        let rest =
                            Rest { head, body, upgrade, expects_continue, informational, connection, grpc };
                        let sent = self.send(matched.rule, context, rest, &mut effects, &mut exchange);
                        let mut response = match sent.await {
                            Ok(response) => response,
                            Err(refusal) => refused(refusal, grpc, &mut exchange),
                        };
                        filters.on_response(&mut response.head, &effects);
                        response
                    }
                }
            }
        };
        for addition in &effects.additions {
            addition.apply(&mut response.head.headers);
        }
        exchange.status = Some(response.head.status);
        response.exchange = Some(exchange);
        response
    }

    /// Takes a request through filters.
    async fn pass(&self, filters: &Filters, passing: &mut Passing<'_>) -> Result<(), Refusal> {
        match filters.on_request(0, passing.head, &passing.context, passing.effects) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(Stop::Answer(response)) => Err(Refusal::Answer(response)),
            ControlFlow::Break(Stop::Fault(kind)) => Err(kind.into()),
            ControlFlow::Break(Stop::Ask(auth, next)) => {
                Box::pin(self.consult(filters, auth, next, passing)).await
            }
        }
    }

    /// Takes a request on through filters of which some ask someone first. The answer of who refuses it goes
    /// through the response side of these filters.
    async fn consult(
        &self,
        filters: &Filters,
        mut auth: &ExternalAuth,
        mut next: usize,
        passing: &mut Passing<'_>,
    ) -> Result<(), Refusal> {
        loop {
            let question = Question {
                pools: &self.pools,
                identity: passing.effects.identity.clone(),
                head: &mut *passing.head,
                body: passing.body,
                connection: passing.connection,
                limit: passing.limit.map(|limit| limit.saturating_sub(passing.exchange.begun().elapsed())),
                grpc: passing.grpc,
            };
            let asked = auth.ask(question, passing.effects).await;
            passing.exchange.received = passing.body.received();
            if let Err(mut refusal) = asked {
                if let Refusal::Denied(response) = &mut refusal {
                    filters.on_response(&mut response.head, passing.effects);
                }
                return Err(refusal);
            }
            match filters.on_request(next, passing.head, &passing.context, passing.effects) {
                ControlFlow::Continue(()) => return Ok(()),
                ControlFlow::Break(Stop::Answer(response)) => return Err(Refusal::Answer(response)),
                ControlFlow::Break(Stop::Fault(kind)) => return Err(kind.into()),
                ControlFlow::Break(Stop::Ask(further, after)) => (auth, next) = (further, after),
            }
        }
    }

    /// From the rule's filters on, up to them on the way back.
    async fn send(
        &self,
        rule: &RuleEntry,
        context: MatchContext,
        rest: Rest,
        effects: &mut Effects,
        exchange: &mut Exchange,
    ) -> Result<Response, Refusal> {
        let Rest { mut head, body, upgrade, expects_continue, informational, connection, grpc } = rest;
        let plan = rule.plan();
        let retries = Retries::new(plan.retry.as_deref(), &head.method);
        let share = rule.choose().ok_or_else(|| Fault::new(FaultKind::InvalidRoute, "no backends"))?;
        let backend = share.backend.ok_or_else(|| Fault::new(FaultKind::InvalidRoute, &share.plan.path))?;
        exchange.set_backend(backend.metrics());
        // Over HTTP/2 a request of any method can turn out to be unprocessed after its body went out (RFC 9113
        // section 8.7).
        if retries.wants_replay() || over_h2(backend, plan.kind) {
            body.keep(self.pools.limits().replay_buffer);
        }
        self.mirror(plan.kind, &head, &body, effects);
        if !share.filters.is_empty() {
            let mut passing = Passing {
                head: &mut head,
                body: &body,
                connection: &connection,
                effects: &mut *effects,
                exchange: &mut *exchange,
                context,
                limit: plan.timeouts().request,
                grpc,
            };
            self.pass(share.filters, &mut passing).await?;
            self.mirror(plan.kind, &head, &body, effects);
        }
        // A rule's sessions come before those of its backends.
        let of_backend = if rule.session().is_none() { backend.session() } else { None };
        let session = rule.session().or(of_backend.as_deref());
        let stick = session.map(|session| session.of(&head.headers, backend));
        let secure = head.scheme == Scheme::Https;
        let identity = effects.identity.clone();
        let forward = Forward {
            pools: &self.pools,
            backend,
            identity: identity.as_ref(),
            stick: stick.as_ref(),
            kind: plan.kind,
            timeouts: plan.timeouts(),
            begun: effects.asked.then(|| exchange.begun().into()),
            retries,
            head,
            expects_continue: expects_continue && !body.has_begun(),
            body,
            upgrade,
            informational,
        };
        let mut answer = forward.send(exchange).await?;
        if let Some(stick) = &stick {
            stick.respond(&mut answer.head.headers, secure);
        }
        Ok(finish(answer, share.filters, effects))
    }

    fn mirror(&self, kind: RuleKind, head: &RequestHead, body: &Inbound, effects: &mut Effects) {
        for backend in effects.mirrors.drain(..) {
            mirror::start(&self.pools, &backend, effects.identity.as_ref(), kind, head, body);
        }
    }
}

/// A request on its way through filters.
struct Passing<'a> {
    head: &'a mut RequestHead,
    body: &'a Inbound,
    connection: &'a Connection,
    effects: &'a mut Effects,
    exchange: &'a mut Exchange,
    context: MatchContext,
    /// The rule's timeout, from the request's begin on.
    limit: Option<Duration>,
    /// Whether it is gRPC.
    grpc: bool,
}

/// A request that has passed its rule's filters.
struct Rest {
    head: Box<RequestHead>,
    body: Inbound,
    upgrade: Option<Bytes>,
    expects_continue: bool,
    informational: Option<Informational>,
    connection: Rc<Connection>,
    grpc: bool,
}

/// The listener that takes a request.
fn listener<'a>(
    table: Option<&'a PortTable>,
    passing: &mut Passing<'_>,
) -> Result<(&'a PortTable, &'a Arc<ListenerTable>), FaultKind> {
    let table = table.ok_or(FaultKind::NoRoute)?;
    let tls = passing.connection.tls.as_ref();
    let selected = table.select(passing.head, tls);
    // A listener counts what it does not serve, too.
    let counts =
        selected.ok().or_else(|| table.select_listener(tls.is_some(), passing.head.authority.host()));
    if let Some(listener) = counts {
        passing.exchange.set_listener(listener.metrics());
    }
    let listener = selected?;
    passing.effects.identity.clone_from(&listener.plan().client_certificate);
    Ok((table, listener))
}

fn finish(answer: Answer, filters: &Filters, effects: &Effects) -> Response {
    let Answer { mut head, body, tunnel } = answer;
    filters.on_response(&mut head, effects);
    Response { head, body, tunnel, exchange: None }
}

/// What a request gets that does not reach a backend.
fn refused(refusal: Refusal, grpc: bool, exchange: &mut Exchange) -> Response {
    match refusal {
        Refusal::Answer(response) => response,
        Refusal::Denied(response) => {
            exchange.set_fault(&FaultKind::AuthDenied.into());
            response
        }
        Refusal::Fault(fault) => {
            exchange.set_fault(&fault);
            if grpc { reply::grpc_fault(fault.kind) } else { reply::fault(fault.kind) }
        }
    }
}
