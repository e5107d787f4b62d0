//! The record of one connection, or of one client's datagrams, that is passed on as it is.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use portway_plan::{BackendKey, Source};

use super::lines::Passed;
use super::recorder::Recorder;
use super::series::{BackendMetrics, ListenerMetrics, RuleLabels, RuleMetrics, Shard};
use crate::fault::Fault;

/// The record of a connection of a TLS or TCP listener, or of a client's session with a UDP listener. Closed
/// when it is dropped: that is when the access log line is written.
#[derive(Debug)]
pub struct Session {
    recorder: Rc<Recorder>,
    begun: Instant,
    time: SystemTime,
    spoken: Spoken,
    peer: SocketAddr,
    server_name: Option<Arc<str>>,
    endpoint: Option<SocketAddr>,
    tries: u32,
    sent: u64,
    received: u64,
    end: End,
    fault: Option<Fault>,
    listener: Option<Arc<Shard<Source>>>,
    rule: Option<Arc<Shard<RuleLabels>>>,
    backend: Option<Arc<Shard<BackendKey>>>,
}

/// What a session speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// TLS, which ended here or went through.
    Tls,
    /// Bytes over TCP.
    Tcp,
    /// Datagrams.
    Udp,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Both sides have closed.
    Closed,
    /// Nothing moved for too long.
    Idle,
    /// The client's side broke.
    ClientReset,
    /// The backend's side broke.
    BackendReset,
    /// A ReferenceGrant was taken back.
    Revoked,
    /// It was the one that had been silent for the longest when there were too many.
    Evicted,
    /// Its listener, its endpoint or the proxy has gone.
    #[default]
    Cut,
}

/// What the log tells of a session that has ended.
#[derive(Debug)]
pub(super) struct SessionRecord<'a> {
    pub(super) time: SystemTime,
    pub(super) duration: Duration,
    pub(super) spoken: Spoken,
    pub(super) peer: SocketAddr,
    pub(super) server_name: Option<&'a str>,
    pub(super) passed: Passed<'a>,
    pub(super) tries: u32,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// `None` for one that was refused.
    pub(super) end: Option<End>,
    pub(super) fault: Option<&'a Fault>,
}

impl Spoken {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

impl End {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "backend_reset",
            Self::Revoked => "revoked",
            Self::Evicted => "evicted",
            Self::Cut => "cut",
        }
    }
}

impl Session {
    /// Begins the record.
    pub fn begin(recorder: &Rc<Recorder>, spoken: Spoken, peer: SocketAddr) -> Self {
        Self {
            recorder: recorder.clone(),
            begun: Instant::now(),
            time: SystemTime::now(),
            spoken,
            peer,
            server_name: None,
            endpoint: None,
            tries: 0,
            sent: 0,
            received: 0,
            end: End::default(),
            fault: None,
            listener: None,
            rule: None,
            backend: None,
        }
    }

    /// The name that the client asked for.
    pub fn set_server_name(&mut self, name: Option<Arc<str>>) {
        self.server_name = name;
    }

    /// The name that the client asked for.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The listener that took it.
    pub fn set_listener(&mut self, listener: &ListenerMetrics) {
        let shard = listener.shard(self.recorder.worker).clone();
        shard.open_sessions.add(1);
        leave(self.listener.replace(shard));
    }

    /// The rule that it is passed on by.
    pub fn set_rule(&mut self, rule: &RuleMetrics) {
        let shard = rule.shard(self.recorder.worker).clone();
        shard.open_sessions.add(1);
        leave(self.rule.replace(shard));
    }

    /// The backend that it is passed on to.
    pub fn set_backend(&mut self, backend: &BackendMetrics) {
        let shard = backend.shard(self.recorder.worker).clone();
        shard.open_sessions.add(1);
        leave(self.backend.replace(shard));
    }

    /// An endpoint is tried.
    pub fn begin_try(&mut self, endpoint: SocketAddr) {
        self.tries += 1;
        self.endpoint = Some(endpoint);
    }

    /// The bytes that the client has been sent so far, and those that the backend has.
    #[inline]
    pub fn moved(&mut self, sent: u64, received: u64) {
        let (more_sent, more_received) = (sent - self.sent, received - self.received);
        if more_sent == 0 && more_received == 0 {
            return;
        }
        (self.sent, self.received) = (sent, received);
        self.listener.iter().for_each(|shard| shard.moved(more_sent, more_received));
        self.rule.iter().for_each(|shard| shard.moved(more_sent, more_received));
        self.backend.iter().for_each(|shard| shard.moved(more_sent, more_received));
    }

    /// So many more.
    #[inline]
    pub fn moved_more(&mut self, sent: u64, received: u64) {
        self.moved(self.sent + sent, self.received + received);
    }

    /// Why it was refused.
    pub fn set_fault(&mut self, fault: &Fault) {
        self.fault = Some(fault.clone());
    }

    /// How it ended.
    pub fn end(&mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let refused = self.fault.is_some();
        if let Some(fault) = &self.fault {
            self.recorder.counts.fault(fault.kind);
        }
        self.listener.iter().for_each(|shard| shard.ended(refused));
        self.rule.iter().for_each(|shard| shard.ended(refused));
        self.backend.iter().for_each(|shard| shard.ended(refused));
        if !self.recorder.wants_log() {
            return;
        }
        self.recorder.session(&SessionRecord {
            time: self.time,
            duration: self.begun.elapsed(),
            spoken: self.spoken,
            peer: self.peer,
            server_name: self.server_name.as_deref(),
            passed: Passed {
                listener: self.listener.as_ref().and_then(|shard| shard.json()),
                rule: self.rule.as_ref().and_then(|shard| shard.json()),
                backend: self.backend.as_ref().and_then(|shard| shard.json()),
                endpoint: self.endpoint,
            },
            tries: self.tries,
            sent: self.sent,
            received: self.received,
            end: (!refused).then_some(self.end),
            fault: self.fault.as_ref(),
        });
    }
}

impl SessionRecord<'_> {
    /// The status of nginx's stream sessions: that of the fault, or 200.
    pub(super) fn status(&self) -> u16 {
        self.fault.map_or(200, |fault| fault.kind.status().as_u16())
    }
}

/// It is counted as open elsewhere now.
fn leave<L>(shard: Option<Arc<Shard<L>>>) {
    shard.iter().for_each(|shard| shard.open_sessions.add(-1));
}

impl<L> Shard<L> {
    #[inline]
    fn moved(&self, sent: u64, received: u64) {
        self.sent.add(sent);
        self.received.add(received);
    }

    fn ended(&self, refused: bool) {
        self.open_sessions.add(-1);
        self.sessions[usize::from(refused)].add(1);
    }
}
