//! Counters of a rule, backend or listener, sharded by worker: each worker writes its own shard, so that a
//! request costs a few plain stores, and memory is taken only for what sees traffic.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use portway_plan::{BackendKey, Source};

use super::counter::{Counter, Gauge, Histogram};
use super::text::json_string;

/// Which rule a series counts: the labels `route_kind`, `route_namespace`, `route` and `rule`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleLabels {
    /// The rule.
    pub source: Source,
}

impl Display for RuleLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

/// The counters of a rule. Kept by the compiled rule ([`RuleCounters`]); two compilations of one rule share
/// them.
pub type RuleMetrics = Series<RuleLabels>;
/// The counters of a backend.
pub type BackendMetrics = Series<BackendKey>;
/// The counters of a listener.
pub type ListenerMetrics = Series<Source>;

/// The counters of one thing, named by `L`.
#[derive(Debug)]
pub struct Series<L> {
    /// What is counted; `None` for the one that takes in all those beyond the limit on their number.
    labels: Option<Arc<L>>,
    shards: Box<[OnceLock<Arc<Shard<L>>>]>,
    overflow: Option<Arc<Series<L>>>,
    budget: Arc<Budget>,
}

/// A compiled rule's hold on its counters, which are made with its first request: of very many rules, most
/// never see one.
#[derive(Debug)]
pub struct RuleCounters {
    made: OnceLock<Arc<RuleMetrics>>,
    family: Arc<Family<RuleLabels>>,
}

impl RuleCounters {
    /// Of a rule that may have been compiled, and counted, before.
    pub(super) fn new(rule: &Source, family: &Arc<Family<RuleLabels>>) -> Self {
        let made = family.find(&RuleLabels { source: rule.clone() });
        Self { made: made.map(OnceLock::from).unwrap_or_default(), family: family.clone() }
    }

    /// The counters; `rule` is the rule that they were asked for. The first time, the family is locked for a
    /// moment, as a compilation does.
    #[inline]
    pub fn of(&self, rule: &Source) -> &Arc<RuleMetrics> {
        self.made.get_or_init(|| self.family.get(RuleLabels { source: rule.clone() }))
    }
}

/// One worker's part of a series.
#[derive(Debug)]
pub struct Shard<L> {
    /// What is counted; `None` for "other".
    pub labels: Option<Arc<L>>,
    /// That as a JSON string.
    json: Option<Box<str>>,
    /// Finished requests by class of status: 1xx to 5xx at 1 to 5, requests without an answer at 0.
    pub classes: [Counter; 6],
    /// From the request's head to the end of the response.
    pub duration: Histogram,
    /// Request body bytes.
    pub received: Counter,
    /// Response body bytes.
    pub sent: Counter,
    /// Tries after the first.
    pub retries: Counter,
    /// Connections made to the backend.
    pub connects: Counter,
    /// Connections to the backend that could not be made.
    pub connect_failures: Counter,
    /// Requests that went out on a connection of the pool.
    pub reused: Counter,
    /// Connections to the backend that are open now.
    pub connections: Gauge,
    /// Sessions of TLS, TCP and UDP listeners that have ended: those that were passed on, and those that were
    /// refused.
    pub sessions: [Counter; 2],
    /// Such sessions that are open.
    pub open_sessions: Gauge,
    /// Tries: from their begin to the head of the backend's response.
    pub try_duration: Histogram,
}

/// How many series of a family may have shards.
#[derive(Debug)]
struct Budget {
    left: AtomicUsize,
}

impl<L: Display> Series<L> {
    fn new(
        labels: Option<Arc<L>>,
        workers: usize,
        overflow: Option<Arc<Self>>,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        let shards = (0..workers.max(1)).map(|_| OnceLock::new()).collect();
        Arc::new(Self { labels, shards, overflow, budget })
    }

    /// A series of no family, for tests and tools that compile plans without serving them.
    pub fn detached(labels: L) -> Arc<Self> {
        Self::new(Some(Arc::new(labels)), 1, None, Arc::new(Budget { left: AtomicUsize::new(1) }))
    }

    /// That worker's part. To be written by that worker only.
    pub fn shard(&self, worker: usize) -> &Arc<Shard<L>> {
        let slot = &self.shards[worker % self.shards.len()];
        slot.get_or_init(|| match &self.overflow {
            Some(other) if !self.used() && !self.budget.take() => other.shard(worker).clone(),
            _ => Arc::new(Shard::new(self.labels.clone())),
        })
    }
}

