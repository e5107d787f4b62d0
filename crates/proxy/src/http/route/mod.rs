//! Which rule gets a request: a port's listeners, hosts and entries, compiled for lookups whose cost does
//! not grow with their number.
//!
//! ```text
//! PortTable ── host, SNI ─► ListenerTable ── host ─► HostTable (most specific first) ── path, … ─► RuleEntry
//! ```
//!
//! The result is by definition that of trying the plan's entries one by one (crates/plan). `explain` walks
//! the very same tables ([`PortTable::trace`]).

mod candidates;
mod conditions;
mod host;
mod listener;
mod literals;
mod regexes;
mod rule;
mod trace;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use portway_plan::{self as plan, HostPattern, ListenerProtocol, PathMatch};

use self::regexes::RegexCompiler;
use self::trace::Observer;
use super::filters::MatchContext;
use super::{RequestHead, TlsInfo};
use crate::fault::FaultKind;
use crate::observe::Metrics;
use crate::patterns::PatternIndex;
use crate::upstream::BackendMap;

pub use conditions::Failure;
pub(in crate::http) use conditions::form_decoded;
pub use host::HostTable;
pub use listener::ListenerTable;
pub use rule::{RuleEntry, ShareEntry};
pub use trace::{Criterion, EntryTrace, Trace};

/// Only what the configuration names is ever put into the tables, so that clients cannot bring about
/// collisions; still it is seeded at random.
pub(crate) type Hasher = foldhash::fast::RandomState;

/// What the ports of a plan are compiled with, and what is compiled once for all of them: listeners often
/// have the same hosts, and hosts the same rules.
pub(crate) struct Compilation<'a> {
    backends: &'a BackendMap,
    metrics: &'a Metrics,
    regexes: RegexCompiler,
    /// Those of this plan, by their place in memory.
    hosts: HashMap<*const plan::Host, Arc<HostTable>, Hasher>,
    rules: HashMap<*const plan::Rule, Arc<RuleEntry>, Hasher>,
    /// The tables of before, until a listener that is new asks what others have of its hosts.
    before: Vec<&'a PortTable>,
}

impl<'a> Compilation<'a> {
    /// Nothing is compiled yet, but for the ports of before.
    pub(crate) fn new(
        backends: &'a BackendMap,
        metrics: &'a Metrics,
        before: impl IntoIterator<Item = &'a PortTable>,
    ) -> Self {
        let (hosts, rules) = Default::default();
        let before = before.into_iter().collect();
        Self { backends, metrics, regexes: RegexCompiler::default(), hosts, rules, before }
    }

    /// Recalls what the ports of before have, for a listener that has nothing of its own to take over: others
    /// may have the same. Costs one look at each entry there is, once.
    fn recall(&mut self) {
        let listeners = std::mem::take(&mut self.before).into_iter().flat_map(|port| &port.listeners);
        for table in listeners.flat_map(|listener| listener.hosts()).filter(|table| table.is_resolved()) {
            for rule in (0..table.plan().entries.len()).filter_map(|index| table.rule(index)) {
                self.rules.entry(Arc::as_ptr(rule.plan())).or_insert_with(|| rule.clone());
            }
            self.hosts.entry(Arc::as_ptr(table.plan())).or_insert_with(|| table.clone());
        }
    }

    /// A host; of rules, those that the table of before has are taken from it.
    fn host(&mut self, host: &Arc<plan::Host>, before: Option<&HostTable>) -> Arc<HostTable> {
        if let Some(known) = self.hosts.get(&Arc::as_ptr(host)) {
            return known.clone();
        }
        let table = Arc::new(HostTable::compile(host, before, self));
        self.hosts.insert(Arc::as_ptr(host), table.clone());
        table
    }

    fn rule(&mut self, rule: &Arc<plan::Rule>) -> Arc<RuleEntry> {
        let new = || Arc::new(RuleEntry::compile(rule, self.backends, self.metrics));
        self.rules.entry(Arc::as_ptr(rule)).or_insert_with(new).clone()
    }
}

