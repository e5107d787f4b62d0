//! Which kinds the cluster serves, in which version.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{ApiResource, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use portway_api::object::KindId;
use portway_translate::{Crds, UNSERVED};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::follow::{follow, without_failures};
use super::object::{self, Raw};
use super::{BY_NEED, Message};
use crate::outage::{Outages, Pauses};

/// After a change of CRDs, or when they have been listed anew, when to look at what is served: the API server takes its
/// time with it, and one that has just started tells of some only later.
const LAGS: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(2), Duration::from_secs(10)];
/// How long the first look waits for the list of CRDs.
const CRDS_FIRST: Duration = Duration::from_secs(2);
/// How often to look at what is served though no CRD has changed.
const PERIOD: Duration = Duration::from_secs(300);

/// The CRD by whose annotations the bundle is known.
const GATEWAY_CLASSES: &str = "gatewayclasses.gateway.networking.k8s.io";
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
const CHANNEL: &str = "gateway.networking.k8s.io/channel";

/// Follows what the cluster serves, and has each kind of it watched; `pods` only while they are wanted, since there
/// are many and hardly anybody selects them.
pub(super) async fn follow_served(
    client: Client,
    outages: Arc<Outages>,
    sender: mpsc::Sender<Message>,
    mut pods: watch::Receiver<bool>,
) {
    let mut watches =
        Watches { client: client.clone(), outages: Arc::clone(&outages), sender, tasks: BTreeMap::new() };
    let api = Api::<PartialObjectMeta<Raw>>::all_with(client, &definitions());
    let watched = watcher(api, watcher::Config::default());
    let mut events = pin!(without_failures("customresourcedefinitions", watched, outages));
    let mut looks = Looks::new();
    let mut bundle = None;
    // The names of the CRDs that there are.
    let mut definitions = BTreeSet::new();
    loop {
        let sent = tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Event::Init) => {
                    bundle = None;
                    definitions.clear();
                    Ok(())
                }
                Some(Event::InitDone) => {
                    looks.now();
                    looks.again_later();
                    watches.sender.send(Message::Crds(bundle.clone())).await
                }
                Some(Event::InitApply(crd)) => {
                    definitions.extend(crd.metadata.name.clone());
                    if crd.metadata.name.as_deref() == Some(GATEWAY_CLASSES) {
                        bundle = bundle_of(&crd);
                    }
                    Ok(())
                }
                Some(Event::Apply(crd)) => {
                    looks.soon(&crd);
                    definitions.extend(crd.metadata.name.clone());
                    if crd.metadata.name.as_deref() == Some(GATEWAY_CLASSES) {
                        bundle = bundle_of(&crd);
                        watches.sender.send(Message::Crds(bundle.clone())).await
                    } else {
                        Ok(())
                    }
                }
                Some(Event::Delete(crd)) => {
                    looks.soon(&crd);
                    definitions.remove(crd.metadata.name.as_deref().unwrap_or_default());
                    Ok(())
                }
            },
            Ok(()) = pods.changed() => {
                looks.now();
                Ok(())
            }
            () = tokio::time::sleep_until(looks.next) => {
                let pods = *pods.borrow_and_update();
                // What has a CRD and is not told of may only not be told of yet.
                let is_there = |kind: KindId| looks.is_more_due() && definitions.contains(&definition(kind));
                match watches.look(pods, is_there).await {
                    Ok(sent) => {
                        looks.looked();
                        sent
                    }
                    Err(error) => {
                        watches.outages.failed("discovery", &error);
                        looks.failed();
                        Ok(())
                    }
                }
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The name of a kind's CRD.
fn definition(kind: KindId) -> String {
    format!("{}.{}", kind.info().plural, kind.info().group)
}

fn definitions() -> ApiResource {
    ApiResource {
        group: "apiextensions.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
        plural: "customresourcedefinitions".to_owned(),
    }
}

fn bundle_of(crd: &PartialObjectMeta<Raw>) -> Option<Crds> {
    let annotations = crd.metadata.annotations.as_ref()?;
    Some(Crds {
        bundle_version: annotations.get(BUNDLE_VERSION)?.clone(),
        channel: annotations.get(CHANNEL).cloned().unwrap_or_default(),
    })
}

/// When to look at what is served.
struct Looks {
    next: Instant,
    /// When to look after that; the first is the soonest.
    later: Vec<Instant>,
    pauses: Pauses,
}

impl Looks {
    fn new() -> Self {
        // So that the CRDs are known first, if they can be known.
        Self { next: Instant::now() + CRDS_FIRST, later: Vec::new(), pauses: Pauses::default() }
    }

    fn now(&mut self) {
        self.next = Instant::now();
    }

    /// A CRD has changed.
    fn soon(&mut self, crd: &PartialObjectMeta<Raw>) {
        let name = crd.metadata.name.as_deref().unwrap_or_default();
        let group = name.split_once('.').map_or("", |(_, group)| group);
        if KindId::ALL.iter().any(|kind| kind.info().group == group) {
            self.next = self.next.min(Instant::now() + LAGS[0]);
            self.again_later();
        }
    }

    fn again_later(&mut self) {
        let now = Instant::now();
        self.later = LAGS[1..].iter().map(|lag| now + *lag).collect();
    }

    /// Whether what is seen now is looked at again soon.
    fn is_more_due(&self) -> bool {
        !self.later.is_empty()
    }

    fn looked(&mut self) {
        self.pauses.reset();
        let now = Instant::now();
        self.later.retain(|at| *at > now);
        self.next = if self.later.is_empty() { now + PERIOD } else { self.later.remove(0) };
    }

    fn failed(&mut self) {
        self.next = Instant::now() + self.pauses.next();
    }
}

/// The watches of the kinds that are served.
struct Watches {
    client: Client,
    outages: Arc<Outages>,
    sender: mpsc::Sender<Message>,
    tasks: BTreeMap<KindId, (&'static str, JoinHandle<()>)>,
}

impl Watches {
    /// Begins and ends watches according to what is served now; those of kinds that are there all the same go on.
    async fn look(
        &mut self,
        pods: bool,
        is_there: impl Fn(KindId) -> bool,
    ) -> kube::Result<Result<(), mpsc::error::SendError<Message>>> {
        let mut served = discover(&self.client).await?;
        if !pods {
            served.remove(&KindId::Pod);
        }
        self.outages.works("discovery");
        let watched: BTreeMap<KindId, &'static str> =
            self.tasks.iter().map(|(kind, (version, _))| (*kind, *version)).collect();
        for (kind, version) in watched.iter().filter(|(kind, _)| is_there(**kind)) {
            served.entry(*kind).or_insert(version);
        }
        if served == watched {
            return Ok(Ok(()));
        }
        for (kind, version) in &watched {
            if served.get(kind) != Some(version)
                && let Some((_, task)) = self.tasks.remove(kind)
            {
                task.abort();
                // What it has sent comes before what is sent below.
                let _ = task.await;
                self.outages.works(kind.info().plural);
            }
        }
        if !served.contains_key(&KindId::Gateway) {
            tracing::warn!("the cluster has no Gateway API: its CRDs are to be installed");
        }
        // Before anything that the new watches find.
        let sent = self.sender.send(Message::Watched(served.clone())).await;
        for (kind, version) in served {
            if self.tasks.contains_key(&kind) {
                continue;
            }
            tracing::debug!(%kind, version, "watched");
            let task =
                follow(kind, version, self.client.clone(), Arc::clone(&self.outages), self.sender.clone());
            self.tasks.insert(kind, (version, tokio::spawn(task)));
        }
        Ok(sent)
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        for (_, task) in self.tasks.values() {
            task.abort();
        }
    }
}

/// The kinds to watch, each in the first of its versions that is served.
async fn discover(client: &Client) -> kube::Result<BTreeMap<KindId, &'static str>> {
    let groups = client.list_api_groups().await?;
    let mut served: BTreeSet<(String, String, String)> = BTreeSet::new();
    for group in groups.groups.iter().filter(|group| ours(&group.name)) {
        let versions = group.versions.iter().filter(|version| known(&group.name, &version.version));
        for version in versions {
            let resources = match client.list_api_group_resources(&version.group_version).await {
                Ok(list) => list.resources,
                // Gone since.
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(error) => return Err(error),
            };
            served.extend(
                resources
                    .into_iter()
                    .map(|resource| (group.name.clone(), version.version.clone(), resource.name)),
            );
        }
    }
    let version = |kind: KindId| {
        let info = kind.info();
        if info.group.is_empty() {
            return Some(object::version(kind));
        }
        let is_served = |version: &&&'static str| {
            served.contains(&(info.group.to_owned(), (**version).to_owned(), info.plural.to_owned()))
        };
        info.versions.iter().find(is_served).copied()
    };
    let kinds = KindId::ALL.iter().filter(|kind| !BY_NEED.contains(kind) && !UNSERVED.contains(kind));
    Ok(kinds.filter_map(|kind| Some((*kind, version(*kind)?))).collect())
}

fn ours(group: &str) -> bool {
    !group.is_empty() && KindId::ALL.iter().any(|kind| kind.info().group == group)
}

fn known(group: &str, version: &str) -> bool {
    KindId::ALL.iter().any(|kind| kind.info().group == group && kind.info().versions.contains(&version))
}
