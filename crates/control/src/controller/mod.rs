//! The controller: what is in the cluster ─► plans for the proxies, statuses for the objects.
//!
//! ```text
//! Source ──► batch ─┐
//! fleet ──► report ─┼─► rounds (a thread of its own) ─► translate ─┬─► push::Server.publish ─► proxies
//! push ──► outcomes ┘                                             ├─► fleet: what is to run
//!                                                                 └─► StatusWriter
//! ```
//!
//! Every replica of the controller does all of it, but only the holder of the Lease writes: the fleet and the
//! statuses. Proxies connect to any of them; so that the one that writes knows of all, controllers tell each other what
//! their proxies say.

mod metrics;
mod rounds;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use portway_push as push;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::fleet::{self, Fleets};
use crate::lease::{Candidate, Times};
use crate::outage::{Outages, Pauses};
use crate::push::{Authority, TokenReviews};
use crate::source::Source;
use crate::status::StatusWriter;
use metrics::Metrics;
use rounds::Rounds;

/// How long the end of the push's streams may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a controller runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// GatewayClasses with this `controllerName` are ours.
    pub controller_name: String,
    /// The controller's own namespace, where its Lease and its Secret are.
    pub namespace: String,
    /// The Service at which proxies find the push server, in that namespace.
    pub service: String,
    /// The Lease by which one of several controllers is the one that writes.
    pub lease: String,
    /// The Secret with the authority by which proxies know the controllers.
    pub authority: String,
    /// What tells this controller from the others: the name of its pod.
    pub identity: String,
    /// The image of the proxies.
    pub image: String,
    /// The file of the controller's own ServiceAccount token, for the audience of the push: by it, controllers know
    /// each other. With none, this one listens to no others.
    pub token: Option<PathBuf>,
}

/// A controller that runs.
#[derive(Debug)]
pub struct Controller {
    shared: Arc<Shared>,
    /// `None` once it has ended.
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    /// Dropped to end what waits for them.
    ends: [oneshot::Sender<()>; 3],
    lease: JoinHandle<()>,
    pusher: JoinHandle<()>,
    /// What else it is of no use without: the writer of statuses, the fleets, the other controllers.
    tasks: Vec<JoinHandle<()>>,
    rounds: std::thread::JoinHandle<()>,
}

/// What tells how the controller is.
struct Shared {
    outages: Arc<Outages>,
    metrics: Metrics,
    writer: StatusWriter,
    server: push::Server,
    fleets: Fleets,
    leader: watch::Receiver<bool>,
    /// Whether there was a first round.
    rounds: AtomicBool,
    /// Whether proxies can connect.
    listening: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Controller {
    /// Starts a controller, with tasks on `runtime` and one thread beside it; `listener` is where proxies connect.
    ///
    /// # Errors
    /// When no thread can be had. That the API server does not answer is no error: it is waited for.
    pub fn start(
        client: Client,
        settings: Settings,
        listener: TcpListener,
        runtime: &Handle,
    ) -> std::io::Result<Self> {
        let port = listener.local_addr()?.port();
        let outages = Arc::<Outages>::default();
        let (leader, leads) = watch::channel(false);
        let server = push::Server::new(Arc::new(TokenReviews::new(client.clone())));
        let writer = StatusWriter::new(crate::status::Settings {
            controller_name: settings.controller_name.clone(),
            ..crate::status::Settings::default()
        });
        let fleets = Fleets::new(fleet::Settings {
            controller_name: settings.controller_name.clone(),
            image: settings.image.clone(),
            controller: format!("{}:{}", server_name(&settings), port),
            server_name: server_name(&settings),
        });
        let shared = Arc::new(Shared {
            outages: Arc::clone(&outages),
            metrics: Metrics::default(),
            writer: writer.clone(),
            server: server.clone(),
            fleets: fleets.clone(),
            leader: leads.clone(),
            rounds: AtomicBool::new(false),
            listening: AtomicBool::new(false),
        });

        let (end_lease, ended) = oneshot::channel::<()>();
        let candidate = Candidate::new(
            client.clone(),
            &settings.namespace,
            &settings.lease,
            &settings.identity,
            Times::default(),
            Arc::clone(&outages),
        );
        let lease = runtime.spawn(candidate.run(leader, async {
            let _ = ended.await;
        }));
        let mut tasks = vec![runtime.spawn(writer.run(client.clone(), Arc::clone(&outages), leads.clone()))];
        // Empty until the authority is known; nothing is made for proxies before.
        let (bundle, bundles) = watch::channel(String::new());
        tasks.push(runtime.spawn(fleets.run(client.clone(), leads, bundles, Arc::clone(&outages))));

        let (peers, known_peers) = watch::channel(BTreeSet::new());
        if let Some(token_file) = settings.token.clone() {
            let options = push::PeerOptions { server_name: server_name(&settings), token_file };
            let (server, bundles) = (server.clone(), bundle.subscribe());
            tasks
                .push(runtime.spawn(async move { server.follow_peers(known_peers, bundles, options).await }));
        }

        let (end_push, ended) = oneshot::channel();
        let pusher = runtime.spawn(push(
            client.clone(),
            settings.clone(),
            Arc::clone(&shared),
            listener,
            bundle,
            ended,
        ));

        let (end_rounds, ended) = oneshot::channel();
        let source = Source::start(&client, &outages, runtime);
        let rounds = Rounds::new(source, settings, peers, Arc::clone(&shared));
        let handle = runtime.clone();
        let rounds = std::thread::Builder::new()
            .name("portway-rounds".to_owned())
            .spawn(move || handle.block_on(rounds.run(ended)))?;
        let running = Running { ends: [end_lease, end_push, end_rounds], lease, pusher, tasks, rounds };
        Ok(Self { shared, running: Mutex::new(Some(running)) })
    }

    /// Whether it goes on: false once a part has ended without which it is of no use.
    pub fn is_alive(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().is_none_or(|running| {
            let tasks = running.tasks.iter().chain([&running.lease, &running.pusher]);
            !running.rounds.is_finished() && !tasks.into_iter().any(JoinHandle::is_finished)
        })
    }

    /// What keeps it from being ready: watches that have not told yet what there is, or that no proxy can connect.
    pub fn obstacle(&self) -> Option<&'static str> {
        if !self.shared.rounds.load(Ordering::Relaxed) {
            return Some("the cluster's objects are not all known yet");
        }
        if !self.shared.listening.load(Ordering::Relaxed) {
            return Some("there is no certificate for the push server yet");
        }
        None
    }

