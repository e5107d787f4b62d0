//! The metrics as text for scrapers (OpenMetrics).

use std::fmt;
use std::sync::Arc;

use portway_plan::{BackendKey, Source, Transport};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::counter::{BUCKETS, Histogram};
use super::metrics::{Metrics, Totals};
use super::recorder::{Counts, Handshake};
use super::series::{Family, RuleLabels, Series, Shard};
use crate::fault::Side;

/// Labels of one series.
type Labels = Vec<(&'static str, String)>;
/// Picks one of a worker's counters.
type CountOf = fn(&Counts) -> u64;

impl Metrics {
    /// All metrics in the OpenMetrics text format.
    pub fn expose(self: &Arc<Self>) -> String {
        let mut registry = Registry::with_prefix("portway");
        registry.register_collector(Box::new(Scrape(self.clone())));
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

#[derive(Debug)]
struct Scrape(Arc<Metrics>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let metrics = &*self.0;
        whole(&mut encoder, metrics)?;
        let listeners = Exposed::of(&metrics.listeners, "listener", "of this listener", source_labels);
        listeners.requests(&mut encoder)?;
        listeners.bytes(&mut encoder)?;
        listeners.sessions(&mut encoder)?;
        let rules = Exposed::of(&metrics.rules, "rule", "that matched this rule", rule_labels);
        rules.requests(&mut encoder)?;
        rules.bytes(&mut encoder)?;
        rules.sessions(&mut encoder)?;
        rules.counter(&mut encoder, "retries", "Tries after the first", |s| s.retries.get())?;
        let backends = Exposed::of(&metrics.backends, "backend", "sent to this backend", backend_labels);
        backends.requests(&mut encoder)?;
        backends.sessions(&mut encoder)?;
        backends.counter(&mut encoder, "retries", "Tries after the first", |s| s.retries.get())?;
        backends.counter(&mut encoder, "connects", "Connections made", |s| s.connects.get())?;
        backends.counter(&mut encoder, "connect_failures", "Connections that could not be made", |s| {
            s.connect_failures.get()
        })?;
        backends.counter(&mut encoder, "connections_reused", "Requests on a pooled connection", |s| {
            s.reused.get()
        })?;
        backends.gauge(&mut encoder, "connections", "Open connections", |s| s.connections.get())?;
        backends.histogram(
            &mut encoder,
            "try_duration_seconds",
            "From a try's begin to the head of the backend's response",
            |s| &s.try_duration,
        )
    }
}

/// What is of no rule, backend or listener.
fn whole(encoder: &mut DescriptorEncoder, metrics: &Metrics) -> fmt::Result {
    let workers = &metrics.workers;
    let sum = |of: CountOf| workers.iter().map(|w| of(w)).sum::<u64>();
    let level = |of: fn(&Counts) -> i64| workers.iter().map(|w| of(w)).sum::<i64>();

    let mut statuses = vec![0; 600];
    let mut faults = std::collections::BTreeMap::new();
    let mut handshakes = [0; Handshake::ALL.len()];
    for worker in workers {
        worker.statuses().for_each(|(status, n)| statuses[usize::from(status)] += n);
        for (kind, n) in worker.faults().filter(|(_, n)| *n > 0) {
            let side = match kind.side() {
                Side::Client => "client",
                Side::Gateway => "gateway",
                Side::Upstream => "upstream",
            };
            *faults.entry((kind.reason(), side)).or_insert(0) += n;
        }
        handshakes.iter_mut().zip(&worker.handshakes).for_each(|(total, n)| *total += n.get());
    }
    // A status of 0 is a client that left before its answer.
    let statuses = (0u16..).zip(statuses).filter(|(_, n)| *n > 0);
    let statuses = statuses.map(|(status, n)| (vec![("code", status.to_string())], n));
    counters(encoder, "requests", "Finished requests by the status of the response", statuses)?;
    let faults = faults
        .into_iter()
        .map(|((reason, side), n)| (vec![("reason", reason.to_owned()), ("side", side.to_owned())], n));
    counters(encoder, "request_faults", "Requests that met a fault", faults)?;
    let handshakes = Handshake::ALL.iter().zip(handshakes);
    let handshakes = handshakes.map(|(how, n)| (vec![("outcome", how.as_str().to_owned())], n));
    counters(encoder, "tls_handshakes", "TLS handshakes of clients", handshakes)?;

    let mut durations = HistogramSum::default();
    workers.iter().for_each(|w| durations.add(&w.duration));
    let help = "From a request's head to the end of its response";
    let mut family =
        encoder.encode_descriptor("request_duration_seconds", help, None, MetricType::Histogram)?;
    durations.encode(&mut family)?;

    gauge(encoder, "requests_in_flight", "Requests that are being served", level(|w| w.in_flight.get()))?;
    let each = workers.iter().enumerate();
    let each = each.map(|(n, w)| (vec![("worker", n.to_string())], w.connections.get()));
    gauges(encoder, "connections", "Open connections of clients", each)?;
    gauge(encoder, "udp_sessions", "Open sessions of UDP clients", level(|w| w.udp_sessions.get()))?;
    let totals: [(&str, &str, CountOf); 7] = [
        ("connections_accepted", "Accepted connections of clients", |w| w.accepted.get()),
        ("connections_refused", "Connections closed at once because there were too many", |w| {
            w.refused.get()
        }),
        ("connections_cut", "Connections cut at the end of a drain", |w| w.cut.get()),
        ("datagrams_dropped", "Datagrams that were not passed on", |w| w.datagrams_dropped.get()),
        ("accept_errors", "Connections that could not be accepted", |w| w.accept_errors.get()),
        ("panics", "Panics that were contained", |w| w.panics.get()),
        ("responses_incomplete", "Responses that did not reach their end", |w| w.incomplete.get()),
    ];
    for (name, help, of) in totals {
        counters(encoder, name, help, [(Vec::new(), sum(of))])?;
    }
    let dropped = sum(|w| w.log_dropped.get()) + metrics.lines_lost.get();
    let help = "Records that the access log could not take";
    counters(encoder, "access_log_dropped", help, [(Vec::new(), dropped)])?;
    let Totals { spans_dropped, revision, applied_seconds, failed_listeners } = metrics.totals();
    counters(encoder, "spans_dropped", "Spans that could not be exported", [(Vec::new(), spans_dropped)])?;
    gauge(encoder, "plan_revision", "The plan that is served", revision)?;
    gauge(encoder, "plan_failed_listeners", "Listeners of the plan that cannot serve", failed_listeners)?;
    let help = "How long it took to apply the plan";
    encoder
        .encode_descriptor("plan_apply_seconds", help, None, MetricType::Gauge)?
        .encode_gauge(&applied_seconds)
}

fn counters(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, n) in series {
        match labels.is_empty() {
            true => family.encode_counter::<NoLabelSet, _, u64>(&n, None)?,
            false => family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&n, None)?,
        }
    }
    Ok(())
}

