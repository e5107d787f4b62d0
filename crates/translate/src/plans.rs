//! The plans: which routes are in which, and what follows from that.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use portway_api::object::{KindId, ObjectKey};
use portway_plan::{
    Backend, BackendKey, Endpoints, Listener, ListenerProtocol, ObjectRef, Plan, Port, Shards,
    TlsTermination, Transport, TrustKey,
};
use portway_store::Resources;

use crate::backend_tls::Policies;
use crate::listener::{ListenerId, ListenerNode, Protocol};
use crate::place::Places;
use crate::route::RouteNode;
use crate::survey::{GatewayNode, Site, Survey};
use crate::trust::{Bundles, Trusting};
use crate::{backend, draft, gateway};

/// The plans so far, and what is needed to change them at the cost of the change.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    /// How many routes in each plan send to a backend; its listeners count as one.
    users: BTreeMap<BackendKey, BTreeMap<Site, usize>>,
    /// The plans that routes are in, and count in `users` for.
    in_plan: BTreeMap<ObjectKey, Box<[Site]>>,
    /// The backends that filters of listeners ask, which count in `users`, too.
    asked: BTreeSet<(BackendKey, Site)>,
    /// Whom the backends of each plan trust.
    trusting: Trusting,
    listeners: BTreeMap<ListenerId, Arc<Listener>>,
    /// With [`Layout::Shared`](crate::Layout::Shared).
    pub(crate) shared: Arc<Plan>,
    /// With [`Layout::PerGateway`](crate::Layout::PerGateway).
    pub(crate) per_gateway: Shards<ObjectKey, Arc<Plan>>,
}

/// What the plans are to be looked at for.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    /// Everything that comes from the survey.
    pub(crate) survey: bool,
    /// Backends that joined plans, left them, or are to be looked at again in them.
    pub(crate) backends: BTreeMap<BackendKey, BTreeSet<Site>>,
    /// Listeners whose routes changed.
    pub(crate) listeners: BTreeSet<ListenerId>,
    /// Certificate authorities may be others.
    pub(crate) trust: bool,
}

/// An address and port to bind.
type Socket = (Option<IpAddr>, u16, Transport);

/// What a plan has of a backend.
type BackendParts = (Option<Arc<Backend>>, Option<Arc<Endpoints>>);

impl Plans {
    fn of(&self, site: &Site) -> Option<&Arc<Plan>> {
        match site {
            None => Some(&self.shared),
            Some(gateway) => self.per_gateway.get(gateway),
        }
    }

    /// A route is in these plans now, and in no others.
    pub(crate) fn enter(&mut self, route: &RouteNode, now: BTreeSet<Site>, stale: &mut Stale) {
        let key = route.object.key();
        let before: BTreeSet<Site> = self.in_plan.get(key).into_iter().flatten().cloned().collect();
        for site in now.difference(&before) {
            for backend in &route.backends {
                self.add_user(backend, site, stale);
            }
        }
        self.release(route, before.difference(&now), stale);
        if now.is_empty() {
            self.in_plan.remove(key);
        } else {
            self.in_plan.insert(key.clone(), now.into_iter().collect());
        }
    }

    /// A route is in no plan any more.
    pub(crate) fn leave(&mut self, route: &RouteNode, stale: &mut Stale) {
        let sites = self.in_plan.remove(route.object.key()).unwrap_or_default();
        self.release(route, &sites, stale);
    }

