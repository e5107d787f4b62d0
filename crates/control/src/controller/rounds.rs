//! One round after the other: whatever has changed ─► a translation ─► those who act on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portway_api::object::{KindId, ObjectKey, Time};
use portway_plan::Plan;
use portway_push::{GatewayName, ServiceAccount};
use portway_store::{Changes, Resources};
use portway_translate::{Crds, Layout, Options, Translation, Translator};
use time::OffsetDateTime;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::{Settings, Shared};
use crate::fleet::{self, Report};
use crate::source::{Batch, Served, Source};
use crate::status::{Proxies, Round};

/// What the Service calls the port of the push server.
const PORT: &str = "push";
/// The longest that the clock is not looked at: it may be set, and certificates expire.
const LONGEST: Duration = Duration::from_secs(3600);

/// The controller's state from round to round.
pub(super) struct Rounds {
    source: Source,
    settings: Settings,
    /// Where the controllers are, this one included.
    peers: watch::Sender<BTreeSet<SocketAddr>>,
    shared: Arc<Shared>,
    translator: Translator,
    translation: Translation,
    resources: Resources,
    crds: Option<Crds>,
    served: Arc<Served>,
    report: Report,
    /// Whether all is known that the translation asked for.
    settled: bool,
    /// Objects that came since the last round that was told of.
    touched: BTreeSet<ObjectKey>,
    /// The plans that proxies get, and their revisions.
    published: BTreeMap<ObjectKey, (Arc<Plan>, u64)>,
    proxies: Arc<BTreeMap<ObjectKey, Proxies>>,
    /// When to translate again though nothing has changed.
    due: Instant,
}

/// Why there is a round.
enum News {
    Batch(Box<Batch>),
    /// Proxies of these Gateways have said something.
    Proxies(BTreeSet<GatewayName>),
    /// Addresses, faults or pods of fleets have changed.
    Fleets,
    /// The clock.
    Due,
    End,
}

