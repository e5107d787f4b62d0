//! `Programmed` is the truth: what the proxies have not taken yet is held back.

use std::collections::BTreeMap;
use std::sync::Arc;

use portway_api::gateway::{Condition, ConditionStatus, Gateway, ListenerSet, ListenerStatus};
use portway_api::object::{KindId, ObjectKey, Time};
use portway_plan::Transport;
use portway_store::Resources;
use portway_translate::{Status, listener_set_gateway};

use super::{Proxies, Replica, Revision, Round};

const PROGRAMMED: &str = "Programmed";

/// A `Programmed` condition of an object: its own, or that of one of its listeners.
type Slot = Option<String>;

/// What has been said of each Gateway and ListenerSet, to be kept while nothing else can be said.
#[derive(Debug, Default)]
pub(super) struct Holding(BTreeMap<ObjectKey, Held>);

#[derive(Debug)]
struct Held {
    /// Of which object of this name.
    uid: Option<Box<str>>,
    /// What the translation said when `since` was set.
    asked: Vec<(Slot, Option<i64>, ConditionStatus, String)>,
    /// The first revision in which that is; `None` while nothing is known of the proxies.
    since: Option<Revision>,
    /// What was said last.
    shown: BTreeMap<Slot, Condition>,
}

impl Holding {
    /// The status of an object as far as its proxies have taken it.
    pub(super) fn settle(
        &mut self,
        key: &ObjectKey,
        desired: &Arc<Status>,
        round: &Round,
        now: Time,
    ) -> Arc<Status> {
        let Some(Parent { gateway, uid, carried }) = parent(&round.resources, key) else {
            return Arc::clone(desired);
        };
        // One that was made anew says nothing of what was said before.
        if self.0.get(key).is_some_and(|held| held.uid != uid) {
            self.forget(key);
        }
        let proxies = round.proxies.get(&gateway);
        let asked: Vec<_> = slots(desired)
            .map(|(slot, it)| (slot, it.observed_generation, it.status.clone(), it.reason.clone()))
            .collect();
        let held = self.0.entry(key.clone()).or_insert_with(|| Held {
            uid,
            asked: Vec::new(),
            since: None,
            shown: carried.into_iter().collect(),
        });
        if held.asked != asked {
            (held.asked, held.since) = (asked, None);
        }
        // A Gateway that was withdrawn and published again has its revisions counted anew.
        let is_counted = |since| proxies.is_none_or(|proxies| since <= proxies.published);
        if !held.since.is_some_and(is_counted) {
            held.since = proxies.map(|proxies| proxies.published);
        }
        let taken = Taken { proxies: proxies.zip(held.since), resources: &round.resources };
        let mut shown = BTreeMap::new();
        for (slot, wanted) in slots(desired) {
            let former = held.shown.get(&slot);
            let judged = match taken.judge(key, slot.as_deref(), desired, round) {
                _ if wanted.status != ConditionStatus::True => wanted.clone(),
                Judgement::Taken => wanted.clone(),
                Judgement::Not(reason, message) => Condition {
                    status: ConditionStatus::False,
                    reason: reason.to_owned(),
                    message,
                    ..wanted.clone()
                },
                Judgement::NotYet(message) => match former {
                    Some(former) if former.status == ConditionStatus::True => former.clone(),
                    _ => Condition {
                        status: ConditionStatus::False,
                        reason: "Pending".to_owned(),
                        message,
                        ..wanted.clone()
                    },
                },
            };
            let since = match former {
                Some(former) if former.status == judged.status => former.last_transition_time,
                Some(_) => now,
                None => judged.last_transition_time,
            };
            shown.insert(slot, Condition { last_transition_time: since, ..judged });
        }
        held.shown = shown;
        replace(desired, &held.shown)
    }

    /// The object is gone, or no longer Portway's.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.0.remove(key);
    }
}

/// What can be said of a condition that the translation says is `True`.
enum Judgement {
    /// All proxies have taken it.
    Taken,
    /// They have not, and why: the reason and the message.
    Not(&'static str, String),
    /// They may yet.
    NotYet(String),
}

/// What the proxies of a Gateway have made of a revision.
struct Taken<'a> {
    proxies: Option<(&'a Proxies, Revision)>,
    resources: &'a Resources,
}

impl Taken<'_> {
    fn judge(&self, key: &ObjectKey, listener: Option<&str>, desired: &Status, round: &Round) -> Judgement {
        let Some((proxies, since)) = self.proxies else {
            return Judgement::NotYet("nothing is known of the Gateway's proxies yet".to_owned());
        };
        let all = proxies.replicas.len();
        if all == 0 {
            return Judgement::Not("Pending", "no proxy of the Gateway is running".to_owned());
        }
        let rejected = proxies.replicas.iter().find_map(|(name, replica)| {
            let (revision, why) = replica.rejected.as_ref()?;
            (*revision >= since).then(|| format!("{name} rejects the configuration: {why}"))
        });
        if let Some(message) = rejected {
            return Judgement::Not("Invalid", message);
        }
        let failure = match listener {
            Some(name) => self.failure(key, name),
            None => self.total_failure(key, desired, round),
        };
        if let Some(message) = failure {
            return Judgement::Not("Invalid", message);
        }
        let taken = proxies.replicas.values().filter(|replica| replica.acknowledged >= since).count();
        if taken == all {
            return Judgement::Taken;
        }
        let noun = if all == 1 { "proxy has" } else { "proxies have" };
        Judgement::NotYet(format!("{taken} of {all} {noun} taken the configuration"))
    }