/// A port's listeners, compiled.
#[derive(Debug)]
pub struct PortTable {
    plan: Arc<plan::Port>,
    /// As in the plan.
    listeners: Vec<Arc<ListenerTable>>,
    plain: PatternIndex,
    tls: PatternIndex,
}

/// The entry that a request matched.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    /// The listener that the request belongs to.
    pub listener: &'a Arc<ListenerTable>,
    /// The host whose entry it is.
    pub host: &'a HostTable,
    /// The entry as the plan has it.
    pub entry: &'a plan::Entry,
    /// The entry's rule.
    pub rule: &'a Arc<RuleEntry>,
    /// The listener's port.
    pub port: u16,
}

impl PortTable {
    /// Compiles a port. What has not changed since the previous table of that port is taken from it:
    /// listeners and hosts by the identity of their `Arc`s in the plan.
    ///
    /// Costs one look at each host of the listeners that changed, and work for those hosts that changed.
    pub fn compile(
        port: &Arc<plan::Port>,
        previous: Option<&Self>,
        backends: &BackendMap,
        metrics: &Metrics,
    ) -> Self {
        Self::compile_with(port, previous, &mut Compilation::new(backends, metrics, previous))
    }

    /// [`PortTable::compile`], for one of several ports of a plan.
    pub(crate) fn compile_with(
        port: &Arc<plan::Port>,
        previous: Option<&Self>,
        with: &mut Compilation<'_>,
    ) -> Self {
        let listeners: Vec<Arc<ListenerTable>> = port
            .listeners
            .iter()
            .map(|listener| match previous.and_then(|previous| previous.listener_like(listener)) {
                Some(table) if Arc::ptr_eq(table.plan(), listener) && table.is_resolved() => table.clone(),
                before => Arc::new(ListenerTable::compile(listener, before.map(Arc::as_ref), with)),
            })
            .collect();
        let index = |tls: bool| {
            let of_kind = (0..).zip(&port.listeners).filter(|(_, listener)| is_tls(listener) == tls);
            PatternIndex::new(of_kind.map(|(at, listener)| (at, &listener.hostname)))
        };
        Self { plain: index(false), tls: index(true), listeners, plan: port.clone() }
    }

    /// The port as the plan has it.
    pub fn plan(&self) -> &Arc<plan::Port> {
        &self.plan
    }

    /// The listeners, in the plan's order.
    pub fn listeners(&self) -> &[Arc<ListenerTable>] {
        &self.listeners
    }

    /// The listener for a host or TLS server name (lower case, no port; empty for none): that of the most
    /// specific hostname. `tls` tells whether the client has begun TLS: a plain-text listener is never
    /// selected for it, and the other way round.
    #[inline]
    pub fn select_listener(&self, tls: bool, name: &str) -> Option<&Arc<ListenerTable>> {
        self.listeners.get(self.index(tls).matching(name).next()? as usize)
    }

    /// The listener whose certificate a TLS client was shown: that of its server name; for a client that
    /// named none, the least specific one.
    pub fn shown_listener(&self, tls: &TlsInfo) -> Option<&Arc<ListenerTable>> {
        match &tls.server_name {
            Some(name) => self.select_listener(true, name),
            None => {
                let all = self.listeners.last().filter(|last| last.plan().hostname == HostPattern::Any);
                let is_https = |listener: &&Arc<ListenerTable>| {
                    matches!(listener.plan().protocol, ListenerProtocol::Https(_))
                };
                all.or_else(|| self.listeners.iter().rfind(is_https))
            }
        }
    }

