//! The registry of all that is counted.

use std::sync::Arc;

use portway_plan::{BackendKey, Rule, Source};

use super::recorder::Counts;
use super::series::{BackendMetrics, Family, ListenerMetrics, RuleLabels, RuleMetrics};

/// How many rules, backends and listeners have series of their own; the others count together, without
/// labels, so that a large configuration cannot flood whoever scrapes.
const MOST_SERIES: usize = 1_000;

/// All that is counted. The compiled plan takes its handles from here, so that a request looks nothing up.
#[derive(Debug)]
pub struct Metrics {
    pub(super) rules: Family<RuleLabels>,
    pub(super) backends: Family<BackendKey>,
    pub(super) listeners: Family<Source>,
    pub(super) workers: Vec<Arc<Counts>>,
}

impl Metrics {
    /// For that many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            rules: Family::new(workers, MOST_SERIES),
            backends: Family::new(workers, MOST_SERIES),
            listeners: Family::new(workers, MOST_SERIES),
            workers: (0..workers).map(|_| Arc::default()).collect(),
        }
    }

    /// The counters of a rule; the same for as long as someone holds them.
    pub fn rule(&self, rule: &Rule) -> Arc<RuleMetrics> {
        self.rules.get(RuleLabels::of(rule))
    }

    /// The counters of a backend.
    pub fn backend(&self, backend: &BackendKey) -> Arc<BackendMetrics> {
        self.backends.get(backend.clone())
    }

    /// The counters of a listener.
    pub fn listener(&self, listener: &Source) -> Arc<ListenerMetrics> {
        self.listeners.get(listener.clone())
    }
}
