//! The registry of all that is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portway_plan::{BackendKey, Source};

use super::counter::Counter;
use super::recorder::Counts;
use super::series::{BackendMetrics, Family, ListenerMetrics, RuleCounters, RuleLabels};

/// How many rules, backends and listeners have series of their own; the others count together, without
/// labels, so that a large configuration cannot flood whoever scrapes.
const MOST_SERIES: usize = 1_000;

/// All that is counted. The compiled plan takes its handles from here, so that a request looks nothing up; but
/// for the first of each rule (see [`RuleCounters`]).
#[derive(Debug)]
pub struct Metrics {
    pub(super) rules: Arc<Family<RuleLabels>>,
    pub(super) backends: Family<BackendKey>,
    pub(super) listeners: Family<Source>,
    pub(super) workers: Vec<Arc<Counts>>,
    spans_dropped: AtomicU64,
    /// Records that could not be written. The log's thread counts them.
    pub(super) lines_lost: Counter,
    revision: AtomicU64,
    applied_micros: AtomicU64,
    failed_listeners: AtomicU64,
}

impl Metrics {
    /// For that many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            rules: Arc::new(Family::new(workers, MOST_SERIES)),
            backends: Family::new(workers, MOST_SERIES),
            listeners: Family::new(workers, MOST_SERIES),
            workers: (0..workers).map(|_| Arc::default()).collect(),
            spans_dropped: AtomicU64::new(0),
            lines_lost: Counter::default(),
            revision: AtomicU64::new(0),
            applied_micros: AtomicU64::new(0),
            failed_listeners: AtomicU64::new(0),
        }
    }

    /// Spans that could not be exported.
    pub(super) fn spans_dropped(&self, count: u64) {
        self.spans_dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// A plan was applied.
    pub(crate) fn applied(&self, revision: u64, took: Duration, failed: usize) {
        self.revision.store(revision, Ordering::Relaxed);
        self.applied_micros.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.failed_listeners.store(failed as u64, Ordering::Relaxed);
    }

    /// The counters of a rule; the same for as long as someone holds them.
    pub fn rule(&self, rule: &Source) -> RuleCounters {
        RuleCounters::new(rule, &self.rules)
    }

    /// The counters of a backend.
    pub fn backend(&self, backend: &BackendKey) -> Arc<BackendMetrics> {
        self.backends.get(backend.clone())
    }

    /// The counters of a listener.
    pub fn listener(&self, listener: &Source) -> Arc<ListenerMetrics> {
        self.listeners.get(listener.clone())
    }

    /// How many connections were cut at the end of a drain.
    pub(crate) fn connections_cut(&self) -> u64 {
        self.workers.iter().map(|counts| counts.cut.get()).sum()
    }

    pub(super) fn totals(&self) -> Totals {
        let signed = |n: &AtomicU64| i64::try_from(n.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        Totals {
            spans_dropped: self.spans_dropped.load(Ordering::Relaxed),
            revision: signed(&self.revision),
            applied_seconds: self.applied_micros.load(Ordering::Relaxed) as f64 / 1e6,
            failed_listeners: signed(&self.failed_listeners),
        }
    }
}

/// What is counted apart from workers.
pub(super) struct Totals {
    pub(super) spans_dropped: u64,
    pub(super) revision: i64,
    pub(super) applied_seconds: f64,
    pub(super) failed_listeners: i64,
}
