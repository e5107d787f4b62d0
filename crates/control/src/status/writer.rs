//! When which status is written.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kube::Client;
use portway_api::gateway::{
    BackendTLSPolicy, GRPCRoute, Gateway, GatewayClass, HTTPRoute, ListenerSet, TCPRoute, TLSRoute, UDPRoute,
    XBackend,
};
use portway_api::object::{KindId, Metadata, ObjectKey, Time};
use portway_store::Resources;
use portway_translate::{Status, Statuses, listener_set_gateway};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

use super::programmed::Holding;
use super::write::{Job, Outcome};
use super::{Round, StatusWriter, merge};
use crate::Outages;
use crate::outage::Pauses;
use crate::source::object::resource;

/// The kinds in which an entry of Portway's may stand that it says nothing in any more.
const SHARED: [KindId; 7] = [
    KindId::HTTPRoute,
    KindId::GRPCRoute,
    KindId::TLSRoute,
    KindId::TCPRoute,
    KindId::UDPRoute,
    KindId::BackendTLSPolicy,
    KindId::XBackend,
];

/// Writes whenever `leader` says so, until nobody can say so any more.
pub(super) async fn run(
    writer: StatusWriter,
    client: Client,
    outages: Arc<Outages>,
    mut leader: watch::Receiver<bool>,
) {
    while leader.wait_for(|leads| *leads).await.is_ok() {
        let mut term = Term::new(&writer, &client, &outages);
        let ended = async { leader.wait_for(|leads| !*leads).await.is_err() };
        let is_over = tokio::select! {
            () = term.serve() => true,
            is_over = ended => is_over,
        };
        if is_over {
            return;
        }
    }
}

type Flight = Pin<Box<dyn Future<Output = (ObjectKey, u64, Result<Outcome, kube::Error>)> + Send>>;

/// When an object was written last, and how soon it may be again.
#[derive(Debug)]
struct Pace {
    last: Instant,
    gap: Duration,
    /// The version of the object, as it was known when it was written last: that is no longer what it carries.
    stale: Option<Box<str>>,
    pauses: Pauses,
}

/// The time from becoming the leader to no longer being it.
struct Term<'w> {
    writer: &'w StatusWriter,
    client: &'w Client,
    outages: &'w Outages,
    round: Round,
    is_first: bool,
    holding: Holding,
    /// What is to be written, and when.
    due: BTreeMap<ObjectKey, Instant>,
    queue: BTreeSet<(Instant, ObjectKey)>,
    /// What is being written; `true` if it is to be looked at again then.
    busy: BTreeMap<ObjectKey, bool>,
    flights: FuturesUnordered<Flight>,
    paces: BTreeMap<ObjectKey, Pace>,
    /// What outages call the writes that fail.
    failing: BTreeSet<String>,
}

impl Drop for Term<'_> {
    fn drop(&mut self) {
        self.writer.with(|told| {
            told.writes = false;
            told.touched.clear();
        });
        // Nobody here tries again.
        for what in &self.failing {
            self.outages.forget(what);
        }
    }
}

impl<'w> Term<'w> {
    fn new(writer: &'w StatusWriter, client: &'w Client, outages: &'w Outages) -> Self {
        writer.with(|told| told.writes = true);
        // What was told to whoever did not lead is still true.
        writer.news.notify_one();
        Self {
            writer,
            client,
            outages,
            round: Round::default(),
            is_first: true,
            holding: Holding::default(),
            due: BTreeMap::new(),
            queue: BTreeSet::new(),
            busy: BTreeMap::new(),
            flights: FuturesUnordered::new(),
            paces: BTreeMap::new(),
            failing: BTreeSet::new(),
        }
    }