    /// Why a listener does not serve on some proxy.
    fn failure(&self, key: &ObjectKey, listener: &str) -> Option<String> {
        let (proxies, since) = self.proxies?;
        let (port, transport) = socket(self.resources, key, listener)?;
        let why = |replica: &Replica| {
            if let Some(why) = replica.unavailable.get(&(port, transport)) {
                return Some(format!("port {port} could not be opened: {why}"));
            }
            let failed = replica.failed.iter().find(|(source, _)| {
                let object = &source.object;
                *object.kind == *key.kind.as_str()
                    && object.namespace == key.namespace
                    && object.name == key.name
                    && source.section.as_deref() == Some(listener)
            });
            failed.map(|(_, why)| why.clone())
        };
        proxies.replicas.iter().filter(|(_, replica)| replica.acknowledged >= since).find_map(
            |(name, replica)| {
                let why = why(replica)?;
                Some(format!("on {name}: {why}"))
            },
        )
    }

    /// Why nothing of a Gateway or ListenerSet serves.
    fn total_failure(&self, key: &ObjectKey, desired: &Status, round: &Round) -> Option<String> {
        let (proxies, _) = self.proxies?;
        if proxies.replicas.values().all(|it| it.unavailable.is_empty() && it.failed.is_empty()) {
            return None;
        }
        let serving = |key: &ObjectKey, status: &Status| -> Vec<Option<String>> {
            let planned = status.listeners().iter().filter(|listener| {
                programmed(&listener.conditions).is_some_and(|it| it.status == ConditionStatus::True)
            });
            planned.map(|listener| self.failure(key, &listener.name)).collect()
        };
        let mut listeners = serving(key, desired);
        if key.kind == KindId::Gateway {
            let sets = self.resources.all::<ListenerSet>();
            let own = sets.filter(|set| listener_set_gateway(set).as_ref() == Some(key));
            for set in own {
                if let Some(status) = round.statuses.get(&set.key) {
                    listeners.extend(serving(&set.key, status));
                }
            }
        }
        let all_fail = listeners.iter().all(Option::is_some);
        all_fail.then(|| listeners.into_iter().flatten().next()).flatten()
    }
}

/// What is known of a Gateway or ListenerSet.
struct Parent {
    /// The Gateway: itself, or that of the set.
    gateway: ObjectKey,
    uid: Option<Box<str>>,
    /// The `Programmed` conditions that the object carries.
    carried: Vec<(Slot, Condition)>,
}

fn parent(resources: &Resources, key: &ObjectKey) -> Option<Parent> {
    let carried = |conditions: &[Condition], listeners: &[ListenerStatus]| {
        let own = programmed(conditions).map(|condition| (None, condition.clone()));
        let of_listeners = listeners
            .iter()
            .filter_map(|it| Some((Some(it.name.clone()), programmed(&it.conditions)?.clone())));
        own.into_iter().chain(of_listeners).collect()
    };
    match key.kind {
        KindId::Gateway => {
            let gateway = resources.get::<Gateway>(&key.namespace, &key.name)?;
            let status = gateway.object.status.as_ref();
            let carried = status.map(|status| carried(&status.conditions, &status.listeners));
            let uid = gateway.metadata.uid.clone();
            Some(Parent { gateway: key.clone(), uid, carried: carried.unwrap_or_default() })
        }
        KindId::ListenerSet => {
            let set = resources.get::<ListenerSet>(&key.namespace, &key.name)?;
            let status = set.object.status.as_ref();
            let carried = status.map(|status| carried(&status.conditions, &status.listeners));
            let uid = set.metadata.uid.clone();
            Some(Parent { gateway: listener_set_gateway(set)?, uid, carried: carried.unwrap_or_default() })
        }
        _ => None,
    }
}

/// The port of a listener, as its object has it.
fn socket(resources: &Resources, key: &ObjectKey, listener: &str) -> Option<(u16, Transport)> {
    let listeners = match key.kind {
        KindId::Gateway => &resources.get::<Gateway>(&key.namespace, &key.name)?.object.spec.listeners,
        _ => &resources.get::<ListenerSet>(&key.namespace, &key.name)?.object.spec.listeners,
    };
    let listener = listeners.iter().find(|it| it.name == listener)?;
    let transport = if listener.protocol == "UDP" { Transport::Udp } else { Transport::Tcp };
    Some((u16::try_from(listener.port).ok()?, transport))
}

fn programmed(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == PROGRAMMED)
}

fn slots(status: &Status) -> impl Iterator<Item = (Slot, &Condition)> {
    let own = programmed(status.conditions()).map(|condition| (None, condition));
    let listeners = status.listeners().iter();
    own.into_iter()
        .chain(listeners.filter_map(|it| Some((Some(it.name.clone()), programmed(&it.conditions)?))))
}

/// A status with other `Programmed` conditions.
fn replace(status: &Arc<Status>, shown: &BTreeMap<Slot, Condition>) -> Arc<Status> {
    if slots(status).all(|(slot, condition)| shown.get(&slot) == Some(condition)) {
        return Arc::clone(status);
    }
    let set = |slot: &Slot, conditions: &mut Vec<Condition>| {
        let place = conditions.iter_mut().find(|condition| condition.type_ == PROGRAMMED);
        if let (Some(place), Some(shown)) = (place, shown.get(slot)) {
            place.clone_from(shown);
        }
    };
    let mut status = Status::clone(status);
    let (conditions, listeners) = match &mut status {
        Status::Gateway(status) => (&mut status.conditions, &mut status.listeners),
        Status::ListenerSet(status) => (&mut status.conditions, &mut status.listeners),
        _ => return Arc::new(status),
    };
    set(&None, conditions);
    for listener in listeners {
        set(&Some(listener.name.clone()), &mut listener.conditions);
    }
    Arc::new(status)
}