    /// A route no longer sends to its backends, as far as some plans go.
    fn release<'s>(
        &mut self,
        route: &RouteNode,
        sites: impl IntoIterator<Item = &'s Site>,
        stale: &mut Stale,
    ) {
        for site in sites {
            for backend in &route.backends {
                self.drop_user(backend, site, stale);
            }
        }
    }

    /// After a survey: which backends the filters of listeners ask.
    pub(crate) fn enter_listeners(&mut self, survey: &Survey, stale: &mut Stale) {
        let served = survey.gateways.iter().filter(|node| gateway::obstacle(node).is_none());
        let asked: BTreeSet<_> = served
            .flat_map(|gateway| {
                let filters = gateway.merged().filter(|node| node.is_valid()).flat_map(|node| &node.filters);
                let keys = filters.filter_map(draft::filter_target).filter_map(draft::backend_of);
                keys.map(|key| (key.clone(), gateway.site.clone()))
            })
            .collect();
        let before = std::mem::replace(&mut self.asked, asked.clone());
        for (backend, site) in asked.difference(&before) {
            self.add_user(backend, site, stale);
        }
        for (backend, site) in before.difference(&asked) {
            self.drop_user(backend, site, stale);
        }
    }

    fn add_user(&mut self, backend: &BackendKey, site: &Site, stale: &mut Stale) {
        *self.users.entry(backend.clone()).or_default().entry(site.clone()).or_default() += 1;
        stale.backends.entry(backend.clone()).or_default().insert(site.clone());
    }

    fn drop_user(&mut self, backend: &BackendKey, site: &Site, stale: &mut Stale) {
        if let Some(counts) = self.users.get_mut(backend) {
            if let Some(count) = counts.get_mut(site) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(site);
                }
            }
            if counts.is_empty() {
                self.users.remove(backend);
            }
        }
        stale.backends.entry(backend.clone()).or_default().insert(site.clone());
    }

    /// A Service or XBackend, or where it is, is another: its ports are to be looked at again where they are in
    /// plans.
    pub(crate) fn look_at(&self, kind: KindId, namespace: &str, name: &str, stale: &mut Stale) {
        let object = ObjectRef { kind: kind.as_str().into(), namespace: namespace.into(), name: name.into() };
        let object = Arc::new(object);
        let first = BackendKey::tcp(Arc::clone(&object), 0);
        let last = BackendKey { object, port: u16::MAX, transport: Transport::Udp };
        for (key, sites) in self.users.range(first..=last) {
            stale.backends.entry(key.clone()).or_default().extend(sites.keys().cloned());
        }
    }

    /// Builds the plans anew that change, sharing all that is as it was.
    pub(crate) fn build(
        &mut self,
        resources: &Resources,
        survey: &Survey,
        places: &Places,
        (policies, bundles): (&Policies, &Bundles),
        stale: &Stale,
    ) {
        if !stale.survey && !stale.trust && stale.listeners.is_empty() && stale.backends.is_empty() {
            return;
        }
        let mut sites: BTreeSet<Site> =
            stale.listeners.iter().filter_map(|listener| survey.site(listener).cloned()).collect();
        if stale.survey {
            let accepted = survey.gateways.iter().filter(|node| gateway::obstacle(node).is_none());
            sites = accepted.map(|node| node.site.clone()).collect();
            // Whose last Gateway is gone has nothing to serve any more.
            if self.shared != Arc::default() {
                sites.insert(None);
            }
            let gone = self.per_gateway.keys().filter(|gateway| !sites.contains(&Some((*gateway).clone())));
            for gateway in gone.cloned().collect::<Vec<_>>() {
                self.per_gateway.remove(&gateway);
                self.trusting.forget(&Some(gateway));
            }
        }
        if stale.trust {
            sites.extend(self.trusting.sites().cloned());
        }
        let mut ports = self.ports(survey, places, stale, &sites);
        let mut backends: BTreeMap<&Site, Vec<(&BackendKey, BackendParts)>> = BTreeMap::new();
        for (key, sites) in &stale.backends {
            let parts = || {
                let endpoints = backend::locate(resources, key);
                let endpoints = (!endpoints.list.is_empty()).then(|| Arc::new(endpoints));
                (Some(Arc::new(backend::describe(resources, policies, &survey.x_backends, key))), endpoints)
            };
            let users = self.users.get(key);
            let used = users.map(|_| parts());
            for site in sites {
                let is_user = users.is_some_and(|users| users.contains_key(site));
                let parts = used.clone().filter(|_| is_user).unwrap_or_default();
                backends.entry(site).or_default().push((key, parts));
            }
        }
        // What left a plan that is gone needs not be taken out of it.
        let there = |site: &&Site| site.as_ref().is_none_or(|gateway| self.per_gateway.contains_key(gateway));
        sites.extend(backends.keys().copied().filter(there).cloned());
        for site in &sites {
            let known = self.of(site);
            let mut plan = known.map(|known| Plan::clone(known)).unwrap_or_default();
            let mut changed = known.is_none();
            if let Some(ports) = ports.remove(site).filter(|ports| *ports != plan.ports) {
                (plan.ports, changed) = (ports, true);
            }
            let mut trust = stale.survey || stale.trust;
            let touched = backends.remove(site).unwrap_or_default();
            let certificates = stale.survey || (!touched.is_empty() && !survey.shown.is_empty());
            for (key, (backend, endpoints)) in touched {
                trust |= self.trusting.count(site, plan.backends.get(key).map(|b| &**b), backend.as_deref());
                changed |= set(&mut plan.backends, key, backend);
                changed |= set(&mut plan.endpoints, key, endpoints);
            }
            if certificates {
                let mut certificates = survey.certificates.get(site).cloned().unwrap_or_default();
                if !survey.shown.is_empty() {
                    let tls = plan.backends.values().filter_map(|backend| backend.tls.as_ref());
                    for key in tls.filter_map(|tls| tls.client_certificate.as_ref()) {
                        if let Some(shown) = survey.shown.get(key) {
                            certificates.insert(key.clone(), Arc::clone(shown));
                        }
                    }
                }
                if plan.certificates != certificates {
                    (plan.certificates, changed) = (certificates, true);
                }
            }
            if trust {
                let of_listeners = survey.trust.get(site);
                let wanted = |key: &TrustKey| {
                    self.trusting.names(site, key) || of_listeners.is_some_and(|keys| keys.contains(key))
                };
                let trust: Shards<_, _> = bundles.usable(wanted).collect();
                if plan.trust != trust {
                    (plan.trust, changed) = (trust, true);
                }
            }
            if !changed {
                continue;
            }
            match site {
                None => self.shared = Arc::new(plan),
                Some(gateway) => {
                    self.per_gateway.insert(gateway.clone(), Arc::new(plan));
                }
            }
        }
    }

    /// The ports of some plans; of all there are, after a survey.
    fn ports(
        &mut self,
        survey: &Survey,
        places: &Places,
        stale: &Stale,
        sites: &BTreeSet<Site>,
    ) -> BTreeMap<Site, Vec<Arc<Port>>> {
        let mut ports: BTreeMap<Site, BTreeMap<Socket, Vec<Arc<Listener>>>> =
            sites.iter().map(|site| (site.clone(), BTreeMap::new())).collect();
        let mut listeners = BTreeMap::new();
        let gateways = survey.gateways.iter().filter(|node| gateway::obstacle(node).is_none());
        for gateway in gateways {
            let Some(ports) = ports.get_mut(&gateway.site) else { continue };
            for node in gateway.merged().filter(|node| node.is_valid()) {
                let known = self.listeners.get(&node.id);
                let listener = match known {
                    Some(known) if !stale.survey && !stale.listeners.contains(&node.id) => Arc::clone(known),
                    _ => {
                        let listener = listener(gateway, node, places);
                        match known {
                            Some(known) if **known == listener => Arc::clone(known),
                            _ => Arc::new(listener),
                        }
                    }
                };
                for address in &gateway.addresses {
                    let socket = (*address, node.port, node.transport());
                    ports.entry(socket).or_default().push(Arc::clone(&listener));
                }
                listeners.insert(node.id.clone(), listener);
            }
        }
        if stale.survey {
            self.listeners = listeners;
        } else {
            self.listeners.extend(listeners);
        }
        let known = |site: &Site, port: &Port| {
            let plan = self.of(site)?;
            let place = |port: &Port| (port.address, port.port, port.transport);
            let known = plan.ports.binary_search_by_key(&place(port), |known| place(known)).ok();
            known.map(|at| &plan.ports[at]).filter(|known| ***known == *port).cloned()
        };
        let build = |(site, sockets): (Site, BTreeMap<Socket, Vec<Arc<Listener>>>)| {
            let ports = sockets.into_iter().map(|((address, port, transport), mut listeners)| {
                listeners.sort_by(|a, b| {
                    (Reverse(&a.hostname), &a.source).cmp(&(Reverse(&b.hostname), &b.source))
                });
                let port = Port { address, port, transport, listeners };
                known(&site, &port).unwrap_or_else(|| Arc::new(port))
            });
            let ports = ports.collect();
            (site, ports)
        };
        ports.into_iter().map(build).collect()
    }
}

