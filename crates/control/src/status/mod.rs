//! The status writer: what translations say of objects, written to the cluster.
//!
//! ```text
//! controller loop ── tell(Round, touched) ──► writer: which objects may need a write, by the newest round
//!                                               │ programmed: what replicas have not taken yet is held back
//!                                               │ merge: own entries into what the object carries
//!                                               ▼
//!                                             write: PATCH …/status, guarded by resourceVersion
//! ```
//!
//! - Only Portway's own entries are written: `status.parents` and `status.ancestors` with its controller name,
//!   and on GatewayClasses, Gateways, ListenerSets and their listeners the conditions that are Portway's.
//!   Those of others stay byte for byte, also when both write at once (409: again from the fresh object).
//! - Nothing is written that is there already: Portway's own writes come back through the watch and cause none.
//! - One write per object at a time, [`Settings::concurrency`] in all. The first is made at once; what changes
//!   soon after is written in its newest form, [`Settings::interval`] later and then ever less often, up to
//!   [`Settings::longest`], while it goes on.
//! - Only the leader writes; whoever becomes it looks at all objects anew.
//! - `Programmed` is `True` for a generation only when every live replica of the Gateway has taken a plan in
//!   which that generation is (see [`Proxies`]). Until then the condition stays as it was. All else, such as
//!   `Accepted` of routes, waits for no replica.

mod merge;
mod programmed;
mod write;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use portway_api::object::{KindId, ObjectKey};
use portway_plan::{Source, Transport};
use portway_push::GatewayState;
use portway_store::Resources;
use portway_translate::Statuses;
use tokio::sync::{Notify, watch};

use crate::Outages;

/// Counts the plans of one Gateway in the order in which this controller published them, from 1. It means nothing
/// to another controller, nor after a restart.
pub type Revision = u64;

/// What one translation says, and what the proxies have made of it so far.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// The objects that were translated, with the statuses that they carry in the cluster.
    pub resources: Resources,
    /// The statuses that they shall carry.
    pub statuses: Statuses,
    /// By Gateway: its proxies. While a Gateway is not in here, nothing is known of its proxies.
    pub proxies: Arc<BTreeMap<ObjectKey, Proxies>>,
    /// In which version the cluster serves each kind. A kind that is not in here is not written.
    pub served: Arc<BTreeMap<KindId, &'static str>>,
}

/// The proxies of one Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// The revision of the plan that is from the same translation as the statuses. It stays as it is while the
    /// plan does: what changed nothing in the plan needs no new acknowledgement.
    pub published: Revision,
    /// The live replicas, by name of their pods: those that run, or that are about to. One that goes away is
    /// left out as soon as it is on its way out, one that has not connected yet is in here.
    pub replicas: BTreeMap<Arc<str>, Replica>,
}

/// What one proxy has said of its Gateway's plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replica {
    /// The newest revision that it serves; 0 for none.
    pub acknowledged: Revision,
    /// The newest revision that it rejected as a whole, and why; `None` once it has acknowledged a later one.
    pub rejected: Option<(Revision, String)>,
    /// Ports of the acknowledged revision that could not be bound, and why.
    pub unavailable: BTreeMap<(u16, Transport), String>,
    /// Listeners of the acknowledged revision that it does not serve although their port is bound, and why.
    pub failed: BTreeMap<Source, String>,
}

impl Proxies {
    /// The proxies of a Gateway whose pods of these names are live, and of whose plan the push says this.
    /// `published` is the revision of the plan that is from the same translation as the statuses.
    pub fn new(published: Revision, live: impl IntoIterator<Item = Arc<str>>, state: &GatewayState) -> Self {
        let known = |name: &Arc<str>| {
            let said = state.replicas.iter().filter(|replica| replica.pod.name == *name);
            said.max_by_key(|replica| (replica.connected, replica.acknowledged)).map(Replica::from)
        };
        let replicas = live.into_iter().map(|name| (Arc::clone(&name), known(&name).unwrap_or_default()));
        Self { published, replicas: replicas.collect() }
    }
}

impl From<&portway_push::Replica> for Replica {
    fn from(replica: &portway_push::Replica) -> Self {
        let unavailable = replica.outcome.unavailable.iter();
        let failed = replica.outcome.failed.iter().filter(|failed| !failed.serves);
        Self {
            acknowledged: replica.acknowledged,
            rejected: replica.rejected.as_ref().map(|it| (it.revision, it.reason.clone())),
            unavailable: unavailable.map(|it| ((it.port, it.transport), it.reason.clone())).collect(),
            failed: failed.map(|it| (it.listener.clone(), it.reason.clone())).collect(),
        }
    }
}

/// How the writer works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Entries and classes with this controller name are Portway's own.
    pub controller_name: String,
    /// How many writes may be under way at once.
    pub concurrency: usize,
    /// The least time between the first write of an object and the second.
    pub interval: Duration,
    /// The least time between writes of an object that changes again and again.
    pub longest: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            controller_name: portway_translate::CONTROLLER_NAME.to_owned(),
            concurrency: 16,
            interval: Duration::from_millis(100),
            longest: Duration::from_millis(800),
        }
    }
}

/// What the writer has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Statuses written, by kind.
    pub writes: BTreeMap<KindId, u64>,
    /// Writes that had to be done again because someone else had written in the meantime.
    pub conflicts: u64,
    /// Writes that failed, to be tried again later.
    pub errors: u64,
}

/// Writes statuses to the cluster. A clone is the same writer.
#[derive(Clone, Debug)]
pub struct StatusWriter {
    settings: Arc<Settings>,
    told: Arc<Mutex<Told>>,
    news: Arc<Notify>,
}

/// What the writer was told and has not looked at yet, and what it has done.
#[derive(Debug, Default)]
struct Told {
    round: Option<Round>,
    /// Empty while nobody writes: whoever begins to looks at all objects.
    touched: BTreeSet<ObjectKey>,
    /// Whether somebody writes.
    writes: bool,
    counts: Counts,
}

impl StatusWriter {
    /// A writer that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), told: Arc::default(), news: Arc::default() }
    }

    /// Tells it what statuses there should be now. `touched` are the objects that came from the API server since
    /// the last time, for whatever reason, be it a write of our own: only these, and those that the round before
    /// said something else of, are compared with what they carry. Returns at once; a round that is told before
    /// the one before it is looked at takes its place.
    pub fn tell(&self, round: Round, touched: impl IntoIterator<Item = ObjectKey>) {
        self.with(|told| {
            told.round = Some(round);
            if told.writes {
                told.touched.extend(touched);
            }
        });
        self.news.notify_one();
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.with(|told| told.counts.clone())
    }

    /// Writes, while `leader` is true, until its sender is gone.
    pub async fn run(self, client: Client, outages: Arc<Outages>, leader: watch::Receiver<bool>) {
        writer::run(self, client, outages, leader).await;
    }

    fn with<T>(&self, then: impl FnOnce(&mut Told) -> T) -> T {
        then(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
