//! The objects as the watches have told of them so far.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portway_api::object::{KindId, ObjectKey};
use portway_store::{AnyObject, Change, Changes, Resources};
use portway_translate::Crds;

use super::{Batch, Message, Served};

/// The objects that are to be looked up. Each has a number that is another when it is wanted again after it was not:
/// whoever looks them up may not have seen it go, and what was found then is forgotten here.
pub(super) type Wanted = BTreeMap<ObjectKey, u64>;

#[derive(Debug)]
pub(super) struct State {
    resources: Resources,
    changes: Changes,
    restated: BTreeSet<ObjectKey>,
    crds: Option<Crds>,
    /// Whether there is something to say that `changes` and `restated` do not.
    news: bool,
    /// The kinds that are watched, and in which versions, once that is known.
    watched: Option<Arc<Served>>,
    /// The kinds of which all has been told, once at least.
    listed: BTreeSet<KindId>,
    /// The kinds whose objects are looked up by need.
    by_need: BTreeSet<KindId>,
    /// The objects of these kinds that are to be read.
    wanted: Wanted,
    /// Counts what came to be wanted.
    wants: u64,
    /// Those of them that have been looked up.
    found: BTreeSet<ObjectKey>,
    ready: bool,
}

impl State {
    pub(super) fn new(by_need: impl IntoIterator<Item = KindId>) -> Self {
        Self {
            resources: Resources::default(),
            changes: Changes::default(),
            restated: BTreeSet::new(),
            crds: None,
            news: true,
            watched: None,
            listed: BTreeSet::new(),
            by_need: by_need.into_iter().collect(),
            wanted: Wanted::new(),
            wants: 0,
            found: BTreeSet::new(),
            ready: false,
        }
    }

    /// Whether all that there is has been told. What comes later does not make it false: then there is a state to
    /// go on from.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether a batch would have something to say.
    pub(super) fn has_news(&self) -> bool {
        self.news || !self.changes.is_empty() || !self.restated.is_empty()
    }

    /// What happened since the last time.
    pub(super) fn batch(&mut self) -> Batch {
        self.news = false;
        Batch {
            resources: self.resources.clone(),
            changes: std::mem::take(&mut self.changes),
            restated: std::mem::take(&mut self.restated),
            crds: self.crds.clone(),
            served: self.watched.clone().unwrap_or_default(),
        }
    }

    /// Sets what is to be looked up; returns it if that is not the same as before.
    pub(super) fn want<'a>(&mut self, wanted: impl Iterator<Item = &'a ObjectKey>) -> Option<Wanted> {
        let mut before = std::mem::take(&mut self.wanted);
        let (count, wants) = (before.len(), self.wants);
        for key in wanted {
            let number = before.remove(key).unwrap_or_else(|| {
                self.wants += 1;
                self.wants
            });
            self.wanted.insert(key.clone(), number);
        }
        let is_same = before.is_empty() && self.wanted.len() == count && self.wants == wants;
        for key in before.into_keys() {
            self.found.remove(&key);
            self.remove(&key);
        }
        (!is_same).then(|| self.wanted.clone())
    }

    /// Whether all that is wanted has been looked up.
    pub(super) fn has_all(&self) -> bool {
        self.found.len() == self.wanted.len()
    }

    /// Whether all of a kind that is watched has been told.
    pub(super) fn has_listed(&self, kind: KindId) -> bool {
        self.listed.contains(&kind)
    }

    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Watched(served) => self.watch(served),
            Message::Crds(crds) => {
                self.news |= self.crds != crds;
                self.crds = crds;
            }
            Message::Applied(object) => self.apply(object),
            Message::Removed(key) => self.remove(&key),
            Message::Listed(kind, all) => {
                for key in self.resources.keys(kind) {
                    if !all.contains(&key) {
                        self.remove(&key);
                    }
                }
                // Whoever waits for them is to be told, even if there are none.
                self.news |= self.listed.insert(kind) && kind == KindId::Pod;
            }
            Message::Found(key, object) if self.wanted.contains_key(&key) => {
                self.note_found(&key);
                match object {
                    Some(object) => self.apply(object),
                    None => self.remove(&key),
                }
            }
            Message::Withheld(key) if self.wanted.contains_key(&key) => self.note_found(&key),
            Message::Found(..) | Message::Withheld(_) => {}
            Message::CanLookUp(kind) => {
                self.listed.insert(kind);
            }
        }
        if !self.ready {
            let listed = |kind: &KindId| self.listed.contains(kind);
            self.ready = self.watched.as_ref().is_some_and(|watched| watched.keys().all(listed))
                && self.by_need.iter().all(listed);
        }
    }

    /// Whoever waits for the last one is to be told, even if there is no such object.
    fn note_found(&mut self, key: &ObjectKey) {
        let last = self.found.insert(key.clone()) && self.has_all();
        self.news |= last;
    }

    fn watch(&mut self, kinds: Served) {
        for &kind in KindId::ALL {
            if !kinds.contains_key(&kind) && !self.by_need.contains(&kind) {
                for key in self.resources.keys(kind) {
                    self.remove(&key);
                }
                self.listed.remove(&kind);
            }
        }
        self.news |= self.watched.as_deref() != Some(&kinds);
        self.watched = Some(Arc::new(kinds));
    }

    fn apply(&mut self, object: AnyObject) {
        let key = object.key().clone();
        let change = match self.resources.any(&key) {
            None => Some(Change::Added),
            Some(before) if before.same_spec(&object) && before.metadata() == object.metadata() => None,
            Some(_) => Some(Change::Changed),
        };
        if change.is_none() && !has_status(key.kind) {
            return;
        }
        self.resources.insert(object);
        if has_status(key.kind) {
            self.restated.insert(key.clone());
        }
        if let Some(change) = change {
            self.changes.record(key, change);
        }
    }

    fn remove(&mut self, key: &ObjectKey) {
        if self.resources.remove(key).is_some() {
            self.restated.remove(key);
            self.changes.record(key.clone(), Change::Removed);
        }
    }
}

/// Whether somebody writes statuses to objects of a kind.
fn has_status(kind: KindId) -> bool {
    !matches!(
        kind,
        KindId::Namespace
            | KindId::Service
            | KindId::EndpointSlice
            | KindId::Pod
            | KindId::Secret
            | KindId::ConfigMap
            | KindId::ClusterTrustBundle
            | KindId::GatewayParameters
            | KindId::ReferenceGrant
    )
}
