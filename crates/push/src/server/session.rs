//! One proxy's stream: who it is, what it has, what it gets, what it says.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use portway_plan::TicketKey;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::listen::Proven;
use super::revision::{Base, Revision};
use super::{Connected, Gateway, Rejection, Replica, Shared, Update, lock};
use crate::auth::{GatewayName, Identity, Pod, Refusal};
use crate::limits;
use crate::message::from_proxy::Message;
use crate::message::{self, FromController, FromProxy};
use crate::outcome::{Outcome, shortened};
use crate::shard::ShardHash;
use crate::tickets::TicketRoot;

/// How often the same refusal is logged.
const SAY_AGAIN: Duration = Duration::from_secs(600);
/// How many different refusals are remembered.
const SAID: usize = 1024;

/// Refusals that were logged, and when.
#[derive(Default)]
pub(super) struct Said(Mutex<HashMap<String, Instant>>);

impl Said {
    /// Whether it is worth a line.
    fn is_new(&self, what: &str) -> bool {
        let mut said = lock(&self.0);
        let now = Instant::now();
        said.retain(|_, since| now.duration_since(*since) < SAY_AGAIN);
        if said.contains_key(what) || said.len() >= SAID {
            return false;
        }
        said.insert(what.to_owned(), now);
        true
    }
}

/// A stream that has said who it is.
struct Session {
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
    inbound: Streaming<FromProxy>,
    sender: mpsc::Sender<Result<FromController, Status>>,
    gateway: Arc<Gateway>,
    identity: Identity,
    token: String,
    pod: Pod,
    stream: u64,
    base: Base,
    /// Whether the proxy takes keys of tickets.
    ticket_keys: bool,
}

/// Opens a stream for whom the token says.
pub(super) async fn open(
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
    request: Request<Streaming<FromProxy>>,
) -> Result<ReceiverStream<Result<FromController, Status>>, Status> {
    let (token, identity) = shared.authenticate(&request).await?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let ended = match Session::begin(
            shared,
            closing,
            identity,
            token,
            request.into_inner(),
            sender.clone(),
        )
        .await
        {
            Ok(session) => session.run().await,
            Err(status) => status,
        };
        // The proxy may be gone.
        let _ = sender.send(Err(ended)).await;
    });
    Ok(ReceiverStream::new(receiver))
}

impl Shared {
    /// Who the bearer of the request's token is; its connection may stay.
    pub(super) async fn authenticate<T>(&self, request: &Request<T>) -> Result<(String, Identity), Status> {
        let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let Some(token) = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned) else {
            return Err(self.unauthenticated("there is no token"));
        };
        match self.authenticator.authenticate(&token).await {
            Ok(identity) => {
                if let Some(proven) = request.extensions().get::<Proven>() {
                    proven.prove();
                }
                Ok((token, identity))
            }
            Err(Refusal::Invalid(reason)) => Err(self.unauthenticated(&reason)),
            Err(refusal @ Refusal::Unavailable(_)) => Err(Status::unavailable(refusal.to_string())),
        }
    }

    pub(super) fn unauthenticated(&self, reason: &str) -> Status {
        self.counters.unauthenticated.fetch_add(1, Ordering::Relaxed);
        if self.said.is_new(reason) {
            tracing::warn!(reason, "a proxy is refused: its token is not valid");
        }
        Status::unauthenticated(shortened(reason))
    }

    fn forbidden(&self, identity: &Identity, gateway: &GatewayName) -> Status {
        self.counters.forbidden.fetch_add(1, Ordering::Relaxed);
        let account = &identity.account;
        if self.said.is_new(&format!("{account} {gateway}")) {
            tracing::warn!(%account, %gateway, "a proxy is refused: it asks for a Gateway that is not its own");
        }
        Status::permission_denied(format!(
            "ServiceAccount {account} is not that of the proxies of Gateway {gateway}"
        ))
    }

    /// The Gateway, when it is published.
    async fn published(&self, name: &GatewayName) -> Option<Arc<Gateway>> {
        let mut published = self.published.subscribe();
        let wait = async {
            loop {
                published.mark_unchanged();
                if let Some(gateway) = self.gateway(name)
                    && gateway.newest.borrow().is_some()
                {
                    return Some(gateway);
                }
                published.changed().await.ok()?;
            }
        };
        timeout(limits::UNPUBLISHED, wait).await.ok().flatten()
    }
}

