//! The hosts of one listener.

use std::sync::Arc;

use portway_plan as plan;

use super::Compilation;
use super::host::HostTable;
use crate::http::filters::Filters;
use crate::observe::ListenerMetrics;
use crate::patterns::PatternIndex;

/// A compiled listener.
#[derive(Debug)]
pub struct ListenerTable {
    plan: Arc<plan::Listener>,
    /// As in the plan.
    hosts: Vec<Arc<HostTable>>,
    index: Arc<PatternIndex>,
    filters: Filters,
    metrics: Arc<ListenerMetrics>,
    resolved: bool,
}

impl ListenerTable {
    /// Compiles a listener. Hosts that have not changed are taken from the previous table of that listener.
    pub(super) fn compile(
        listener: &Arc<plan::Listener>,
        previous: Option<&Self>,
        with: &mut Compilation<'_>,
    ) -> Self {
        if previous.is_none() {
            with.recall();
        }
        let mut resolved = true;
        let filters = Filters::compile(&listener.filters, with.backends, &mut resolved);
        let mut same_hostnames = previous.is_some_and(|p| p.hosts.len() == listener.hosts.len());
        // Where the next host was before, if it follows the one before it as it did then. With that, hosts
        // that have not changed are taken over without a look at them.
        let mut cursor = 0;
        let hosts: Vec<Arc<HostTable>> = listener
            .hosts
            .iter()
            .enumerate()
            .map(|(place, host)| {
                let found = previous.and_then(|previous| {
                    if previous.plan.hosts.get(cursor).is_some_and(|h| Arc::ptr_eq(h, host)) {
                        return Some(cursor);
                    }
                    previous.index.get(&host.hostname).map(|at| at as usize)
                });
                same_hostnames &= found == Some(place);
                let before = found.zip(previous).and_then(|(at, previous)| {
                    cursor = at + 1;
                    previous.plan.hosts.get(at).zip(previous.hosts.get(at))
                });
                let all_resolved = previous.is_some_and(|previous| previous.resolved);
                let table = match before {
                    Some((plan, table))
                        if Arc::ptr_eq(plan, host) && (all_resolved || table.is_resolved()) =>
                    {
                        return table.clone();
                    }
                    before => with.host(host, before.map(|(_, table)| &**table)),
                };
                resolved &= table.is_resolved();
                table
            })
            .collect();
        let index = match previous {
            Some(previous) if same_hostnames => previous.index.clone(),
            _ => Arc::new(PatternIndex::new((0..).zip(listener.hosts.iter().map(|host| &host.hostname)))),
        };
        Self {
            plan: listener.clone(),
            resolved,
            hosts,
            index,
            filters,
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

    /// What every request passes before it is matched.
    pub fn filters(&self) -> &Filters {
        &self.filters
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
