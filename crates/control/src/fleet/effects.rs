//! What is done in the cluster.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt as _, stream};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use portway_api::object::ObjectKey;
use portway_plan::{Plan, Shards};
use portway_store::Resources;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::live::{Id, OwnedKind, Seen, pod_name, pods};
use super::report::Fault;
use super::state::{State, Task};
use super::{FIELD_MANAGER, Report, SELECTOR, Settings};
use crate::outage::{Outages, Pauses};
use crate::source::without_failures;

/// Takes the replicas of a Deployment over from Portway until an autoscaler sets them: a field that is given up and
/// that nobody else has would fall back to its default, 1.
const HAND_OVER_MANAGER: &str = "portway.dev/replicas";
/// How many Gateways are worked on at once.
const CONCURRENCY: usize = 8;
/// What outages call the writes here.
const OUTAGE: &str = "fleet";

/// The fleets of all Gateways. A clone is the same.
#[derive(Clone, Debug)]
pub struct Fleets {
    settings: Arc<Settings>,
    state: Arc<Mutex<State>>,
    /// There is something to do.
    work: Arc<Notify>,
    /// The report has changed.
    news: Arc<Notify>,
}

impl Fleets {
    /// Nothing is wanted and nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: Arc::new(settings),
            state: Arc::default(),
            work: Arc::default(),
            news: Arc::default(),
        }
    }

    /// Says what is wanted: the Gateways that have a plan with ports get proxies, those of other controllers lose
    /// them, and all others keep what they have.
    pub fn tell(&self, resources: &Resources, plans: &Shards<ObjectKey, Arc<Plan>>, controller_name: &str) {
        self.state().tell(resources, plans, controller_name);
        self.work.notify_one();
    }

    /// What is known of all fleets.
    #[must_use]
    pub fn report(&self) -> Report {
        self.state().report()
    }

    /// Whether all that there is in the cluster is known; before, a report says too little.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state().live.is_complete()
    }

    /// Waits until the report has changed, or is complete, since this was last called.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// Watches the fleets for ever, and while `leader` is true makes them what they shall be. `authority` are the
    /// certificates by which proxies know the push server, as PEM; nothing is made while it is empty.
    pub async fn run(
        self,
        client: Client,
        leader: watch::Receiver<bool>,
        authority: watch::Receiver<String>,
        outages: Arc<Outages>,
    ) {
        let kinds = OwnedKind::ALL.map(Some).into_iter().chain([None]);
        let watches = kinds.map(|kind| self.watch(kind, client.clone(), Arc::clone(&outages)));
        tokio::join!(
            futures_util::future::join_all(watches),
            self.work(&client, leader, authority, &outages)
        );
    }

    /// Watches a kind of objects, or pods.
    async fn watch(&self, kind: Option<OwnedKind>, client: Client, outages: Arc<Outages>) {
        let (resource, what) = match kind {
            Some(kind) => (kind.resource(), kind.plural()),
            None => (pods(), "pods"),
        };
        let api = Api::<DynamicObject>::all_with(client, &resource);
        let watched = watcher(api, watcher::Config::default().labels(SELECTOR));
        let mut events = pin!(without_failures(what, watched, outages));
        let mut listing = BTreeSet::new();
        while let Some(event) = events.next().await {
            let mut state = self.state();
            let of = match &event {
                Event::Init => {
                    listing.clear();
                    Vec::new()
                }
                Event::InitApply(object) => {
                    listing.insert(pod_name(object));
                    state.live.put(kind, object)
                }
                Event::InitDone => {
                    let of = state.live.list(kind, &listing);
                    if state.live.is_complete() {
                        self.news.notify_one();
                    }
                    of
                }
                Event::Apply(object) => state.live.put(kind, object),
                Event::Delete(object) => {
                    if let Some(kind) = kind {
                        state.deleted(&Id::read(kind, object));
                    }
                    state.live.take(kind, object)
                }
            };
            state.mark(of);
            drop(state);
            self.work.notify_one();
        }
    }

    /// Reports on, and works on, what has changed.
    async fn work(
        &self,
        client: &Client,
        mut leader: watch::Receiver<bool>,
        mut authority: watch::Receiver<String>,
        outages: &Outages,
    ) {
        let mut pauses = Pauses::default();
        let mut failed = BTreeSet::new();
        // What was reported and not yet worked on.
        let mut due = BTreeSet::new();
        let mut retry: Option<Instant> = None;
        let mut leads = false;
        loop {
            let now_leads = *leader.borrow_and_update() && !authority.borrow_and_update().is_empty();
            let certificates = authority.borrow().clone();
            let stale = {
                let mut state = self.state();
                if now_leads && !leads {
                    state.mark_all();
                }
                state.take_stale()
            };
            leads = now_leads;
            self.update_reports(&stale);
            due.extend(stale);
            if retry.is_some_and(|at| at <= Instant::now()) {
                due.append(&mut failed);
                retry = None;
            }
            if leads && self.is_complete() && !due.is_empty() {
                let gateways = std::mem::take(&mut due);
                let done = gateways.into_iter().map(|gateway| {
                    let certificates = &certificates;
                    async move {
                        let ok = self.settle(client, &gateway, certificates, outages).await;
                        (gateway, ok)
                    }
                });
                let done = stream::iter(done).buffer_unordered(CONCURRENCY).collect::<Vec<_>>();
                let done = tokio::select! {
                    done = done => done,
                    // Whoever leads now writes: what is under way is dropped, and what was not begun never is.
                    lost = leader.wait_for(|leads| !*leads) => {
                        if lost.is_err() {
                            return;
                        }
                        leads = false;
                        continue;
                    }
                };
                for (gateway, ok) in done {
                    if ok {
                        failed.remove(&gateway);
                    } else {
                        failed.insert(gateway);
                    }
                }
                if failed.is_empty() {
                    pauses.reset();
                    retry = None;
                } else {
                    retry = retry.or_else(|| Some(Instant::now() + pauses.next()));
                }
            } else if !leads {
                due.clear();
                failed.clear();
                retry = None;
                outages.forget(OUTAGE);
            }
            tokio::select! {
                () = self.work.notified() => {}
                changed = leader.changed() => if changed.is_err() { return },
                changed = authority.changed() => match changed {
                    Ok(()) => self.state().mark_all(),
                    Err(_) => return,
                },
                () = until(retry) => {}
            }
        }
    }

    fn update_reports(&self, gateways: &BTreeSet<ObjectKey>) {
        let mut changed = false;
        {
            let mut state = self.state();
            for gateway in gateways {
                changed |= state.update_report(gateway);
            }
        }
        if changed {
            self.news.notify_one();
        }
    }

    /// Makes the objects of a Gateway what they shall be. Says whether it came to that.
    async fn settle(&self, client: &Client, gateway: &ObjectKey, authority: &str, outages: &Outages) -> bool {
        let tasks = self.state().tasks(gateway, &self.settings, authority);
        if tasks.is_empty() {
            self.note_faults(gateway, Vec::new());
            return true;
        }
        let mut faults = Vec::new();
        let mut ok = true;
        for (id, task) in tasks {
            match self.carry_out(client, &id, &task).await {
                Ok(()) => outages.works(OUTAGE),
                Err(Failure::Foreign) => {
                    let message = format!("there is one already that is not of {gateway}; it is left alone");
                    faults.push(Fault { id, message, is_quota: false });
                }
                // Someone else was faster: the watch brings what there is now.
                Err(Failure::Api(kube::Error::Api(status))) if status.code == 409 => ok = false,
                Err(Failure::Api(kube::Error::Api(status))) if is_refusal(status.code) => {
                    let is_quota = status.code == 403 && status.message.contains("quota");
                    faults.push(Fault { id, message: status.message.clone(), is_quota });
                }
                Err(Failure::Api(error)) => {
                    outages.failed(OUTAGE, &error);
                    // The API server is not asked for the rest when it does not answer.
                    return false;
                }
            }
        }
        ok &= faults.is_empty();
        self.note_faults(gateway, faults);
        ok
    }

    /// Tells of faults that are new.
    fn note_faults(&self, gateway: &ObjectKey, faults: Vec<Fault>) {
        let fresh = self.state().set_faults(gateway, faults);
        for fault in &fresh {
            tracing::warn!(%gateway, object = %fault.id, error = fault.message, "cannot be as it shall be");
        }
        self.update_reports(&BTreeSet::from([gateway.clone()]));
    }

    async fn carry_out(&self, client: &Client, id: &Id, task: &Task) -> Result<(), Failure> {
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), &id.namespace, &id.kind.resource());
        match task {
            Task::Foreign => Err(Failure::Foreign),
            Task::Delete { uid } => {
                let preconditions = Preconditions { uid: uid.clone(), resource_version: None };
                let params =
                    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
                match api.delete(&id.name, &params).await {
                    Ok(_) => tracing::info!(object = %id, "deleted: no longer wanted"),
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => return Err(error.into()),
                }
                self.state().deleted(id);
                Ok(())
            }
            Task::Apply { object, is_new, hand_over } => {
                if *is_new && let Some(found) = api.get_opt(&id.name).await? {
                    let uid = object["metadata"]["ownerReferences"][0]["uid"].as_str();
                    if !Seen::of(&found).is_of(uid) {
                        return Err(Failure::Foreign);
                    }
                }
                if let Some(replicas) = hand_over {
                    let part = replicas_only(object, *replicas);
                    let params = PatchParams::apply(HAND_OVER_MANAGER).force();
                    api.patch(&id.name, &params, &Patch::Apply(part)).await?;
                }
                let params = PatchParams::apply(FIELD_MANAGER).force();
                let made = api.patch(&id.name, &params, &Patch::Apply(object)).await?;
                if *is_new {
                    tracing::info!(object = %id, "made");
                }
                self.state().applied(id, object, Seen::of(&made).print);
                Ok(())
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a task was not done.
enum Failure {
    Foreign,
    Api(kube::Error),
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Api(error)
    }
}

/// Whether the API server answers no to this very object, rather than that it cannot answer now.
fn is_refusal(code: u16) -> bool {
    (400..500).contains(&code) && !matches!(code, 401 | 408 | 429)
}

fn replicas_only(object: &Value, replicas: i64) -> Value {
    let meta = &object["metadata"];
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
        "spec": {"replicas": replicas},
    })
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
