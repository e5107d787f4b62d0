//! From one translation to the next, at the cost of what changed.
//!
//! ```text
//! Changes ─► survey (Gateways, sets, listeners)  ─► which parents look different
//!         └► dirty routes ◄── dependents: Service, grants, policies, namespace, parent
//!              │ RouteNode: rules, faults, bindings
//!              ▼
//!            Places: guests of each listener ─► decide ─► shards ─► hosts ─► listeners ─► ports
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use portway_api::core::{EndpointSlice, SERVICE_NAME_LABEL};
use portway_api::object::{KindId, ObjectKey};
use portway_plan::{
    Backend, BackendKey, Endpoints, Listener, ListenerProtocol, ObjectRef, Plan, Port, Shards,
    TlsTermination, Transport,
};
use portway_store::{Change, Changes, Resources};

use crate::backend::{self, Dependency};
use crate::condition::Past;
use crate::draft::Draft;
use crate::listener::{ListenerId, ListenerNode, Protocol};
use crate::place::Places;
use crate::problem;
use crate::route::{self, RouteNode, RouteObject};
use crate::status::{Status, Statuses};
use crate::survey::{Site, Survey, survey};
use crate::{Options, Problems, Translation, certificate, class, gateway, listenerset};

/// Translates again and again, each time at the cost of what changed since the time before.
///
/// The result is the same, byte for byte, as that of a translation from scratch, but for the times of
/// conditions: those stay while a condition's status stays.
#[derive(Debug, Default)]
pub struct Translator {
    /// What the last translation was of; `None` before the first.
    last: Option<(Resources, Options)>,
    read: BTreeMap<portway_plan::CertificateKey, certificate::Read>,
    survey: Survey,
    routes: BTreeMap<ObjectKey, RouteNode>,
    dependents: BTreeMap<Dependency, BTreeSet<ObjectKey>>,
    places: Places,
    /// How many routes in each plan send to a backend.
    users: BTreeMap<BackendKey, BTreeMap<Site, usize>>,
    /// The plans that routes are in, and count in `users` for.
    in_plan: BTreeMap<ObjectKey, BTreeSet<Site>>,
    listeners: BTreeMap<ListenerId, Arc<Listener>>,
    /// With [`Layout::Shared`].
    plan: Arc<Plan>,
    /// With [`Layout::PerGateway`].
    plans: Shards<ObjectKey, Arc<Plan>>,
    statuses: Statuses,
    problems: Problems,
}

/// What one update has to do.
#[derive(Debug, Default)]
struct Work {
    survey: bool,
    routes: BTreeSet<ObjectKey>,
    /// Backends that joined plans, left them, or are to be looked at again in them.
    backends: BTreeMap<BackendKey, BTreeSet<Site>>,
    /// Listeners whose hosts changed.
    listeners: BTreeSet<ListenerId>,
}

/// An address and port to bind.
type Socket = (Option<IpAddr>, u16, Transport);

/// What a plan has of a backend.
type BackendParts = (Option<Arc<Backend>>, Option<Arc<Endpoints>>);

impl Work {
    fn look_at<'b>(&mut self, backends: impl Iterator<Item = (&'b BackendKey, &'b BTreeMap<Site, usize>)>) {
        for (key, sites) in backends {
            self.backends.entry(key.clone()).or_default().extend(sites.keys().cloned());
        }
    }
}

impl Translator {
    /// A translator that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Translates `resources`, of which only `changes` are different from the time before. The first time,
    /// everything is translated, whatever `changes` says.
    pub fn update(&mut self, resources: &Resources, changes: &Changes, options: &Options) -> Translation {
        if self.last.as_ref().is_some_and(|(_, told)| told.layout.is_other_kind(&options.layout)) {
            *self = Self::new();
        }
        let mut work = match self.last.take() {
            None => Work {
                survey: true,
                routes: route::KINDS.iter().flat_map(|kind| resources.keys(*kind)).collect(),
                ..Work::default()
            },
            Some((before, told)) => {
                let mut work = self.work(&before, resources, changes);
                let expired = |at: i64| at < options.now.0.unix_timestamp();
                work.survey |= !told.same_but_for_time(options) || self.survey.expires.is_some_and(expired);
                work
            }
        };
        if work.survey {
            self.look_around(resources, options, &mut work);
        }
        self.translate_routes(resources, &mut work);
        work.listeners.extend(self.places.settle());
        self.build(resources, &work);
        let stirred = self.places.stirred();
        self.write_statuses(resources, options, &work, &stirred);
        self.last = Some((resources.clone(), options.clone()));
        Translation {
            plan: Arc::clone(&self.plan),
            plans: self.plans.clone(),
            statuses: self.statuses.clone(),
            problems: self.problems.clone(),
            wanted: Arc::clone(&self.survey.wanted),
            expires: self.survey.expires,
        }
    }

