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
    BackendKey, Listener, ListenerProtocol, ObjectRef, Plan, Port, Shards, TlsTermination, Transport,
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
use crate::survey::{Survey, survey};
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
    /// How many routes in the plan send to a backend.
    users: BTreeMap<BackendKey, usize>,
    /// The routes that count in `users`.
    in_plan: BTreeSet<ObjectKey>,
    listeners: BTreeMap<ListenerId, Arc<Listener>>,
    plan: Arc<Plan>,
    statuses: Statuses,
    problems: Problems,
}

/// What one update has to do.
#[derive(Debug, Default)]
struct Work {
    survey: bool,
    routes: BTreeSet<ObjectKey>,
    /// Backends that joined, left or are to be looked at again.
    backends: BTreeSet<BackendKey>,
    /// Listeners whose hosts changed.
    listeners: BTreeSet<ListenerId>,
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
            plans: Shards::default(),
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
                    work.backends.extend(self.backends_of(namespace, name));
                }
                KindId::EndpointSlice => {
                    for resources in [before, after] {
                        let slice = resources.get::<EndpointSlice>(namespace, name);
                        let service = slice.and_then(|slice| slice.metadata.labels.get(SERVICE_NAME_LABEL));
                        work.backends
                            .extend(service.into_iter().flat_map(|name| self.backends_of(namespace, name)));
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

    /// The backends in the plan that are ports of a Service.
    fn backends_of(&self, namespace: &str, name: &str) -> impl Iterator<Item = BackendKey> + use<'_> {
        let object = ObjectRef { kind: "Service".into(), namespace: namespace.into(), name: name.into() };
        let first = BackendKey { object: object.clone(), port: 0, transport: Transport::Tcp };
        let last = BackendKey { object, port: u16::MAX, transport: Transport::Udp };
        self.users.range(first..=last).map(|(key, _)| key.clone())
    }

    /// Surveys all parents again, and finds out which routes see them differently.
    fn look_around(&mut self, resources: &Resources, options: &Options, work: &mut Work) {
        let planned = |survey: &Survey| -> BTreeSet<ListenerId> {
            planned(survey).map(|node| node.id.clone()).collect()
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
        let planned: BTreeSet<&ListenerId> = planned(&self.survey).map(|node| &node.id).collect();
        for key in &work.routes {
            let Some(node) = self.routes.get(key) else { continue };
            let draft = drafts.remove(key).unwrap_or_else(|| node.object.draft(resources));
            self.places.clear(node);
            let serves = self.places.fill(node, &draft, |listener| planned.contains(listener));
            let served = self.in_plan.contains(key);
            if serves && !served {
                self.in_plan.insert(key.clone());
                for backend in &node.backends {
                    *self.users.entry(backend.clone()).or_default() += 1;
                    work.backends.insert(backend.clone());
                }
            } else if served && !serves {
                release(&mut self.users, node, &mut work.backends);
                self.in_plan.remove(key);
            }
        }
    }

    /// Takes back what a route left in the indexes.
    fn forget(&mut self, node: &RouteNode, backends: &mut BTreeSet<BackendKey>) {
        let key = node.object.key();
        for dependency in &node.dependencies {
            if let Some(routes) = self.dependents.get_mut(dependency) {
                routes.remove(key);
                if routes.is_empty() {
                    self.dependents.remove(dependency);
                }
            }
        }
        if self.in_plan.remove(key) {
            release(&mut self.users, node, backends);
        }
    }

    /// Builds the plan, sharing all that is as it was.
    fn build(&mut self, resources: &Resources, work: &Work) {
        if !work.survey && work.listeners.is_empty() && work.backends.is_empty() {
            return;
        }
        let mut plan = Plan::clone(&self.plan);
        if work.survey || !work.listeners.is_empty() {
            plan.ports = self.ports(work);
        }
        if work.survey && plan.certificates != self.survey.certificates {
            plan.certificates = self.survey.certificates.clone();
        }
        for key in &work.backends {
            let used = self.users.contains_key(key);
            let backend = used.then(|| backend::describe(resources, key));
            set(&mut plan.backends, key, backend);
            let endpoints = used.then(|| backend::locate(resources, key));
            set(&mut plan.endpoints, key, endpoints.filter(|endpoints| !endpoints.list.is_empty()));
        }
        self.plan = Arc::new(plan);
    }

    fn ports(&mut self, work: &Work) -> Vec<Arc<Port>> {
        let mut ports: BTreeMap<(Option<IpAddr>, u16, Transport), Vec<Arc<Listener>>> = BTreeMap::new();
        let mut listeners = BTreeMap::new();
        let gateways = self.survey.gateways.iter().filter(|node| gateway::obstacle(node).is_none());
        for gateway in gateways {
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
        self.listeners = listeners;
        let known = |port: &Port| {
            let place = |port: &Port| (port.address, port.port, port.transport);
            let known = self.plan.ports.binary_search_by_key(&place(port), |known| place(known)).ok();
            known.map(|at| &self.plan.ports[at]).filter(|known| ***known == *port).cloned()
        };
        ports
            .into_iter()
            .map(|((address, port, transport), mut listeners)| {
                listeners.sort_by(|a, b| {
                    (Reverse(&a.hostname), &a.source).cmp(&(Reverse(&b.hostname), &b.source))
                });
                let port = Port { address, port, transport, listeners };
                known(&port).unwrap_or_else(|| Arc::new(port))
            })
            .collect()
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

/// Sets or removes an entry; what is as it was stays shared.
fn set<K: Ord + Clone, V: PartialEq>(map: &mut Shards<K, Arc<V>>, key: &K, value: Option<V>) {
    match (map.get(key), value) {
        (Some(known), Some(value)) if **known == value => {}
        (_, Some(value)) => {
            map.insert(key.clone(), Arc::new(value));
        }
        (Some(_), None) => {
            map.remove(key);
        }
        (None, None) => {}
    }
}

/// The listeners that are in the plan.
fn planned(survey: &Survey) -> impl Iterator<Item = &ListenerNode> {
    survey
        .gateways
        .iter()
        .filter(|node| gateway::obstacle(node).is_none())
        .flat_map(|node| node.merged().filter(|listener| listener.is_valid()))
}

/// A route no longer sends to its backends.
fn release(users: &mut BTreeMap<BackendKey, usize>, node: &RouteNode, backends: &mut BTreeSet<BackendKey>) {
    for backend in &node.backends {
        if let Some(count) = users.get_mut(backend) {
            *count -= 1;
            if *count == 0 {
                users.remove(backend);
            }
        }
        backends.insert(backend.clone());
    }
}
