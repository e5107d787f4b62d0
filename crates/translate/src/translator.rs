//! From one translation to the next, at the cost of what changed.
//!
//! ```text
//! Changes ─► survey (Gateways, sets, listeners)  ─► which parents look different
//!         └► dirty routes ◄── dependents: Service, grants, policies, namespace, parent
//!              │ RouteNode: rules, faults, bindings
//!              ▼
//!            Places: guests of each listener ─► decide ─► shards ─► hosts ─► listeners ─► ports
//! ```

mod tls;
mod x_backends;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portway_api::core::{EndpointSlice, Pod, SERVICE_NAME_LABEL};
use portway_api::object::{KindId, ObjectKey};
use portway_store::{Change, Changes, Resources};

use self::tls::policies_of;
use crate::backend::Dependency;
use crate::backend_tls::Policies;
use crate::condition::Past;
use crate::draft::Draft;
use crate::listener::{ListenerId, ListenerNode};
use crate::place::Places;
use crate::plans::{Plans, Stale};
use crate::problem;
use crate::route::{self, RouteNode, RouteObject};
use crate::status::{Status, Statuses};
use crate::survey::{self, Site, Survey, survey};
use crate::texts::Texts;
use crate::trust::Bundles;
use crate::{Options, Problems, Translation, certificate, class, gateway, listenerset, x_backend};

/// Translates again and again, each time at the cost of what changed since the time before.
///
/// The result is the same, byte for byte, as that of a translation from scratch, but for the times of
/// conditions: those stay while a condition's status stays.
#[derive(Debug, Default)]
pub struct Translator {
    /// What the last translation was of; `None` before the first.
    last: Option<(Resources, Options)>,
    read: BTreeMap<portway_plan::CertificateKey, certificate::Read>,
    bundles: Bundles,
    policies: Policies,
    survey: Survey,
    /// What the survey and the policies asked for with permission.
    wanted: Arc<BTreeSet<ObjectKey>>,
    routes: BTreeMap<ObjectKey, RouteNode>,
    dependents: BTreeMap<Dependency, BTreeSet<ObjectKey>>,
    places: Places,
    plans: Plans,
    texts: Texts,
    statuses: Statuses,
    problems: Problems,
}

