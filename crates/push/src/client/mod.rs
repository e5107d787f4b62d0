//! The proxy's half.

pub(crate) mod connect;
mod disk;
mod stream;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portway_plan::{Plan, PrivateKey, TicketKey};
use rand::Rng as _;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::assemble::Assembly;
use crate::auth::{GatewayName, Pod};
use crate::outcome::Outcome;
use crate::{limits, message};

/// The least time between two tries to connect, and the most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// As after how many failures a proxy waits whose Gateway is not known: 2 to 4 s.
const GONE: u32 = 4;

/// How a proxy finds its controller.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `HOST:PORT`; the name is resolved anew for each connection.
    pub controller: String,
    /// The name that the controller's certificate must have.
    pub server_name: String,
    /// The proxy's Gateway.
    pub gateway: GatewayName,
    /// The proxy's pod; believed only where the token does not say it.
    pub pod: Pod,
    /// The file of the ServiceAccount token; read for each connection, and again when it is rotated.
    pub token_file: PathBuf,
    /// The file of the authorities, in PEM, that may have signed the controller's certificate; read for each
    /// connection.
    pub ca_file: PathBuf,
    /// Where the last good plan is kept, without its certificates; `None` for nowhere.
    pub state_dir: Option<PathBuf>,
}

/// Serves plans.
pub trait Apply: Send + 'static {
    /// Serves this plan from now on. `complete` is false for a plan that was kept on disk and lacks its
    /// certificates. May block. Called with the same plan again when a port could not be bound.
    ///
    /// # Errors
    /// Why it is not served, for people; then the plan before still is.
    fn apply(&mut self, plan: Arc<Plan>, complete: bool) -> Result<Outcome, String>;

    /// Makes TLS session tickets with these keys from now on, as the other proxies of the Gateway do.
    fn set_ticket_keys(&mut self, keys: Vec<TicketKey>);
}

/// Follows a controller.
pub struct Client {
    options: ClientOptions,
    apply: Arc<Mutex<dyn Apply>>,
    assembly: Assembly,
    state: watch::Sender<ClientState>,
    /// What is served and not kept on disk yet.
    unsaved: Option<Arc<Plan>>,
    /// Why all shards must be sent again.
    reset: Option<String>,
}

/// How a proxy is with its controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClientState {
    /// Whether the stream is open.
    pub connected: bool,
    /// The controller's revision that is served; 0 before the first.
    pub revision: u64,
    /// Whether what is served was kept on disk.
    pub from_disk: bool,
    /// Why the last stream ended, or could not be opened.
    pub error: Option<String>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Connect(#[from] connect::ConnectError),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("the controller has closed the stream")]
    Closed,
    /// What is there is of no use any more.
    #[error("{0}")]
    Reset(String),
}

impl Ended {
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == tonic::Code::NotFound)
    }
}

impl Client {
    /// A client, and what tells how it is. Nothing happens before [`Client::run`].
    pub fn new(options: ClientOptions, apply: impl Apply) -> (Self, watch::Receiver<ClientState>) {
        let (state, told) = watch::channel(ClientState::default());
        let apply: Arc<Mutex<dyn Apply>> = Arc::new(Mutex::new(apply));
        (Self { options, apply, assembly: Assembly::default(), state, unsaved: None, reset: None }, told)
    }

    /// Serves the last good plan from disk, if there is one, and then follows the controller, connecting again
    /// whenever the stream ends. Ends never; drop it to stop it.
    pub async fn run(mut self) {
        self.restore().await;
        let mut failures = 0;
        loop {
            let before = self.state.borrow().revision;
            let began = Instant::now();
            let Err(ended) = self.follow().await;
            self.save().await;
            if matches!(ended, Ended::Reset(_)) {
                self.assembly = Assembly::default();
            }
            let served = began.elapsed() > BACKOFF.1 || self.state.borrow().revision != before;
            failures = if served && !matches!(ended, Ended::Reset(_)) { 0 } else { failures + 1 };
            if ended.is_not_found() {
                // The Gateway is gone, and so will be this pod and its ServiceAccount: no need to insist.
                failures = failures.max(GONE);
            }
            self.tell(&ended);
            tokio::time::sleep(backoff(failures)).await;
        }
    }