fn listener(gateway: &GatewayNode, node: &ListenerNode, places: &Places) -> Listener {
    let termination =
        || TlsTermination { certificates: node.certificates.clone(), client: node.validation.clone() };
    let protocol = match node.protocol {
        Some(Protocol::Https) => ListenerProtocol::Https(termination()),
        Some(Protocol::Tls) if node.terminates => ListenerProtocol::Tls(termination()),
        Some(Protocol::Tls) => ListenerProtocol::TlsPassthrough,
        Some(Protocol::Tcp) => ListenerProtocol::Tcp,
        Some(Protocol::Udp) => ListenerProtocol::Udp,
        Some(Protocol::Http) | None => ListenerProtocol::Http,
    };
    Listener {
        source: node.source.clone(),
        hostname: node.hostname.clone(),
        protocol,
        hosts: places.hosts(&node.id),
        forwards: places.forwards(&node.id),
        filters: node.filters.clone(),
        client_certificate: gateway.client_certificate.clone(),
    }
}

/// Sets or removes an entry; what is as it was stays shared. Returns whether it is another now.
fn set<K: Ord + Clone, V: PartialEq>(map: &mut Shards<K, Arc<V>>, key: &K, value: Option<Arc<V>>) -> bool {
    match (map.get(key), value) {
        (Some(known), Some(value)) if **known == *value => return false,
        (None, None) => return false,
        (_, Some(value)) => map.insert(key.clone(), value),
        (Some(_), None) => map.remove(key),
    };
    true
}
