//! All that routes attach to: GatewayClasses, Gateways, ListenerSets and their listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use portway_api::core::Secret;
use portway_api::gateway::{Gateway, GatewayStatusAddress, ListenerSet, XBackend};
use portway_api::object::{KindId, Metadata, ObjectKey};
use portway_plan::{Certificate, CertificateKey, HostPattern, Shards, TrustKey};
use portway_store::{Resources, Stored};

use crate::attach::{ListenerView, ParentView};
use crate::backend::Dependency;
use crate::class::ClassNode;
use crate::condition::{Finding, Verdict};
use crate::listener::{ListenerId, ListenerNode};
use crate::precedence::Seniority;
use crate::trust::Bundles;
use crate::x_backend::{self, Secured};
use crate::{Options, certificate, class, contest, gateway, listenerset};

/// A Gateway of one of Portway's classes, examined.
#[derive(Clone, Debug)]
pub(crate) struct GatewayNode {
    pub(crate) object: Arc<Stored<Gateway>>,
    /// Whose plan has its listeners.
    pub(crate) site: Site,
    /// Why the Gateway as a whole is not accepted.
    pub(crate) refused: Option<Finding>,
    /// The addresses to bind; `None` for all.
    pub(crate) addresses: Vec<Option<IpAddr>>,
    /// An address that cannot be had, or another fault of what serves the Gateway.
    pub(crate) unusable: Option<Finding>,
    /// The addresses to report, if others know them better.
    pub(crate) reported: Vec<GatewayStatusAddress>,
    /// Whether it has the addresses that it asks for, where that is to be told.
    pub(crate) assigned: Option<Verdict>,
    /// References of the Gateway itself that cannot be followed.
    pub(crate) unresolved: Option<Finding>,
    pub(crate) ignored: Vec<String>,
    /// The certificate to show to backends.
    pub(crate) client_certificate: Option<CertificateKey>,
    /// Where it lets clients in whose certificates are not valid.
    pub(crate) insecure: Vec<String>,
    pub(crate) listeners: Vec<ListenerNode>,
    /// The ListenerSets that name it, the most senior first, whether it lets them attach or not.
    pub(crate) sets: Vec<SetNode>,
}

impl GatewayNode {
    /// Its own listeners and those of the sets that are let in.
    pub(crate) fn merged(&self) -> impl Iterator<Item = &ListenerNode> {
        let sets = self.sets.iter().filter(|set| set.refused.is_none());
        self.listeners.iter().chain(sets.flat_map(|set| &set.listeners))
    }
}

/// A ListenerSet of such a Gateway, examined.
#[derive(Clone, Debug)]
pub(crate) struct SetNode {
    pub(crate) object: Arc<Stored<ListenerSet>>,
    /// Why it may not attach.
    pub(crate) refused: Option<Finding>,
    pub(crate) listeners: Vec<ListenerNode>,
}

/// Whose plan something belongs in: that of one Gateway, or (`None`) the one of all Gateways together.
pub(crate) type Site = Option<ObjectKey>;

/// What was found, all at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    /// Portway's classes.
    pub(crate) classes: BTreeMap<Arc<str>, ClassNode>,
    /// The most senior first.
    pub(crate) gateways: Vec<GatewayNode>,
    /// Where each of them is in `gateways`.
    pub(crate) places: BTreeMap<ObjectKey, usize>,
    /// The Gateway of each ListenerSet.
    pub(crate) owners: BTreeMap<ObjectKey, ObjectKey>,
    /// What routes see of Gateways and ListenerSets.
    pub(crate) parents: BTreeMap<ObjectKey, Arc<ParentView>>,
    /// The certificates that are served, by the plan that has them.
    pub(crate) certificates: BTreeMap<Site, Shards<CertificateKey, Arc<Certificate>>>,
    /// The Secrets that were asked for, there or not.
    pub(crate) secrets: BTreeSet<(Arc<str>, Arc<str>)>,
    /// The objects with certificate authorities that were asked for, there or not.
    pub(crate) asked: BTreeSet<ObjectKey>,
    /// The authorities that listeners check clients against, by the plan that has them.
    pub(crate) trust: BTreeMap<Site, BTreeSet<TrustKey>>,
    /// The objects that were asked for with permission, there or not; all pods, if any is selected.
    pub(crate) wanted: Arc<BTreeSet<ObjectKey>>,
    /// How XBackends are reached over TLS, all of them.
    pub(crate) x_backends: BTreeMap<ObjectKey, Secured>,
    /// The certificates that XBackends are shown.
    pub(crate) shown: BTreeMap<CertificateKey, Arc<Certificate>>,
    /// What the filters of listeners were made of.
    pub(crate) dependencies: BTreeSet<Dependency>,
    /// When the first of the certificates expires, in seconds of Unix time.
    pub(crate) expires: Option<i64>,
}

