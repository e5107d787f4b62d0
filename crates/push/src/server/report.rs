//! What the proxies of one controller say, for the other controllers.
//!
//! Plans are told by their sums: revisions are counted by each controller for itself, but the same objects come to the
//! same plan everywhere.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::{Gateway, Rejection, Replica, Shared, lock};
use crate::auth::{GatewayName, Pod};
use crate::limits;
use crate::message::{self, Report, ReportRequest, ReportedReplica};
use crate::outcome::{Outcome, shortened};
use crate::shard::Sum;

/// Names a proxy.
type Proxy = (GatewayName, Pod);

/// The proxies of other controllers, by where those are.
pub(super) type Heard = BTreeMap<SocketAddr, Peer>;

/// What another controller has told.
#[derive(Default)]
pub(super) struct Peer {
    /// Since when it tells nothing any more.
    gone: Option<Instant>,
    replicas: BTreeMap<Proxy, HeardReplica>,
}

/// A proxy of another controller.
struct HeardReplica {
    version: String,
    connected: bool,
    acknowledged: Option<Sum>,
    outcome: Outcome,
    rejected: Option<(Sum, String)>,
}

/// The last plans of a Gateway, the newest last.
#[derive(Default)]
pub(super) struct Recent(VecDeque<(Sum, u64)>);

impl Recent {
    pub(super) fn push(&mut self, sum: Sum, revision: u64) {
        if self.0.len() == limits::RECENT {
            self.0.pop_front();
        }
        self.0.push_back((sum, revision));
    }

    /// The revision of a plan; the newest where it came again.
    fn revision(&self, sum: Sum) -> Option<u64> {
        self.0.iter().rev().find(|(known, _)| *known == sum).map(|(_, revision)| *revision)
    }
}

