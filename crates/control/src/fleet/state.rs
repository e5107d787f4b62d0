//! What is wanted, what there is, and what has come of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use portway_api::gateway::{Gateway, GatewayClass};
use portway_api::object::ObjectKey;
use portway_api::portway::GatewayParameters;
use portway_plan::{Plan, Shards};
use portway_store::{Resources, Stored};
use portway_translate::parameters;
use serde_json::Value;

use super::desired::desired;
use super::live::{Id, Live, OwnedKind, PodSeen, Seen};
use super::report::{Fault, report};
use super::wanted::Wanted;
use super::{Pod, Report, Settings};

/// A Gateway of Portway's.
#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    plan: Option<Arc<Plan>>,
    class: Option<Arc<Stored<GatewayClass>>>,
    /// Whether it is accepted: if not, its objects stay as they are.
    is_active: bool,
}

/// What was applied last.
#[derive(Clone, Copy, Debug)]
struct Applied {
    /// The hash of what was applied.
    hash: u64,
    /// The print of what the API server made of it.
    print: u64,
}

/// One thing to do in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Task {
    Apply {
        object: Value,
        /// Whether nothing is known of an object of that name: there may be one that is someone else's.
        is_new: bool,
        /// The replicas of a Deployment that shall no longer be Portway's, but an autoscaler's.
        hand_over: Option<i64>,
    },
    Delete {
        uid: Option<String>,
    },
    /// There is an object of that name that is not the Gateway's.
    Foreign,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct State {
    gateways: BTreeMap<ObjectKey, Entry>,
    /// Gateways of other controllers, of which there is something left.
    released: BTreeSet<ObjectKey>,
    parameters: Vec<Arc<Stored<GatewayParameters>>>,
    pub(super) live: Live,
    applied: HashMap<Id, Applied>,
    faults: BTreeMap<ObjectKey, Vec<Fault>>,
    /// Gateways to look at again.
    stale: BTreeSet<ObjectKey>,
    report: Report,
}

impl State {
    /// Takes in what is wanted now.
    pub(super) fn tell(
        &mut self,
        resources: &Resources,
        plans: &Shards<ObjectKey, Arc<Plan>>,
        controller_name: &str,
    ) {
        let given: Vec<_> = resources.all::<GatewayParameters>().cloned().collect();
        let same_parameters = same_list(&self.parameters, &given);
        self.parameters = given;
        let mut before = std::mem::take(&mut self.gateways);
        let mut foreign = BTreeSet::new();
        for gateway in resources.all::<Gateway>() {
            let class = resources.get::<GatewayClass>("", &gateway.spec.gateway_class_name);
            if class.is_some_and(|class| class.spec.controller_name != controller_name) {
                foreign.insert(gateway.key.clone());
                continue;
            }
            let entry = before.remove(&gateway.key);
            let plan = plans.get(&gateway.key);
            let is_same = same_parameters
                && entry.as_ref().is_some_and(|entry| {
                    Arc::ptr_eq(&entry.wanted.gateway, gateway)
                        && same(entry.plan.as_ref(), plan)
                        && same(entry.class.as_ref(), class)
                });
            let entry = if is_same { entry } else { self.look_at(resources, gateway, class, plan, entry) };
            if let Some(entry) = entry {
                self.gateways.insert(gateway.key.clone(), entry);
            }
        }
        self.stale.extend(before.into_keys());
        self.stale.extend(foreign.difference(&self.released).cloned());
        self.released = foreign;
    }

    /// A Gateway that is new or has changed; `None` where it has, and had, nothing to run.
    fn look_at(
        &mut self,
        resources: &Resources,
        gateway: &Arc<Stored<Gateway>>,
        class: Option<&Arc<Stored<GatewayClass>>>,
        plan: Option<&Arc<Plan>>,
        before: Option<Entry>,
    ) -> Option<Entry> {
        let parameters = parameters(resources, gateway).ok().map(Arc::new);
        let mut ports = plan.map(|plan| Wanted::ports_of(plan)).unwrap_or_default();
        let is_leaving = gateway.metadata.deletion_timestamp.is_some();
        let is_active = parameters.is_some() && !ports.is_empty() && !is_leaving;
        let known = before.as_ref().map(|entry| &entry.wanted);
        if ports.is_empty() {
            ports.clone_from(&known?.ports);
        }
        let parameters = parameters.or_else(|| known.map(|known| Arc::clone(&known.parameters)))?;
        let wanted = Wanted { gateway: Arc::clone(gateway), parameters, ports };
        let is_same =
            before.is_some_and(|entry| entry.is_active == is_active && entry.wanted.is_like(&wanted));
        if !is_same {
            self.stale.insert(gateway.key.clone());
        }
        Some(Entry { wanted, plan: plan.cloned(), class: class.cloned(), is_active })
    }

    /// These Gateways are to be looked at again.
    pub(super) fn mark(&mut self, gateways: impl IntoIterator<Item = ObjectKey>) {
        self.stale.extend(gateways);
    }

    /// All Gateways are to be looked at again, and nothing is known any more of what was applied: others may have
    /// written in the meantime.
    pub(super) fn mark_all(&mut self) {
        self.applied.clear();
        self.stale.extend(self.gateways.keys().cloned());
        self.stale.extend(self.released.iter().cloned());
    }