impl Session {
    /// Hears who it is and what it has.
    async fn begin(
        shared: Arc<Shared>,
        closing: watch::Receiver<bool>,
        identity: Identity,
        token: String,
        mut inbound: Streaming<FromProxy>,
        sender: mpsc::Sender<Result<FromController, Status>>,
    ) -> Result<Self, Status> {
        let Some(Message::Hello(hello)) = greeting(&mut inbound).await? else {
            return Err(Status::invalid_argument("the first message must be a Hello"));
        };
        let have = usize::try_from(hello.have).unwrap_or(usize::MAX);
        if have > limits::SHARDS {
            return Err(Status::resource_exhausted("too many shards"));
        }
        let mut hashes = HashSet::new();
        while hashes.len() < have {
            let Some(Message::Have(more)) = greeting(&mut inbound).await? else {
                return Err(Status::invalid_argument("there must be as many hashes as the Hello says"));
            };
            let before = hashes.len();
            hashes.extend(ShardHash::read_all(&more.hashes).ok_or(Status::invalid_argument("half a hash"))?);
            if hashes.len() == before {
                return Err(Status::invalid_argument("hashes that were there before"));
            }
        }
        let name = GatewayName::new(hello.namespace, hello.name);
        let Some(gateway) = shared.published(&name).await else {
            return Err(Status::not_found(format!("Gateway {name} is not published here")));
        };
        if *lock(&gateway.account) != identity.account {
            return Err(shared.forbidden(&identity, &name));
        }
        shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let claimed = Pod { name: shortened(&hello.pod_name).into(), uid: shortened(&hello.pod_uid).into() };
        let pod = identity.pod.clone().unwrap_or(claimed);
        let stream = shared.streams.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(gateway = %name, pod = %pod.name, have, "a proxy is connected");
        let session = Self {
            shared,
            closing,
            inbound,
            sender,
            gateway,
            identity,
            token,
            pod,
            stream,
            base: Base::Hashes(hashes),
            ticket_keys: hello.ticket_keys,
        };
        session.arrived(shortened(&hello.version));
        Ok(session)
    }

    /// The proxy is there. What it said of the newest revision on a stream before still holds if that is what it
    /// has; a container that has started again has nothing, or what was kept on disk.
    fn arrived(&self, version: String) {
        let newest = self.gateway.newest.borrow().clone();
        let has = newest.filter(|newest| newest.since(&self.base).is_empty()).map(|newest| newest.number);
        let mut replicas = lock(&self.gateway.replicas);
        let connected = replicas.entry(self.pod.clone()).or_insert_with(|| Connected {
            stream: self.stream,
            gone: None,
            replica: Replica {
                pod: self.pod.clone(),
                version: String::new(),
                connected: false,
                acknowledged: 0,
                outcome: Outcome::default(),
                rejected: None,
            },
            acknowledged: None,
            rejected: None,
        });
        connected.stream = self.stream;
        connected.gone = None;
        connected.replica.version = version;
        connected.replica.connected = true;
        if has != Some(connected.replica.acknowledged) {
            connected.replica.acknowledged = 0;
            connected.acknowledged = None;
        }
        drop(replicas);
        self.shared.tell(&self.gateway.name);
    }

    /// Serves the proxy to the end of its stream, and says why it ended.
    async fn run(mut self) -> Status {
        let status =
            self.serve().await.err().unwrap_or_else(|| Status::ok("the proxy has closed the stream"));
        tracing::debug!(gateway = %self.gateway.name, pod = %self.pod.name, %status, "a proxy's stream has ended");
        let left = self.gateway.update(&self.pod, self.stream, |connected| {
            connected.replica.connected = false;
            connected.gone = Some(Instant::now());
        });
        if left == Update::New {
            self.shared.tell(&self.gateway.name);
            let (shared, name) = (Arc::downgrade(&self.shared), self.gateway.name.clone());
            tokio::spawn(async move {
                tokio::time::sleep(limits::GONE).await;
                if let Some(shared) = shared.upgrade() {
                    shared.tell(&name);
                }
            });
        }
        status
    }

