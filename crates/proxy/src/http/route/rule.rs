//! What a rule needs to serve requests.

use std::sync::Arc;

use portway_plan as plan;

use crate::http::Session;
use crate::http::filters::Filters;
use crate::observe::{Metrics, RuleCounters, RuleMetrics};
use crate::upstream::{Backend, BackendMap, Weights};

/// A compiled rule.
#[derive(Debug)]
pub struct RuleEntry {
    plan: Arc<plan::Rule>,
    filters: Filters,
    shares: Box<[Share]>,
    weights: Weights,
    session: Option<Box<Session>>,
    metrics: RuleCounters,
    resolved: bool,
}

#[derive(Debug)]
struct Share {
    backend: Option<Arc<Backend>>,
    filters: Filters,
}

/// A share of a rule's requests.
#[derive(Clone, Copy, Debug)]
pub struct ShareEntry<'a> {
    /// As the plan has it.
    pub plan: &'a plan::Share,
    /// Where its requests go; `None` for a reference that is not valid: 500.
    pub backend: Option<&'a Arc<Backend>>,
    /// Its filters, applied after the rule's.
    pub filters: &'a Filters,
}

impl RuleEntry {
    pub(super) fn compile(rule: &Arc<plan::Rule>, backends: &BackendMap, metrics: &Metrics) -> Self {
        let mut resolved = true;
        let filters = Filters::compile(&rule.filters, backends, &mut resolved);
        let share = |share: &plan::Share| {
            let backend = match &share.target {
                plan::Target::Backend(key) => {
                    let backend = backends.get(key);
                    resolved &= backend.is_some();
                    backend.cloned()
                }
                plan::Target::Invalid(_) => None,
            };
            Share { backend, filters: Filters::compile(&share.filters, backends, &mut resolved) }
        };
        let shares = rule.backends.iter().map(share).collect();
        let weights: Vec<u32> = rule.backends.iter().map(|share| share.weight).collect();
        Self {
            plan: rule.clone(),
            filters,
            shares,
            weights: Weights::new(&weights),
            session: rule.session.as_ref().and_then(Session::compile).map(Box::new),
            metrics: metrics.rule(&rule.source),
            resolved,
        }
    }

    /// Whether every backend that it names was there when it was compiled.
    pub(super) fn is_resolved(&self) -> bool {
        self.resolved
    }

    /// Whether a filter of it answers CORS preflights.
    pub(super) fn answers_preflights(&self) -> bool {
        self.filters.has_cors() || self.shares.iter().any(|share| share.filters.has_cors())
    }

    /// The rule as the plan has it.
    pub fn plan(&self) -> &Arc<plan::Rule> {
        &self.plan
    }

    /// The rule's own filters.
    pub fn filters(&self) -> &Filters {
        &self.filters
    }

    /// The rule's sessions.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// The rule's counters.
    pub fn metrics(&self) -> &Arc<RuleMetrics> {
        self.metrics.of(&self.plan.source)
    }

    /// The share that gets the next request: of as many requests as the weights sum up to, each share gets
    /// exactly its weight, spread evenly. `None` when there are no shares or all weights are 0: 500.
    #[inline]
    pub fn choose(&self) -> Option<ShareEntry<'_>> {
        self.share(self.weights.pick()?)
    }

    /// The share of that index.
    pub fn share(&self, index: usize) -> Option<ShareEntry<'_>> {
        let (plan, share) = (self.plan.backends.get(index)?, self.shares.get(index)?);
        Some(ShareEntry { plan, backend: share.backend.as_ref(), filters: &share.filters })
    }
}
