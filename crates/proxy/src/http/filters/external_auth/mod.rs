//! ExternalAuth: HTTPExternalAuthFilter, GEP-1494
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httpexternalauthfilter>).
//!
//! ```text
//! request ─► body read ahead, if it is asked for ─► http.rs or grpc.rs ─► the service's answer
//!    │                    too long: 413                                    │ yes: its headers, go on
//!    ◄─────────────────────────────────────────── no: its own answer ◄─────┤
//!    ◄──────────────────────────────── 503: it could not be asked ◄────────┘
//! ```

mod grpc;
mod http;
mod messages;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portway_plan::{AuthProtocol, CertificateKey, Retry, RuleKind, Timeouts};

use super::Effects;
use super::header_modifier::PROTECTED;
use crate::fault::{Fault, FaultKind};
use crate::http::forward::Forward;
use crate::http::h1::Answer;
use crate::http::inbound::Inbound;
use crate::http::retry::Retries;
use crate::http::{Connection, RequestHead, Response, reply};
use crate::observe::Exchange;
use crate::upstream::{Backend, Pools};

/// Asks another service whether a request may pass.
#[derive(Debug)]
pub struct ExternalAuth {
    plan: portway_plan::ExternalAuth,
    /// `None` when the plan does not have it.
    backend: Option<Arc<Backend>>,
}

/// A request about which someone is to be asked.
pub(crate) struct Question<'a> {
    pub(crate) pools: &'a Rc<Pools>,
    /// The certificate to show to who is asked.
    pub(crate) identity: Option<CertificateKey>,
    pub(crate) head: &'a mut RequestHead,
    pub(crate) body: &'a Inbound,
    pub(crate) connection: &'a Connection,
    /// How much of the rule's time is left, if it has a timeout.
    pub(crate) limit: Option<Duration>,
    /// Whether it is a gRPC request, which gets its refusal as a gRPC status.
    pub(crate) grpc: bool,
}

/// What a request gets that filters do not let pass.
pub(crate) enum Refusal {
    /// A filter answers in the backend's place.
    Answer(Response),
    /// An authorization service does.
    Denied(Response),
    /// A fault: such as that the service could not be asked.
    Fault(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<FaultKind> for Refusal {
    fn from(kind: FaultKind) -> Self {
        Self::Fault(kind.into())
    }
}

impl ExternalAuth {
    pub(super) fn compile(auth: &portway_plan::ExternalAuth, backend: Option<Arc<Backend>>) -> Self {
        Self { plan: auth.clone(), backend }
    }

    /// Asks about a request, which then has what the service adds to it.
    pub(crate) async fn ask(&self, mut question: Question<'_>, effects: &mut Effects) -> Result<(), Refusal> {
        effects.asked = true;
        let body = match self.plan.body_limit {
            0 => Bytes::new(),
            limit => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                question.body.read_ahead(limit, question.pools.hold_back()).await?
            }
        };
        let asked = match &self.plan.protocol {
            AuthProtocol::Http { path, response_headers } => {
                http::ask(self, &mut question, body, path, response_headers).await
            }
            AuthProtocol::Grpc => grpc::ask(self, &mut question, body, effects).await,
        };
        match asked {
            Err(Refusal::Denied(refusal)) if question.grpc => {
                Err(Refusal::Denied(reply::grpc_refusal(refusal)))
            }
            asked => asked,
        }
    }

    /// Sends a question to the service.
    async fn send(
        &self,
        question: &Question<'_>,
        head: RequestHead,
        body: Bytes,
        kind: RuleKind,
    ) -> Result<Answer, Fault> {
        let backend = self.backend.as_ref().ok_or(FaultKind::AuthUnavailable)?;
        // To ask twice does no harm, whatever the request's method.
        let once_more = Retry { codes: Vec::new(), attempts: 1, backoff: None };
        let most = question.pools.limits().auth_timeout;
        // A timeout of 0 would be none.
        let time = question.limit.map_or(most, |left| left.min(most)).max(Duration::from_millis(1));
        let forward = Forward {
            pools: question.pools,
            backend,
            identity: question.identity.as_ref(),
            kind,
            timeouts: &Timeouts { request: Some(time), backend_request: None },
            begun: None,
            retries: Retries::new(Some(&once_more), &::http::Method::GET),
            stick: None,
            head: Box::new(head),
            body: Inbound::Whole(body),
            upgrade: None,
            expects_continue: false,
            informational: None,
        };
        // A record that nobody keeps: the exchange's own is of the backend.
        forward.send(&mut Exchange::default()).await.map_err(|fault| self.unavailable(&fault))
    }

    /// Whatever befalls the question fails closed.
    fn unavailable(&self, why: &dyn std::fmt::Display) -> Fault {
        match &self.backend {
            Some(backend) => Fault::new(FaultKind::AuthUnavailable, format_args!("{}: {why}", backend.key())),
            None => FaultKind::AuthUnavailable.into(),
        }
    }

    /// Whether the service is told that header of the request.
    fn tells(&self, name: &[u8]) -> bool {
        self.plan.request_headers.iter().flatten().any(|told| told.as_bytes().eq_ignore_ascii_case(name))
    }
}

/// Whether a service may change that header: not the host (GEP-5224), nor how the message is framed.
fn is_free(name: &[u8]) -> bool {
    !name.starts_with(b":")
        && !PROTECTED.iter().any(|protected| protected.as_bytes().eq_ignore_ascii_case(name))
}