/// What the survey works with.
pub(crate) struct Surveyor<'a> {
    pub(crate) resources: &'a Resources,
    pub(crate) options: &'a Options,
    /// Secrets that have been read, for the next survey too.
    pub(crate) read: &'a mut BTreeMap<CertificateKey, certificate::Read>,
    /// Certificate authorities that have been read.
    pub(crate) bundles: &'a mut Bundles,
    /// The objects with certificate authorities that were asked for, there or not.
    pub(crate) asked: BTreeSet<ObjectKey>,
    pub(crate) secrets: BTreeSet<(Arc<str>, Arc<str>)>,
    pub(crate) dependencies: BTreeSet<Dependency>,
    expires: Option<i64>,
    /// The Gateway whose listeners, or whose sets' listeners, are being examined.
    pub(crate) gateway: ObjectKey,
}

impl Survey {
    /// Whose plan a listener is in, or would be if it were fit; `None` if its Gateway is not served.
    pub(crate) fn site(&self, listener: &ListenerId) -> Option<&Site> {
        let parent = &listener.parent;
        let key = self.owners.get(parent).unwrap_or(parent);
        let node = self.gateways.get(*self.places.get(key)?)?;
        gateway::obstacle(node).is_none().then_some(&node.site)
    }
}

impl Surveyor<'_> {
    /// Whether a certificate can be served.
    pub(crate) fn certificate(
        &mut self,
        key: &CertificateKey,
        secret: &Arc<Stored<Secret>>,
    ) -> Result<(), String> {
        let known = self.read.get(key).filter(|read| Arc::ptr_eq(&read.secret, secret));
        let result = match known {
            Some(read) => read.result.clone(),
            None => {
                let result = certificate::read(secret).map(Arc::new);
                let read = certificate::Read { secret: Arc::clone(secret), result: result.clone() };
                self.read.insert(key.clone(), read);
                result
            }
        };
        let not_after = result?.not_after;
        if not_after < self.options.now.0.unix_timestamp() {
            let when = time::OffsetDateTime::from_unix_timestamp(not_after)
                .map_or_else(|_| not_after.to_string(), |at| portway_api::object::Time(at).to_string());
            return Err(format!("the certificate expired at {when}"));
        }
        self.expires = Some(self.expires.map_or(not_after, |first| first.min(not_after)));
        Ok(())
    }
}

/// The age and name of an object.
pub(crate) fn seniority(metadata: &Metadata) -> Seniority {
    let created = metadata.creation_timestamp.map(|time| time.0.unix_timestamp());
    Seniority::new(created, &metadata.namespace, &metadata.name)
}

/// Surveys everything.
pub(crate) fn survey(
    resources: &Resources,
    options: &Options,
    read: &mut BTreeMap<CertificateKey, certificate::Read>,
    bundles: &mut Bundles,
) -> Survey {
    let mut survey = Survey { classes: class::ours(resources, options), ..Survey::default() };
    let mut surveyor = Surveyor {
        resources,
        options,
        read,
        bundles,
        asked: BTreeSet::new(),
        secrets: BTreeSet::new(),
        dependencies: BTreeSet::new(),
        expires: None,
        gateway: ObjectKey::new(KindId::Gateway, "", ""),
    };
    let mut gateways: Vec<_> = resources
        .all::<Gateway>()
        .filter(|gateway| survey.classes.contains_key(gateway.spec.gateway_class_name.as_str()))
        .collect();
    gateways.sort_by_cached_key(|gateway| seniority(&gateway.metadata));
    let mut sets = listenerset::by_gateway(resources);
    for object in gateways {
        surveyor.gateway = object.key.clone();
        let class = survey.classes.get(object.spec.gateway_class_name.as_str());
        let mut node =
            gateway::examine(object, class.and_then(|class| class.refused.as_ref()), &mut surveyor);
        for set in sets.remove(&object.key).unwrap_or_default() {
            survey.owners.insert(set.key.clone(), object.key.clone());
            node.sets.push(listenerset::examine(set, &node, &mut surveyor));
        }
        survey.places.insert(object.key.clone(), survey.gateways.len());
        survey.gateways.push(node);
    }
    for object in resources.all::<XBackend>() {
        survey.x_backends.insert(object.key.clone(), Secured::new(object, &mut surveyor));
    }
    (survey.secrets, survey.expires, survey.asked) = (surveyor.secrets, surveyor.expires, surveyor.asked);
    survey.dependencies = surveyor.dependencies;
    survey.wanted = Arc::new(
        survey
            .secrets
            .iter()
            .map(|(namespace, name)| ObjectKey::new(KindId::Secret, namespace, name))
            .chain(survey.asked.iter().cloned())
            // By no name: all of them.
            .chain(x_backend::selects_pods(resources).then(|| ObjectKey::new(KindId::Pod, "", "")))
            .collect(),
    );
    let mut contests: BTreeMap<Site, contest::Contest> = BTreeMap::new();
    for node in survey.gateways.iter_mut().filter(|node| node.refused.is_none()) {
        let contest = contests.entry(node.site.clone()).or_default();
        contest.enter(&node.addresses, &mut node.listeners);
    }
    for node in survey.gateways.iter_mut().filter(|node| node.refused.is_none()) {
        let contest = contests.entry(node.site.clone()).or_default();
        for set in node.sets.iter_mut().filter(|set| set.refused.is_none()) {
            contest.enter(&node.addresses, &mut set.listeners);
        }
    }
    find_overlaps(&mut survey.gateways);
    for node in &mut survey.gateways {
        gateway::mark_obstacles(node, options);
        view(node, &mut survey.parents);
    }
    survey.certificates = served(&survey.gateways, read);
    survey.trust = trusted(&survey.gateways);
    let shown = survey.x_backends.values().filter_map(|secured| secured.tls.as_ref());
    survey.shown = shown
        .filter_map(|tls| tls.client_certificate.as_ref())
        .filter_map(|key| Some((key.clone(), Arc::clone(read.get(key)?.result.as_ref().ok()?))))
        .collect();
    read.retain(|key, _| {
        let (namespace, name) = key.0.split_once('/').unwrap_or_default();
        survey.secrets.contains(&(Arc::from(namespace), Arc::from(name)))
    });
    survey
}

