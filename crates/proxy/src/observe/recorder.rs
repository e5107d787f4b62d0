//! What a worker counts and logs.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use super::counter::{Counter, Gauge, Histogram};
use super::exchange::Record;
use super::session::SessionRecord;
use super::trace::{Sampler, Span};
use crate::fault::FaultKind;
use crate::http::{Connection, Headers, h1};

/// A worker's own part of the observation: its counters, and the way to the threads that write.
#[derive(Debug)]
pub struct Recorder {
    /// The worker's number.
    pub worker: usize,
    /// Its counters.
    pub counts: Arc<Counts>,
    log: Option<SyncSender<Entry>>,
    sampler: Option<Sampler>,
}

/// What the thread that writes logs is given.
#[derive(Debug)]
pub(super) enum Entry {
    Exchange(Record),
    Session(SessionRecord),
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
        log: Option<SyncSender<Entry>>,
        sampler: Option<Sampler>,
    ) -> Self {
        Self { worker, counts, log, sampler }
    }

    /// A recorder that counts for itself alone, for tests.
    pub fn detached() -> Self {
        Self::new(0, Arc::default(), None, None)
    }

    /// A request that an engine has refused before it could be handled.
    pub fn refused(&self, connection: &Connection, fault: FaultKind, detail: &'static str) {
        self.counts.fault(fault);
        self.counts.status(fault.status().as_u16());
        if self.log.is_some() {
            self.finish(Record::refused(connection, fault, detail));
        }
    }

    pub(super) fn wants_details(&self) -> bool {
        self.log.is_some() || self.sampler.is_some()
    }

    pub(super) fn begin_span(&self, headers: &Headers) -> Option<Box<Span>> {
        self.sampler.as_ref().and_then(|sampler| sampler.begin(headers))
    }

    /// Hands the record of an exchange over; never waits.
    pub(super) fn finish(&self, record: Record) {
        self.write(Entry::Exchange(record));
    }

    /// Whether anything is logged.
    pub(super) fn wants_log(&self) -> bool {
        self.log.is_some()
    }

    /// Hands the record of a session over; never waits.
    pub(super) fn session(&self, record: SessionRecord) {
        self.write(Entry::Session(record));
    }

    fn write(&self, entry: Entry) {
        if let Some(log) = &self.log
            && let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = log.try_send(entry)
        {
            self.counts.log_dropped.add(1);
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