/// What one update has to do.
#[derive(Debug, Default)]
struct Work {
    routes: BTreeSet<ObjectKey>,
    /// Policies that changed, or something that they refer to.
    policies: BTreeSet<ObjectKey>,
    /// Policies whose status may have changed.
    judged: BTreeSet<ObjectKey>,
    /// XBackends that may have other statuses.
    x_backends: BTreeSet<ObjectKey>,
    stale: Stale,
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
                routes: route::KINDS.iter().flat_map(|kind| resources.keys(*kind)).collect(),
                policies: resources.keys(KindId::BackendTLSPolicy).into_iter().collect(),
                stale: Stale { survey: true, ..Stale::default() },
                ..Work::default()
            },
            Some((before, told)) => {
                let mut work = self.work(&before, resources, changes);
                let expired = |at: i64| at < options.now.0.unix_timestamp();
                work.stale.survey |=
                    !told.same_but_for_time(options) || self.survey.expires.is_some_and(expired);
                work
            }
        };
        if work.stale.survey {
            self.look_around(resources, options, &mut work);
        }
        self.examine_policies(resources, &mut work);
        self.translate_routes(resources, &mut work);
        if work.stale.survey {
            self.plans.enter_listeners(&self.survey, &mut work.stale);
        }
        work.stale.listeners.extend(self.places.settle());
        let of_backends = (&self.policies, &self.bundles);
        self.plans.build(resources, &self.survey, &self.places, of_backends, &work.stale);
        let stirred = self.places.stirred();
        self.write_statuses(resources, options, &work, &stirred);
        self.last = Some((resources.clone(), options.clone()));
        Translation {
            plan: Arc::clone(&self.plans.shared),
            plans: self.plans.per_gateway.clone(),
            statuses: self.statuses.clone(),
            problems: self.problems.clone(),
            wanted: Arc::clone(&self.wanted),
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
                work.stale.survey |= self.survey.dependencies.contains(dependency);
            };
            match kind {
                KindId::GatewayClass | KindId::GatewayParameters => work.stale.survey = true,
                KindId::Gateway | KindId::ListenerSet => {
                    // Whether a parent exists at all matters to what is said of a route.
                    if change != Change::Changed {
                        of(&Dependency::Parent(key.clone()));
                    }
                    work.stale.survey = true;
                }
                KindId::Namespace => {
                    of(&Dependency::Namespace(Arc::clone(name)));
                    work.stale.survey = true;
                }
                KindId::ReferenceGrant => {
                    of(&Dependency::Grants(Arc::clone(namespace)));
                    work.stale.survey = true;
                }
                KindId::BackendTLSPolicy => {
                    of(&Dependency::BackendTls(Arc::clone(namespace)));
                    work.policies.insert(key.clone());
                }
                KindId::Secret => {
                    let secret = (Arc::clone(namespace), Arc::clone(name));
                    work.stale.survey |=
                        self.survey.secrets.contains(&secret) || self.survey.asked.contains(key);
                    work.policies.extend(self.policies.readers(key).cloned());
                }
                KindId::ConfigMap | KindId::ClusterTrustBundle => {
                    work.stale.survey |= self.survey.asked.contains(key);
                    work.policies.extend(self.policies.readers(key).cloned());
                }
                KindId::Service => {
                    of(&Dependency::Service(Arc::clone(namespace), Arc::clone(name)));
                    self.plans.look_at(*kind, namespace, name, &mut work.stale);
                    work.judged.extend(self.policies.of_service(namespace, name).cloned());
                }
                KindId::EndpointSlice => {
                    for resources in [before, after] {
                        let slice = resources.get::<EndpointSlice>(namespace, name);
                        let service = slice.and_then(|slice| slice.metadata.labels.get(SERVICE_NAME_LABEL));
                        if let Some(service) = service {
                            self.plans.look_at(KindId::Service, namespace, service, &mut work.stale);
                        }
                    }
                }
                KindId::HTTPRoute
                | KindId::GRPCRoute
                | KindId::TLSRoute
                | KindId::TCPRoute
                | KindId::UDPRoute => {
                    work.routes.insert(key.clone());
                }
                KindId::XBackend => {
                    of(&Dependency::XBackend(Arc::clone(namespace), Arc::clone(name)));
                    self.plans.look_at(*kind, namespace, name, &mut work.stale);
                    // Whether pods are to be read may be another.
                    work.stale.survey = true;
                }
                KindId::Pod => {
                    for resources in [before, after] {
                        let Some(pod) = resources.get::<Pod>(namespace, name) else { continue };
                        for backend in x_backend::selecting(after, pod) {
                            self.plans.look_at(KindId::XBackend, namespace, backend, &mut work.stale);
                        }
                    }
                }
                KindId::XBackendTrafficPolicy | KindId::XMesh | KindId::XTelemetryPolicy => {}
            }
        }
        work
    }

    /// Surveys all parents again, and finds out which routes see them differently.
    fn look_around(&mut self, resources: &Resources, options: &Options, work: &mut Work) {
        let planned = |survey: &Survey| -> BTreeSet<(ListenerId, Site)> {
            planned(survey).map(|(site, node)| (node.id.clone(), site.clone())).collect()
        };
        let survey = survey(resources, options, &mut self.read, &mut self.bundles);
        let before = planned(&self.survey);
        let after = planned(&survey);
        for (listener, _) in before.symmetric_difference(&after) {
            work.routes.extend(self.places.guests(listener).cloned());
        }
        let parents: BTreeSet<_> = self.survey.parents.keys().chain(survey.parents.keys()).collect();
        for parent in parents {
            if self.survey.parents.get(parent) != survey.parents.get(parent) {
                let dependents = self.dependents.get(&Dependency::Parent(parent.clone()));
                work.routes.extend(dependents.into_iter().flatten().cloned());
            }
        }
        for (key, secured) in &survey.x_backends {
            if self.survey.x_backends.get(key) != Some(secured) {
                self.plans.look_at(key.kind, &key.namespace, &key.name, &mut work.stale);
            }
        }
        self.survey = survey;
    }

    fn translate_routes(&mut self, resources: &Resources, work: &mut Work) {
        let mut drafts: BTreeMap<ObjectKey, Draft> = BTreeMap::new();
        for key in &work.routes {
            if let Some(before) = self.routes.remove(key) {
                self.places.leave(&before);
                self.forget(&before, &mut work.stale);
                work.judged.extend(policies_of(&self.policies, &before).cloned());
                work.x_backends.extend(x_backend::referred(&before));
            }
            let Some(object) = RouteObject::get(resources, key) else { continue };
            let (mut node, mut draft) = RouteNode::new(object, &self.survey.parents, resources);
            self.texts.share(&mut draft);
            self.texts.share_names(&mut node);
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
        for node in work.routes.iter().filter_map(|key| self.routes.get(key)) {
            work.judged.extend(policies_of(&self.policies, node).cloned());
            work.x_backends.extend(x_backend::referred(node));
        }
        let planned: BTreeMap<&ListenerId, &Site> =
            planned(&self.survey).map(|(site, node)| (&node.id, site)).collect();
        for key in &work.routes {
            let Some(node) = self.routes.get(key) else { continue };
            let draft = drafts.remove(key).unwrap_or_else(|| {
                let mut draft = node.object.draft(resources);
                self.texts.share(&mut draft);
                draft
            });
            self.places.clear(node);
            let serves = self.places.fill(node, &draft, |listener| planned.contains_key(listener));
            let mut now: BTreeSet<Site> = BTreeSet::new();
            if serves {
                let stays = |listener: &&ListenerId| self.places.rival(listener, node).is_none();
                let listeners = node.bindings().into_keys().filter(stays);
                now.extend(listeners.filter_map(|listener| planned.get(listener).copied().cloned()));
            }
            self.plans.enter(node, now, &mut work.stale);
        }
        self.texts.sweep();
    }

    /// Takes back what a route left in the indexes.
    fn forget(&mut self, node: &RouteNode, stale: &mut Stale) {
        let key = node.object.key();
        for dependency in &node.dependencies {
            if let Some(routes) = self.dependents.get_mut(dependency) {
                routes.remove(key);
                if routes.is_empty() {
                    self.dependents.remove(dependency);
                }
            }
        }
        self.plans.leave(node, stale);
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
        self.write_policies(resources, options, work);
        self.write_x_backends(resources, options, work);
        let touched: BTreeSet<&ObjectKey> = stirred.iter().map(|listener| &listener.parent).collect();
        if work.stale.survey {
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
            .filter(|key| {
                !route::KINDS.contains(&key.kind)
                    && !matches!(key.kind, KindId::BackendTLSPolicy | KindId::XBackend)
            })
            .filter(|key| !known.contains(*key))
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

/// The listeners that are in plans, each with whose plan that is.
fn planned(survey: &Survey) -> impl Iterator<Item = (&Site, &ListenerNode)> {
    survey::planned(&survey.gateways).map(|(gateway, node)| (&gateway.site, node))
}
