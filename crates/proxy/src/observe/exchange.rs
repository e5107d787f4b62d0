//! The record of one exchange.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use portway_plan::{BackendKey, Source};

use super::lines::{Draft, Ending, Passed};
use super::recorder::Recorder;
use super::series::{BackendMetrics, ListenerMetrics, RuleLabels, RuleMetrics, Shard};
use super::trace::{Span, Traced};
use crate::fault::{Fault, FaultKind};
use crate::http::{Headers, Request};

/// The record of one exchange. Created when a request begins, handed to the engine with the response, and
/// closed when it is dropped: that is when the access log line is written and the metrics are counted.
///
/// It costs a few stores per request, and a line where there is a log.
#[derive(Debug, Default)]
pub struct Exchange {
    /// Body bytes sent to the client.
    pub sent: u64,
    /// Body bytes of the request that were sent on.
    pub received: Received,
    /// What went wrong, if anything. Whoever meets the fault first sets it.
    pub fault: Option<FaultKind>,
    /// The response was sent to its end.
    pub complete: bool,
    /// The status of the response; `None` until there is one.
    pub status: Option<StatusCode>,
    /// How many tries there were.
    pub tries: u32,
    begun: Option<Begun>,
    listener: Option<Arc<Shard<Source>>>,
    rule: Option<Arc<Shard<RuleLabels>>>,
    backend: Option<Arc<Shard<BackendKey>>>,
    details: Option<Box<Details>>,
}

/// Bytes of a request's body.
#[derive(Clone, Debug)]
pub enum Received {
    /// All of them, known from the begin.
    Whole(u64),
    /// Those that have come so far; the count goes on while the response is sent.
    SoFar(Rc<Cell<u64>>),
}

impl Received {
    /// As of now.
    pub fn get(&self) -> u64 {
        match self {
            Self::Whole(bytes) => *bytes,
            Self::SoFar(bytes) => bytes.get(),
        }
    }
}

impl Default for Received {
    fn default() -> Self {
        Self::Whole(0)
    }
}

#[derive(Debug)]
struct Begun {
    recorder: Rc<Recorder>,
    at: Instant,
}

/// What only logs and traces need; kept when one of them is on.
#[derive(Debug)]
pub(super) struct Details {
    time: SystemTime,
    /// The begin of its line, where there is a log.
    pub(super) draft: Option<Draft>,
    span: Option<Span>,
    endpoint: Option<SocketAddr>,
    detail: Option<Box<str>>,
    try_begun: Option<Instant>,
    upstream: Option<Duration>,
}

impl Details {
    pub(super) fn new(time: SystemTime, draft: Option<Draft>, span: Option<Span>) -> Self {
        Self { time, draft, span, endpoint: None, detail: None, try_begun: None, upstream: None }
    }
}

impl Exchange {
    /// Begins the record of a request.
    pub fn begin(recorder: &Rc<Recorder>, request: &Request) -> Box<Self> {
        recorder.counts.in_flight.add(1);
        let details = recorder.begin(request);
        let begun = Some(Begun { recorder: recorder.clone(), at: Instant::now() });
        let mut exchange = Box::new(Self::default());
        (exchange.begun, exchange.details) = (begun, details);
        exchange
    }

    /// When the request began; now, for a record that nobody keeps.
    pub fn begun(&self) -> Instant {
        self.begun.as_ref().map_or_else(Instant::now, |b| b.at)
    }

    /// The listener that took the request.
    pub fn set_listener(&mut self, listener: &ListenerMetrics) {
        self.listener = self.begun.as_ref().map(|b| listener.shard(b.recorder.worker).clone());
    }

    /// The rule that the request matched.
    pub fn set_rule(&mut self, rule: &RuleMetrics) {
        self.rule = self.begun.as_ref().map(|b| rule.shard(b.recorder.worker).clone());
    }

    /// The backend that was chosen for it.
    pub fn set_backend(&mut self, backend: &BackendMetrics) {
        self.backend = self.begun.as_ref().map(|b| backend.shard(b.recorder.worker).clone());
    }

