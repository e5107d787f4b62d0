//! What the controller counts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portway_api::object::KindId;
use portway_store::Resources;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Shared;

/// The bounds of the buckets of translation times, in seconds.
const BUCKETS: [f64; 10] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// What the rounds count.
#[derive(Debug)]
pub(super) struct Metrics {
    translations: Histogram,
    objects: Mutex<BTreeMap<KindId, u64>>,
    rounds: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { translations: Histogram::new(BUCKETS), objects: Mutex::default(), rounds: AtomicU64::new(0) }
    }
}

impl Metrics {
    /// There was a round, whose translation took that long.
    pub(super) fn round(&self, took: Duration, resources: &Resources) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.translations.observe(took.as_secs_f64());
        let count = |kind: &KindId| (*kind, resources.count(*kind) as u64);
        *self.objects.lock().unwrap_or_else(PoisonError::into_inner) =
            KindId::ALL.iter().map(count).collect();
    }
}

/// All metrics in the OpenMetrics text format.
pub(super) fn expose(shared: &Arc<Shared>) -> String {
    let mut registry = Registry::with_prefix("portway_controller");
    registry.register_collector(Box::new(Scrape(Arc::clone(shared))));
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Scrape(Arc<Shared>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let shared = &*self.0;
        let metrics = &shared.metrics;
        let writes = shared.writer.counts();
        let push = shared.server.counters();
        let leads = u64::from(*shared.leader.borrow());

        let family = encoder.encode_descriptor(
            "translation_seconds",
            "Time that translations took",
            None,
            metrics.translations.metric_type(),
        )?;
        metrics.translations.encode(family)?;

        let objects = metrics.objects.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let objects: Vec<_> = objects.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        gauge(&mut encoder, "objects", "Objects that are known", "kind", &objects)?;
        single_gauge(&mut encoder, "leader", "Whether this controller writes to the cluster", leads)?;
        let failing = shared.outages.failing() as u64;
        single_gauge(&mut encoder, "api_failing", "Watches and requests that fail at present", failing)?;

        let written: Vec<_> = writes.writes.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        counter(&mut encoder, "status_writes", "Statuses written", "kind", &written)?;
        let singles = [
            ("rounds", "Translations", metrics.rounds.load(Ordering::Relaxed)),
            ("api_errors", "Failed watches and requests to the API server", shared.outages.errors()),
            ("status_conflicts", "Status writes done again since someone else had written", writes.conflicts),
            ("status_errors", "Status writes that failed, to be tried again", writes.errors),
            ("push_streams", "Streams of proxies accepted", push.accepted),
            ("push_unauthenticated", "Streams refused since the token was not valid", push.unauthenticated),
            ("push_forbidden", "Streams refused since the token was not the Gateway's", push.forbidden),
            ("push_acknowledged", "Revisions that proxies have acknowledged", push.acknowledged),
            ("push_rejected", "Revisions that proxies have rejected", push.rejected),
            ("push_shards", "Shards of plans sent", push.shards),
            ("push_bytes", "Bytes of shards sent", push.bytes),
        ];
        for (name, help, value) in singles {
            let metric = ConstCounter::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(encoder)?;
        }
        Ok(())
    }
}

fn single_gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: &[(&str, u64)],
) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (of, value) in values {
        let metric = ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX));
        metric.encode(family.encode_family(&[(label, *of)])?)?;
    }
    Ok(())
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: &[(&str, u64)],
) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (of, value) in values {
        ConstCounter::new(*value).encode(family.encode_family(&[(label, *of)])?)?;
    }
    Ok(())
}