    /// What follows from the changes.
    fn work(&self, before: &Resources, after: &Resources, changes: &Changes) -> Work {
        let mut work = Work::default();
        for (key, change) in changes.iter() {
            let ObjectKey { kind, namespace, name } = key;
            let mut of = |dependency: &Dependency| {
                work.routes.extend(self.dependents.get(dependency).into_iter().flatten().cloned());
            };
            match kind {
                KindId::GatewayClass => work.survey = true,
                KindId::Gateway | KindId::ListenerSet => {
                    // Whether a parent exists at all matters to what is said of a route.
                    if change != Change::Changed {
                        of(&Dependency::Parent(key.clone()));
                    }
                    work.survey = true;
                }
                KindId::Namespace => {
                    of(&Dependency::Namespace(Arc::clone(name)));
                    work.survey = true;
                }
                KindId::ReferenceGrant => {
                    of(&Dependency::Grants(Arc::clone(namespace)));
                    work.survey = true;
                }
                KindId::BackendTLSPolicy => of(&Dependency::BackendTls(Arc::clone(namespace))),
                KindId::Secret => {
                    let secret = (Arc::clone(namespace), Arc::clone(name));
                    work.survey |= self.survey.secrets.contains(&secret);
                }
                KindId::Service => {
                    of(&Dependency::Service(Arc::clone(namespace), Arc::clone(name)));
                    work.look_at(self.backends_of(namespace, name));
                }
                KindId::EndpointSlice => {
                    for resources in [before, after] {
                        let slice = resources.get::<EndpointSlice>(namespace, name);
                        let service = slice.and_then(|slice| slice.metadata.labels.get(SERVICE_NAME_LABEL));
                        work.look_at(service.into_iter().flat_map(|name| self.backends_of(namespace, name)));
                    }
                }
                KindId::HTTPRoute
                | KindId::GRPCRoute
                | KindId::TLSRoute
                | KindId::TCPRoute
                | KindId::UDPRoute => {
                    work.routes.insert(key.clone());
                }
                KindId::XBackend
                | KindId::XBackendTrafficPolicy
                | KindId::XMesh
                | KindId::XTelemetryPolicy
                | KindId::GatewayParameters
                | KindId::ConfigMap
                | KindId::ClusterTrustBundle => {}
            }
        }
        work
    }

    /// The backends in plans that are ports of a Service, and the plans that they are in.
    fn backends_of(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Iterator<Item = (&BackendKey, &BTreeMap<Site, usize>)> + use<'_> {
        let object = ObjectRef { kind: "Service".into(), namespace: namespace.into(), name: name.into() };
        let first = BackendKey { object: object.clone(), port: 0, transport: Transport::Tcp };
        let last = BackendKey { object, port: u16::MAX, transport: Transport::Udp };
        self.users.range(first..=last)
    }

    /// Surveys all parents again, and finds out which routes see them differently.
    fn look_around(&mut self, resources: &Resources, options: &Options, work: &mut Work) {
        let planned = |survey: &Survey| -> BTreeSet<ListenerId> {
            planned(survey).map(|(_, node)| node.id.clone()).collect()
        };
        let survey = survey(resources, options, &mut self.read);
        let before = planned(&self.survey);
        let after = planned(&survey);
        for listener in before.symmetric_difference(&after) {
            work.routes.extend(self.places.guests(listener).cloned());
        }
        let parents: BTreeSet<_> = self.survey.parents.keys().chain(survey.parents.keys()).collect();
        for parent in parents {
            if self.survey.parents.get(parent) != survey.parents.get(parent) {
                let dependents = self.dependents.get(&Dependency::Parent(parent.clone()));
                work.routes.extend(dependents.into_iter().flatten().cloned());
            }
        }
        self.survey = survey;
    }