impl<L> Series<L> {
    fn used(&self) -> bool {
        self.shards.iter().any(|s| s.get().is_some_and(|shard| shard.labels.is_some()))
    }

    /// The parts that were written to, without those that went to "other".
    pub(super) fn shards(&self) -> impl Iterator<Item = &Arc<Shard<L>>> {
        let own = self.labels.is_some();
        self.shards.iter().filter_map(OnceLock::get).filter(move |s| s.labels.is_some() == own)
    }

    /// What is counted; `None` for "other".
    pub(super) fn labels(&self) -> Option<&L> {
        self.labels.as_deref()
    }
}

impl<L> Drop for Series<L> {
    fn drop(&mut self) {
        if self.overflow.is_some() && self.used() {
            self.budget.left.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Budget {
    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
    }
}

impl<L> Shard<L> {
    /// What is counted, as a JSON string; `None` for "other".
    pub(super) fn json(&self) -> Option<&str> {
        self.json.as_deref()
    }
}

impl<L: Display> Shard<L> {
    fn new(labels: Option<Arc<L>>) -> Self {
        let json = labels.as_ref().and_then(|labels| {
            let mut json = Vec::new();
            json_string(&mut json, labels.to_string().as_bytes());
            String::from_utf8(json).ok().map(Into::into)
        });
        Self {
            labels,
            json,
            classes: Default::default(),
            duration: Histogram::default(),
            received: Counter::default(),
            sent: Counter::default(),
            retries: Counter::default(),
            connects: Counter::default(),
            connect_failures: Counter::default(),
            reused: Counter::default(),
            connections: Gauge::default(),
            sessions: Default::default(),
            open_sessions: Gauge::default(),
            try_duration: Histogram::default(),
        }
    }
}

/// All series of one kind. Those that nobody holds any more go at the next scrape.
#[derive(Debug)]
pub(super) struct Family<L> {
    workers: usize,
    series: Mutex<HashMap<Arc<L>, Weak<Series<L>>>>,
    other: Arc<Series<L>>,
    budget: Arc<Budget>,
}

impl<L: Clone + Display + Eq + Hash> Family<L> {
    /// A family for that many workers, in which at most `limit` series show by themselves.
    pub(super) fn new(workers: usize, limit: usize) -> Self {
        let budget = Arc::new(Budget { left: AtomicUsize::new(limit) });
        let other = Series::new(None, workers, None, budget.clone());
        Self { workers, series: Mutex::default(), other, budget }
    }

    /// The series of that name, if someone holds it.
    fn find(&self, labels: &L) -> Option<Arc<Series<L>>> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.get(labels).and_then(Weak::upgrade)
    }

    /// The series of that name, the same for as long as someone holds it.
    pub(super) fn get(&self, labels: L) -> Arc<Series<L>> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = series.get(&labels).and_then(Weak::upgrade) {
            return found;
        }
        let labels = Arc::new(labels);
        let new =
            Series::new(Some(labels.clone()), self.workers, Some(self.other.clone()), self.budget.clone());
        series.insert(labels, Arc::downgrade(&new));
        new
    }

    /// All that were written to, and "other".
    pub(super) fn all(&self) -> Vec<Arc<Series<L>>> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.retain(|_, weak| weak.strong_count() > 0);
        let live = series.values().filter_map(Weak::upgrade);
        let mut all: Vec<_> = live.filter(|s| s.shards().next().is_some()).collect();
        if self.other.shards().next().is_some() {
            all.push(self.other.clone());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_beyond_the_limit_are_counted_together() {
        let family: Family<u32> = Family::new(2, 2);
        let held: Vec<_> = (0..4).map(|n| family.get(n)).collect();
        assert!(family.all().is_empty(), "unused series take no place");
        for series in &held {
            series.shard(0).classes[2].add(1);
            series.shard(1).classes[2].add(1);
        }
        let mut seen: Vec<_> = family
            .all()
            .iter()
            .map(|s| (s.labels().copied(), s.shards().map(|x| x.classes[2].get()).sum::<u64>()))
            .collect();
        seen.sort();
        assert_eq!(seen, [(None, 4), (Some(0), 2), (Some(1), 2)]);
        assert!(Arc::ptr_eq(&held[3], &family.get(3)), "the same while it is held");
        drop(held);
        let late = family.get(9);
        late.shard(0).classes[2].add(1);
        assert!(family.all().iter().any(|s| s.labels() == Some(&9)), "the place of a dropped one is free");
    }
}
