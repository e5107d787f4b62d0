//! The hosts of one listener.

use std::sync::Arc;

use portway_plan as plan;

use super::Compilation;
use super::host::HostTable;
use super::patterns::PatternIndex;
use super::regexes::RegexCompiler;
use crate::observe::ListenerMetrics;

/// A compiled listener.
#[derive(Debug)]
pub struct ListenerTable {
    plan: Arc<plan::Listener>,
    /// As in the plan.
    hosts: Vec<Arc<HostTable>>,
    index: Arc<PatternIndex>,
    metrics: Arc<ListenerMetrics>,
    resolved: bool,
}

impl ListenerTable {
    /// Compiles a listener. Hosts that have not changed are taken from the previous table of that listener.
    pub(super) fn compile(
        listener: &Arc<plan::Listener>,
        previous: Option<&Self>,
        with: &Compilation<'_>,
        compiler: &mut RegexCompiler,
    ) -> Self {
        // Most plans have most hosts where they were before; then nothing is looked up.
        let before = |place: usize, host: &plan::Host| {
            let previous = previous?;
            let same_place = previous.hosts.get(place).filter(|t| t.plan().hostname == host.hostname);
            same_place.or_else(|| previous.hosts.get(previous.index.get(&host.hostname)? as usize))
        };
        let mut same_hostnames = previous.is_some_and(|p| p.hosts.len() == listener.hosts.len());
        let hosts: Vec<Arc<HostTable>> = (0..)
            .zip(&listener.hosts)
            .map(|(place, host)| {
                let before = before(place, host);
                same_hostnames = same_hostnames
                    && previous.is_some_and(|p| p.hosts[place].plan().hostname == host.hostname);
                match before {
                    Some(table) if Arc::ptr_eq(table.plan(), host) && table.is_resolved() => table.clone(),
                    before => Arc::new(HostTable::compile(host, before.map(Arc::as_ref), with, compiler)),
                }
            })
            .collect();
        let index = match previous {
            Some(previous) if same_hostnames => previous.index.clone(),
            _ => Arc::new(PatternIndex::new((0..).zip(listener.hosts.iter().map(|host| &host.hostname)))),
        };
        Self {
            plan: listener.clone(),
            resolved: hosts.iter().all(|host| host.is_resolved()),
            hosts,
            index,
            metrics: with.metrics.listener(&listener.source),
        }
    }

    /// The listener as the plan has it.
    pub fn plan(&self) -> &Arc<plan::Listener> {
        &self.plan
    }

    /// The listener's counters.
    pub fn metrics(&self) -> &Arc<ListenerMetrics> {
        &self.metrics
    }

    /// The hosts, in the plan's order.
    pub fn hosts(&self) -> &[Arc<HostTable>] {
        &self.hosts
    }

    /// The hosts whose pattern matches, from the most specific to the least.
    #[inline]
    pub(super) fn matching<'a, 'h>(
        &'a self,
        host: &'h str,
    ) -> impl Iterator<Item = &'a HostTable> + use<'a, 'h> {
        self.index.matching(host).filter_map(|at| self.hosts.get(at as usize).map(Arc::as_ref))
    }

    /// Whether every backend that it names was there when it was compiled.
    pub(super) fn is_resolved(&self) -> bool {
        self.resolved
    }
}