    fn translate_routes(&mut self, resources: &Resources, work: &mut Work) {
        let mut drafts: BTreeMap<ObjectKey, Draft> = BTreeMap::new();
        for key in &work.routes {
            if let Some(before) = self.routes.remove(key) {
                self.places.leave(&before);
                self.forget(&before, &mut work.backends);
            }
            let Some(object) = RouteObject::get(resources, key) else { continue };
            let (node, draft) = RouteNode::new(object, &self.survey.parents, resources);
            for dependency in &node.dependencies {
                self.dependents.entry(dependency.clone()).or_default().insert(key.clone());
            }
            self.places.enter(&node);
            self.routes.insert(key.clone(), node);
            drafts.insert(key.clone(), draft);
        }
        for key in self.places.decide() {
            work.routes.insert(key);
        }
        if work.routes.is_empty() {
            return;
        }
        let planned: BTreeMap<&ListenerId, &Site> =
            planned(&self.survey).map(|(site, node)| (&node.id, site)).collect();
        for key in &work.routes {
            let Some(node) = self.routes.get(key) else { continue };
            let draft = drafts.remove(key).unwrap_or_else(|| node.object.draft(resources));
            self.places.clear(node);
            let serves = self.places.fill(node, &draft, |listener| planned.contains_key(listener));
            let mut now: BTreeSet<Site> = BTreeSet::new();
            if serves {
                let stays = |listener: &&ListenerId| self.places.rival(listener, node).is_none();
                let listeners = node.bindings().into_keys().filter(stays);
                now.extend(listeners.filter_map(|listener| planned.get(listener).copied().cloned()));
            }
            let before = self.in_plan.get(key).cloned().unwrap_or_default();
            for site in now.difference(&before) {
                for backend in &node.backends {
                    *self.users.entry(backend.clone()).or_default().entry(site.clone()).or_default() += 1;
                    work.backends.entry(backend.clone()).or_default().insert(site.clone());
                }
            }
            release(&mut self.users, node, before.difference(&now), &mut work.backends);
            if now.is_empty() {
                self.in_plan.remove(key);
            } else {
                self.in_plan.insert(key.clone(), now);
            }
        }
    }

    /// Takes back what a route left in the indexes.
    fn forget(&mut self, node: &RouteNode, backends: &mut BTreeMap<BackendKey, BTreeSet<Site>>) {
        let key = node.object.key();
        for dependency in &node.dependencies {
            if let Some(routes) = self.dependents.get_mut(dependency) {
                routes.remove(key);
                if routes.is_empty() {
                    self.dependents.remove(dependency);
                }
            }
        }
        let sites = self.in_plan.remove(key).unwrap_or_default();
        release(&mut self.users, node, &sites, backends);
    }