    /// Finds the entry for a request: the listener by its host, then each host whose pattern matches, the
    /// most specific first, until an entry matches.
    ///
    /// # Errors
    /// - [`FaultKind::NoRoute`]: no listener is for the host, or no entry matches.
    /// - [`FaultKind::Misdirected`]: the host belongs to another listener than the one whose certificate
    ///   was shown (GEP-3567); the client should open a new connection.
    #[inline]
    pub fn route(&self, head: &RequestHead, tls: Option<&TlsInfo>) -> Result<Matched<'_>, FaultKind> {
        self.search(head, tls, &mut ())
    }

    /// The listener that takes a request: the first half of [`PortTable::route`], for listeners that have
    /// filters to apply before the other half, [`PortTable::find`].
    ///
    /// # Errors
    /// As `route` has them.
    #[inline]
    pub fn select(
        &self,
        head: &RequestHead,
        tls: Option<&TlsInfo>,
    ) -> Result<&Arc<ListenerTable>, FaultKind> {
        let name = head.authority.host();
        let listener = self.select_listener(tls.is_some(), name).ok_or(FaultKind::NoRoute)?;
        if let Some(tls) = tls
            && tls.server_name.as_deref() != Some(name)
            && !self.shown_listener(tls).is_some_and(|shown| Arc::ptr_eq(shown, listener))
        {
            return Err(FaultKind::Misdirected);
        }
        Ok(listener)
    }

    /// The entry for a request of a listener.
    ///
    /// # Errors
    /// [`FaultKind::NoRoute`] when no entry matches.
    #[inline]
    pub fn find<'a>(
        &'a self,
        listener: &'a Arc<ListenerTable>,
        head: &RequestHead,
    ) -> Result<Matched<'a>, FaultKind> {
        self.find_in(listener, head, &mut ())
    }

    /// [`PortTable::route`], with the story of how it came to its result.
    pub fn trace(&self, head: &RequestHead, tls: Option<&TlsInfo>) -> Trace<'_> {
        Trace::new(self, head, tls)
    }

    #[inline]
    fn search<'a, O: Observer<'a>>(
        &'a self,
        head: &RequestHead,
        tls: Option<&TlsInfo>,
        observer: &mut O,
    ) -> Result<Matched<'a>, FaultKind> {
        self.find_in(self.select(head, tls)?, head, observer)
    }

    #[inline]
    fn find_in<'a, O: Observer<'a>>(
        &'a self,
        listener: &'a Arc<ListenerTable>,
        head: &RequestHead,
        observer: &mut O,
    ) -> Result<Matched<'a>, FaultKind> {
        let mut found = None;
        for host in listener.matching(head.authority.host()) {
            observer.host(host);
            if let Some(index) = host.find(head, observer)
                && found.is_none()
                && let (Some(entry), Some(rule)) = (host.plan().entries.get(index), host.rule(index))
            {
                found = Some(Matched { listener, host, entry, rule, port: self.plan.port });
                if !O::EXHAUSTIVE {
                    break;
                }
            }
        }
        found.ok_or(FaultKind::NoRoute)
    }

    fn index(&self, tls: bool) -> &PatternIndex {
        if tls { &self.tls } else { &self.plain }
    }

    fn listener_like(&self, listener: &plan::Listener) -> Option<&Arc<ListenerTable>> {
        self.listeners.get(self.index(is_tls(listener)).get(&listener.hostname)? as usize)
    }
}

fn is_tls(listener: &plan::Listener) -> bool {
    match listener.protocol {
        ListenerProtocol::Https(_) | ListenerProtocol::Tls(_) | ListenerProtocol::TlsPassthrough => true,
        ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::Udp => false,
    }
}

impl Matched<'_> {
    /// What filters must know of the match.
    pub fn context(&self) -> MatchContext {
        let prefix_len = match &self.entry.path {
            PathMatch::Prefix(prefix) => Some(prefix_len(prefix)),
            PathMatch::Exact(_) | PathMatch::Regex(_) => None,
        };
        MatchContext { prefix_len, port: self.port }
    }
}

/// The length of a prefix in normalised paths.
fn prefix_len(prefix: &str) -> usize {
    let prefix = prefix.trim_end_matches('/');
    super::path::normalise_match(prefix).map_or(prefix.len(), |normal| normal.len())
}
