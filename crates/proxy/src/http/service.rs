//! Serves requests: route, filters, backend, filters.
//!
//! ```text
//! Request ─► forwarding headers ─► route ─► rule's filters ─► share ─► share's filters ─► forward
//!                                    │            │ answer       │ none: 500     │ answer     │ fault
//! Response ◄─ rule's filters ◄───────┴────────────┴──────────────┴───────────────┴────────────┘
//! ```

use std::ops::ControlFlow;
use std::rc::Rc;

use portway_plan::RuleKind;

use super::filters::{Effects, Filters, ForwardingHeaders, MatchContext};
use super::forward::Forward;
use super::h1::Answer;
use super::inbound::Inbound;
use super::retry::Retries;
use super::route::{PortTable, RuleEntry};
use super::{Handler, Request, RequestHead, Response, Version, mirror, reply};
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

    /// Answers one request. `None` for a port that no plan has any more.
    pub async fn serve(&self, table: Option<&PortTable>, mut request: Request) -> Response {
        let mut exchange = Exchange::begin(&self.recorder, &request);
        let grpc = request.head.version == Version::Http2
            && reply::is_grpc(request.head.headers.get("content-type"));
        self.forwarding.apply(&mut request.head, &request.connection);
        exchange.set_request_id(|| {
            let id = request.head.headers.get("x-request-id").unwrap_or_default();
            bytes::Bytes::copy_from_slice(id)
        });
        let routed = match table {
            Some(table) => table.route(&request.head, request.connection.tls.as_ref()),
            None => Err(FaultKind::NoRoute),
        };
        let mut response = match routed {
            Err(kind) => {
                // A listener counts what it has no route for.
                let (tls, host) = (request.connection.tls.is_some(), request.head.authority.host());
                if let Some(listener) = table.and_then(|table| table.select_listener(tls, host)) {
                    exchange.set_listener(listener.metrics());
                }
                failed(&kind.into(), grpc, &mut exchange)
            }
            Ok(matched) => {
                exchange.set_listener(matched.listener.metrics());
                exchange.set_rule(matched.rule.metrics());
                let mut effects = Effects::default();
                let filters = matched.rule.filters();
                match filters.on_request(&mut request.head, &matched.context(), &mut effects) {
                    // It has been through these filters' response side already.
                    ControlFlow::Break(Ok(response)) => response,
                    ControlFlow::Break(Err(kind)) => failed(&kind.into(), grpc, &mut exchange),
                    ControlFlow::Continue(()) => {
                        let context = matched.context();
                        let sent = self.send(matched.rule, &context, request, &mut effects, &mut exchange);
                        let mut response = match sent.await {
                            Ok(response) => response,
                            Err(fault) => failed(&fault, grpc, &mut exchange),
                        };
                        filters.on_response(&mut response.head, &effects);
                        response
                    }
                }
            }
        };
        exchange.status = Some(response.head.status);
        response.exchange = Some(exchange);
        response
    }

    /// From the rule's filters on, up to them on the way back.
    async fn send(
        &self,
        rule: &RuleEntry,
        context: &MatchContext,
        request: Request,
        effects: &mut Effects,
        exchange: &mut Exchange,
    ) -> Result<Response, Fault> {
        let Request { mut head, body, upgrade, expects_continue, informational, connection: _ } = request;
        let plan = rule.plan();
        let retries = Retries::new(plan.retry.as_ref(), &head.method);
        let keep = if retries.wants_replay() { self.pools.limits().replay_buffer } else { 0 };
        let body = Inbound::new(body, keep);
        let share = rule.choose().ok_or_else(|| Fault::new(FaultKind::InvalidRoute, "no backends"))?;
        let backend = share.backend.ok_or_else(|| Fault::new(FaultKind::InvalidRoute, &share.plan.path))?;
        exchange.set_backend(backend.metrics());
        self.mirror(plan.kind, &head, &body, effects);
        if !share.filters.is_empty() {
            if let ControlFlow::Break(answer) = share.filters.on_request(&mut head, context, effects) {
                return answer.map_err(Fault::from);
            }
            self.mirror(plan.kind, &head, &body, effects);
        }
        let forward = Forward {
            pools: &self.pools,
            backend,
            kind: plan.kind,
            timeouts: &plan.timeouts,
            retries,
            head,
            body,
            upgrade,
            expects_continue,
            informational,
        };
        let answer = forward.send(exchange).await;
        finish(answer, share.filters, effects)
    }

    fn mirror(&self, kind: RuleKind, head: &RequestHead, body: &Inbound, effects: &mut Effects) {
        for backend in effects.mirrors.drain(..) {
            mirror::start(&self.pools, &backend, kind, head, body);
        }
    }
}

fn finish(answer: Result<Answer, Fault>, filters: &Filters, effects: &Effects) -> Result<Response, Fault> {
    let Answer { mut head, body, tunnel } = answer?;
    filters.on_response(&mut head, effects);
    Ok(Response { head, body, tunnel, exchange: None })
}

/// The answer to a request that met a fault.
fn failed(fault: &Fault, grpc: bool, exchange: &mut Exchange) -> Response {
    exchange.set_fault(fault);
    if grpc { reply::grpc_fault(fault.kind) } else { reply::fault(fault.kind) }
}