/// The listeners that are in plans, with their Gateways.
pub(crate) fn planned(gateways: &[GatewayNode]) -> impl Iterator<Item = (&GatewayNode, &ListenerNode)> {
    let served = gateways.iter().filter(|gateway| gateway::obstacle(gateway).is_none());
    served
        .flat_map(|gateway| gateway.merged().filter(|node| node.is_valid()).map(move |node| (gateway, node)))
}

/// The certificates of all listeners that are in a plan, and those that they show to backends, by the plan.
fn served(
    gateways: &[GatewayNode],
    read: &BTreeMap<CertificateKey, certificate::Read>,
) -> BTreeMap<Site, Shards<CertificateKey, Arc<Certificate>>> {
    let mut served: BTreeMap<Site, BTreeMap<_, _>> = BTreeMap::new();
    for (gateway, node) in planned(gateways) {
        let keys = node.certificates.iter().chain(&gateway.client_certificate);
        let certificates =
            keys.filter_map(|key| Some((key.clone(), Arc::clone(read.get(key)?.result.as_ref().ok()?))));
        served.entry(gateway.site.clone()).or_default().extend(certificates);
    }
    served.into_iter().map(|(site, certificates)| (site, certificates.into())).collect()
}

/// The authorities that listeners in a plan check clients against, by the plan.
fn trusted(gateways: &[GatewayNode]) -> BTreeMap<Site, BTreeSet<TrustKey>> {
    let mut trusted: BTreeMap<Site, BTreeSet<TrustKey>> = BTreeMap::new();
    for (gateway, node) in planned(gateways) {
        if let Some(validation) = &node.validation {
            trusted.entry(gateway.site.clone()).or_default().extend(validation.trust.iter().cloned());
        }
    }
    trusted
}

fn find_overlaps(gateways: &mut [GatewayNode]) {
    let mut bound: BTreeMap<(Site, Option<IpAddr>), Vec<usize>> = BTreeMap::new();
    for (i, node) in gateways.iter().enumerate().filter(|(_, node)| node.refused.is_none()) {
        for address in &node.addresses {
            bound.entry((node.site.clone(), *address)).or_default().push(i);
        }
    }
    for places in bound.into_values() {
        let mut rest = &mut *gateways;
        let mut passed = 0;
        let mut listeners = Vec::new();
        // Ascending places, so that each Gateway is split off what is left of the list.
        for place in places {
            let Some((node, after)) = rest.get_mut(place - passed..).and_then(<[_]>::split_first_mut) else {
                break;
            };
            (rest, passed) = (after, place + 1);
            let sets = node.sets.iter_mut().filter(|set| set.refused.is_none());
            listeners.extend(node.listeners.iter_mut().chain(sets.flat_map(|set| set.listeners.iter_mut())));
        }
        contest::mark_overlaps(&mut listeners);
    }
}

/// What routes see of a Gateway and its sets. Whether a listener is accepted does not matter to it
/// (ListenerStatus `attachedRoutes`).
fn view(node: &GatewayNode, parents: &mut BTreeMap<ObjectKey, Arc<ParentView>>) {
    let views = |listeners: &[ListenerNode]| -> Vec<ListenerView> {
        listeners
            .iter()
            .map(|node| ListenerView {
                id: node.id.clone(),
                port: node.port,
                hostname: node
                    .protocol
                    .filter(|protocol| protocol.has_hostnames())
                    .map_or(HostPattern::Any, |_| node.hostname.clone()),
                protocol: node.protocol,
                kinds: node.kinds.clone(),
                namespaces: node.namespaces.clone(),
            })
            .collect()
    };
    let own = ParentView { listeners: views(&node.listeners), refused: None };
    parents.insert(node.object.key.clone(), Arc::new(own));
    for set in &node.sets {
        let refused = set.refused.as_ref().map(|finding| finding.message.clone());
        let listeners = if refused.is_some() { Vec::new() } else { views(&set.listeners) };
        parents.insert(set.object.key.clone(), Arc::new(ParentView { listeners, refused }));
    }
}
