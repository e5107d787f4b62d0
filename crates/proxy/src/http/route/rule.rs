//! What a rule needs to serve requests.

use std::sync::Arc;

use portway_plan as plan;

use super::Compilation;
use crate::http::Session;
use crate::http::filters::Filters;
use crate::observe::RuleMetrics;
use crate::upstream::{Backend, Weights};

/// A compiled rule.
#[derive(Debug)]
pub struct RuleEntry {
    plan: Arc<plan::Rule>,
    filters: Filters,
    shares: Box<[Share]>,
    weights: Weights,
    session: Option<Box<Session>>,
    metrics: Arc<RuleMetrics>,
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
    pub(super) fn compile(rule: &Arc<plan::Rule>, with: &Compilation<'_>) -> Self {
        let share = |share: &plan::Share| Share {
            backend: match &share.target {
                plan::Target::Backend(key) => with.backends.get(key).cloned(),
                plan::Target::Invalid(_) => None,
            },
            filters: Filters::compile(&share.filters, with.backends),
        };
        let weights: Vec<u32> = rule.backends.iter().map(|share| share.weight).collect();
        Self {
            plan: rule.clone(),
            filters: Filters::compile(&rule.filters, with.backends),
            shares: rule.backends.iter().map(share).collect(),
            weights: Weights::new(&weights),
            session: rule.session.as_ref().and_then(Session::compile).map(Box::new),
            metrics: with.metrics.rule(&rule.source),
        }
    }

    /// Whether every backend that it names was there when it was compiled.
    pub(super) fn is_resolved(&self) -> bool {
        self.filters.is_resolved()
            && self.shares.iter().zip(&self.plan.backends).all(|(share, planned)| {
                share.filters.is_resolved()
                    && (share.backend.is_some() || matches!(planned.target, plan::Target::Invalid(_)))
            })
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
        &self.metrics
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
