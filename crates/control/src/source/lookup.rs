//! Secrets and ConfigMaps by need: a watch of metadata, and the contents of those that something references.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use portway_api::object::{KindId, ObjectKey};
use tokio::sync::{mpsc, watch};

use super::Message;
use super::follow::{read, without_failures};
use super::object::{self, Raw};
use super::state::Wanted;
use crate::outage::{Outages, Pauses};

/// From this pause between two tries on, what the API server will not give is not waited for: all that is in the cluster
/// waits in the meantime, but a Gateway that serves must not lose a certificate to an API server that is overloaded.
const HOPELESS: Duration = Duration::from_secs(3);
/// How many objects are fetched at once.
const AT_ONCE: usize = 16;

/// Looks up objects of one kind.
pub(super) struct Lookup {
    kind: KindId,
    client: Client,
    outages: Arc<Outages>,
    sender: mpsc::Sender<Message>,
    /// Of this kind and others.
    wanted: Arc<Wanted>,
    /// What was fetched, in which version; `None` if there was no such object.
    seen: BTreeMap<ObjectKey, Option<String>>,
    /// What is to be fetched.
    queue: VecDeque<ObjectKey>,
    /// What is being fetched; `true` if it has changed since the request was sent.
    under_way: BTreeMap<ObjectKey, bool>,
    /// What could not be fetched, and is to be tried again.
    failed: BTreeMap<ObjectKey, Pauses>,
}

impl Lookup {
    pub(super) fn new(
        kind: KindId,
        client: &Client,
        outages: Arc<Outages>,
        sender: mpsc::Sender<Message>,
    ) -> Self {
        Self {
            kind,
            client: client.clone(),
            outages,
            sender,
            wanted: Arc::default(),
            seen: BTreeMap::new(),
            queue: VecDeque::new(),
            under_way: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Follows what is wanted and what changes, for ever.
    pub(super) async fn run(mut self, mut wanted: watch::Receiver<Arc<Wanted>>) {
        let mut events = pin!(self.events());
        let mut fetches = FuturesUnordered::new();
        let mut again = FuturesUnordered::new();
        let mut listing = BTreeMap::new();
        loop {
            while fetches.len() < AT_ONCE
                && let Some(key) = self.queue.pop_front()
            {
                self.under_way.insert(key.clone(), false);
                fetches.push(fetch(self.client.clone(), key));
            }
            let message = tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.want(Arc::clone(&wanted.borrow_and_update()));
                    None
                }
                Some((key, fetched)) = fetches.next() => {
                    let (message, pause) = self.fetched(&key, fetched);
                    again.extend(pause.map(|pause| async move {
                        tokio::time::sleep(pause).await;
                        key
                    }));
                    message
                }
                Some(key) = again.next() => {
                    self.look_up(&key);
                    None
                }
                event = events.next() => {
                    let Some(event) = event else { return };
                    self.watched(event, &mut listing)
                }
            };
            if let Some(message) = message
                && self.sender.send(message).await.is_err()
            {
                return;
            }
        }
    }

    /// What happens to the metadata of all objects of the kind.
    fn events(&self) -> impl Stream<Item = Event<PartialObjectMeta<Raw>>> + use<> {
        let resource = object::resource(self.kind, object::version(self.kind));
        let api = Api::<PartialObjectMeta<Raw>>::all_with(self.client.clone(), &resource);
        let watched = watcher(api, watcher::Config::default());
        without_failures(self.kind.info().plural, watched, Arc::clone(&self.outages))
    }

    fn want(&mut self, wanted: Arc<Wanted>) {
        self.queue.retain(|key| wanted.contains_key(key));
        self.seen.retain(|key, _| wanted.contains_key(key));
        let outages = &self.outages;
        self.failed.retain(|key, _| {
            let stays = wanted.contains_key(key);
            if !stays {
                outages.forget(&key.to_string());
            }
            stays
        });
        let before = std::mem::replace(&mut self.wanted, Arc::clone(&wanted));
        let kind = self.kind;
        for (key, number) in wanted.iter().filter(|(key, _)| key.kind == kind) {
            if before.get(key) != Some(number) {
                self.look_up(key);
            }
        }
    }

    fn watched(
        &mut self,
        event: Event<PartialObjectMeta<Raw>>,
        listing: &mut BTreeMap<ObjectKey, Option<String>>,
    ) -> Option<Message> {
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(meta) => {
                let key = object::key(self.kind, &meta.metadata);
                if self.wanted.contains_key(&key) {
                    listing.insert(key, meta.metadata.resource_version);
                }
            }
            Event::InitDone => {
                let (kind, wanted) = (self.kind, Arc::clone(&self.wanted));
                for key in wanted.keys().filter(|key| key.kind == kind) {
                    self.noticed(key, listing.remove(key).flatten());
                }
                return Some(Message::CanLookUp(self.kind));
            }
            Event::Apply(meta) => {
                let key = object::key(self.kind, &meta.metadata);
                self.noticed(&key, meta.metadata.resource_version);
            }
            Event::Delete(meta) => self.noticed(&object::key(self.kind, &meta.metadata), None),
        }
        None
    }

    /// An object is said to be of this version, or gone.
    fn noticed(&mut self, key: &ObjectKey, version: Option<String>) {
        if self.seen.get(key) != Some(&version) {
            self.look_up(key);
        }
    }

    fn look_up(&mut self, key: &ObjectKey) {
        if !self.wanted.contains_key(key) {
            return;
        }
        match self.under_way.get_mut(key) {
            Some(changed) => *changed = true,
            None if self.queue.contains(key) => {}
            None => self.queue.push_back(key.clone()),
        }
    }

    /// What came of a request; if it failed, also how long to wait before the next.
    fn fetched(
        &mut self,
        key: &ObjectKey,
        fetched: kube::Result<Option<Raw>>,
    ) -> (Option<Message>, Option<Duration>) {
        let changed = self.under_way.remove(key).unwrap_or(false);
        let what = key.to_string();
        if !self.wanted.contains_key(key) {
            self.outages.forget(&what);
            return (None, None);
        }
        match fetched {
            Ok(raw) => {
                self.outages.works(&what);
                self.failed.remove(key);
                self.seen.insert(key.clone(), raw.as_ref().and_then(Raw::resource_version));
                if changed {
                    self.queue.push_back(key.clone());
                }
                let object = raw.map(|raw| read(self.kind, raw));
                let message = match object {
                    None => Message::Found(key.clone(), None),
                    Some(Some(object)) => Message::Found(key.clone(), Some(object)),
                    Some(None) => Message::Withheld(key.clone()),
                };
                (Some(message), None)
            }
            Err(error) => {
                self.outages.failed(&what, &error);
                let pause = self.failed.entry(key.clone()).or_default().next();
                let refused = matches!(error, kube::Error::Api(_)) && pause >= HOPELESS;
                (refused.then(|| Message::Withheld(key.clone())), Some(pause))
            }
        }
    }
}

async fn fetch(client: Client, key: ObjectKey) -> (ObjectKey, kube::Result<Option<Raw>>) {
    let resource = object::resource(key.kind, object::version(key.kind));
    let api = Api::<Raw>::namespaced_with(client, &key.namespace, &resource);
    let fetched = api.get_opt(&key.name).await;
    (key, fetched)
}