/// Tells another controller what the proxies here say, for as long as it listens.
pub(super) async fn open(
    shared: Arc<Shared>,
    mut closing: tokio::sync::watch::Receiver<bool>,
    request: Request<ReportRequest>,
) -> Result<ReceiverStream<Result<Report, Status>>, Status> {
    let (_, identity) = shared.authenticate(&request).await?;
    if lock(&shared.controllers).as_ref() != Some(&identity.account) {
        let account = &identity.account;
        return Err(Status::permission_denied(format!("ServiceAccount {account} is not the controllers'")));
    }
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = tell(&shared, &sender) => {}
            () = async { drop(closing.wait_for(|closing| *closing).await) } => {
                // It may be gone.
                let _ = sender.try_send(Err(Status::unavailable("the controller ends")));
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

async fn tell(shared: &Shared, sender: &mpsc::Sender<Result<Report, Status>>) {
    let mut news = shared.reports.subscribe();
    let mut told: BTreeMap<Proxy, ReportedReplica> = BTreeMap::new();
    let mut is_first = true;
    loop {
        news.mark_unchanged();
        let now = shared.reported();
        let forgotten = told
            .keys()
            .filter(|proxy| !now.contains_key(*proxy))
            .map(|(gateway, pod)| ReportedReplica { forgotten: true, ..named(gateway, pod) });
        let changed = now.iter().filter(|(proxy, replica)| told.get(*proxy) != Some(*replica));
        let replicas: Vec<_> = forgotten.chain(changed.map(|(_, replica)| replica.clone())).collect();
        let mut chunks = replicas.chunks(limits::REPORTED).map(<[_]>::to_vec).collect::<Vec<_>>();
        if is_first && chunks.is_empty() {
            chunks.push(Vec::new());
        }
        for replicas in chunks {
            let report = Report { controller: shared.identity.to_string(), replicas };
            if sender.send(Ok(report)).await.is_err() {
                return;
            }
        }
        (told, is_first) = (now, false);
        if news.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(limits::REPORT_SETTLES).await;
    }
}

impl Shared {
    /// What the proxies here say.
    fn reported(&self) -> BTreeMap<Proxy, ReportedReplica> {
        let gateways: Vec<Arc<Gateway>> = lock(&self.gateways).values().cloned().collect();
        let mut all = BTreeMap::new();
        for gateway in gateways {
            let replicas = lock(&gateway.replicas);
            let known =
                replicas.iter().filter(|(_, it)| it.gone.is_none_or(|since| since.elapsed() < limits::GONE));
            for (pod, connected) in known {
                let sum = |sum: Option<Sum>| {
                    sum.map_or_else(Bytes::new, |sum| Bytes::copy_from_slice(&sum.bytes()))
                };
                let replica = &connected.replica;
                let reported = ReportedReplica {
                    version: replica.version.clone(),
                    connected: replica.connected,
                    acknowledged: sum(connected.acknowledged),
                    outcome: Some(replica.outcome.message(0)),
                    rejected: sum(connected.rejected),
                    reason: replica.rejected.as_ref().map(|it| it.reason.clone()).unwrap_or_default(),
                    ..named(&gateway.name, pod)
                };
                all.insert((gateway.name.clone(), pod.clone()), reported);
            }
        }
        all
    }

    /// Takes in what another controller says.
    pub(super) fn hear(&self, peer: SocketAddr, report: Report) {
        let mut heard = lock(&self.heard);
        let entry = heard.entry(peer).or_default();
        entry.gone = None;
        let mut changed = Vec::new();
        for replica in report.replicas {
            let gateway = GatewayName::new(replica.namespace.as_str(), replica.name.as_str());
            let pod =
                Pod { name: shortened(&replica.pod_name).into(), uid: shortened(&replica.pod_uid).into() };
            let proxy = (gateway.clone(), pod);
            if replica.forgotten {
                entry.replicas.remove(&proxy);
            } else {
                entry.replicas.insert(proxy, HeardReplica::of(replica));
            }
            changed.push(gateway);
        }
        drop(heard);
        self.tell_heard(changed);
    }

    /// Another controller tells nothing any more: what it has told counts a little longer, until its proxies have
    /// found another one.
    pub(super) fn unheard(&self, peer: SocketAddr) {
        let mut heard = lock(&self.heard);
        let Some(entry) = heard.get_mut(&peer) else { return };
        if entry.gone.is_some() {
            return;
        }
        entry.gone = Some(Instant::now());
        for replica in entry.replicas.values_mut() {
            replica.connected = false;
        }
        let changed = entry.replicas.keys().map(|(gateway, _)| gateway.clone()).collect();
        drop(heard);
        self.tell_heard(changed);
    }

    /// What a controller has told that tells nothing any more counts no longer.
    pub(super) fn forget_if_gone(&self, peer: SocketAddr) {
        let mut heard = lock(&self.heard);
        if heard.get(&peer).is_none_or(|peer| peer.gone.is_none()) {
            return;
        }
        let removed = heard.remove(&peer);
        drop(heard);
        let changed =
            removed.into_iter().flat_map(|peer| peer.replicas.into_keys()).map(|(gateway, _)| gateway);
        self.tell_heard(changed.collect());
    }

    /// The proxies of a Gateway that are connected elsewhere, by what this controller calls its revisions.
    pub(super) fn elsewhere(&self, gateway: &Gateway) -> Vec<Replica> {
        let recent = lock(&gateway.recent);
        let heard = lock(&self.heard);
        let counts = |peer: &&Peer| peer.gone.is_none_or(|since| since.elapsed() < limits::GONE);
        let replicas = heard.values().filter(counts).flat_map(|peer| &peer.replicas);
        let of_gateway = replicas.filter(|((name, _), _)| *name == gateway.name);
        let replicas = of_gateway.map(|((_, pod), heard)| {
            let acknowledged = heard.acknowledged.and_then(|sum| recent.revision(sum)).unwrap_or(0);
            let rejected = heard.rejected.as_ref().and_then(|(sum, reason)| {
                Some(Rejection { revision: recent.revision(*sum)?, reason: reason.clone() })
            });
            Replica {
                pod: pod.clone(),
                version: heard.version.clone(),
                connected: heard.connected,
                acknowledged,
                outcome: heard.outcome.clone(),
                rejected: rejected.filter(|rejection| rejection.revision > acknowledged),
            }
        });
        replicas.collect()
    }

    fn tell_heard(&self, gateways: Vec<GatewayName>) {
        if gateways.is_empty() {
            return;
        }
        lock(&self.changed).extend(gateways);
        self.news.notify_one();
    }
}

impl HeardReplica {
    fn of(replica: ReportedReplica) -> Self {
        Self {
            version: shortened(&replica.version),
            connected: replica.connected,
            acknowledged: Sum::read(&replica.acknowledged),
            outcome: replica.outcome.map(Outcome::read).unwrap_or_default(),
            rejected: Sum::read(&replica.rejected).map(|sum| (sum, shortened(&replica.reason))),
        }
    }
}

fn named(gateway: &GatewayName, pod: &Pod) -> ReportedReplica {
    message::ReportedReplica {
        namespace: gateway.namespace.to_string(),
        name: gateway.name.to_string(),
        pod_name: pod.name.to_string(),
        pod_uid: pod.uid.to_string(),
        ..message::ReportedReplica::default()
    }
}
