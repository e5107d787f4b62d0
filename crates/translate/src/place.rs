//! Listeners and what is attached to them: who may stay, and the virtual hosts that come of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portway_api::object::ObjectKey;
use portway_plan::{Entry, Forward, ForwardRule, Host, HostPattern, RuleKind};

use crate::draft::Draft;
use crate::exclusive::Contest;
use crate::listener::ListenerId;
use crate::precedence::{Rank, Seniority};
use crate::route::RouteNode;

type GuestKey = (Arc<Seniority>, ObjectKey);

/// A route that a listener takes.
#[derive(Debug)]
struct Guest {
    kind: Option<RuleKind>,
    hostnames: Box<[HostPattern]>,
    /// The route of the other kind that holds one of its hostnames.
    rival: Option<Arc<str>>,
    /// It counts in the listener's `attachedRoutes`.
    counts: bool,
}

/// Names a route in the ranks of its entries.
type Owner = (Arc<Seniority>, RuleKind);

/// The entries of one virtual host, in order. They are kept but once, in the host, and once for all listeners
/// that have the same: there can be as many hosts as routes.
#[derive(Debug, PartialEq)]
struct Shard {
    host: Arc<Host>,
    /// Of the entries of the host.
    ranks: Box<[Rank]>,
}

/// What a virtual host becomes when it is settled.
#[derive(Debug, Default)]
struct Pending {
    added: Vec<(Rank, Entry)>,
    cleared: BTreeSet<Owner>,
}

impl Pending {
    /// The host anew; `None` if it has no entries. What is as it was stays shared.
    fn settle(self, hostname: &HostPattern, built: Option<&Arc<Shard>>) -> Option<Arc<Shard>> {
        let before = built.into_iter().flat_map(|shard| shard.ranks.iter().zip(&shard.host.entries));
        let mut all: Vec<(Rank, Entry)> = before
            .filter(|(rank, entry)| !self.cleared.contains(&rank.owner(entry)))
            .map(|(rank, entry)| (rank.clone(), entry.clone()))
            .collect();
        if self.added.is_empty() && all.len() == built.map_or(0, |shard| shard.ranks.len()) {
            return built.cloned();
        }
        all.extend(self.added);
        all.sort_by(|(a, of_a), (b, of_b)| a.key(of_a).cmp(&b.key(of_b)));
        let mut entries = Vec::with_capacity(all.len());
        let mut ranks = Vec::with_capacity(all.len());
        for (rank, entry) in all {
            ranks.push(rank);
            entries.push(entry);
        }
        let host = match built {
            Some(shard) if shard.host.entries == entries => Arc::clone(&shard.host),
            _ => Arc::new(Host { hostname: hostname.clone(), entries }),
        };
        (!ranks.is_empty()).then(|| Arc::new(Shard { host, ranks: ranks.into() }))
    }
}

/// The place of a TLSRoute, TCPRoute or UDPRoute among all on a listener, the first that is tried first: by the
/// hostname that it serves there, by its own (feature GatewayRouteHostnameIntersectionPrecedence), by age.
type ForwardRank = (Reverse<HostPattern>, Reverse<HostPattern>, Arc<Seniority>);

/// All routes on one listener.
#[derive(Debug, Default)]
struct Place {
    /// The most senior first.
    guests: BTreeMap<GuestKey, Guest>,
    /// Those that left since the last decision; most come back as they were.
    departed: BTreeMap<GuestKey, Guest>,
    /// Someone came who was not there before.
    newcomers: bool,
    /// How many have a rival.
    losers: usize,
    attached: usize,
    of_kind: [usize; 2],
    /// The most specific hostname first.
    shards: BTreeMap<Reverse<HostPattern>, Arc<Shard>>,
    forwards: BTreeMap<ForwardRank, Arc<ForwardRule>>,
}

/// All listeners, by name, and what has changed on them since [`Places::settle`].
#[derive(Debug, Default)]
pub(crate) struct Places {
    places: BTreeMap<ListenerId, Place>,
    stirred: BTreeSet<ListenerId>,
    pending: BTreeMap<(ListenerId, HostPattern), Pending>,
    /// Listeners whose forwards may be others now.
    changed_forwards: BTreeSet<ListenerId>,
}

impl Places {
    /// Lets a route in on the listeners that take it; who may stay is for [`Places::decide`] to say.
    pub(crate) fn enter(&mut self, route: &RouteNode) {
        let kind = route.rule_kind();
        for (listener, hostnames) in route.bindings() {
            let place = self.places.entry(listener.clone()).or_default();
            let key = (Arc::clone(&route.seniority), route.object.key().clone());
            let hostnames = hostnames.iter().map(|(hostname, _)| hostname.clone()).collect();
            // Who comes back with the same hostnames changes nothing for anyone.
            let before = place.departed.remove(&key).filter(|before| before.hostnames == hostnames);
            place.newcomers |= before.is_none();
            let rival = before.and_then(|before| before.rival);
            place.add(key, Guest { kind, hostnames, rival, counts: !route.is_refused });
            self.stirred.insert(listener.clone());
        }
    }