impl Rounds {
    pub(super) fn new(
        source: Source,
        settings: Settings,
        peers: watch::Sender<BTreeSet<SocketAddr>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            source,
            settings,
            peers,
            shared,
            translator: Translator::new(),
            translation: Translation::default(),
            resources: Resources::default(),
            crds: None,
            served: Arc::default(),
            report: Report::default(),
            settled: false,
            touched: BTreeSet::new(),
            published: BTreeMap::new(),
            proxies: Arc::default(),
            due: Instant::now() + LONGEST,
        }
    }

    /// Goes on until `end` is dropped.
    pub(super) async fn run(mut self, mut end: oneshot::Receiver<()>) {
        if !self.begin(&mut end).await {
            return;
        }
        loop {
            match self.news(&mut end).await {
                News::Batch(batch) => {
                    let changes = self.take(*batch);
                    self.translate(&changes);
                }
                News::Due => self.translate(&Changes::default()),
                News::Proxies(gateways) => self.listen(&gateways),
                News::Fleets => self.follow_fleets(),
                News::End => return,
            }
        }
    }

    /// Waits for all that there is, what is wanted of Secrets and ConfigMaps included, so that the first translation
    /// says nothing that is not so. Says whether it came to that.
    async fn begin(&mut self, end: &mut oneshot::Receiver<()>) -> bool {
        loop {
            let batch = tokio::select! {
                _ = &mut *end => return false,
                batch = self.source.next() => batch,
            };
            let Some(batch) = batch else { return false };
            self.take(batch);
            let wanted =
                Translator::new().update(&self.resources, &Changes::default(), &self.options()).wanted;
            if self.source.want(&wanted) {
                break;
            }
        }
        while !self.shared.fleets.is_complete() {
            tokio::select! {
                _ = &mut *end => return false,
                () = self.shared.fleets.changed() => {}
            }
        }
        self.report = self.shared.fleets.report();
        self.translate(&Changes::default());
        true
    }

    async fn news(&mut self, end: &mut oneshot::Receiver<()>) -> News {
        tokio::select! {
            _ = end => News::End,
            batch = self.source.next() => batch.map_or(News::End, |batch| News::Batch(Box::new(batch))),
            gateways = self.shared.server.changed() => News::Proxies(gateways),
            () = self.shared.fleets.changed() => News::Fleets,
            () = tokio::time::sleep_until(self.due) => News::Due,
        }
    }

    fn take(&mut self, batch: Batch) -> Changes {
        let Batch { resources, changes, restated, crds, served } = batch;
        (self.resources, self.crds, self.served) = (resources, crds, served);
        self.touched.extend(restated);
        let peers = self.controllers();
        self.peers.send_if_modified(|known| {
            let new = *known != peers;
            *known = peers;
            new
        });
        changes
    }

    /// Where the push servers of all controllers are, by the Service that proxies use.
    fn controllers(&self) -> BTreeSet<SocketAddr> {
        let Settings { namespace, service, .. } = &self.settings;
        let slices = self.resources.endpoint_slices(namespace, service);
        let addresses = slices.flat_map(|slice| {
            let ports: Vec<u16> = slice
                .spec
                .ports
                .iter()
                .filter(|port| port.name.as_deref() == Some(PORT))
                .filter_map(|port| port.port?.try_into().ok())
                .collect();
            let endpoints = slice.spec.endpoints.iter().filter(|endpoint| endpoint.serving);
            let ips: Vec<IpAddr> =
                endpoints.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok()).collect();
            ips.into_iter()
                .flat_map(move |ip| ports.clone().into_iter().map(move |port| SocketAddr::new(ip, port)))
        });
        addresses.collect()
    }

    fn options(&self) -> Options {
        // metav1.Time has whole seconds.
        let now = OffsetDateTime::now_utc().truncate_to_second();
        Options {
            controller_name: self.settings.controller_name.clone(),
            layout: Layout::PerGateway(self.report.fleets.clone()),
            crds: self.crds.clone(),
            ..Options::new(Time(now))
        }
    }

    /// Translates what has changed, and has everyone act on it.
    fn translate(&mut self, changes: &Changes) {
        let began = std::time::Instant::now();
        self.translation = self.translator.update(&self.resources, changes, &self.options());
        self.shared.metrics.round(began.elapsed(), &self.resources);
        self.due = due(self.translation.expires);
        // What refers to something that is still being looked up would be told that it does not exist. When it has
        // been, there is another round; until then, what was published and said before stays.
        self.settled = self.source.want(&self.translation.wanted);
        if self.settled {
            self.publish();
            self.tell();
        }
    }

    /// Takes over what the fleets have come to.
    fn follow_fleets(&mut self) {
        let before = std::mem::replace(&mut self.report, self.shared.fleets.report());
        let differ = |key: &&ObjectKey| before.pods.get(*key) != self.report.pods.get(*key);
        let gateways: Vec<ObjectKey> = self.published.keys().filter(differ).cloned().collect();
        let other_pods = !gateways.is_empty();
        if other_pods {
            self.look_at_proxies(gateways);
        }
        if before.fleets != self.report.fleets {
            self.translate(&Changes::default());
        } else if other_pods {
            self.tell();
        }
    }

    /// Hands the plans that are new to the proxies.
    fn publish(&mut self) {
        let gone: Vec<ObjectKey> =
            self.published.keys().filter(|key| !self.translation.plans.contains_key(key)).cloned().collect();
        for key in gone {
            self.published.remove(&key);
            self.shared.server.withdraw(&name(&key));
        }
        let mut changed = BTreeSet::new();
        for (key, plan) in self.translation.plans.iter() {
            if self.published.get(key).is_some_and(|(known, _)| Arc::ptr_eq(known, plan)) {
                continue;
            }
            let account = ServiceAccount::new(Arc::clone(&key.namespace), fleet::names(&key.name).base);
            match self.shared.server.publish(&name(key), &account, plan) {
                Ok(revision) => {
                    self.published.insert(key.clone(), (Arc::clone(plan), revision));
                    changed.insert(key.clone());
                }
                Err(error) => {
                    tracing::error!(gateway = %key, %error, "the plan cannot be published");
                    // What proxies have taken is not what the statuses are about.
                    if let Some((_, revision)) = self.published.get_mut(key) {
                        *revision = u64::MAX;
                        changed.insert(key.clone());
                    }
                }
            }
        }
        self.shared.fleets.tell(&self.resources, &self.translation.plans, &self.settings.controller_name);
        self.look_at_proxies(changed);
    }

    /// Proxies of these Gateways have said something.
    fn listen(&mut self, gateways: &BTreeSet<GatewayName>) {
        let keys = gateways.iter().map(|name| ObjectKey::new(KindId::Gateway, &name.namespace, &name.name));
        self.look_at_proxies(keys.collect::<Vec<_>>());
        self.tell();
    }

    /// Notes what is known of the proxies of these Gateways, and forgets those of Gateways that are gone.
    fn look_at_proxies(&mut self, gateways: impl IntoIterator<Item = ObjectKey>) {
        let proxies = Arc::make_mut(&mut self.proxies);
        proxies.retain(|key, _| self.published.contains_key(key));
        for key in gateways {
            let Some((_, revision)) = self.published.get(&key) else { continue };
            let state = self.shared.server.state(&name(&key)).unwrap_or_default();
            let live = live(self.report.pods.get(&key).map_or(&BTreeMap::new(), |pods| pods));
            proxies.insert(key, Proxies::new(*revision, live, &state));
        }
    }

    /// Has the statuses written.
    fn tell(&mut self) {
        if !self.settled {
            return;
        }
        let round = Round {
            resources: self.resources.clone(),
            statuses: self.translation.statuses.clone(),
            proxies: Arc::clone(&self.proxies),
            served: Arc::clone(&self.served),
        };
        self.shared.writer.tell(round, std::mem::take(&mut self.touched));
        self.shared.rounds.store(true, Ordering::Relaxed);
    }
}

fn name(gateway: &ObjectKey) -> GatewayName {
    GatewayName::new(Arc::clone(&gateway.namespace), Arc::clone(&gateway.name))
}

/// The pods to which the cluster sends connections. One that is not ready yet serves nobody, and is not ready before
/// it has the whole plan.
fn live(pods: &BTreeMap<Arc<str>, fleet::Pod>) -> BTreeSet<Arc<str>> {
    pods.iter().filter(|(_, pod)| pod.ready).map(|(name, _)| Arc::clone(name)).collect()
}

/// Just after a certificate has expired.
fn due(expires: Option<i64>) -> Instant {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = expires
        .and_then(|at| u64::try_from(at).ok())
        .map(|at| Duration::from_secs(at + 1).saturating_sub(now))
        .filter(|left| !left.is_zero());
    Instant::now() + left.unwrap_or(LONGEST).min(LONGEST)
}