    async fn serve(&mut self) {
        loop {
            while self.flights.len() < self.writer.settings.concurrency && self.start_next() {}
            let next = self.queue.first().map(|(at, _)| *at);
            let has_room = self.flights.len() < self.writer.settings.concurrency;
            tokio::select! {
                () = self.writer.news.notified() => self.hear(),
                Some((key, conflicts, result)) = self.flights.next(), if !self.flights.is_empty() => {
                    self.landed(key, conflicts, result);
                }
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)),
                    if next.is_some() && has_room => {}
            }
        }
    }

    /// Takes over what was told, and finds out which objects may need a write.
    fn hear(&mut self) {
        let (round, mut touched) =
            self.writer.with(|told| (told.round.clone(), std::mem::take(&mut told.touched)));
        let Some(round) = round else { return };
        if self.is_first {
            touched.extend(round.statuses.iter().map(|(key, _)| key.clone()));
            touched.extend(SHARED.iter().flat_map(|kind| round.resources.keys(*kind)));
        } else {
            changed(&self.round.statuses, &round.statuses, &mut touched);
            self.regrouped(&round, &mut touched);
        }
        if self.round.served != round.served {
            touched.extend(round.statuses.iter().map(|(key, _)| key.clone()));
        }
        self.is_first = false;
        self.round = round;
        let now = Instant::now();
        let longest = self.writer.settings.longest;
        // A pace that no longer says anything; what failed keeps its own.
        self.paces.retain(|key, pace| {
            now < pace.last + 4 * longest || self.due.contains_key(key) || self.busy.contains_key(key)
        });
        for key in touched {
            self.consider(&key);
        }
    }

    /// The Gateways, and their ListenerSets, whose proxies are said to have done something.
    fn regrouped(&self, round: &Round, touched: &mut BTreeSet<ObjectKey>) {
        if Arc::ptr_eq(&self.round.proxies, &round.proxies) {
            return;
        }
        let all: BTreeSet<_> = self.round.proxies.keys().chain(round.proxies.keys()).collect();
        let differ = |key: &&&ObjectKey| self.round.proxies.get(**key) != round.proxies.get(**key);
        let gateways: BTreeSet<ObjectKey> = all.iter().filter(differ).map(|key| (**key).clone()).collect();
        if gateways.is_empty() {
            return;
        }
        let sets = round.resources.all::<ListenerSet>();
        let of_these =
            sets.filter(|set| listener_set_gateway(set).is_some_and(|gateway| gateways.contains(&gateway)));
        touched.extend(of_these.map(|set| set.key.clone()));
        touched.extend(gateways);
    }

    /// What an object shall carry by now; `None` if nothing of Portway's.
    fn desired(&mut self, key: &ObjectKey) -> Option<Arc<Status>> {
        let Some(desired) = self.round.statuses.get(key) else {
            self.holding.forget(key);
            return None;
        };
        let now = Time(OffsetDateTime::now_utc().truncate_to_second());
        Some(self.holding.settle(key, desired, &self.round, now))
    }

    /// Looks whether an object carries what it shall, and if not, has it written in its time.
    fn consider(&mut self, key: &ObjectKey) {
        if let Some(again) = self.busy.get_mut(key) {
            *again = true;
            return;
        }
        let desired = self.desired(key);
        let differs = carried(&self.round.resources, key).is_some_and(|(carried, _)| {
            let name = &self.writer.settings.controller_name;
            merge::patch(key.kind, carried.as_ref(), desired.as_deref(), name).is_some()
        });
        match self.due.get(key) {
            Some(at) if !differs => {
                self.queue.remove(&(*at, key.clone()));
                self.due.remove(key);
                self.is_not_tried(key);
            }
            None if differs => {
                let at = self.paces.get(key).map_or_else(Instant::now, |pace| pace.last + pace.gap);
                self.put_off(key, at);
            }
            _ => {}
        }
    }

    /// What was refused to an object is not tried again.
    fn is_not_tried(&mut self, key: &ObjectKey) {
        let what = of_object(key);
        if self.failing.remove(&what) {
            self.outages.forget(&what);
        }
    }

    fn put_off(&mut self, key: &ObjectKey, at: Instant) {
        self.queue.insert((at, key.clone()));
        self.due.insert(key.clone(), at);
    }

    /// Starts the write that is due first. Returns whether there was one.
    fn start_next(&mut self) -> bool {
        let now = Instant::now();
        if self.queue.first().is_none_or(|(at, _)| *at > now) {
            return false;
        }
        let Some((_, key)) = self.queue.pop_first() else { return false };
        self.due.remove(&key);
        if !self.start(&key, now) {
            self.is_not_tried(&key);
        }
        true
    }

    /// Starts the write of an object. Returns whether there is anything to write.
    fn start(&mut self, key: &ObjectKey, now: Instant) -> bool {
        let Some(version) = self.round.served.get(&key.kind) else { return false };
        let resource = resource(key.kind, version);
        let desired = self.desired(key);
        let controller_name = self.writer.settings.controller_name.clone();
        let Some((carried, metadata)) = carried(&self.round.resources, key) else { return false };
        let Some(patch) = merge::patch(key.kind, carried.as_ref(), desired.as_deref(), &controller_name)
        else {
            return false;
        };
        let version = metadata.resource_version.0.clone();
        let stale = self.paces.get(key).and_then(|pace| pace.stale.as_ref());
        let is_current = version.is_some() && stale != version.as_ref();
        // What others have said is taken from the object itself: Portway may not know all of their fields.
        let known = version.clone().filter(|_| is_current && !patch.has_foreign).map(|it| (it, patch));
        let uid = metadata.uid.clone();
        let pace = self.paces.entry(key.clone()).or_insert_with(|| Pace {
            last: now,
            gap: Duration::ZERO,
            stale: None,
            pauses: Pauses::default(),
        });
        let settings = &self.writer.settings;
        pace.gap = match pace.gap {
            Duration::ZERO => settings.interval,
            gap if now < pace.last + 2 * gap => (2 * gap).min(settings.longest),
            _ => settings.interval,
        };
        (pace.last, pace.stale) = (now, version);
        let job = Job {
            client: self.client.clone(),
            resource,
            key: key.clone(),
            uid,
            desired,
            controller_name,
            known,
        };
        self.busy.insert(key.clone(), false);
        let key = key.clone();
        self.flights.push(Box::pin(async move {
            let (conflicts, result) = job.run().await;
            (key, conflicts, result)
        }));
        true
    }

    /// A write came to its end.
    fn landed(&mut self, key: ObjectKey, conflicts: u64, result: Result<Outcome, kube::Error>) {
        let again = self.busy.remove(&key).unwrap_or_default();
        self.writer.with(|told| {
            told.counts.conflicts += conflicts;
            match &result {
                Ok(Outcome::Written) => *told.counts.writes.entry(key.kind).or_default() += 1,
                Ok(Outcome::Same | Outcome::Gone) => {}
                Err(_) => told.counts.errors += 1,
            }
        });
        match result {
            Ok(_) => {
                for what in [of_kind(key.kind), of_object(&key)] {
                    self.failing.remove(&what);
                    self.outages.works(&what);
                }
                if let Some(pace) = self.paces.get_mut(&key) {
                    pace.pauses.reset();
                }
                if again {
                    self.consider(&key);
                }
            }
            Err(error) => {
                // What is said to one object tells nothing of the others.
                let is_refused = matches!(error, kube::Error::Api(_));
                let what = if is_refused { of_object(&key) } else { of_kind(key.kind) };
                self.outages.failed(&what, &error);
                self.failing.insert(what);
                let pause = self.paces.get_mut(&key).map(|pace| pace.pauses.next());
                self.put_off(&key, Instant::now() + pause.unwrap_or_default());
            }
        }
    }
}

