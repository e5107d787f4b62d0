//! The record of one exchange.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use portway_plan::{BackendKey, Source};

use super::recorder::Recorder;
use super::series::{BackendMetrics, ListenerMetrics, RuleLabels, RuleMetrics, Shard};
use super::trace::Span;
use crate::fault::{Fault, FaultKind};
use crate::http::{Connection, Headers, Request, Scheme, Version};

/// The record of one exchange. Created when a request begins, handed to the engine with the response, and
/// closed when it is dropped: that is when the access log line is written and the metrics are counted.
///
/// It costs a few stores per request; text is made later, on the thread that writes the log.
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
    pub(super) time: SystemTime,
    pub(super) peer: SocketAddr,
    /// `None` when the request was refused before it was known.
    pub(super) method: Option<http::Method>,
    pub(super) scheme: Scheme,
    pub(super) host: Bytes,
    pub(super) target: Bytes,
    pub(super) version: Version,
    pub(super) referer: Option<Bytes>,
    pub(super) user_agent: Option<Bytes>,
    pub(super) server_name: Option<Arc<str>>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) request_id: Option<Bytes>,
    pub(super) detail: Option<Box<str>>,
    pub(super) try_begun: Option<(Instant, SystemTime)>,
    pub(super) upstream: Option<Duration>,
    pub(super) span: Option<Box<Span>>,
}

/// A finished exchange, on its way to the thread that writes logs.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) details: Box<Details>,
    pub(super) duration: Duration,
    pub(super) status: Option<StatusCode>,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) tries: u32,
    pub(super) fault: Option<FaultKind>,
    pub(super) complete: bool,
    pub(super) listener: Option<Arc<Source>>,
    pub(super) rule: Option<Arc<RuleLabels>>,
    pub(super) backend: Option<Arc<BackendKey>>,
}

impl Exchange {
    /// Begins the record of a request.
    pub fn begin(recorder: &Rc<Recorder>, request: &Request) -> Box<Self> {
        recorder.counts.in_flight.add(1);
        let details = recorder.wants_details().then(|| {
            let head = &request.head;
            let bytes = |name| head.headers.get(name).map(Bytes::copy_from_slice);
            Box::new(Details {
                time: SystemTime::now(),
                peer: request.connection.peer,
                method: Some(head.method.clone()),
                scheme: head.scheme,
                host: head.authority.text().clone(),
                target: head.target.text().clone(),
                version: head.version,
                referer: bytes("referer"),
                user_agent: bytes("user-agent"),
                server_name: request.connection.tls.as_ref().and_then(|tls| tls.server_name.clone()),
                endpoint: None,
                request_id: None,
                detail: None,
                try_begun: None,
                upstream: None,
                span: recorder.begin_span(&head.headers),
            })
        });
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
    pub fn set_request_id(&mut self, id: impl FnOnce() -> Bytes) {
        if let Some(details) = &mut self.details {
            details.request_id = Some(id());
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
            details.try_begun = Some((Instant::now(), SystemTime::now()));
            if let Some(span) = &mut details.span {
                span.begin_try(endpoint, headers);
            }
        }
    }

    /// A try ends, with the head of the backend's response or a fault. `took` is the time since its begin, or that of
    /// the request where it is the first.
    pub fn end_try(&mut self, took: Duration, outcome: Result<StatusCode, FaultKind>) {
        self.backend.iter().for_each(|s| s.try_duration.record(took));
        if let Some(details) = &mut self.details {
            // `took` may count from the request's begin; what is told of one try is exact.
            let begun = details.try_begun.take();
            let took = begun.map_or(took, |(at, _)| at.elapsed());
            details.upstream = Some(took);
            if let (Some(span), Some((_, begun))) = (&mut details.span, begun) {
                span.end_try(begun, took, outcome);
            }
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
        recorder.finish(Record {
            details,
            duration,
            status: self.status,
            sent: self.sent,
            received,
            tries: self.tries,
            fault: self.fault,
            complete: self.complete,
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

impl Record {
    /// The record of a request that an engine has refused before it could be handled.
    pub(super) fn refused(connection: &Connection, fault: FaultKind, detail: &'static str) -> Self {
        let details = Details {
            time: SystemTime::now(),
            peer: connection.peer,
            method: None,
            scheme: if connection.tls.is_some() { Scheme::Https } else { Scheme::Http },
            host: Bytes::new(),
            target: Bytes::new(),
            version: Version::Http11,
            referer: None,
            user_agent: None,
            server_name: connection.tls.as_ref().and_then(|tls| tls.server_name.clone()),
            endpoint: None,
            request_id: None,
            detail: Some(detail.into()),
            try_begun: None,
            upstream: None,
            span: None,
        };
        Self {
            details: Box::new(details),
            duration: Duration::ZERO,
            status: Some(fault.status()),
            sent: 0,
            received: 0,
            tries: 0,
            fault: Some(fault),
            complete: true,
            listener: None,
            rule: None,
            backend: None,
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