    /// The controller has taken the stream: it sends something.
    fn connected(&self) {
        let new = self.state.send_if_modified(|state| {
            state.error = None;
            !std::mem::replace(&mut state.connected, true)
        });
        if new {
            tracing::info!(controller = %self.options.controller, "connected to the controller");
        }
    }

    /// Says why a stream ended, once.
    fn tell(&self, ended: &Ended) {
        let error = ended.to_string();
        let controller = &self.options.controller;
        let same = self.state.borrow().error.as_ref() == Some(&error);
        if same {
            tracing::debug!(%controller, error, "still without a controller");
        } else {
            tracing::warn!(%controller, error, "without a controller; what is served stays");
        }
        self.state.send_modify(|state| {
            state.connected = false;
            state.error = Some(error);
        });
    }

    /// Has the plan served.
    async fn apply(&self, plan: Arc<Plan>, complete: bool) -> Result<Outcome, String> {
        let apply = Arc::clone(&self.apply);
        let applying = tokio::task::spawn_blocking(move || {
            apply.lock().unwrap_or_else(PoisonError::into_inner).apply(plan, complete)
        });
        applying.await.unwrap_or_else(|error| Err(format!("it could not be applied: {error}")))
    }

    /// Has the keys of tickets used.
    async fn set_ticket_keys(&self, keys: message::TicketKeys) {
        let keys = keys.keys.into_iter().take(limits::TICKET_KEYS);
        let moved = |mut key: message::TicketKey| TicketKey {
            epoch: key.epoch,
            key: PrivateKey(std::mem::take(&mut key.key)),
        };
        let keys = keys.map(moved).collect();
        let apply = Arc::clone(&self.apply);
        let setting = tokio::task::spawn_blocking(move || {
            apply.lock().unwrap_or_else(PoisonError::into_inner).set_ticket_keys(keys);
        });
        if let Err(error) = setting.await {
            tracing::warn!(%error, "the keys of tickets cannot be used");
        }
    }

    async fn restore(&mut self) {
        let Some(dir) = self.options.state_dir.clone() else { return };
        let gateway = self.options.gateway.clone();
        let restored = tokio::task::spawn_blocking(move || disk::load(&dir, &gateway)).await;
        match restored {
            Ok(Ok(Some((assembly, complete)))) => {
                let plan = assembly.plan();
                match self.apply(plan, complete).await {
                    Ok(_) => {
                        tracing::info!(complete, "the last good plan is served from disk");
                        self.assembly = assembly;
                        self.state.send_modify(|state| state.from_disk = true);
                    }
                    Err(error) => tracing::warn!(error, "the last good plan cannot be served"),
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last good plan cannot be read"),
            Err(error) => tracing::warn!(%error, "the last good plan cannot be read"),
        }
    }

    async fn save(&mut self) {
        let Some(dir) = self.options.state_dir.clone() else { return };
        let Some(plan) = self.unsaved.take() else { return };
        let gateway = self.options.gateway.clone();
        let saved = tokio::task::spawn_blocking(move || disk::save(&dir, &gateway, &plan)).await;
        match saved {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the plan cannot be kept on disk"),
            Err(error) => tracing::warn!(%error, "the plan cannot be kept on disk"),
        }
    }
}

/// A random time that doubles with each failure, so that proxies do not come all at once.
fn backoff(failures: u32) -> Duration {
    let (least, most) = BACKOFF;
    let span = least.saturating_mul(1 << failures.min(8)).min(most);
    rand::rng().random_range(span / 2..=span)
}