    /// Takes a route off all listeners.
    pub(crate) fn leave(&mut self, route: &RouteNode) {
        self.clear(route);
        let guest = (Arc::clone(&route.seniority), route.object.key().clone());
        for listener in route.bindings().into_keys() {
            let Some(place) = self.places.get_mut(listener) else { continue };
            if let Some(gone) = place.take(&guest) {
                place.departed.insert(guest.clone(), gone);
                self.stirred.insert(listener.clone());
            }
        }
    }

    /// Settles who may stay on the listeners that routes entered or left. Returns the routes for which that
    /// turned out otherwise than before.
    pub(crate) fn decide(&mut self) -> BTreeSet<ObjectKey> {
        let mut turned = BTreeSet::new();
        for listener in &self.stirred {
            if let Some(place) = self.places.get_mut(listener) {
                place.decide(&mut turned);
            }
        }
        turned
    }

    /// The listeners on which the number of routes may have changed.
    pub(crate) fn stirred(&mut self) -> BTreeSet<ListenerId> {
        let stirred = std::mem::take(&mut self.stirred);
        for listener in &stirred {
            if self.places.get(listener).is_some_and(Place::is_empty) {
                self.places.remove(listener);
            }
        }
        stirred
    }

    /// Removes a route's entries.
    pub(crate) fn clear(&mut self, route: &RouteNode) {
        for (listener, hostnames) in route.bindings() {
            let Some(place) = self.places.get_mut(listener) else { continue };
            let Some(kind) = route.rule_kind() else {
                for (hostname, own) in hostnames {
                    place.forwards.remove(&forward_rank(hostname, own, route));
                }
                self.changed_forwards.insert(listener.clone());
                continue;
            };
            for (hostname, _) in hostnames {
                if place.shards.contains_key(&Reverse(hostname.clone())) {
                    let pending = self.pending.entry((listener.clone(), hostname.clone())).or_default();
                    pending.cleared.insert((Arc::clone(&route.seniority), kind));
                }
            }
        }
    }

    /// Adds a route's entries on the listeners where it may stay and that `is_planned`. Returns whether
    /// there are any.
    pub(crate) fn fill(
        &mut self,
        route: &RouteNode,
        draft: &Draft,
        is_planned: impl Fn(&ListenerId) -> bool,
    ) -> bool {
        let guest = (Arc::clone(&route.seniority), route.object.key().clone());
        let mut any = false;
        for (listener, hostnames) in route.bindings() {
            let Some(place) = self.places.get_mut(listener) else { continue };
            let stays = place.guests.get(&guest).is_some_and(|guest| guest.rival.is_none());
            if !stays || !is_planned(listener) {
                continue;
            }
            if let Some(rule) = &draft.forward {
                for (hostname, own) in hostnames {
                    place.forwards.insert(forward_rank(hostname, own, route), Arc::clone(rule));
                }
                self.changed_forwards.insert(listener.clone());
                any = true;
            }
            if route.rule_kind().is_none() {
                continue;
            }
            for (hostname, own) in hostnames {
                let pending = self.pending.entry((listener.clone(), hostname.clone())).or_default();
                for rule in &draft.rules {
                    for matched in &rule.matches {
                        let seniority = Arc::clone(&route.seniority);
                        let rank = Rank { specificity: matched.specificity, seniority, rule: rule.index };
                        pending.added.push((rank, matched.entry(&rule.rule, own)));
                        any = true;
                    }
                }
            }
        }
        any
    }

    /// Builds the virtual hosts anew whose entries changed. Returns the listeners that may serve otherwise now.
    pub(crate) fn settle(&mut self) -> BTreeSet<ListenerId> {
        let mut changed = std::mem::take(&mut self.changed_forwards);
        let pending = std::mem::take(&mut self.pending).into_iter();
        let mut all: Vec<_> = pending
            .filter_map(|((listener, hostname), pending)| {
                let before = self.places.get(&listener)?.shards.get(&Reverse(hostname.clone()));
                let after = pending.settle(&hostname, before);
                let stays = match (before, &after) {
                    (None, None) => return None,
                    (Some(before), Some(after)) => Arc::ptr_eq(&before.host, &after.host),
                    _ => false,
                };
                Some((!stays, listener, hostname, after))
            })
            .collect();
        // Listeners of a Gateway often serve the same routes. What stays as it was comes first: the others are to
        // share it, and not the other way round.
        all.sort_by_key(|(is_other, ..)| *is_other);
        let mut settled: BTreeMap<HostPattern, Vec<Arc<Shard>>> = BTreeMap::new();
        for (is_other, listener, hostname, after) in all {
            let Some(place) = self.places.get_mut(&listener) else { continue };
            if let Some(shard) = after {
                let known = settled.entry(hostname.clone()).or_default();
                let same = |twin: &&Arc<Shard>| {
                    (is_other || Arc::ptr_eq(&twin.host, &shard.host)) && **twin == shard
                };
                let twin = known.iter().find(same).cloned();
                if twin.is_none() {
                    known.push(Arc::clone(&shard));
                }
                place.shards.insert(Reverse(hostname), twin.unwrap_or(shard));
            } else {
                place.shards.remove(&Reverse(hostname));
            }
            if is_other {
                changed.insert(listener);
            }
        }
        for listener in &changed {
            if self.places.get(listener).is_some_and(Place::is_empty) {
                self.places.remove(listener);
            }
        }
        changed
    }

