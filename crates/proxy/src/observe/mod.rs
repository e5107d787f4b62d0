//! Seeing what the proxy does: access log, metrics, traces.
//!
//! ```text
//! request ─► Exchange (per request) ── drop ─► Shards of its listener, rule and backend   ◄── scrape
//!                                         └──► Journal ─► bounded channel ─► log thread ─► file, OTLP
//! ```
//!
//! A request never waits for any of it: counters are plain stores of the worker's own, and what finds the
//! journal full is dropped and counted.

mod access_log;
mod counter;
mod exchange;
mod exposition;
mod journal;
mod lines;
mod metrics;
mod observation;
mod otlp;
mod recorder;
mod series;
mod session;
mod text;
mod trace;

pub use counter::{BUCKETS, Counter, Gauge, Histogram};
pub use exchange::{Exchange, Received};
pub use metrics::Metrics;
pub(crate) use observation::Observation;
pub use recorder::{Counts, Handshake, Recorder};
pub use series::{BackendMetrics, ListenerMetrics, RuleCounters, RuleLabels, RuleMetrics, Series, Shard};
pub use session::{End, Session, Spoken};
