//! Copies of requests (HTTPRequestMirrorFilter, GEP-3171): sent on the side, their answers ignored. They
//! never hold the request up: what a mirror does not take in time is cut.

use std::rc::Rc;
use std::sync::Arc;

use portway_plan::{CertificateKey, Retry, RuleKind, Timeouts};

use super::RequestHead;
use super::forward::Forward;
use super::inbound::Inbound;
use super::retry::Retries;
use crate::observe::Exchange;
use crate::upstream::{Backend, Pools};

/// Starts a copy of the request, as it is now, to another backend. Before the body's first try. Sends
/// nothing when too many are under way.
pub(crate) fn start(
    pools: &Rc<Pools>,
    backend: &Arc<Backend>,
    identity: Option<&CertificateKey>,
    kind: RuleKind,
    head: &RequestHead,
    body: &Inbound,
) {
    let Some(counted) = pools.mirror() else { return };
    let (pools, backend, head) = (pools.clone(), backend.clone(), Box::new(head.clone()));
    let identity = identity.cloned();
    let body = Inbound::new(body.tap(pools.limits().mirror_lag), 0);
    let timeout = pools.limits().mirror_timeout;
    tokio::task::spawn_local(async move {
        let _counted = counted;
        let once = Retry { codes: Vec::new(), attempts: 0, backoff: None };
        let exchange = async {
            let retries = Retries::new(Some(&once), &head.method);
            let forward = Forward {
                pools: &pools,
                backend: &backend,
                identity: identity.as_ref(),
                kind,
                timeouts: &Timeouts::NONE,
                begun: None,
                retries,
                stick: None,
                head,
                body,
                upgrade: None,
                expects_continue: false,
                informational: None,
            };
            // A record that nobody keeps.
            let Ok(mut answer) = forward.send(&mut Exchange::default()).await else { return };
            while let Some(Ok(_)) = answer.body.frame().await {}
        };
        // Boxed, since tasks are moved when they are spawned.
        let _ = tokio::time::timeout(timeout, Box::pin(exchange)).await;
    });
}