    async fn serve(&mut self) -> Result<(), Status> {
        let mut closing = self.closing.clone();
        let mut newest = self.gateway.newest.subscribe();
        newest.mark_changed();
        let begun = tokio::time::Instant::now() + limits::REVIEW;
        let mut review = interval_at(begun, limits::REVIEW);
        review.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut root = self.shared.ticket_root.subscribe();
        let mut epoch_ends = self.send_ticket_keys(&mut root).await?;
        // The revision that the proxy has not answered yet, and until when it must.
        let mut waiting: Option<(Arc<Revision>, tokio::time::Instant)> = None;
        loop {
            let deadline = waiting.as_ref().map(|(_, deadline)| *deadline);
            tokio::select! {
                changed = root.changed(), if self.ticket_keys => {
                    changed.map_err(|_| Status::unavailable("the controller ends"))?;
                    epoch_ends = self.send_ticket_keys(&mut root).await?;
                }
                () = sleep_until(epoch_ends), if self.ticket_keys => {
                    epoch_ends = self.send_ticket_keys(&mut root).await?;
                }
                message = self.inbound.message() => match message?.map(|message| message.message) {
                    None => return Ok(()),
                    Some(Some(Message::Outcome(outcome))) => {
                        let answered = self.heard(outcome, waiting.as_ref().map(|(revision, _)| revision))?;
                        if answered {
                            waiting = None;
                        }
                    }
                    Some(Some(Message::Token(token))) => self.token = token.token,
                    Some(_) => return Err(Status::invalid_argument("not now")),
                },
                changed = newest.changed(), if waiting.is_none() => {
                    let gone = || Status::not_found(format!("Gateway {} is gone", self.gateway.name));
                    changed.map_err(|_| gone())?;
                    let revision = newest.borrow_and_update().clone().ok_or_else(gone)?;
                    self.send(&revision).await?;
                    waiting = Some((revision, tokio::time::Instant::now() + limits::REVISION));
                }
                () = sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => {
                    return Err(Status::deadline_exceeded("the revision was not answered"));
                }
                _ = review.tick() => self.review().await?,
                () = async { drop(closing.wait_for(|closing| *closing).await) } => {
                    return Err(Status::unavailable("the controller ends"));
                }
            }
        }
    }

