//! What a translation keeps of TLS towards backends: policies, who they are about, and whom they trust.

use std::collections::BTreeSet;
use std::sync::Arc;

use portway_api::object::{KindId, ObjectKey};
use portway_store::Resources;

use super::{Translator, Work};
use crate::backend::Dependency;
use crate::backend_tls::{Policies, ServiceName};
use crate::route::RouteNode;
use crate::status::Status;
use crate::{Options, problem};

impl Translator {
    /// Examines the policies that changed: all that they target or targeted is to be described anew.
    pub(super) fn examine_policies(&mut self, resources: &Resources, work: &mut Work) {
        if work.policies.is_empty() && !work.stale.survey {
            return;
        }
        let services = self.policies.update(resources, &work.policies, &mut self.bundles);
        for (namespace, name) in &services {
            self.plans.look_at(KindId::Service, namespace, name, &mut work.stale);
            work.judged.extend(self.policies.of_service(namespace, name).cloned());
        }
        work.judged.extend(work.policies.iter().cloned());
        if work.stale.survey {
            // Which Gateway a ListenerSet is of shows in no route.
            work.judged.extend(self.policies.keys().cloned());
        }
        work.stale.trust = true;
        let (survey, policies) = (&self.survey, &self.policies);
        self.bundles.retain(|key| survey.asked.contains(key) || policies.asks(key));
        let wanted: BTreeSet<_> = survey.wanted.iter().chain(policies.asked()).cloned().collect();
        if *self.wanted != wanted {
            self.wanted = Arc::new(wanted);
        }
    }

    /// The statuses of the policies that may have others now.
    pub(super) fn write_policies(&mut self, resources: &Resources, options: &Options, work: &Work) {
        for key in &work.judged {
            let said = self.statuses.get(key).cloned();
            let said = said.as_deref().and_then(Status::policy);
            let senders = |service: &ServiceName| self.senders(service);
            let status = self.policies.status(key, resources, options, said, senders);
            self.statuses.set(key, status.map(|status| Arc::new(Status::Policy(status))));
            self.problems.set(key, problem::of_policy(&self.policies, key, resources));
        }
    }

    /// The Gateways whose routes send to a Service in ways that BackendTLSPolicies are for.
    fn senders(&self, (namespace, name): &ServiceName) -> BTreeSet<ObjectKey> {
        let dependency = Dependency::Service(Arc::clone(namespace), Arc::clone(name));
        self.gateways_of(&dependency, &[KindId::HTTPRoute, KindId::GRPCRoute, KindId::TLSRoute])
    }

    /// The Gateways that have routes of these kinds which depend on something.
    pub(super) fn gateways_of(&self, dependency: &Dependency, kinds: &[KindId]) -> BTreeSet<ObjectKey> {
        let routes = self.dependents.get(dependency).into_iter().flatten();
        routes
            .filter(|key| kinds.contains(&key.kind))
            .filter_map(|key| self.routes.get(key))
            .flat_map(|node| node.bindings().into_keys().map(move |listener| (node, listener)))
            .filter(|(node, listener)| self.places.rival(listener, node).is_none())
            .filter_map(|(_, listener)| match listener.parent.kind {
                KindId::Gateway => Some(listener.parent.clone()),
                _ => self.survey.owners.get(&listener.parent).cloned(),
            })
            .collect()
    }
}

/// The policies for the Services that a route refers to.
pub(super) fn policies_of<'p>(
    policies: &'p Policies,
    node: &'p RouteNode,
) -> impl Iterator<Item = &'p ObjectKey> {
    let services = node.dependencies.iter().filter_map(|dependency| match dependency {
        Dependency::Service(namespace, name) => Some(policies.of_service(namespace, name)),
        _ => None,
    });
    services.flatten()
}