    /// The Gateways to be looked at, which are then no more.
    pub(super) fn take_stale(&mut self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut self.stale)
    }

    /// What is to be done for a Gateway.
    pub(super) fn tasks(&self, key: &ObjectKey, settings: &Settings, authority: &str) -> Vec<(Id, Task)> {
        if self.released.contains(key) {
            return self.remains(key, &BTreeSet::new(), |seen| {
                seen.controller.as_deref() == Some(&*settings.controller_name)
            });
        }
        let Some(entry) = self.gateways.get(key).filter(|entry| entry.is_active) else { return Vec::new() };
        let uid = Some(entry.wanted.gateway.metadata.uid.as_deref().unwrap_or_default());
        let mut tasks = Vec::new();
        let mut wanted = BTreeSet::new();
        for object in desired(&entry.wanted, settings, authority) {
            let Some(id) = Id::of(&object) else { continue };
            wanted.insert(id.clone());
            let seen = self.live.objects.get(&id);
            let applied = self.applied.get(&id);
            let task = match seen {
                Some(seen) if !seen.is_of(uid) => Some(Task::Foreign),
                Some(seen)
                    if applied.is_some_and(|it| it.hash == hash(&object) && it.print == seen.print) =>
                {
                    None
                }
                _ => {
                    let sets_replicas = object["spec"].get("replicas").is_some();
                    let hand_over = seen.and_then(|seen| seen.replicas).filter(|_| !sets_replicas);
                    Some(Task::Apply { is_new: seen.is_none(), object, hand_over })
                }
            };
            tasks.extend(task.map(|task| (id, task)));
        }
        let mut remains = self.remains(key, &wanted, |seen| seen.is_of(uid));
        let workload =
            if entry.wanted.is_daemon_set() { OwnedKind::DaemonSet } else { OwnedKind::Deployment };
        // The other workload serves until there is a proxy of this one; but two pods cannot have one port of a node.
        let serves = |pod: &PodSeen| pod.ready && !pod.leaves && pod.workload == Some(workload);
        if !entry.wanted.host_ports() && !self.live.pods_of(key).any(|(_, pod)| serves(pod)) {
            remains.retain(|(id, _)| !matches!(id.kind, OwnedKind::Deployment | OwnedKind::DaemonSet));
        }
        tasks.extend(remains);
        tasks
    }

    /// The Gateway's objects that are not wanted.
    fn remains(
        &self,
        key: &ObjectKey,
        wanted: &BTreeSet<Id>,
        is_ours: impl Fn(&Seen) -> bool,
    ) -> Vec<(Id, Task)> {
        let objects = self.live.of(key).filter(|(id, seen)| !wanted.contains(id) && is_ours(seen));
        objects.map(|(id, seen)| (id.clone(), Task::Delete { uid: seen.uid.clone() })).collect()
    }

    /// An object was applied, and the API server made this of it.
    pub(super) fn applied(&mut self, id: &Id, object: &Value, print: u64) {
        self.applied.insert(id.clone(), Applied { hash: hash(object), print });
    }

    /// An object was deleted.
    pub(super) fn deleted(&mut self, id: &Id) {
        self.applied.remove(id);
    }

    /// What went wrong when the tasks of a Gateway were done. Says which of it is new.
    pub(super) fn set_faults(&mut self, key: &ObjectKey, faults: Vec<Fault>) -> Vec<Fault> {
        let before = if faults.is_empty() {
            self.faults.remove(key)
        } else {
            self.faults.insert(key.clone(), faults.clone())
        };
        let before = before.unwrap_or_default();
        faults.into_iter().filter(|fault| !before.contains(fault)).collect()
    }

    /// Brings the report of a Gateway up to date. Says whether it is another than before.
    pub(super) fn update_report(&mut self, key: &ObjectKey) -> bool {
        let Some(entry) = self.gateways.get(key) else {
            self.faults.remove(key);
            let was = self.report.fleets.contains_key(key) || self.report.pods.contains_key(key);
            if was {
                self.report.fleets.remove(key);
                self.report.pods.remove(key);
            }
            return was;
        };
        let faults = self.faults.get(key).map_or(&[][..], Vec::as_slice);
        let fleet = report(&entry.wanted, &self.live, faults);
        let pods: BTreeMap<Arc<str>, Pod> = self
            .live
            .pods_of(key)
            .filter(|(_, pod)| !pod.leaves)
            .map(|(name, pod)| (Arc::clone(name), Pod { uid: Arc::clone(&pod.uid), ready: pod.ready }))
            .collect();
        let mut changed = false;
        if self.report.fleets.get(key) != Some(&fleet) {
            self.report.fleets.insert(key.clone(), fleet);
            changed = true;
        }
        if self.report.pods.get(key).map(|pods| &**pods) != Some(&pods) {
            self.report.pods.insert(key.clone(), Arc::new(pods));
            changed = true;
        }
        changed
    }

    /// What is known of all fleets.
    pub(super) fn report(&self) -> Report {
        self.report.clone()
    }
}

fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

fn same_list<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn hash(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.to_string().hash(&mut hasher);
    hasher.finish()
}