/// What outages call the writes of all statuses of a kind.
fn of_kind(kind: KindId) -> String {
    format!("{}/status", kind.info().plural)
}

/// What outages call the writes of the status of one object.
fn of_object(key: &ObjectKey) -> String {
    format!("status of {key}")
}

/// The objects of which two rounds say different things.
fn changed(before: &Statuses, after: &Statuses, keys: &mut BTreeSet<ObjectKey>) {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let gone = if order.is_le() { before.next() } else { None };
        let new = if order.is_ge() { after.next() } else { None };
        match (gone, new) {
            (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) => {}
            (Some((key, _)), _) | (None, Some((key, _))) => {
                keys.insert(key.clone());
            }
            (None, None) => {}
        }
    }
}

/// The status that an object carries, as far as is known, and its metadata; `None` if there is no such object.
fn carried<'r>(resources: &'r Resources, key: &ObjectKey) -> Option<(Option<Value>, &'r Metadata)> {
    macro_rules! of {
        ($($kind:ident)+) => {
            match key.kind {
                $(KindId::$kind => {
                    let stored = resources.get::<$kind>(&key.namespace, &key.name)?;
                    let status = stored.object.status.as_ref();
                    let value = status.and_then(|status| serde_json::to_value(status).ok());
                    Some((value, &stored.object.metadata))
                })+
                _ => None,
            }
        };
    }
    of!(GatewayClass Gateway ListenerSet HTTPRoute GRPCRoute TLSRoute TCPRoute UDPRoute BackendTLSPolicy XBackend)
}