fn gauges(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels, i64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, n) in series {
        match labels.is_empty() {
            true => family.encode_gauge(&n)?,
            false => family.encode_family(&labels)?.encode_gauge(&n)?,
        }
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, n: i64) -> fmt::Result {
    gauges(encoder, name, help, [(Vec::new(), n)])
}

/// The series of a family, with their labels as text.
struct Exposed<L> {
    prefix: &'static str,
    /// What its requests are, for the help texts.
    which: &'static str,
    series: Vec<(Labels, Arc<Series<L>>)>,
}

impl<L: Clone + std::fmt::Display + Eq + std::hash::Hash> Exposed<L> {
    fn of(
        family: &Family<L>,
        prefix: &'static str,
        which: &'static str,
        labels: fn(Option<&L>) -> Labels,
    ) -> Self {
        let mut series: Vec<_> = family.all().into_iter().map(|s| (labels(s.labels()), s)).collect();
        series.sort_by(|a, b| a.0.cmp(&b.0));
        Self { prefix, which, series }
    }

    fn requests(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
        let by_class = self.series.iter().flat_map(|(labels, series)| {
            CLASSES.iter().enumerate().filter_map(move |(class, name)| {
                let n: u64 = series.shards().map(|s| s.classes[class].get()).sum();
                let mut labels = labels.clone();
                labels.push(("code_class", (*name).to_owned()));
                (n > 0).then_some((labels, n))
            })
        });
        let help = format!("Finished requests {}", self.which);
        counters(encoder, &format!("{}_requests", self.prefix), &help, by_class)?;
        let help = format!("From the head of a request {} to the end of its response", self.which);
        self.histogram(encoder, "request_duration_seconds", &help, |s| &s.duration)
    }