    /// Sends the keys of tickets, if there are any and the proxy takes them; says when the next are due.
    async fn send_ticket_keys(
        &self,
        root: &mut watch::Receiver<Option<TicketRoot>>,
    ) -> Result<tokio::time::Instant, Status> {
        let now = SystemTime::now();
        let root = root.borrow_and_update().clone();
        if let Some(root) = root.filter(|_| self.ticket_keys) {
            let keys = root.keys(&self.gateway.name, TicketKey::epoch(now)).into_iter();
            let moved = |mut key: TicketKey| message::TicketKey {
                epoch: key.epoch,
                key: std::mem::take(&mut key.key.0),
            };
            let keys = keys.map(moved).collect();
            let ticket_keys = Some(message::TicketKeys { keys });
            let sending = self.sender.send(Ok(FromController { part: None, ticket_keys }));
            match timeout(limits::REVISION, sending).await {
                Ok(sent) => sent.map_err(|_| Status::cancelled("the proxy is gone"))?,
                Err(_) => return Err(Status::deadline_exceeded("the keys of tickets were not received")),
            }
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let left = TicketKey::EPOCH.as_secs() - since % TicketKey::EPOCH.as_secs();
        // A moment later than that, so that it has begun.
        Ok(tokio::time::Instant::now() + Duration::from_secs(left + 1))
    }

    /// Sends what the proxy lacks of a revision.
    async fn send(&self, revision: &Arc<Revision>) -> Result<(), Status> {
        let internal = |error: serde_json::Error| Status::internal(error.to_string());
        let mut parts = Arc::clone(revision).parts(revision.since(&self.base));
        let sending = async {
            while let Some(part) = parts.next().map_err(internal)? {
                let bytes: usize = part.shards.iter().map(|shard| shard.body.len()).sum();
                let shards = part.shards.iter().filter(|shard| !shard.more).count();
                let counters = &self.shared.counters;
                counters.shards.fetch_add(shards as u64, Ordering::Relaxed);
                counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                let message = FromController { part: Some(part), ticket_keys: None };
                self.sender.send(Ok(message)).await.map_err(|_| Status::cancelled("the proxy is gone"))?;
            }
            Ok(())
        };
        match timeout(limits::REVISION, sending).await {
            Ok(sent) => sent,
            Err(_) => Err(Status::deadline_exceeded("the revision was not received")),
        }
    }

    /// Takes over what the proxy says. Whether that answers the revision it was sent.
    fn heard(&mut self, outcome: message::Outcome, waiting: Option<&Arc<Revision>>) -> Result<bool, Status> {
        let number = outcome.revision;
        let answered = waiting.is_some_and(|revision| revision.number == number);
        let (gateway, counters) = (&self.gateway, &self.shared.counters);
        let update = if outcome.rejected.is_empty() {
            let sum = match (waiting, &self.base) {
                (Some(revision), _) if answered => {
                    self.base = Base::Revision(Arc::clone(revision));
                    revision.sum()
                }
                (_, Base::Revision(base)) if base.number == number => base.sum(),
                _ => return Err(Status::invalid_argument("an outcome of a revision that was not sent")),
            };
            counters.acknowledged.fetch_add(u64::from(answered), Ordering::Relaxed);
            let outcome = Outcome::read(outcome);
            gateway.update(&self.pod, self.stream, |connected| {
                connected.replica.acknowledged = number;
                connected.replica.outcome = outcome;
                connected.replica.rejected = None;
                connected.acknowledged = Some(sum);
                connected.rejected = None;
            })
        } else if let Some(revision) = waiting.filter(|_| answered) {
            if outcome.kept {
                self.base = Base::Revision(Arc::clone(revision));
            }
            counters.rejected.fetch_add(1, Ordering::Relaxed);
            let reason = shortened(&outcome.rejected);
            let (pod, sum) = (&self.pod.name, revision.sum());
            tracing::warn!(gateway = %gateway.name, %pod, revision = number, reason, "a proxy rejects a plan");
            gateway.update(&self.pod, self.stream, |connected| {
                connected.replica.rejected = Some(Rejection { revision: number, reason });
                connected.rejected = Some(sum);
            })
        } else {
            return Err(Status::invalid_argument("an outcome of a revision that was not sent"));
        };
        match update {
            Update::Same => {}
            Update::New => self.shared.tell(&gateway.name),
            Update::Superseded => return Err(Status::aborted("this proxy has a newer stream")),
        }
        Ok(answered)
    }

    /// Asks again whether the token is valid and is that of the Gateway's proxies.
    async fn review(&mut self) -> Result<(), Status> {
        match self.shared.authenticator.authenticate(&self.token).await {
            Ok(identity) => self.identity = identity,
            Err(Refusal::Invalid(reason)) => return Err(self.shared.unauthenticated(&reason)),
            // The API server is away: that is no reason to leave proxies without news.
            Err(Refusal::Unavailable(_)) => return Ok(()),
        }
        if *lock(&self.gateway.account) != self.identity.account {
            return Err(self.shared.forbidden(&self.identity, &self.gateway.name));
        }
        Ok(())
    }
}

/// A message of a proxy that has not said all yet.
async fn greeting(inbound: &mut Streaming<FromProxy>) -> Result<Option<Message>, Status> {
    match timeout(limits::GREETING, inbound.message()).await {
        Ok(message) => Ok(message?.and_then(|message| message.message)),
        Err(_) => Err(Status::deadline_exceeded("the proxy does not say who it is")),
    }
}