    /// The request's id, for the log.
    pub fn set_request_id<'a>(&mut self, id: impl FnOnce() -> &'a [u8]) {
        if let Some(draft) = self.details.as_mut().and_then(|details| details.draft.as_mut()) {
            draft.set_request_id(id());
        }
    }

    /// A try begins. When traces are on and this one is, `headers` get the `traceparent` of the try.
    pub fn begin_try(&mut self, endpoint: SocketAddr, headers: &mut Headers) {
        self.tries += 1;
        if self.tries > 1 {
            self.rule.iter().for_each(|s| s.retries.add(1));
            self.backend.iter().for_each(|s| s.retries.add(1));
        }
        if let Some(details) = &mut self.details {
            details.endpoint = Some(endpoint);
            details.try_begun = Some(Instant::now());
            if let Some(span) = &mut details.span {
                span.begin_try(endpoint, headers);
            }
        }
    }

    /// A try ends now, with the head of the backend's response or a fault. `took` is the time since its
    /// begin, or that of the request where it is the first.
    pub fn end_try(&mut self, now: Instant, took: Duration, outcome: Result<StatusCode, FaultKind>) {
        self.backend.iter().for_each(|s| s.try_duration.record(took));
        let Some(details) = &mut self.details else { return };
        // `took` may count from the request's begin; what is told of one try is exact.
        let tried = details.try_begun.take();
        let took = tried.map_or(took, |begun| now.saturating_duration_since(begun));
        details.upstream = Some(took);
        if let (Some(span), Some(tried), Some(begun)) = (&mut details.span, tried, &self.begun) {
            span.end_try(details.time + tried.saturating_duration_since(begun.at), took, outcome);
        }
    }

    /// A fault that decides the answer.
    pub fn set_fault(&mut self, fault: &Fault) {
        self.fault = Some(fault.kind);
        if let (Some(details), Some(detail)) = (&mut self.details, &fault.detail) {
            details.detail = Some(detail.clone());
        }
    }

    /// The engine has written this many bytes of the body.
    #[inline]
    pub fn count_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Ends the record, as dropping it does, and tells when that was.
    pub fn end(mut self) -> Instant {
        let now = Instant::now();
        self.close(now);
        now
    }

    fn close(&mut self, now: Instant) {
        let Some(Begun { recorder, at }) = self.begun.take() else { return };
        let duration = now - at;
        let counts = &recorder.counts;
        counts.in_flight.add(-1);
        if self.status.is_none() && self.fault.is_none() {
            self.fault = Some(FaultKind::ClientGone);
        }
        if let Some(fault) = self.fault {
            counts.fault(fault);
        }
        if !self.complete {
            counts.incomplete.add(1);
        }
        let status = self.status.map_or(0, |s| s.as_u16());
        counts.status(status);
        counts.duration.record(duration);
        let class = usize::from(status / 100).min(5);
        let received = self.received.get();
        self.listener.iter().for_each(|s| s.finished(class, duration, self.sent, received));
        self.rule.iter().for_each(|s| s.finished(class, duration, self.sent, received));
        self.backend.iter().for_each(|s| s.finished(class, duration, self.sent, received));
        let Some(details) = self.details.take() else { return };
        let ending = Ending {
            status: self.status,
            sent: self.sent,
            received,
            duration,
            upstream: details.upstream,
            complete: self.complete,
            passed: Passed {
                listener: self.listener.as_ref().and_then(|s| s.json()),
                rule: self.rule.as_ref().and_then(|s| s.json()),
                backend: self.backend.as_ref().and_then(|s| s.json()),
                endpoint: details.endpoint,
            },
            tries: self.tries,
            fault: self.fault,
            detail: details.detail.as_deref(),
        };
        recorder.finish(&details, &ending);
        let Some(mut span) = details.span else { return };
        let Some(asked) = span.asked.take() else { return };
        recorder.trace(Traced {
            span,
            asked,
            time: details.time,
            duration,
            status: self.status,
            sent: self.sent,
            fault: self.fault,
            listener: self.listener.as_ref().and_then(|s| s.labels.clone()),
            rule: self.rule.as_ref().and_then(|s| s.labels.clone()),
            backend: self.backend.as_ref().and_then(|s| s.labels.clone()),
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.begun.is_some() {
            self.close(Instant::now());
        }
    }
}

impl<L> Shard<L> {
    #[inline]
    fn finished(&self, class: usize, duration: Duration, sent: u64, received: u64) {
        self.classes[class].add(1);
        self.duration.record(duration);
        self.sent.add(sent);
        self.received.add(received);
    }
}