    fn bytes(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        self.counter(encoder, "sent_bytes", "Response body bytes", |s| s.sent.get())?;
        self.counter(encoder, "received_bytes", "Request body bytes", |s| s.received.get())
    }

    /// Sessions of TLS, TCP and UDP listeners.
    fn sessions(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let by_outcome = self.series.iter().flat_map(|(labels, series)| {
            ["passed", "refused"].iter().enumerate().filter_map(move |(at, outcome)| {
                let n: u64 = series.shards().map(|s| s.sessions[at].get()).sum();
                let mut labels = labels.clone();
                labels.push(("outcome", (*outcome).to_owned()));
                (n > 0).then_some((labels, n))
            })
        });
        let help = "Ended connections of TLS and TCP listeners and sessions of UDP listeners";
        counters(encoder, &format!("{}_sessions", self.prefix), help, by_outcome)?;
        let help = "Open connections of TLS and TCP listeners and sessions of UDP listeners";
        self.gauge(encoder, "sessions_open", help, |s| s.open_sessions.get())
    }

    fn counter(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        of: fn(&Shard<L>) -> u64,
    ) -> fmt::Result {
        let series = self.series.iter();
        let series = series.map(|(labels, s)| (labels.clone(), s.shards().map(|shard| of(shard)).sum()));
        counters(encoder, &format!("{}_{name}", self.prefix), help, series)
    }

    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        of: fn(&Shard<L>) -> i64,
    ) -> fmt::Result {
        let series = self.series.iter();
        let series = series.map(|(labels, s)| (labels.clone(), s.shards().map(|shard| of(shard)).sum()));
        gauges(encoder, &format!("{}_{name}", self.prefix), help, series)
    }

    fn histogram(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        of: fn(&Shard<L>) -> &Histogram,
    ) -> fmt::Result {
        let name = format!("{}_{name}", self.prefix);
        let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Histogram)?;
        for (labels, series) in &self.series {
            let mut sum = HistogramSum::default();
            series.shards().for_each(|shard| sum.add(of(shard)));
            sum.encode(&mut family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

/// The sum of several shards' histograms.
#[derive(Default)]
struct HistogramSum {
    counts: [u64; BUCKETS.len() + 1],
    seconds: f64,
}

impl HistogramSum {
    fn add(&mut self, histogram: &Histogram) {
        let (counts, seconds) = histogram.get();
        self.counts.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        self.seconds += seconds;
    }

    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let bounds = BUCKETS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.counts).collect();
        encoder.encode_histogram::<NoLabelSet>(self.seconds, self.counts.iter().sum(), &buckets, None)
    }
}

/// What stands for all series beyond the limit.
const OTHER: &str = "other";

fn source_labels(source: Option<&Source>) -> Labels {
    let Some(source) = source else { return vec![("listener", OTHER.to_owned())] };
    vec![
        ("parent_kind", source.object.kind.to_string()),
        ("parent_namespace", source.object.namespace.to_string()),
        ("parent", source.object.name.to_string()),
        ("listener", place(source)),
    ]
}

fn rule_labels(rule: Option<&RuleLabels>) -> Labels {
    let Some(RuleLabels { source, .. }) = rule else { return vec![("rule", OTHER.to_owned())] };
    vec![
        ("route_kind", source.object.kind.to_string()),
        ("route_namespace", source.object.namespace.to_string()),
        ("route", source.object.name.to_string()),
        ("rule", place(source)),
    ]
}

fn backend_labels(backend: Option<&BackendKey>) -> Labels {
    let Some(BackendKey { object, port, transport }) = backend else {
        return vec![("backend", OTHER.to_owned())];
    };
    vec![
        ("backend_kind", object.kind.to_string()),
        ("backend_namespace", object.namespace.to_string()),
        ("backend", object.name.to_string()),
        (
            "backend_port",
            match transport {
                Transport::Tcp => port.to_string(),
                Transport::Udp => format!("{port}/UDP"),
            },
        ),
    ]
}

/// The name that the user gave to the place in the object, or else its path.
fn place(source: &Source) -> String {
    source.section.as_ref().unwrap_or(&source.path).to_string()
}
