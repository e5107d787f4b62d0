//! What a worker counts and logs.

use std::sync::Arc;
use std::time::SystemTime;

use super::counter::{Counter, Gauge, Histogram};
use super::exchange::Details;
use super::journal::{Journal, channel};
use super::lines::{Ending, Lines};
use super::session::SessionRecord;
use super::trace::{Sampler, Traced};
use crate::fault::FaultKind;
use crate::http::{Connection, Request, h1};
use crate::options::AccessLogFormat;

/// A worker's own part of the observation: its counters, and the way to the threads that write.
#[derive(Debug)]
pub struct Recorder {
    /// The worker's number.
    pub worker: usize,
    /// Its counters.
    pub counts: Arc<Counts>,
    journal: Option<Journal>,
    sampler: Option<Sampler>,
}

/// A worker's counters that are not of one rule, backend or listener.
#[derive(Debug)]
pub struct Counts {
    /// Requests that are being served.
    pub in_flight: Gauge,
    /// From a request's head to the end of its response.
    pub duration: Histogram,
    /// Clients' connections that are open.
    pub connections: Gauge,
    /// Clients' connections that were accepted.
    pub accepted: Counter,
    /// Clients' connections that were closed at once because there were too many.
    pub refused: Counter,
    /// Sessions of UDP clients that are open.
    pub udp_sessions: Gauge,
    /// Datagrams that were not passed on.
    pub datagrams_dropped: Counter,
    /// `accept` failed (no descriptors left, …).
    pub accept_errors: Counter,
    /// Exchanges that were cut at the end of a drain.
    pub cut: Counter,
    /// Responses that did not reach their end.
    pub incomplete: Counter,
    /// Panics that were contained.
    pub panics: Counter,
    /// TLS handshakes by outcome; see [`Handshake`].
    pub handshakes: [Counter; Handshake::ALL.len()],
    /// Records of exchanges that the log thread could not take.
    pub log_dropped: Counter,
    statuses: Box<[Counter; 600]>,
    faults: [Counter; FaultKind::ALL.len()],
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It succeeded.
    Ok,
    /// No listener is for the server name that the client asked for.
    UnknownName,
    /// The client speaks no version, cipher or signature scheme that we do.
    Incompatible,
    /// What came is no TLS, or broken.
    Malformed,
    /// The client sent an alert (it does not trust the certificate, …).
    Alert,
    /// The client shows no certificate, or none that the listener trusts.
    Untrusted,
    /// It took too long.
    Timeout,
    /// The connection broke.
    Closed,
}

impl Handshake {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::UnknownName,
        Self::Incompatible,
        Self::Malformed,
        Self::Alert,
        Self::Untrusted,
        Self::Timeout,
        Self::Closed,
    ];

    /// The word for the metrics' label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::UnknownName => "unknown_name",
            Self::Incompatible => "incompatible",
            Self::Malformed => "malformed",
            Self::Alert => "alert",
            Self::Untrusted => "untrusted",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            in_flight: Gauge::default(),
            duration: Histogram::default(),
            connections: Gauge::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            udp_sessions: Gauge::default(),
            datagrams_dropped: Counter::default(),
            accept_errors: Counter::default(),
            cut: Counter::default(),
            incomplete: Counter::default(),
            panics: Counter::default(),
            handshakes: Default::default(),
            log_dropped: Counter::default(),
            statuses: Box::new([const { Counter::new() }; 600]),
            faults: Default::default(),
        }
    }
}

impl Counts {
    /// Counts a request's fault.
    pub fn fault(&self, fault: FaultKind) {
        self.faults[fault as usize].add(1);
    }

    /// Counts a response by its status; 0 for none.
    pub(super) fn status(&self, status: u16) {
        self.statuses[usize::from(status).min(599)].add(1);
    }

    /// Counts a handshake.
    pub fn handshake(&self, outcome: Handshake) {
        self.handshakes[outcome as usize].add(1);
    }

    pub(super) fn faults(&self) -> impl Iterator<Item = (FaultKind, u64)> {
        FaultKind::ALL.iter().map(|kind| (*kind, self.faults[*kind as usize].get()))
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = (u16, u64)> {
        self.statuses.iter().zip(0..).map(|(count, status)| (status, count.get()))
    }
}

impl Recorder {
    pub(super) fn new(
        worker: usize,
        counts: Arc<Counts>,
        journal: Option<Journal>,
        sampler: Option<Sampler>,
    ) -> Self {
        Self { worker, counts, journal, sampler }
    }

    /// A recorder that counts for itself alone, for tests.
    pub fn detached() -> Self {
        Self::new(0, Arc::default(), None, None)
    }

    /// A recorder that writes lines which nobody reads, for benchmarks.
    pub fn unread(format: AccessLogFormat) -> Self {
        let (out, _) = channel(1);
        Self::new(0, Arc::default(), Some(Journal::new(Some(Lines::new(format)), out)), None)
    }

    /// Sends what is recorded on to where it is written, for as long as it is polled.
    pub(crate) async fn deliver(&self) {
        match &self.journal {
            Some(journal) => journal.deliver(|lost| self.counts.log_dropped.add(lost)).await,
            None => std::future::pending().await,
        }
    }

    /// A request that an engine has refused before it could be handled.
    pub fn refused(&self, connection: &Connection, fault: FaultKind, detail: &'static str) {
        self.counts.fault(fault);
        self.counts.status(fault.status().as_u16());
        if let Some(journal) = &self.journal {
            let ending = Ending {
                status: Some(fault.status()),
                complete: true,
                fault: Some(fault),
                detail: Some(detail),
                ..Ending::default()
            };
            self.count_lost(journal.line(|lines, out| {
                let draft = lines.begin_refused(SystemTime::now(), connection);
                lines.end(out, &draft, &ending);
            }));
        }
    }

    /// What logs and traces need of a request, if one of them is on.
    pub(super) fn begin(&self, request: &Request) -> Option<Box<Details>> {
        let journal = self.journal.as_ref()?;
        let time = SystemTime::now();
        let span = self.sampler.as_ref().map(|sampler| sampler.begin(request));
        let draft = journal.begin(|lines| lines.begin(time, request, span.as_ref()));
        Some(Box::new(Details::new(time, draft, span)))
    }

    /// Writes the line of an exchange, where lines are wanted; never waits.
    pub(super) fn finish(&self, details: &Details, ending: &Ending<'_>) {
        if let (Some(journal), Some(draft)) = (&self.journal, &details.draft) {
            self.count_lost(journal.line(|lines, out| lines.end(out, draft, ending)));
        }
    }

    /// Hands spans over; never waits.
    pub(super) fn trace(&self, traced: Traced) {
        if let Some(journal) = &self.journal {
            self.count_lost(journal.span(traced));
        }
    }

    /// Whether anything is logged.
    pub(super) fn wants_log(&self) -> bool {
        self.journal.as_ref().is_some_and(Journal::has_lines)
    }

    /// Writes the line of a session; never waits.
    pub(super) fn session(&self, record: &SessionRecord<'_>) {
        if let Some(journal) = &self.journal {
            self.count_lost(journal.line(|lines, out| lines.session(out, record)));
        }
    }

    fn count_lost(&self, lost: u64) {
        if lost > 0 {
            self.counts.log_dropped.add(lost);
        }
    }
}

impl h1::Observer for Recorder {
    fn rejected(&self, connection: &Connection, kind: FaultKind, detail: &'static str) {
        self.refused(connection, kind, detail);
    }

    fn panicked(&self, _connection: &Connection) {
        self.counts.panics.add(1);
    }
}
