//! The listeners of a port that speak TLS, TCP or UDP, compiled.

use std::sync::Arc;

use portway_plan::{self as plan, HostPattern, ListenerProtocol};

use crate::observe::{ListenerMetrics, Metrics, RuleCounters, RuleMetrics};
use crate::patterns::PatternIndex;
use crate::upstream::{Backend, BackendMap, Weights};

/// A port's forwarding listeners.
#[derive(Debug, Default)]
pub struct ForwardTable {
    listeners: Vec<Arc<ForwardListener>>,
}

/// A forwarding listener.
#[derive(Debug)]
pub struct ForwardListener {
    plan: Arc<plan::Listener>,
    /// As in the plan.
    rules: Vec<Arc<ForwardRule>>,
    index: PatternIndex,
    metrics: Arc<ListenerMetrics>,
}

/// What becomes of connections.
#[derive(Debug)]
pub struct ForwardRule {
    plan: Arc<plan::ForwardRule>,
    shares: Box<[Option<Arc<Backend>>]>,
    weights: Weights,
    metrics: RuleCounters,
}

impl ForwardTable {
    /// Compiles a port; listeners that have not changed are taken from the table before.
    pub(crate) fn compile(
        port: &plan::Port,
        previous: Option<&Self>,
        backends: &BackendMap,
        metrics: &Metrics,
    ) -> Self {
        let forwarding = port.listeners.iter().filter(|listener| forwards(listener));
        let listeners = forwarding.map(|listener| {
            let same = |old: &&Arc<ForwardListener>| Arc::ptr_eq(&old.plan, listener) && old.is_resolved();
            match previous.and_then(|previous| previous.listeners.iter().find(same)) {
                Some(old) => old.clone(),
                None => Arc::new(ForwardListener::compile(listener, backends, metrics)),
            }
        });
        Self { listeners: listeners.collect() }
    }

    /// The listener with that very hostname; [`HostPattern::Any`] for TCP and UDP.
    pub fn listener(&self, hostname: &HostPattern) -> Option<&Arc<ForwardListener>> {
        self.listeners.iter().find(|listener| listener.plan.hostname == *hostname)
    }

    /// All listeners, in the plan's order.
    pub fn listeners(&self) -> &[Arc<ForwardListener>] {
        &self.listeners
    }
}

fn forwards(listener: &plan::Listener) -> bool {
    match listener.protocol {
        ListenerProtocol::Http | ListenerProtocol::Https(_) => false,
        ListenerProtocol::Tls(_)
        | ListenerProtocol::TlsPassthrough
        | ListenerProtocol::Tcp
        | ListenerProtocol::Udp => true,
    }
}

impl ForwardListener {
    fn compile(listener: &Arc<plan::Listener>, backends: &BackendMap, metrics: &Metrics) -> Self {
        let rule = |forward: &plan::Forward| Arc::new(ForwardRule::compile(&forward.rule, backends, metrics));
        Self {
            plan: listener.clone(),
            rules: listener.forwards.iter().map(rule).collect(),
            index: PatternIndex::new((0..).zip(listener.forwards.iter().map(|forward| &forward.hostname))),
            metrics: metrics.listener(&listener.source),
        }
    }

    fn is_resolved(&self) -> bool {
        self.rules.iter().all(|rule| rule.is_resolved())
    }

    /// The listener as the plan has it.
    pub fn plan(&self) -> &Arc<plan::Listener> {
        &self.plan
    }

    /// The listener's counters.
    pub fn metrics(&self) -> &Arc<ListenerMetrics> {
        &self.metrics
    }

    /// The rule for a server name (lower case, no trailing dot), or for a client that names none: then, and
    /// for TCP and UDP, only one for any name.
    pub fn rule(&self, server_name: Option<&str>) -> Option<&Arc<ForwardRule>> {
        let at = self.index.matching(server_name.unwrap_or_default()).next()?;
        self.rules.get(at as usize)
    }

    /// All rules, in the plan's order.
    pub fn rules(&self) -> &[Arc<ForwardRule>] {
        &self.rules
    }
}

impl ForwardRule {
    fn compile(rule: &Arc<plan::ForwardRule>, backends: &BackendMap, metrics: &Metrics) -> Self {
        let backend = |share: &plan::Share| match &share.target {
            plan::Target::Backend(key) => backends.get(key).cloned(),
            plan::Target::Invalid(_) => None,
        };
        let weights: Vec<u32> = rule.backends.iter().map(|share| share.weight).collect();
        Self {
            plan: rule.clone(),
            shares: rule.backends.iter().map(backend).collect(),
            weights: Weights::new(&weights),
            metrics: metrics.rule(&rule.source),
        }
    }

    fn is_resolved(&self) -> bool {
        let is_valid = |share: &plan::Share| matches!(share.target, plan::Target::Backend(_));
        self.shares
            .iter()
            .zip(&self.plan.backends)
            .all(|(backend, planned)| backend.is_some() == is_valid(planned))
    }

    /// The rule as the plan has it.
    pub fn plan(&self) -> &Arc<plan::ForwardRule> {
        &self.plan
    }

    /// The rule's counters.
    pub fn metrics(&self) -> &Arc<RuleMetrics> {
        self.metrics.of(&self.plan.source)
    }

    /// The backend that gets the next connection, exactly by the weights. `None` when it falls to a share
    /// that is not valid, or there is none with a weight.
    pub fn choose(&self) -> Option<&Arc<Backend>> {
        self.shares.get(self.weights.pick()?)?.as_ref()
    }

    /// Whether connections may go to the backend.
    pub(crate) fn leads_to(&self, backend: &Arc<Backend>) -> bool {
        let shares = self.shares.iter().zip(&self.plan.backends);
        let mut weighty =
            shares.filter(|(_, planned)| planned.weight > 0).filter_map(|(share, _)| share.as_ref());
        weighty.any(|own| Arc::ptr_eq(own, backend))
    }

    /// Whether leave to go to the backend has been taken back: it is no longer among the rule's, and a
    /// reference of the rule lacks its ReferenceGrant.
    pub(crate) fn revokes(&self, backend: &Arc<Backend>) -> bool {
        let refused = |share: &plan::Share| matches!(&share.target, plan::Target::Invalid(why) if &*why.reason == "RefNotPermitted");
        self.plan.backends.iter().any(refused)
            && !self.shares.iter().flatten().any(|own| own.key() == backend.key())
    }
}