    /// The routes that a listener takes, whether they may stay or not.
    pub(crate) fn guests(&self, listener: &ListenerId) -> impl Iterator<Item = &ObjectKey> {
        self.places.get(listener).into_iter().flat_map(|place| place.guests.keys().map(|(_, key)| key))
    }

    /// How many routes are attached to a listener.
    pub(crate) fn attached(&self, listener: &ListenerId) -> usize {
        self.places.get(listener).map_or(0, |place| place.attached)
    }

    /// The route of the other kind that keeps this one off a listener.
    pub(crate) fn rival(&self, listener: &ListenerId, route: &RouteNode) -> Option<Arc<str>> {
        let guest = (Arc::clone(&route.seniority), route.object.key().clone());
        self.places.get(listener)?.guests.get(&guest)?.rival.clone()
    }

    /// The virtual hosts of a listener, the most specific first.
    pub(crate) fn hosts(&self, listener: &ListenerId) -> Vec<Arc<Host>> {
        let shards = self.places.get(listener).into_iter().flat_map(|place| place.shards.values());
        shards.map(|shard| Arc::clone(&shard.host)).collect()
    }

    /// Where a listener sends connections, the most specific hostname first. Of several routes for one hostname
    /// only the first is ever tried, so the others are left out.
    pub(crate) fn forwards(&self, listener: &ListenerId) -> Vec<Forward> {
        let mut forwards: Vec<Forward> = Vec::new();
        for ((Reverse(hostname), ..), rule) in self.places.get(listener).iter().flat_map(|it| &it.forwards) {
            if forwards.last().is_none_or(|last| last.hostname != *hostname) {
                forwards.push(Forward { hostname: hostname.clone(), rule: Arc::clone(rule) });
            }
        }
        forwards
    }
}

fn forward_rank(hostname: &HostPattern, own: &HostPattern, route: &RouteNode) -> ForwardRank {
    (Reverse(hostname.clone()), Reverse(own.clone()), Arc::clone(&route.seniority))
}

impl Place {
    fn is_empty(&self) -> bool {
        self.guests.is_empty() && self.shards.is_empty() && self.forwards.is_empty()
    }

    fn add(&mut self, key: GuestKey, guest: Guest) {
        if let Some(kind) = guest.kind {
            self.of_kind[usize::from(kind == RuleKind::Grpc)] += 1;
        }
        self.losers += usize::from(guest.rival.is_some());
        self.attached += usize::from(guest.is_attached());
        self.guests.insert(key, guest);
    }

    fn take(&mut self, key: &GuestKey) -> Option<Guest> {
        let guest = self.guests.remove(key)?;
        if let Some(kind) = guest.kind {
            self.of_kind[usize::from(kind == RuleKind::Grpc)] -= 1;
        }
        self.losers -= usize::from(guest.rival.is_some());
        self.attached -= usize::from(guest.is_attached());
        Some(guest)
    }

    fn decide(&mut self, turned: &mut BTreeSet<ObjectKey>) {
        let departed = !std::mem::take(&mut self.departed).is_empty();
        let stirred = std::mem::take(&mut self.newcomers) || departed;
        let contested = self.of_kind.iter().all(|count| *count > 0);
        if !stirred || (!contested && self.losers == 0) {
            return;
        }
        let mut contest = Contest::default();
        let rivals: Vec<Option<Arc<str>>> = self
            .guests
            .iter()
            .map(|((_, key), guest)| {
                let rival = contest.enter(guest.kind?, key, guest.hostnames.iter())?;
                Some(rival.to_string().into())
            })
            .collect();
        (self.attached, self.losers) = (0, 0);
        for (((_, key), guest), rival) in self.guests.iter_mut().zip(rivals) {
            if guest.rival != rival {
                guest.rival = rival;
                turned.insert(key.clone());
            }
            self.losers += usize::from(guest.rival.is_some());
            self.attached += usize::from(guest.is_attached());
        }
    }
}

impl Guest {
    fn is_attached(&self) -> bool {
        self.counts && self.rival.is_none()
    }
}