    /// The metrics, in the OpenMetrics text format.
    pub fn metrics(&self) -> String {
        metrics::expose(&self.shared)
    }

    /// Gives the Lease up and closes the streams of the proxies, which go on with what they have.
    pub async fn end(&self) {
        let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        drop(running.ends);
        let ended = async {
            let _ = running.lease.await;
            let _ = running.pusher.await;
        };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            tracing::warn!("not all streams could be closed in time");
        }
    }
}

/// Serves plans to proxies, as soon as there is a certificate to serve with.
async fn push(
    client: Client,
    settings: Settings,
    shared: Arc<Shared>,
    listener: TcpListener,
    bundle: watch::Sender<String>,
    mut end: oneshot::Receiver<()>,
) {
    let authority = tokio::select! {
        _ = &mut end => return,
        authority = open(client, &settings) => authority,
    };
    let certificate = authority.certificate();
    let mut bundles = authority.bundle();
    let mut roots = authority.ticket_root();
    let renewal = tokio::spawn(authority.run());
    let passing_on = tokio::spawn(async move {
        loop {
            bundle.send_replace(bundles.borrow_and_update().clone());
            if bundles.changed().await.is_err() {
                return;
            }
        }
    });
    let server = shared.server.clone();
    let sharing = tokio::spawn(async move {
        loop {
            if let Some(root) = roots.borrow_and_update().clone() {
                server.set_ticket_root(root);
            }
            if roots.changed().await.is_err() {
                return;
            }
        }
    });
    shared.listening.store(true, Ordering::Relaxed);
    let served = shared.server.serve(listener, &certificate, async {
        let _ = end.await;
    });
    if let Err(error) = served.await {
        tracing::error!(%error, "no plans can be served");
    }
    shared.listening.store(false, Ordering::Relaxed);
    renewal.abort();
    passing_on.abort();
    sharing.abort();
}

/// The authority from the cluster, however long that takes.
async fn open(client: Client, settings: &Settings) -> Authority {
    let mut pauses = Pauses::default();
    let mut told = false;
    loop {
        let names = vec![server_name(settings)];
        match Authority::open(client.clone(), &settings.namespace, &settings.authority, names).await {
            Ok(authority) => return authority,
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(%error, "no plans can be served yet");
            }
            Err(error) => tracing::debug!(%error, "no plans can be served yet"),
        }
        pauses.wait().await;
    }
}

/// The name by which proxies know the push server.
fn server_name(settings: &Settings) -> String {
    format!("{}.{}.svc", settings.service, settings.namespace)
}
