//! What must be told where nobody looks at statuses, on one machine: everything that keeps an object from
//! doing what it asks for, with the field that is to blame.

use std::sync::Arc;

use portway_api::gateway::{Gateway, GatewayClass, ListenerSet, XBackend};
use portway_api::object::ObjectKey;
use portway_plan::Shards;
use portway_store::{Resources, Stored};
use serde::Serialize;

use crate::backend_tls::Policies;
use crate::class::ClassNode;
use crate::condition::Finding;
use crate::listener::{ListenerId, ListenerNode};
use crate::route::RouteNode;
use crate::survey::{GatewayNode, SetNode, Survey};
use crate::x_backend::{self, Secured};
use crate::{attach, listenerset};

/// Something that keeps an object from doing what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The field path in the object, such as `spec.rules[0].backendRefs[1]`; empty for the object as a whole.
    pub path: String,
    /// The reason, as conditions have it: `BackendNotFound`.
    pub reason: String,
    /// The sentence for people.
    pub message: String,
}

/// All problems, by the object that has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Shards<ObjectKey, Arc<[Problem]>>);

impl Problems {
    /// The problems of an object.
    pub fn of(&self, key: &ObjectKey) -> &[Problem] {
        self.0.get(key).map(|problems| &**problems).unwrap_or_default()
    }

    /// All problems, in order of kind, namespace and name of their objects.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Problem)> {
        self.0.iter().flat_map(|(key, problems)| problems.iter().map(move |problem| (key, problem)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The objects that have any.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.0.keys()
    }

    pub(crate) fn set(&mut self, key: &ObjectKey, problems: Vec<Problem>) {
        if *self.of(key) == *problems {
            return;
        }
        if problems.is_empty() {
            self.0.remove(key);
        } else {
            self.0.insert(key.clone(), problems.into());
        }
    }
}

impl From<&Finding> for Problem {
    fn from(finding: &Finding) -> Self {
        Self {
            path: finding.path.clone(),
            reason: finding.reason.to_owned(),
            message: finding.message.clone(),
        }
    }
}

fn ignored(paths: &[String]) -> impl Iterator<Item = Problem> {
    paths.iter().map(|path| Problem {
        path: path.clone(),
        reason: "NotSupported".to_owned(),
        message: format!("this version of Portway does nothing about {path}"),
    })
}

pub(crate) fn of_class(class: &ClassNode) -> Vec<Problem> {
    class.refused.iter().map(Problem::from).collect()
}

fn of_listener(node: &ListenerNode) -> Vec<Problem> {
    let mut problems: Vec<Problem> =
        node.refused.iter().chain(&node.conflict).chain(&node.unresolved).map(Problem::from).collect();
    let path = node.source.path.to_string();
    if let Some(why) = &node.unavailable {
        let reason = "PortUnavailable".to_owned();
        problems.push(Problem { path: format!("{path}.port"), reason, message: why.clone() });
    } else if let Some(why) = &node.failed {
        problems.push(Problem { path, reason: "Invalid".to_owned(), message: why.clone() });
    }
    problems.extend(ignored(&node.ignored));
    problems
}

pub(crate) fn of_gateway(node: &GatewayNode) -> Vec<Problem> {
    let own = node.refused.iter().chain(&node.unusable).chain(&node.unresolved).map(Problem::from);
    own.chain(ignored(&node.ignored)).chain(node.listeners.iter().flat_map(of_listener)).collect()
}

pub(crate) fn of_set(set: &SetNode) -> Vec<Problem> {
    match &set.refused {
        Some(finding) => vec![finding.into()],
        None => set.listeners.iter().flat_map(of_listener).collect(),
    }
}

/// Problems of Gateways that no class takes and of ListenerSets without a Gateway, which have no status that
/// could tell.
pub(crate) fn of_strangers(resources: &Resources, survey: &Survey) -> Vec<(ObjectKey, Vec<Problem>)> {
    let gateways = resources.all::<Gateway>().filter_map(|gateway| {
        let class = &gateway.spec.gateway_class_name;
        resources.get::<GatewayClass>("", class).is_none().then(|| {
            let message = format!("there is no GatewayClass {class}, so nobody serves the Gateway");
            (gateway.key.clone(), "spec.gatewayClassName", message)
        })
    });
    let sets = resources.all::<ListenerSet>().filter_map(|set| {
        let gateway = listenerset::gateway_key(set)?;
        let exists = survey.places.contains_key(&gateway) || resources.any(&gateway).is_some();
        (!exists).then(|| {
            (set.key.clone(), "spec.parentRef", format!("there is no {gateway} to add listeners to"))
        })
    });
    gateways
        .chain(sets)
        .map(|(key, path, message)| {
            let problem = Problem { path: path.to_owned(), reason: "NotFound".to_owned(), message };
            (key, vec![problem])
        })
        .collect()
}

pub(crate) fn of_policy(policies: &Policies, key: &ObjectKey, resources: &Resources) -> Vec<Problem> {
    let (findings, paths) = policies.findings(key, resources);
    findings.iter().map(Problem::from).chain(ignored(paths)).collect()
}

pub(crate) fn of_x_backend(object: &Stored<XBackend>, secured: &Secured) -> Vec<Problem> {
    x_backend::findings(object, secured).iter().map(Problem::from).collect()
}

pub(crate) fn of_route(
    node: &RouteNode,
    resources: &Resources,
    survey: &Survey,
    rival: impl Fn(&ListenerId) -> Option<Arc<str>>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (i, reference) in node.object.parent_refs().iter().enumerate() {
        let path = format!("spec.parentRefs[{i}]");
        let problem = match attach::parent_key(reference, &node.object.key().namespace) {
            None => Some((
                "NotSupported",
                "only Gateways and ListenerSets are parents that Portway serves".to_owned(),
            )),
            Some(parent) if !survey.parents.contains_key(&parent) && resources.any(&parent).is_none() => {
                Some(("NotFound", format!("there is no {parent}")))
            }
            Some(_) => {
                node.attachments.iter().find(|attachment| attachment.index == i).and_then(|attachment| {
                    node.accepted(attachment, &rival).err().map(|refusal| (refusal.reason, refusal.message))
                })
            }
        };
        problems.extend(problem.map(|(reason, message)| Problem {
            path,
            reason: reason.to_owned(),
            message,
        }));
    }
    // A route that is nobody's business here is not judged further.
    if node.attachments.is_empty() {
        return problems;
    }
    problems.extend(node.invalid.iter().map(|rule| Problem {
        path: rule.path.clone(),
        reason: rule.reason.to_owned(),
        message: rule.message.clone(),
    }));
    problems.extend(node.faults.iter().map(Problem::from));
    problems.extend(ignored(&node.ignored));
    problems
}