    /// Builds the plans anew that change, sharing all that is as it was.
    fn build(&mut self, resources: &Resources, work: &Work) {
        if !work.survey && work.listeners.is_empty() && work.backends.is_empty() {
            return;
        }
        let mut sites: BTreeSet<Site> =
            work.listeners.iter().filter_map(|listener| self.survey.site(listener).cloned()).collect();
        if work.survey {
            let accepted = self.survey.gateways.iter().filter(|node| gateway::obstacle(node).is_none());
            sites = accepted.map(|node| node.site.clone()).collect();
            // Whose last Gateway is gone has nothing to serve any more.
            if self.plan != Arc::default() {
                sites.insert(None);
            }
            let gone = self.plans.keys().filter(|gateway| !sites.contains(&Some((*gateway).clone())));
            for gateway in gone.cloned().collect::<Vec<_>>() {
                self.plans.remove(&gateway);
            }
        }
        let mut ports = self.ports(work, &sites);
        let mut backends: BTreeMap<&Site, Vec<(&BackendKey, BackendParts)>> = BTreeMap::new();
        for (key, sites) in &work.backends {
            let parts = || {
                let endpoints = backend::locate(resources, key);
                let endpoints = (!endpoints.list.is_empty()).then(|| Arc::new(endpoints));
                (Some(Arc::new(backend::describe(resources, key))), endpoints)
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
        let there = |site: &&Site| site.as_ref().is_none_or(|gateway| self.plans.contains_key(gateway));
        sites.extend(backends.keys().copied().filter(there).cloned());
        for site in &sites {
            let known = match site {
                None => Some(&self.plan),
                Some(gateway) => self.plans.get(gateway),
            };
            let mut plan = known.map(|known| Plan::clone(known)).unwrap_or_default();
            let mut changed = known.is_none();
            if let Some(ports) = ports.remove(site).filter(|ports| *ports != plan.ports) {
                (plan.ports, changed) = (ports, true);
            }
            if work.survey {
                let certificates = self.survey.certificates.get(site).cloned().unwrap_or_default();
                if plan.certificates != certificates {
                    (plan.certificates, changed) = (certificates, true);
                }
            }
            for (key, (backend, endpoints)) in backends.remove(site).unwrap_or_default() {
                changed |= set(&mut plan.backends, key, backend);
                changed |= set(&mut plan.endpoints, key, endpoints);
            }
            if !changed {
                continue;
            }
            match site {
                None => self.plan = Arc::new(plan),
                Some(gateway) => {
                    self.plans.insert(gateway.clone(), Arc::new(plan));
                }
            }
        }
    }

    /// The ports of some plans; of all there are, after a survey.
    fn ports(&mut self, work: &Work, sites: &BTreeSet<Site>) -> BTreeMap<Site, Vec<Arc<Port>>> {
        let mut ports: BTreeMap<Site, BTreeMap<Socket, Vec<Arc<Listener>>>> =
            sites.iter().map(|site| (site.clone(), BTreeMap::new())).collect();
        let mut listeners = BTreeMap::new();
        let gateways = self.survey.gateways.iter().filter(|node| gateway::obstacle(node).is_none());
        for gateway in gateways {
            let Some(ports) = ports.get_mut(&gateway.site) else { continue };
            for node in gateway.merged().filter(|node| node.is_valid()) {
                let known = self.listeners.get(&node.id);
                let listener = match known {
                    Some(known) if !work.survey && !work.listeners.contains(&node.id) => Arc::clone(known),
                    _ => {
                        let listener = self.listener(node);
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
        if work.survey {
            self.listeners = listeners;
        } else {
            self.listeners.extend(listeners);
        }
        let known = |site: &Site, port: &Port| {
            let plan = match site {
                None => &self.plan,
                Some(gateway) => self.plans.get(gateway)?,
            };
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

    fn listener(&self, node: &ListenerNode) -> Listener {
        let termination = || TlsTermination::new(node.certificates.clone());
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
            hosts: self.places.hosts(&node.id),
            forwards: self.places.forwards(&node.id),
            filters: Vec::new(),
            client_certificate: None,
        }
    }

    fn write_statuses(
        &mut self,
        resources: &Resources,
        options: &Options,
        work: &Work,
        stirred: &BTreeSet<ListenerId>,
    ) {
        // Most routes of a parent are told the same, and one status serves for all of them.
        let mut last: Option<Arc<Status>> = None;
        for key in &work.routes {
            let node = self.routes.get(key);
            let said = self.statuses.get(key).cloned();
            let status = node.and_then(|node| {
                let rival = |listener: &ListenerId| self.places.rival(listener, node);
                node.status(options, said.as_deref().and_then(Status::route), rival)
            });
            let problems = node.map(|node| {
                problem::of_route(node, resources, &self.survey, |listener| self.places.rival(listener, node))
            });
            let status = status.map(Status::Route).map(|status| match &last {
                Some(last) if **last == status => Arc::clone(last),
                _ => Arc::new(status),
            });
            last.clone_from(&status);
            self.statuses.set(key, status);
            self.problems.set(key, problems.unwrap_or_default());
        }
        let touched: BTreeSet<&ObjectKey> = stirred.iter().map(|listener| &listener.parent).collect();
        if work.survey {
            self.write_parents(resources, options);
        } else {
            self.write_touched(options, &touched);
        }
    }

    /// The statuses of all classes, Gateways and sets, after a survey.
    fn write_parents(&mut self, resources: &Resources, options: &Options) {
        let mut known: BTreeSet<ObjectKey> = BTreeSet::new();
        for class in self.survey.classes.values() {
            let object = &class.object;
            let said = self.statuses.get(&object.key).cloned();
            let said = match said.as_deref() {
                Some(Status::GatewayClass(status)) => Some(status),
                _ => None,
            };
            let past = Past { said, object: object.object.status.as_ref() };
            let status = class::status(class, options, past);
            self.statuses.set(&object.key, Some(Arc::new(Status::GatewayClass(status))));
            self.problems.set(&object.key, problem::of_class(class));
            known.insert(object.key.clone());
        }
        let gateways: Vec<_> = self.survey.gateways.iter().map(|node| node.object.key.clone()).collect();
        for gateway in gateways {
            known.insert(gateway.clone());
            known.extend(self.write_gateway(&gateway, options, |_| true));
        }
        let strangers = problem::of_strangers(resources, &self.survey);
        known.extend(strangers.iter().map(|(key, _)| key.clone()));
        for (key, problems) in strangers {
            self.statuses.set(&key, None);
            self.problems.set(&key, problems);
        }
        let gone: Vec<_> = self
            .statuses
            .iter()
            .map(|(key, _)| key)
            .chain(self.problems.keys())
            .filter(|key| !route::KINDS.contains(&key.kind) && !known.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.statuses.set(&key, None);
            self.problems.set(&key, Vec::new());
        }
    }

    /// The statuses of the Gateways and sets on whose listeners routes came or went.
    fn write_touched(&mut self, options: &Options, touched: &BTreeSet<&ObjectKey>) {
        let mut gateways = BTreeSet::new();
        for parent in touched {
            if self.survey.places.contains_key(*parent) {
                gateways.insert((*parent).clone());
            } else if let Some(gateway) = self.survey.owners.get(*parent) {
                gateways.insert(gateway.clone());
            }
        }
        for gateway in gateways {
            self.write_gateway(&gateway, options, |key| touched.contains(key));
        }
    }

    /// The statuses of a Gateway and its sets, as far as they are `wanted`. Returns the keys of its sets.
    fn write_gateway(
        &mut self,
        key: &ObjectKey,
        options: &Options,
        wanted: impl Fn(&ObjectKey) -> bool,
    ) -> Vec<ObjectKey> {
        let Some(node) = self.survey.places.get(key).and_then(|at| self.survey.gateways.get(*at)) else {
            return Vec::new();
        };
        let attached = |listener: &ListenerNode| self.places.attached(&listener.id);
        if wanted(key) {
            let said = self.statuses.get(key).cloned();
            let said = match said.as_deref() {
                Some(Status::Gateway(status)) => Some(status),
                _ => None,
            };
            let past = Past { said, object: node.object.object.status.as_ref() };
            let status = gateway::status(node, options, past, attached);
            self.statuses.set(key, Some(Arc::new(Status::Gateway(status))));
            self.problems.set(key, problem::of_gateway(node));
        }
        for set in node.sets.iter().filter(|set| wanted(&set.object.key)) {
            let said = self.statuses.get(&set.object.key).cloned();
            let said = match said.as_deref() {
                Some(Status::ListenerSet(status)) => Some(status),
                _ => None,
            };
            let past = Past { said, object: set.object.object.status.as_ref() };
            let status = listenerset::status(set, node, options, past, attached);
            self.statuses.set(&set.object.key, Some(Arc::new(Status::ListenerSet(status))));
            self.problems.set(&set.object.key, problem::of_set(set));
        }
        node.sets.iter().map(|set| set.object.key.clone()).collect()
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

/// The listeners that are in plans, each with whose plan that is.
fn planned(survey: &Survey) -> impl Iterator<Item = (&Site, &ListenerNode)> {
    survey.gateways.iter().filter(|node| gateway::obstacle(node).is_none()).flat_map(|node| {
        let listeners = node.merged().filter(|listener| listener.is_valid());
        listeners.map(|listener| (&node.site, listener))
    })
}

/// A route no longer sends to its backends, as far as some plans go.
fn release<'s>(
    users: &mut BTreeMap<BackendKey, BTreeMap<Site, usize>>,
    node: &RouteNode,
    sites: impl IntoIterator<Item = &'s Site>,
    backends: &mut BTreeMap<BackendKey, BTreeSet<Site>>,
) {
    for site in sites {
        for backend in &node.backends {
            if let Some(counts) = users.get_mut(backend) {
                if let Some(count) = counts.get_mut(site) {
                    *count -= 1;
                    if *count == 0 {
                        counts.remove(site);
                    }
                }
                if counts.is_empty() {
                    users.remove(backend);
                }
            }
            backends.entry(backend.clone()).or_default().insert(site.clone());
        }
    }
}
