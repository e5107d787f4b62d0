use std::collections::HashMap;
use std::sync::Arc;

use portway_plan::{BackendKey, Plan};
use tokio::sync::watch;

use super::{Backend, Connectors, Departures, backend, resolve};
use crate::observe::Metrics;

/// The backends of one plan.
#[derive(Clone, Debug, Default)]
pub struct BackendMap(Arc<HashMap<BackendKey, Arc<Backend>>>);

impl BackendMap {
    /// The backend of that name.
    pub fn get(&self, key: &BackendKey) -> Option<&Arc<Backend>> {
        self.0.get(key)
    }

    /// All backends, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.0.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// All backends, from plan to plan: the same key is the same [`Backend`].
pub struct Backends {
    map: BackendMap,
    departures: Departures,
    /// Where names are resolved: not on a worker.
    runtime: tokio::runtime::Handle,
    metrics: Arc<Metrics>,
}

impl Backends {
    /// No backends yet. Names are resolved on the runtime given, which must not be a worker's.
    pub fn new(runtime: tokio::runtime::Handle, metrics: Arc<Metrics>) -> Self {
        Self { map: BackendMap::default(), departures: Departures::default(), runtime, metrics }
    }

    /// Changes whenever endpoints have left; for [`super::Pools`].
    pub fn departures(&self) -> watch::Receiver<u64> {
        self.departures.watch()
    }

    /// The backends of the last plan.
    pub fn current(&self) -> &BackendMap {
        &self.map
    }

    /// Takes a plan over: backends and endpoints come and go, and those that stay are the same ones. A
    /// backend that goes keeps its endpoints for those who still hold it. Costs a look at each backend and
    /// work for those that changed.
    pub fn sync(&mut self, plan: &Plan) -> BackendMap {
        let mut next = HashMap::with_capacity(plan.backends.len());
        let mut same = plan.backends.len() == self.map.len();
        for (key, planned) in &plan.backends {
            let found = self.map.get(key).cloned();
            same &= found.is_some();
            let backend = found.unwrap_or_else(|| {
                let (metrics, departures) = (self.metrics.backend(key), self.departures.clone());
                let backend = Backend::new(key.clone(), planned.protocol, metrics, departures);
                if planned.tls.is_some() {
                    // Until who has the certificates says how: plain text would be worse than nothing.
                    backend.update_tls(|_| Some(Connectors::shut()));
                }
                Arc::new(backend)
            });
            backend.set_protocol(planned.protocol);
            backend.set_session(planned.session.as_ref());
            let endpoints = plan.endpoints.get(key).cloned().unwrap_or_default();
            if !Arc::ptr_eq(&endpoints, &backend.planned()) {
                backend.swap_endpoints(endpoints.clone());
                if backend::names(&endpoints).next().is_some() {
                    self.runtime.spawn(resolve::keep(Arc::downgrade(&backend), endpoints));
                }
            }
            next.insert(key.clone(), backend);
        }
        if !same {
            self.map = BackendMap(Arc::new(next));
        }
        self.map.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portway_plan::{BackendProtocol, Endpoint, EndpointAddress, EndpointState, Endpoints, ObjectRef};

    fn key(name: &str) -> BackendKey {
        let object = ObjectRef { kind: "Service".into(), namespace: "a".into(), name: name.into() };
        BackendKey::tcp(object, 80)
    }

    fn plan(backends: &[(&str, EndpointAddress)]) -> Plan {
        let mut plan = Plan::default();
        for (name, address) in backends {
            let planned = portway_plan::Backend::new(key(name), BackendProtocol::Unspecified);
            plan.backends.insert(key(name), Arc::new(planned));
            let list = vec![Endpoint {
                address: address.clone(),
                port: 80,
                state: EndpointState::Active,
                zone: None,
            }];
            plan.endpoints.insert(key(name), Arc::new(Endpoints { list }));
        }
        plan
    }

    fn ip(last: u8) -> EndpointAddress {
        EndpointAddress::Ip([10, 0, 0, last].into())
    }

    #[tokio::test]
    async fn the_same_key_is_the_same_backend() {
        let mut backends = Backends::new(tokio::runtime::Handle::current(), Arc::new(Metrics::new(1)));
        let mut departures = backends.departures();
        let first = backends.sync(&plan(&[("a", ip(1)), ("b", ip(2))]));
        assert!(!departures.has_changed().unwrap());
        let second = backends.sync(&plan(&[("a", ip(1)), ("c", ip(3))]));
        assert!(Arc::ptr_eq(first.get(&key("a")).unwrap(), second.get(&key("a")).unwrap()));
        assert!(second.get(&key("b")).is_none() && second.get(&key("c")).is_some());
        // Whoever still serves by the plan before reaches what has gone.
        assert_eq!(first.get(&key("b")).unwrap().endpoints().candidates().len(), 1);
        let left = first.get(&key("b")).unwrap().endpoints().candidates()[0].clone();
        let a = first.get(&key("a")).unwrap().clone();
        assert!(!departures.has_changed().unwrap() && !left.is_removed());
        drop(first);
        assert!(departures.has_changed().unwrap() && left.is_removed());
        departures.mark_unchanged();
        backends.sync(&plan(&[("a", ip(9)), ("c", ip(3))]));
        assert!(departures.has_changed().unwrap());
        let address = a.endpoints().candidates()[0].address();
        assert_eq!(address.to_string(), "10.0.0.9:80");
    }

    #[tokio::test]
    async fn names_are_resolved_apart() {
        let mut backends = Backends::new(tokio::runtime::Handle::current(), Arc::new(Metrics::new(1)));
        let map = backends.sync(&plan(&[("a", EndpointAddress::Name("localhost".into()))]));
        let backend = map.get(&key("a")).unwrap().clone();
        backend.wait_resolved().await;
        assert!(backend.endpoints().candidates().iter().all(|e| e.address().ip().is_loopback()));
        assert!(!backend.endpoints().candidates().is_empty());
    }
}
