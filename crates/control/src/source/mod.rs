//! What the cluster holds: watches of the API server ─► [`Resources`] and what changed.
//!
//! ```text
//! served:  discovery + a watch of CRDs ─► which kinds, in which version ─┐ starts and ends
//! follow:  a watch of each kind ─► pruned objects ───────────────────────┤
//! lookup:  metadata of Secrets and ConfigMaps, and those that are wanted ┤
//!                                                              messages  ▼
//! Source::next:                                   State ─► settles ─► Batch
//! ```
//!
//! Nothing of a kind is kept that translation does not read (`object`). Secrets and ConfigMaps are not read but
//! for those that something references: their watches are of metadata only, and what [`Source::want`] names is
//! fetched. That needs `get`, `list` and `watch` on both in the whole cluster, since a reference may name any of
//! them; a watch for each object by its name would need the same and a connection each. Pods are watched while an
//! XBackend selects some.
//!
//! The API server may be away for as long as it likes: what is known stays, the watches try again, and a relist
//! tells what came, changed and went in between ([`Outages`]).

mod follow;
mod lookup;
pub(crate) mod object;
mod served;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use portway_api::object::{KindId, ObjectKey};
use portway_store::{AnyObject, Changes, Resources};
use portway_translate::Crds;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::outage::Outages;
pub(crate) use follow::without_failures;
use state::{State, Wanted};

/// A burst of events is over when this long nothing has come.
const QUIET: Duration = Duration::from_millis(5);
/// The longest that an event waits for the end of its burst.
const LONGEST: Duration = Duration::from_millis(50);
/// How many messages may wait for [`Source::next`]; then the watches wait, and the API server with them.
const WAITING: usize = 1024;

/// Kinds of which only the objects that are wanted are read.
const BY_NEED: [KindId; 2] = [KindId::Secret, KindId::ConfigMap];

/// The kinds that the cluster serves, each with the version in which it is read.
pub type Served = BTreeMap<KindId, &'static str>;

/// What a watch has to say.
#[derive(Debug)]
enum Message {
    /// These kinds are watched from now on, in these versions; there are no objects of others.
    Watched(Served),
    /// What the CRDs say that they are.
    Crds(Option<Crds>),
    /// An object as it is now.
    Applied(AnyObject),
    /// An object is gone.
    Removed(ObjectKey),
    /// All that there is of a kind has been sent; all else of it is gone.
    Listed(KindId, BTreeSet<ObjectKey>),
    /// What a wanted object was found to be; `None` if it does not exist.
    Found(ObjectKey, Option<AnyObject>),
    /// A wanted object cannot be had; as far as it is known, it stays as it was.
    Withheld(ObjectKey),
    /// Wanted objects can be looked up from now on.
    CanLookUp(KindId),
}

/// What happened since the batch before.
#[derive(Clone, Debug)]
pub struct Batch {
    /// All objects now.
    pub resources: Resources,
    /// Which objects are different in what their owners want. The first batch names none: all are new.
    pub changes: Changes,
    /// Objects of which anything at all is different, even if it is only the status: for whoever writes these.
    pub restated: BTreeSet<ObjectKey>,
    /// The version and channel of the Gateway API's CRDs, if there are any.
    pub crds: Option<Crds>,
    /// In which version the API server has each kind; those that it does not have are not in here.
    pub served: Arc<Served>,
}

/// The watches of everything that Portway reads.
#[derive(Debug)]
pub struct Source {
    messages: mpsc::Receiver<Message>,
    state: State,
    wanted: watch::Sender<Arc<Wanted>>,
    /// Whether pods are wanted.
    pods: watch::Sender<bool>,
    /// When the first event of a burst came.
    began: Option<Instant>,
    tasks: Vec<JoinHandle<()>>,
}

impl Source {
    /// Begins to watch, with tasks on `runtime`.
    #[must_use]
    pub fn start(client: &Client, outages: &Arc<Outages>, runtime: &Handle) -> Self {
        let (sender, messages) = mpsc::channel(WAITING);
        let (wanted, _) = watch::channel(Arc::default());
        let mut tasks = Vec::new();
        let (pods, wants_pods) = watch::channel(false);
        let served = served::follow_served(client.clone(), Arc::clone(outages), sender.clone(), wants_pods);
        tasks.push(runtime.spawn(served));
        for kind in BY_NEED {
            let lookup = lookup::Lookup::new(kind, client, Arc::clone(outages), sender.clone());
            tasks.push(runtime.spawn(lookup.run(wanted.subscribe())));
        }
        Self { messages, state: State::new(BY_NEED), wanted, pods, began: None, tasks }
    }

    /// The next batch, when a burst of events is over. The first comes when all watches have listed what there is.
    ///
    /// `None` when the watches have ended, which they do not by themselves. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            if self.began.is_none() && self.state.is_ready() && self.state.has_news() {
                self.began = Some(Instant::now());
            }
            let message = match self.began {
                None => self.messages.recv().await?,
                Some(began) => {
                    let quiet = tokio::time::timeout(QUIET, self.messages.recv());
                    match tokio::time::timeout_at(began + LONGEST, quiet).await {
                        Ok(Ok(message)) => message?,
                        Ok(Err(_)) | Err(_) => {
                            self.began = None;
                            return Some(self.state.batch());
                        }
                    }
                }
            };
            self.state.take(message);
        }
    }

    /// Sets which Secrets and ConfigMaps are to be read, there or not; others are forgotten. Pods are watched, all of
    /// them, while any is wanted. Returns whether all of them have been looked up; when they have, another batch comes.
    pub fn want(&mut self, wanted: &BTreeSet<ObjectKey>) -> bool {
        let new = self.state.want(wanted.iter().filter(|key| BY_NEED.contains(&key.kind)));
        if let Some(new) = new {
            self.wanted.send_replace(Arc::new(new));
        }
        let pods = wanted.iter().any(|key| key.kind == KindId::Pod);
        self.pods.send_if_modified(|wants| std::mem::replace(wants, pods) != pods);
        self.state.has_all() && (!pods || self.state.has_listed(KindId::Pod))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests;
